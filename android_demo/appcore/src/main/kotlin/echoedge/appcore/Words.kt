package echoedge.appcore

import echoedge.engine.Agreement
import echoedge.engine.Demand
import echoedge.engine.Played
import echoedge.engine.Stage
import echoedge.engine.Verdict
import echoedge.engine.humanBytes
import java.util.Locale

/** One line of the table of proofs. [passed]: null where nothing is demanded. */
data class VerifyRow(val name: String, val passed: Boolean?, val measured: String, val demanded: String)

/** Sentences and figures of the screen. Numbers are written alike in every language. */
object Words {
    private val THERMAL = listOf("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")

    private fun format(pattern: String, vararg values: Any): String = pattern.format(Locale.ROOT, *values)

    /** Android's thermal status, 0 to 6, as records and the contract call it; null: another number. */
    fun thermal(status: Int?): String? = status?.let(THERMAL::getOrNull)

    /** The same for people. */
    fun warmth(status: Int?): String = when (thermal(status)) {
        null -> "not told"
        "none" -> "cool"
        "light" -> "warm, at full speed"
        "moderate" -> "warm, may be slowed down"
        "severe" -> "hot, is slowed down"
        else -> "too hot: stop and let it cool"
    }

    /** What a work is called when it begins. */
    fun begin(work: Work): String = when (work) {
        Work.NOTHING -> ""
        Work.OPENING -> "Checking the bundle …"
        Work.COPYING -> "Copying the bundle …"
        Work.FETCHING -> "Asking for the bundle …"
        Work.RECORDING -> "Recording. Let go to end."
        Work.READING -> "Reading …"
        Work.PLAYING -> "Loading the first program …"
        Work.VERIFYING -> "Loading the bundle's proofs …"
    }

    /**
     * How far a clip is, in words, and its share. [evaluated]: velocities of each step of a window. Windows of a long clip pass
     * as a front, some steps apart, so of several there is no one step to name.
     */
    fun progress(stage: Stage, done: Int, total: Int, evaluated: List<Int>): Pair<String, Double> {
        val what = when (stage) {
            Stage.LISTEN -> "Listening: reading $done of $total"
            Stage.LOOK -> "Looking at the photograph: $done of $total"
            Stage.PREPARE -> "Window $done of $total is prepared"
            Stage.DENOISE -> denoising(done, total, evaluated)
            Stage.DECODE -> "Making frames: $done of $total steps of the film"
        }
        return what to if (total > 0) done.toDouble() / total else 0.0
    }

    private fun denoising(done: Int, total: Int, evaluated: List<Int>): String {
        val windows = total / maxOf(1, evaluated.sum())
        if (windows > 1) return "Denoising $windows windows in ${evaluated.size} steps: velocity $done of $total"
        var ends = 0
        val step = evaluated.indexOfFirst { count -> done <= ends + count || run { ends += count; false } }
        return "Denoising: step ${step + 1} of ${evaluated.size}, velocity $done of $total"
    }

    /** How much of a bundle is there. */
    fun arriving(name: String, done: Long, total: Long): Pair<String, Double> =
        "$name: ${humanBytes(done)} of ${humanBytes(total)}" to if (total > 0) done.toDouble() / total else 0.0

    /** Seconds with a figure that can be read at a glance. */
    fun seconds(value: Double): String = when {
        value < 10 -> format("%.2f s", value)
        value < 600 -> format("%.1f s", value)
        else -> minutes(value)
    }

    private fun minutes(value: Double): String = format("%d min %d s", (value / 60).toInt(), (value % 60).toInt())

    /** Figures of a clip that was played in [seconds], with what the phone tells of itself. */
    fun figures(
        played: Played, seconds: Double, fps: Int, mode: Mode, memory: String, thermal: Int?,
    ): List<Pair<String, String>> = listOf(
        "First frame after" to seconds(played.firstFrame),
        "Frames" to format("%d in %s: %.2f a second", played.frames, seconds(seconds), played.frames / maxOf(seconds, 1e-3)),
        "Seconds a second of video" to format("%.2f", seconds / (played.frames.toDouble() / fps)),
        "Where the time went" to Stage.values().joinToString { "${it.title} ${seconds(played.seconds[it] ?: 0.0)}" },
        "Programs" to if (mode == Mode.ALL_LOADED) "all loaded" else "one at a time",
        "Memory" to memory,
        "Warmth" to warmth(thermal),
    )

    /** A row of the table of proofs. */
    fun row(verdict: Verdict): VerifyRow =
        VerifyRow(title(verdict.name), verdict.passed, measured(verdict.measured), demanded(verdict.demanded))

    private fun title(name: String) = when (name) {
        "latents" -> "the whole clip: latents"
        "frames" -> "the whole clip: frames"
        else -> name
    }

    private fun measured(found: Agreement): String {
        val largest = found.largest ?: return "not finite"
        return format("%.1f dB, cosine %.6f, largest %.3g", found.psnr, found.cosine, largest)
    }

    private fun demanded(wanted: Demand?): String {
        if (wanted == null) return "nothing is demanded"
        val parts = listOfNotNull(
            wanted.psnr?.let { format("≥ %.1f dB", it) }, wanted.cosine?.let { format("cosine ≥ %.6f", it) },
            wanted.largest?.let { format("largest ≤ %.3g", it) },
        )
        return parts.joinToString().ifEmpty { "nothing is demanded" }
    }

    /** What a verification came to. */
    fun verdict(rows: List<VerifyRow>): Message {
        val failed = rows.filter { it.passed == false }
        if (failed.isEmpty()) {
            return Message("All ${rows.count { it.passed == true }} proofs that demand something pass on this phone.")
        }
        val names = failed.joinToString { it.name }
        return Message("$names: not as exact as demanded on this phone. Clips may look wrong.", fault = true)
    }

    /** A sentence for an error that nobody foresaw. */
    fun unforeseen(error: Throwable): String = when (error) {
        is OutOfMemoryError -> "Java's memory is too small for this. Play a shorter voice, or a bundle of a smaller --size."
        else -> "This should not happen (${error.javaClass.simpleName}: ${error.message}). Report it, with manifest.json."
    }
}
