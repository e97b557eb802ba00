package echoedge.engine

import kotlin.math.abs

/**
 * One evaluation of the denoiser with its own conditions: [text] names a text condition whose rows are multiplied by [textScale];
 * without [image] or [audio] it sees zeros of that kind; it hears the speech [audioShift] video frames late.
 */
data class Branch(
    val name: String,
    val text: String,
    val textScale: Double = 1.0,
    val image: Boolean = true,
    val audio: Boolean = true,
    val audioShift: Int = 0,
)

/**
 * How a long clip is cut: windows of [length] latent frames that overlap by at least [overlap] of them. [anchorClip]: a window knows of
 * the picture what the clip knows in its frames; otherwise each starts from the picture.
 */
data class WindowRule(val length: Int, val overlap: Int, val anchorClip: Boolean = false, val upstreamCompat: Boolean = false)

/**
 * `plan.json`, format "echoedge.plan/1": how noise becomes latents in n steps with B branches. docs/BUNDLE.md tells each field.
 *
 * @property modalityWeights [n][3][P] strengths of text, image and audio.
 * @property seed unsigned; when the user gives none.
 */
class SamplingPlan private constructor(
    val timesteps: DoubleArray,
    val sigmas: DoubleArray,
    val solver: List<DoubleArray>,
    val branches: List<Branch>,
    val guidance: List<DoubleArray>,
    val modalityWeights: List<List<DoubleArray>>,
    val reuse: List<List<Boolean>>,
    val residualSlots: List<Int>?,
    val texts: Map<String, String>,
    val window: WindowRule?,
    val seed: Long,
) {
    /** n. */
    val steps: Int get() = timesteps.size

    /** Evaluations of the denoiser per window that run the blocks. */
    val evaluations: Int get() = (0 until steps).sumOf { step -> evaluated(step).count { !reuse[step][it] } }

    /** Indices of the branches whose velocity a step needs, computed or reused. */
    fun evaluated(step: Int): List<Int> = branches.indices.filter { guidance[step][it] != 0.0 }

    /** Where a branch keeps and finds its residual. */
    fun residualSlot(branch: Int): Int = residualSlots?.get(branch) ?: branch

    /**
     * Strengths of text, image and audio at each latent frame, [3, frames] row by row.
     *
     * @throws ConfigException the plan holds weights for another number of latent frames.
     */
    fun modality(step: Int, frames: Int): FloatArray {
        val rows = modalityWeights[step]
        val count = rows[0].size
        if (count != 1 && count != frames) {
            throw ConfigException("The plan's modality weights are for $count latent frames; $frames are played.")
        }
        return FloatArray(3 * frames) { rows[it / frames][if (count == 1) 0 else it % frames].toFloat() }
    }

    /**
     * Refuses a student's plan that asks for what it was not taught; [levels]: by the number of steps the noise levels before each.
     *
     * @throws ConfigException names what is allowed.
     */
    internal fun requireTaught(levels: Map<Int, DoubleArray>) {
        val taught = levels[steps]
            ?: throw ConfigException("This student takes ${levels.keys.sorted().joinToString(" or ")} steps, not $steps. Export it again.")
        if (branches.size > 1) {
            throw ConfigException("The plan has ${branches.size} branches of guidance, and this student was taught one. Export it again.")
        }
        if (taught.indices.any { it < sigmas.size && abs(sigmas[it] - taught[it]) > CLOSE }) {
            throw ConfigException("The noise levels are ${sigmas.dropLast(1)}, and ${taught.toList()} were taught. Export it again.")
        }
    }

    /** The same with another rule of windows. */
    internal fun of(window: WindowRule): SamplingPlan = SamplingPlan(
        timesteps, sigmas, solver, branches, guidance, modalityWeights, reuse, residualSlots, texts, window, seed,
    )

    companion object {
        private const val FORMAT = "echoedge.plan/1"
        private const val GENERATOR = "philox4x32-10/box-muller/1"
        private const val MOST_STEPS = 1000
        private const val CONSISTENT = 1e-3 // of a solver row; tables are within 1e-9
        private const val CLOSE = 1e-5 // of noise levels, which plans hold in single precision
        private val FIELDS = arrayOf(
            "format", "solver_name", "schedule", "shift", "constructor_shift", "timesteps", "sigmas", "solver", "branches", "guidance",
            "modality_weights", "reuse", "residual_slots", "texts", "window", "noise",
        )
        private val COEFFICIENT = -1e6..1e6
        private val POSITIVE = Double.MIN_VALUE..Double.MAX_VALUE

        private fun notPlayable(fault: String): BundleException =
            BundleException("This is not a sampling plan that can be played. ${fault.trimEnd('.')}. Build the bundle again.")

        /**
         * Reads and checks the bytes of a plan.
         *
         * @throws BundleException they are not JSON, not of this format, or not a plan that can be played.
         */
        fun parse(bytes: ByteArray): SamplingPlan {
            val value = try {
                Json.parse(bytes)
            } catch (error: BundleException) {
                throw notPlayable(error.message.orEmpty())
            }
            val top = Fields("", value, ::notPlayable)
            top.oneOf("format", FORMAT)
            return read(top.only(*FIELDS)).also { check(it, top) }
        }

        private fun read(top: Fields): SamplingPlan = with(top) {
            text("solver_name")
            text("schedule")
            number("shift", POSITIVE)
            maybe("constructor_shift") { number(it, POSITIVE) }
            val noise = maybe("noise") { record(it).only("generator", "seed") }
            noise?.maybe("generator") { oneOf(it, GENERATOR) }
            val texts = maybe("texts") { named(it) }.orEmpty()
            SamplingPlan(
                numbers("timesteps", 0.0..1000.0), numbers("sigmas", 0.0..1.0),
                rows("solver") { name, row -> numbers(name, row, COEFFICIENT) },
                records("branches").map(::branch), rows("guidance") { name, row -> numbers(name, row, COEFFICIENT) },
                rows("modality_weights") { name, step -> rows(name, step) { place, row -> numbers(place, row, 0.0..10.0) } },
                rows("reuse") { name, step -> rows(name, step) { place, flag -> flag as? Boolean ?: fail(place, "is $flag, no flag") } },
                maybe("residual_slots") { rows(it) { name, slot -> whole(name, slot, 0..Int.MAX_VALUE) } },
                texts.mapValues { (name, text) -> text as? String ?: fail("texts.$name", "is no text") },
                maybe("window") { window(record(it)) }, noise?.maybe("seed") { seed(it) } ?: 0L,
            )
        }

        private fun branch(fields: Fields): Branch = with(fields.only("name", "text", "text_scale", "image", "audio", "audio_shift")) {
            val branch = Branch(
                text("name", least = 1), text("text"), maybe("text_scale") { number(it, 0.0..1e12) } ?: 1.0,
                maybe("image") { flag(it) } ?: true, maybe("audio") { flag(it) } ?: true,
                maybe("audio_shift") { whole(it, 0..10_000) } ?: 0,
            )
            if (branch.audioShift > 0 && !branch.audio) fail("audio_shift", "is ${branch.audioShift} in a branch without audio")
            branch
        }

        private fun window(fields: Fields): WindowRule = with(fields.only("length", "overlap", "anchor", "upstream_compat")) {
            val rule = WindowRule(
                whole("length", 1..Int.MAX_VALUE), whole("overlap", 0..Int.MAX_VALUE),
                maybe("anchor") { oneOf(it, "window", "clip") } == "clip", maybe("upstream_compat") { flag(it) } ?: false,
            )
            if (rule.overlap >= rule.length) fail("overlap", "is ${rule.overlap}; it must be less than the window's ${rule.length}")
            if (rule.upstreamCompat && rule.anchorClip) fail("anchor", "is 'clip'; upstream_compat starts every window from the picture")
            rule
        }

        private fun check(plan: SamplingPlan, top: Fields) {
            checkShapes(plan, top)
            checkSchedule(plan, top)
            for ((i, row) in plan.guidance.withIndex()) {
                val total = row.sum()
                if (abs(total - 1.0) > 1e-6) top.fail("guidance.$i", "sums to $total; guidance mixes, it must sum to 1")
            }
            val names = plan.branches.map(Branch::name)
            names.groupingBy { it }.eachCount().forEach { (name, count) -> if (count > 1) top.fail("branches", "has two called '$name'") }
            val used = plan.branches.mapTo(HashSet()) { it.text }
            plan.texts.keys.firstOrNull { it !in used }?.let { top.fail("texts", "says what '$it' stands for, which no branch names") }
            checkReuse(plan, top)
        }

        private fun checkShapes(plan: SamplingPlan, top: Fields) {
            val n = plan.steps
            val b = plan.branches.size
            if (n !in 1..MOST_STEPS) top.fail("timesteps", "are $n; they must be 1 to $MOST_STEPS")
            if (b == 0) top.fail("branches", "is empty")
            val rows = listOf("solver" to plan.solver, "guidance" to plan.guidance, "modality_weights" to plan.modalityWeights)
            for ((name, found) in rows + ("reuse" to plan.reuse)) {
                if (found.size != n) top.fail(name, "has ${found.size} rows for $n timesteps")
            }
            if (plan.sigmas.size != n + 1) top.fail("sigmas", "are ${plan.sigmas.size} for $n timesteps; ${n + 1} are needed")
            for (i in 0 until n) {
                if (plan.solver[i].size != i + 2) top.fail("solver.$i", "has ${plan.solver[i].size} coefficients for a history of ${i + 2}")
                if (plan.guidance[i].size != b) top.fail("guidance.$i", "has ${plan.guidance[i].size} weights for $b branches")
                if (plan.reuse[i].size != b) top.fail("reuse.$i", "has ${plan.reuse[i].size} flags for $b branches")
            }
            val positions = plan.modalityWeights.flatMapTo(HashSet()) { step -> step.map(DoubleArray::size) }
            if (plan.modalityWeights.any { it.size != 3 } || positions.size != 1 || 0 in positions) {
                top.fail("modality_weights", "must be [steps][3][P], all with the same P of at least 1")
            }
            val window = plan.window
            if (window != null && positions.single() != 1 && positions.single() != window.length) {
                top.fail("modality_weights", "are for ${positions.single()} latent frames; a window has ${window.length}")
            }
        }

        private fun checkSchedule(plan: SamplingPlan, top: Fields) {
            for (i in 1 until plan.steps) {
                val (before, after) = plan.timesteps[i - 1] to plan.timesteps[i]
                if (after > before) top.fail("timesteps", "rise from $before to $after")
            }
            for (i in 0 until plan.steps) {
                if (plan.sigmas[i + 1] >= plan.sigmas[i]) top.fail("sigmas", "do not fall from ${plan.sigmas[i]} to ${plan.sigmas[i + 1]}")
            }
            if (plan.sigmas.last() != 0.0) top.fail("sigmas", "end at ${plan.sigmas.last()}, not at 0: noise stays in the clip")
            for ((i, row) in plan.solver.withIndex()) {
                val span = plan.sigmas[i + 1] - plan.sigmas[0]
                val moved = row.drop(1).sum()
                if (abs(row[0] - 1.0) > CONSISTENT || abs(moved - span) > CONSISTENT) {
                    top.fail("solver.$i", "weighs noise by ${row[0]} and velocities by $moved; the sigmas ask for 1 and $span")
                }
            }
        }

        private fun checkReuse(plan: SamplingPlan, top: Fields) {
            val b = plan.branches.size
            if ((plan.residualSlots?.size ?: b) != b) top.fail("residual_slots", "are ${plan.residualSlots?.size} for $b branches")
            val filled = HashSet<Int>()
            for (i in 0 until plan.steps) {
                for (branch in 0 until b) {
                    val weighed = plan.guidance[i][branch] != 0.0
                    val name = plan.branches[branch].name
                    if (plan.reuse[i][branch] && !weighed) top.fail("reuse.$i", "reuses branch '$name', whose guidance weight is 0 there")
                    if (plan.reuse[i][branch] && plan.residualSlot(branch) !in filled) {
                        top.fail("reuse.$i", "reuses branch '$name' before any step has computed it")
                    }
                    if (!plan.reuse[i][branch] && weighed) filled.add(plan.residualSlot(branch))
                }
            }
        }
    }
}
