package echoedge.appcore

import echoedge.engine.InputException
import echoedge.engine.Sound
import java.io.File
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** A WAV file of one channel of 16 bits that grows while it is recorded; its header is right whenever it is closed. */
class WavFile(private val file: File, private val rate: Int) : AutoCloseable {
    private val out = RandomAccessFile(file, "rw").apply {
        setLength(0)
        write(header(0))
    }

    /** Samples that are there. */
    var samples: Long = 0
        private set

    val seconds: Double get() = samples.toDouble() / rate

    /** Appends the first [count] of [values]. */
    fun write(values: ShortArray, count: Int) {
        val bytes = ByteBuffer.allocate(2 * count).order(ByteOrder.LITTLE_ENDIAN)
        for (index in 0 until count) bytes.putShort(values[index])
        out.write(bytes.array())
        samples += count
    }

    override fun close() {
        out.seek(0)
        out.write(header(samples))
        out.close()
    }

    private fun header(count: Long): ByteArray = ByteBuffer.allocate(44).order(ByteOrder.LITTLE_ENDIAN).run {
        put("RIFF".toByteArray()).putInt((36 + 2 * count).toInt()).put("WAVEfmt ".toByteArray()).putInt(16).putShort(1).putShort(1)
        putInt(rate).putInt(2 * rate).putShort(2).putShort(16).put("data".toByteArray()).putInt((2 * count).toInt())
        array()
    }
}

/** What a decoder hands over, piece by piece, as one sound. */
class DecodedSound(private val longestSeconds: Int = 3600) {
    private var values = FloatArray(1 shl 16)
    private var size = 0
    private var channels = 0
    private var rate = 0

    /** The format that the next pieces have; a decoder may say it again, but not another one. */
    fun format(channels: Int, rate: Int) {
        if (channels < 1 || rate < 1) throw InputException("The recording has $channels channels at $rate Hz. Export it again.")
        if (size > 0 && (channels != this.channels || rate != this.rate)) {
            throw InputException(
                "The recording changes from ${this.channels} channels at ${this.rate} Hz to $channels at $rate. Save it as WAV.",
            )
        }
        this.channels = channels
        this.rate = rate
    }

    /** PCM of 16 bits, little-endian, from the buffer's position to its limit. */
    fun pcm16(data: ByteBuffer) {
        val shorts = data.order(ByteOrder.LITTLE_ENDIAN).asShortBuffer()
        reserve(shorts.remaining())
        while (shorts.hasRemaining()) values[size++] = shorts.get() / 32768f
    }

    /** PCM of floats, little-endian. */
    fun pcmFloat(data: ByteBuffer) {
        val floats = data.order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        reserve(floats.remaining())
        while (floats.hasRemaining()) values[size++] = floats.get()
    }

    private fun reserve(more: Int) {
        if (channels == 0) throw InputException("The recording's decoder gives sound before it says of which kind. Save it as WAV.")
        if (size.toLong() + more > longestSeconds.toLong() * rate * channels) {
            throw InputException("The recording lasts longer than ${longestSeconds / 60} minutes. Cut it into shorter recordings.")
        }
        if (size + more <= values.size) return
        values = values.copyOf(maxOf(size + more, minOf(2L * values.size, Int.MAX_VALUE - 8L).toInt()))
    }

    /** All of it. Throws [InputException] where nothing came. */
    fun sound(): Sound {
        val whole = size - if (channels > 0) size % channels else 0
        if (whole == 0) throw InputException("The recording has no sound in it. Choose another one.")
        return Sound(values.copyOf(whole), channels, rate)
    }
}

/** The size to decode a photograph at: never larger than needed, so that a camera's picture fits into memory. */
object PictureSize {
    /** By which power of two a decoder may make [width] × [height] smaller and still leave twice the clip's sides. */
    fun sample(width: Int, height: Int, clipWidth: Int, clipHeight: Int): Int {
        var sample = 1
        while (width / (2 * sample) >= 2 * clipWidth && height / (2 * sample) >= 2 * clipHeight) sample *= 2
        return sample
    }
}
