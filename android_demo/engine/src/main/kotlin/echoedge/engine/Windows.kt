package echoedge.engine

/** Latent frames [start] to [end] - 1 of a clip, and the [shares] of this window in each of them, 0 to 1. */
class Window(val start: Int, val length: Int, val shares: DoubleArray) {
    val end: Int get() = start + length
}

/**
 * Windows that cover [total] latent frames and, per frame, shares that sum to 1 (Long Video CFG, arXiv 2507.03905). All have the rule's
 * length; the last one is shifted left until it ends with the clip. Where a window meets the ones before it on o frames, its share on
 * the j-th of them is j / max(1, o - 1), and theirs are multiplied by 1 - that. [step] matters with `upstreamCompat` alone, which
 * repeats the original: later windows replace earlier ones in step 0, and the last window has the frames that are left.
 *
 * @throws ConfigException the clip is shorter than a window; with `upstreamCompat`, as long as one, where the original never ends.
 */
fun windows(total: Int, rule: WindowRule, step: Int = 0): List<Window> {
    val hop = rule.length - rule.overlap
    if (!rule.upstreamCompat) {
        if (total < rule.length) {
            throw ConfigException("The clip has $total latent frames; a window needs ${rule.length}. Pad the clip to ${rule.length}.")
        }
        val starts = (0 until total - rule.length step hop) + (total - rule.length)
        return blended(total, starts, starts.map { rule.length }) { index, covered ->
            val shared = covered - starts[index]
            DoubleArray(rule.length) { if (it < shared) it / maxOf(1, shared - 1).toDouble() else 1.0 }
        }
    }
    if (total < rule.length) return emptyList()
    if (total == rule.length) {
        throw ConfigException("The original never ends on a clip of $total latent frames, as a window has. Leave upstream_compat off.")
    }
    val starts = (0 until total - rule.length + hop step hop).toList()
    val lengths = starts.map { minOf(rule.length, total - it) }
    return blended(total, starts, lengths) { index, _ ->
        val shared = if (index > 0 && step > 0) rule.overlap else 0
        DoubleArray(lengths[index]) { if (it < shared) it / maxOf(1, shared - 1).toDouble() else 1.0 }
    }
}

/** `rise(index, covered)`: a window's shares before later ones take theirs; covered: latent frames that those before it reach. */
private fun blended(total: Int, starts: List<Int>, lengths: List<Int>, rise: (Int, Int) -> DoubleArray): List<Window> {
    val shares = starts.map { DoubleArray(total) }
    var covered = 0
    for ((index, start) in starts.withIndex()) {
        val own = rise(index, covered)
        for (frame in own.indices) {
            for (earlier in 0 until index) shares[earlier][start + frame] *= 1.0 - own[frame]
            shares[index][start + frame] = own[frame]
        }
        covered = start + lengths[index]
    }
    return starts.indices.map { Window(starts[it], lengths[it], shares[it].copyOfRange(starts[it], starts[it] + lengths[it])) }
}

/**
 * The most windows that can have taken their first step and not their last, whatever the clip's length: a step waits for the windows
 * that reach into it, and those for theirs.
 */
fun windowsUnderWay(steps: Int, rule: WindowRule): Int {
    val hop = rule.length - rule.overlap
    return (steps - 1) * ((rule.length + hop - 1) / hop - 1) + 2
}

/**
 * Σ weight · array, the accumulation rule of docs/BUNDLE.md: in ascending index, without weights that are zero, each product and each
 * sum one double operation, the result rounded once. The sum starts from the first term.
 *
 * @throws ConfigException every weight is zero, or the arrays differ in size.
 */
fun combine(weights: DoubleArray, arrays: List<FloatArray>): FloatArray {
    var total: DoubleArray? = null
    for ((k, array) in arrays.withIndex()) {
        val weight = weights[k]
        if (array.size != arrays[0].size) throw ConfigException("Arrays of ${array.size} and ${arrays[0].size} numbers do not add up.")
        if (weight == 0.0) continue
        val sum = total
        if (sum == null) {
            total = DoubleArray(array.size) { array[it].toDouble() * weight }
        } else {
            for (i in sum.indices) sum[i] = sum[i] + array[i].toDouble() * weight
        }
    }
    val sum = total ?: throw ConfigException("Every weight of this combination is zero; nothing is left to add up.")
    return FloatArray(sum.size) { sum[it].toFloat() }
}

/** The guided velocity of a step, Σ guidance · velocity; of branches that the step does not evaluate null. Throws as [combine]. */
fun guide(plan: SamplingPlan, step: Int, velocities: List<FloatArray?>): FloatArray {
    val used = plan.evaluated(step)
    val given = used.map {
        velocities[it] ?: throw ConfigException("Step $step needs the velocity of branch '${plan.branches[it].name}'.")
    }
    return combine(DoubleArray(used.size) { plan.guidance[step][used[it]] }, given)
}

/** Latents after a step, Σ_k solver[step][k] · history[k]; [history] is the noise and the velocities until now. Throws as [combine]. */
fun advance(plan: SamplingPlan, step: Int, history: List<FloatArray>): FloatArray {
    val row = plan.solver[step]
    if (history.size != row.size) throw ConfigException("Step $step needs a history of ${row.size} arrays; got ${history.size}.")
    return combine(row, history)
}

/**
 * One latent frame [C, h, w] of a clip's velocity, Σ share · velocity of the windows that cover it.
 *
 * @throws ConfigException no window covers the frame.
 */
fun blendFrame(parts: List<Pair<Window, Latents>>, frame: Int): FloatArray {
    val covering = parts.filter { (window, _) -> frame in window.start until window.end }
    val shares = DoubleArray(covering.size) { covering[it].first.run { shares[frame - start] } }
    return combine(shares, covering.map { (window, velocity) -> velocity.frame(frame - window.start) })
}
