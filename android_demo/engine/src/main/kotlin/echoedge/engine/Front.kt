package echoedge.engine

/** Which window takes a step next: the step, the window's number, and the window. */
data class Turn(val step: Int, val position: Int, val span: Window)

/**
 * The windows of a clip as a front: which takes which step next, and the latent frames that are under way. The furthest step that can
 * be taken comes first. The numbers are those of taking all windows through one step after the other; memory holds, of each latent
 * frame, the history from its first step to its last.
 *
 * @param start noise of the whole clip.
 */
class Front(private val plan: SamplingPlan, rule: WindowRule, private val start: Latents) {
    private val every = if (rule.upstreamCompat) null else windows(start.frames, rule)
    private val spans = List(plan.steps) { every ?: windows(start.frames, rule, it) }
    private val taken = IntArray(plan.steps)
    private val settled = IntArray(plan.steps + 1).also { it[0] = start.frames }
    private val parts = List(plan.steps) { ArrayList<Pair<Window, Latents>>() }
    private val history = HashMap<Int, MutableList<FloatArray>>()
    private val states = List(plan.steps + 1) { HashMap<Int, FloatArray>() }

    /** How many windows the clip has. */
    val windows: Int = spans[0].size

    /** The clip's latents, of which the leading [finished] frames are final. */
    val result: Latents = start.run { Latents(channels, frames, height, width) }

    /** Leading latent frames that have taken every step. */
    val finished: Int get() = settled[plan.steps]

    init {
        for (frame in 0 until start.frames) {
            val noise = start.frame(frame)
            history[frame] = mutableListOf(noise)
            states[0][frame] = noise
        }
    }

    /** null when all is done. */
    fun next(): Turn? {
        for (step in plan.steps - 1 downTo 0) {
            val position = taken[step]
            if (position < windows && spans[step][position].end <= settled[step]) return Turn(step, position, spans[step][position])
        }
        return null
    }

    /** The window's latents before its step. */
    fun latents(turn: Turn): Latents = start.run {
        Latents.of(channels, height, width, (turn.span.start until turn.span.end).map { states[turn.step].getValue(it) })
    }

    /** The guided velocity of the window that [next] gave: frames that no later window reaches advance. */
    fun take(turn: Turn, velocity: Latents) {
        val step = turn.step
        parts[step].add(turn.span to velocity)
        taken[step]++
        val until = if (taken[step] < windows) spans[step][taken[step]].start else start.frames
        for (frame in settled[step + 1] until until) {
            val known = history.getValue(frame)
            known.add(blendFrame(parts[step], frame))
            val state = advance(plan, step, known)
            states[step].remove(frame)
            if (step == plan.steps - 1) {
                result.set(frame, state)
                history.remove(frame)
            } else {
                states[step + 1][frame] = state
            }
        }
        settled[step + 1] = until
        parts[step].removeAll { (span, _) -> span.end <= until }
    }
}
