package echoedge.engine

import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * A recording: [samples] of all channels side by side (interleaved), full scale is 1, at [rate] Hz. [places]: a speaker's bit of
 * WAVE_FORMAT_EXTENSIBLE for each channel, 0 where it is not known.
 */
class Sound(val samples: FloatArray, val channels: Int, val rate: Int, val places: List<Int> = places(channels, 0L)) {
    /** Samples of each channel. */
    val length: Int get() = samples.size / channels

    companion object {
        private val USUAL = mapOf(1 to 0x4L, 2 to 0x3L, 3 to 0x7L, 4 to 0x33L, 5 to 0x37L, 6 to 0x3FL, 7 to 0x70FL, 8 to 0x63FL)

        /** Of a mask that has a bit for each channel; else the usual ones of so many channels. */
        fun places(channels: Int, mask: Long): List<Int> {
            val bits = if (mask.countOneBits() == channels) mask else USUAL[channels] ?: 0L
            val found = (0 until 18).map { 1 shl it }.filter { bits and it.toLong() != 0L }
            return if (found.size == channels) found else List(channels) { 0 }
        }
    }
}

/** WAV files: PCM of 8, 16, 24 and 32 bits, floats of 32 and 64, also as WAVE_FORMAT_EXTENSIBLE. */
object Wav {
    private const val PCM = 1
    private const val FLOAT = 3
    private const val EXTENSIBLE = 0xFFFE

    /**
     * Reads a file's bytes. A data chunk that is longer than the file ends with it; an incomplete last frame is left out.
     *
     * @param name how messages call it.
     * @throws InputException it is no WAV of a known kind, or holds no sound.
     */
    fun parse(bytes: ByteArray, name: String = "the recording"): Sound {
        val data = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
        if (bytes.size < 12 || tag(bytes, 0) != "RIFF" || tag(bytes, 8) != "WAVE") {
            throw InputException("$name is not a WAV file. Save it as WAV, or give a recording that this device decodes.")
        }
        var format: Format? = null
        var at = 12
        while (at + 8 <= bytes.size) {
            val size = data.getInt(at + 4).toLong() and 0xFFFFFFFFL
            val body = at + 8
            when (tag(bytes, at)) {
                "fmt " -> format = Format.of(data, body, size, name)
                "data" -> {
                    val known = format ?: throw InputException("$name is damaged: its sound comes before its format. Export it again.")
                    return known.sound(data, body, minOf(size, (bytes.size - body).toLong()).toInt(), name)
                }
            }
            val next = body + size + size % 2
            if (next > bytes.size) break
            at = next.toInt()
        }
        throw InputException("$name has no sound in it. Copy it again, or export the recording again.")
    }

    private fun tag(bytes: ByteArray, at: Int): String = String(bytes, at, 4, Charsets.ISO_8859_1)

    private class Format(val kind: Int, val channels: Int, val rate: Int, val bits: Int, val mask: Long) {
        fun sound(data: ByteBuffer, at: Int, size: Int, name: String): Sound {
            val bytes = bits / 8
            val count = size / (bytes * channels) * channels
            if (count == 0) throw InputException("$name has no sound in it. Copy it again, or export the recording again.")
            val samples = FloatArray(count) { sample(data, at + it * bytes) }
            return Sound(samples, channels, rate, Sound.places(channels, mask))
        }

        private fun sample(data: ByteBuffer, at: Int): Float = when {
            kind == FLOAT -> if (bits == 32) data.getFloat(at) else data.getDouble(at).toFloat()
            bits == 8 -> ((data.get(at).toInt() and 0xFF) - 128) / 128f
            bits == 16 -> data.getShort(at) / 32768f
            bits == 24 -> ((data.get(at + 2).toInt() shl 16) or (data.getShort(at).toInt() and 0xFFFF)) / 8388608f
            else -> (data.getInt(at) / 2147483648.0).toFloat()
        }

        companion object {
            fun of(data: ByteBuffer, at: Int, size: Long, name: String): Format {
                if (size < 16 || at + size > data.limit()) throw InputException("$name is damaged: its format is cut off. Copy it again.")
                val whole = size >= 26
                val stated = data.getShort(at).toInt() and 0xFFFF
                val kind = if (stated == EXTENSIBLE && whole) data.getShort(at + 24).toInt() and 0xFFFF else stated
                val mask = if (stated == EXTENSIBLE && whole) data.getInt(at + 20).toLong() else 0L
                val found = Format(kind, data.getShort(at + 2).toInt(), data.getInt(at + 4), data.getShort(at + 14).toInt(), mask)
                val good = (kind == PCM && found.bits in listOf(8, 16, 24, 32)) || (kind == FLOAT && found.bits in listOf(32, 64))
                if (!good) throw InputException("$name has sound of kind $kind with ${found.bits} bits. Save it as PCM of 16 bits.")
                if (found.channels !in 1..64 || found.rate < 1) {
                    throw InputException("$name has ${found.channels} channels at ${found.rate} Hz. Export the recording again.")
                }
                return found
            }
        }
    }
}
