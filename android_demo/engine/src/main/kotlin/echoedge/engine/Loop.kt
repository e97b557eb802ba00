package echoedge.engine

/** A model under the conditions of a clip. `position` is the window's number, `branch` the guidance branch's. */
interface Denoiser {
    /** A window is about to take its first step, one of [count]. */
    fun begin(position: Int, span: Window, count: Int)

    /** A window's latents to the velocity, of that shape, and what the blocks added, or null where no step reuses it. */
    fun evaluate(step: Int, branch: Int, position: Int, latents: Latents): Pair<Latents, Tensor?>

    /** The velocity with what the blocks added in an earlier evaluation. */
    fun reuse(step: Int, branch: Int, position: Int, latents: Latents, residual: Tensor): Latents

    /** A window has taken its last step: the leading [finished] frames of [latents] are final. */
    fun end(position: Int, latents: Latents, finished: Int)
}

/** Latents of a clip, and how many times the model ran: [evaluations] of all blocks, [reused] with an earlier residual. */
class Sampled(val latents: Latents, val evaluations: Int, val reused: Int)

/**
 * The one loop from noise to latents of that shape. A window takes its next step as soon as the latents under it have taken theirs, so
 * that a long clip's windows pass as a front. [told] hears (done, total) of all velocities.
 *
 * @throws ConfigException the clip is shorter than a window.
 */
fun sample(plan: SamplingPlan, rule: WindowRule, start: Latents, denoiser: Denoiser, told: (Int, Int) -> Unit = { _, _ -> }): Sampled {
    val front = Front(plan, rule, start)
    val residuals = HashMap<Pair<Int, Int>, Tensor>()
    val total = front.windows * (0 until plan.steps).sumOf { plan.evaluated(it).size }
    var evaluations = 0
    var reused = 0
    while (true) {
        val turn = front.next() ?: return Sampled(front.result, evaluations, reused)
        val (step, position, span) = turn
        if (step == 0) denoiser.begin(position, span, front.windows)
        val latents = front.latents(turn)
        val velocities = arrayOfNulls<FloatArray>(plan.branches.size)
        for (branch in plan.evaluated(step)) {
            val slot = position to plan.residualSlot(branch)
            if (plan.reuse[step][branch]) {
                velocities[branch] = denoiser.reuse(step, branch, position, latents, residuals.getValue(slot)).values
                reused++
            } else {
                val (velocity, residual) = denoiser.evaluate(step, branch, position, latents)
                velocities[branch] = velocity.values
                evaluations++
                if (residual != null) residuals[slot] = residual
            }
            told(evaluations + reused, total)
        }
        val guided = guide(plan, step, velocities.asList())
        front.take(turn, latents.run { Latents(channels, frames, height, width, guided) })
        if (step == plan.steps - 1) {
            residuals.keys.removeAll { it.first == position }
            denoiser.end(position, front.result, front.finished)
        }
    }
}
