package echoedge.engine

import java.nio.ByteBuffer
import java.nio.CharBuffer
import java.nio.charset.CodingErrorAction
import kotlin.math.ln

/** What a player makes of a prompt and of known frames before any program runs. */
object Inputs {
    private const val HIDDEN = -1e9f // the bias of rows that are not read

    /** The UTF-8 bytes of a prompt as ids [1, textLength] padded with [padId], cut at a character's end, and how many count. */
    fun byteIds(prompt: String, textLength: Int, padId: Int): Pair<Longs, Int> {
        val encoder = Charsets.UTF_8.newEncoder().onMalformedInput(CodingErrorAction.REPLACE).replaceWith(byteArrayOf('?'.code.toByte()))
        val bytes: ByteBuffer = encoder.encode(CharBuffer.wrap(prompt))
        var length = minOf(bytes.limit(), textLength)
        while (length in 1 until bytes.limit() && bytes[length].toInt() and 0xC0 == 0x80) length-- // inside a character
        val ids = LongArray(textLength) { if (it < length) bytes[it].toLong() and 0xFF else padId.toLong() }
        return Longs(listOf(1, textLength), ids) to length
    }

    /**
     * A prompt's rows [l, dim] as [1, textRows, dim] and their bias [1, textRows]: equal rows of padding are one, weighed like all.
     *
     * @throws ConfigException the prompt does not fit.
     */
    fun text(rows: Floats, textLength: Int, textRows: Int): Pair<Floats, Floats> {
        val (length, dim) = rows.shape
        val padding = textLength - length
        if (padding < 0 || length + (if (padding > 0) 1 else 0) > textRows) {
            throw ConfigException("A prompt has $length tokens; this bundle reads up to ${minOf(textLength, textRows - 1)}. Shorten it.")
        }
        val bias = FloatArray(textRows) { row ->
            if (row < length) 0f else if (row == length && padding > 0) ln(padding.toDouble()).toFloat() else HIDDEN
        }
        return Floats.of(rows.values.copyOf(textRows * dim), 1, textRows, dim) to Floats.of(bias, 1, textRows)
    }

    /** Rows times a strength, in single precision. */
    fun scaled(rows: Floats, scale: Double): Floats {
        val factor = scale.toFloat()
        return Floats(rows.shape, FloatArray(rows.values.size) { rows.values[it] * factor })
    }

    /**
     * The model's `y` [1, mask + C, frames, h, w] of a clip whose first frame is known: masks, 1 in latent frame 0, then the latents
     * [1, C, k, h, w] of what was encoded, zeros behind.
     */
    fun known(latents: Latents, maskChannels: Int, frames: Int): Latents {
        val made = Latents(maskChannels + latents.channels, frames, latents.height, latents.width)
        val plane = latents.height * latents.width
        for (channel in 0 until maskChannels) made.values.fill(1f, channel * frames * plane, channel * frames * plane + plane)
        for (channel in 0 until latents.channels) {
            val from = channel * latents.frames * plane
            val count = minOf(frames, latents.frames) * plane
            latents.values.copyInto(made.values, (maskChannels + channel) * frames * plane, from, from + count)
        }
        return made
    }
}
