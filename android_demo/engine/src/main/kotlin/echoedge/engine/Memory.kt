package echoedge.engine

import kotlin.math.ceil

/** Bytes that something needs, by what they are for, and by the same words the cheapest way to need less. */
class Need(val terms: Map<String, Long>, private val remedies: Map<String, String> = mapOf()) {
    val total: Long get() = terms.values.sum()

    /** The largest of [terms]. */
    val largest: String get() = terms.maxByOrNull { it.value }?.key.orEmpty()

    /**
     * Refuses [purpose] where [have] bytes are not enough.
     *
     * @throws ResourceException the message names the largest part and the cheapest remedy.
     */
    fun require(purpose: String, have: Long) {
        if (total <= have) return
        val parts = terms.entries.sortedByDescending { it.value }.joinToString { (term, count) -> "${humanBytes(count)} for $term" }
        throw ResourceException(
            "${humanBytes(total)} of memory is needed for $purpose, and ${humanBytes(have)} is available. It is $parts. " +
                "The cheapest remedy: ${remedies[largest] ?: "Close other apps."}",
        )
    }
}

/** Forecasts from a manifest, before anything is loaded. */
object Memory {
    /**
     * What playing so many [seconds] of speech takes: of the largest program (file, loaded, packed: a phone holds one at a time), the
     * conditions of each branch and window under way, the states of encoder and decoder, one step, and latents with their history.
     *
     * @param decoder the decoding program's role; null: the first of the bundle.
     */
    fun needed(bundle: Bundle, seconds: Double, decoder: String? = null): Need {
        val manifest = bundle.manifest
        val plan = bundle.plan()
        val clip = manifest.clips[0]
        fun size(name: String): Long = manifest.memory[name] ?: 0L
        val window = manifest.playing.latentFrames(clip.frames)
        val latentFrames = maxOf(window.toLong(), ceil(seconds * clip.fps / manifest.playing.temporalStride).toLong())
        val rule = plan.window ?: WindowRule(window, 0)
        val underWay = windowsUnderWay(plan.steps, rule).toLong()
        val hop = rule.length - rule.overlap
        val spans = minOf((latentFrames + hop - 1) / hop, underWay)
        val files = manifest.programs.values.associate { it.path to it.entry.bytes } +
            manifest.programs.values.mapNotNull { it.data }.associateWith { manifest.files.getValue(it).bytes }
        val moving = minOf(latentFrames, underWay * rule.length)
        val decoding = decoder ?: manifest.playing.decoders.values.first()
        val shorter = "play a bundle that was compiled for a smaller --size or fewer --frames, or a shorter clip."
        return Need(
            mapOf(
                "the largest program, loaded and packed" to 3 * (files.values.maxOrNull() ?: 0L),
                "conditions of the windows under way" to spans * plan.branches.size * size("conditions_bytes_per_branch"),
                "states of the encoder and the decoder" to 2 * (size("vae_encode_state_bytes") + size("${decoding}_state_bytes")),
                "one step" to size("step_bytes"),
                "latents" to ((plan.steps + 2) * moving + 2 * latentFrames) * size("latents_bytes") / window,
            ),
            mapOf(
                "the largest program, loaded and packed" to "export with coarser --weights, int8 or int4.",
                "conditions of the windows under way" to shorter,
                "states of the encoder and the decoder" to "decode with the tiny decoder, if the bundle has it.",
                "one step" to shorter,
                "latents" to "play a shorter clip.",
            ),
        )
    }
}

/** Bytes in decimal units with three figures: 3130000000 is "3.13 GB". */
fun humanBytes(count: Long): String {
    if (count < 1000) return "$count B"
    var value = count.toDouble()
    for (unit in listOf("kB", "MB", "GB", "TB")) {
        value /= 1000
        if (value < 999.5 || unit == "TB") {
            val digits = if (value < 9.995) 2 else if (value < 99.95) 1 else 0
            return "%.${digits}f $unit".format(java.util.Locale.ROOT, value)
        }
    }
    error("unreachable")
}
