package echoedge.appcore

import echoedge.engine.Clip
import echoedge.engine.Film
import echoedge.engine.InputException
import echoedge.engine.Pixels
import java.io.File
import java.io.IOException
import java.io.RandomAccessFile

/**
 * Which frame of a film is to be seen while its frames are still made. The first one is shown as soon as it exists; the film
 * begins, with its sound, when so much of it is there that it will not have to wait. If it has to all the same, sound and picture
 * hold together. Positions are seconds of the sound; times are of a clock that only grows.
 */
class Playback(private val fps: Int, frames: Int) {
    private var total = frames
    private var firstAt = 0.0
    private var lastAt = 0.0

    /** Frames that exist. */
    @get:Synchronized
    var made: Int = 0
        private set

    /** A frame more exists. */
    @Synchronized
    fun frame(now: Double) {
        if (made == 0) firstAt = now
        lastAt = now
        made++
    }

    /** No frame comes any more: those that are there are the film, also where they are fewer than was said. */
    @Synchronized
    fun end() {
        total = minOf(total, made)
    }

    /** Whether sound may begin: frames that go on being made as fast as up to now will be there in time. */
    @Synchronized
    fun mayBegin(): Boolean {
        if (made >= total) return made > 0
        if (made < 2 || lastAt <= firstAt) return false
        val rate = (made - 1) / (lastAt - firstAt)
        return (total - made) / rate <= SURE * (total - 1) / fps
    }

    /** The number of the frame to show at a position; null: none exists yet. */
    @Synchronized
    fun frameAt(position: Double): Int? = if (made == 0) null else (position * fps).toInt().coerceIn(0, made - 1)

    /** Whether the frame of a position is not there yet, so that sound must wait. */
    @Synchronized
    fun mustHold(position: Double): Boolean = made < total && (position * fps).toInt() >= made

    /** Whether so many frames are there, behind a position at which it held, that it is worth going on. */
    @Synchronized
    fun mayGoOn(position: Double): Boolean = made >= total || made - (position * fps).toInt() >= fps / 2

    /** Whether the last frame has had its time. */
    @Synchronized
    fun ended(position: Double): Boolean = made >= total && position >= total.toDouble() / fps

    private companion object {
        const val SURE = 0.9 // of the time that the rest may take
    }
}

/** Frames of one size in a file, one behind the other, so that a film of any length can be looked at while it is made. */
class FrameStore(private val file: File, private val height: Int, private val width: Int) : AutoCloseable {
    private val size = height * width * 3
    private val data = file.run {
        parentFile?.mkdirs()
        RandomAccessFile(this, "rw").apply { setLength(0) }
    }

    private var closed = false

    /** Frames that are in it. */
    @get:Synchronized
    var count: Int = 0
        private set

    /**
     * Appends a frame.
     *
     * @throws InputException it is of another size, or the disk is full.
     */
    @Synchronized
    fun append(frame: Pixels) {
        if (frame.bytes.size != size) {
            throw InputException("A frame of ${frame.bytes.size} bytes is not $height × $width in three colours.")
        }
        try {
            data.seek(count.toLong() * size)
            data.write(frame.bytes)
        } catch (error: IOException) {
            throw InputException("The disk is full (${error.message}). Free some space, or play a shorter voice.")
        }
        count++
    }

    /**
     * A frame by its number as colours for a picture of Android's: opaque, red, green and blue in a number each. Gives whether it
     * could be read: not behind the end, nor after the film was closed.
     */
    @Synchronized
    fun colours(number: Int, into: IntArray, scratch: ByteArray): Boolean {
        if (closed || number >= count) return false
        data.seek(number.toLong() * size)
        data.readFully(scratch, 0, size)
        for (at in 0 until height * width) {
            into[at] = OPAQUE or (scratch[3 * at].toInt() and 0xFF shl 16) or (scratch[3 * at + 1].toInt() and 0xFF shl 8) or
                (scratch[3 * at + 2].toInt() and 0xFF)
        }
        return true
    }

    @Synchronized
    override fun close() {
        closed = true
        data.close()
        file.delete()
    }

    private companion object {
        const val OPAQUE = -0x1000000
    }
}

/** A clip that is looked at while it is played: its frames so far, its [voice], and which frame is due. */
class Reel(folder: File, val clip: Clip, val voice: FloatArray, frames: Int) : AutoCloseable {
    val store: FrameStore = FrameStore(File(folder, "frames-${System.nanoTime()}.rgb"), clip.height, clip.width)
    val playback: Playback = Playback(clip.fps, frames)

    /** A frame more. */
    fun add(frame: Pixels) {
        store.append(frame)
        playback.frame(System.nanoTime() / 1e9)
    }

    override fun close() = store.close()
}

/** What the encoders of a film are asked for. */
object FilmPlan {
    private const val BITS_A_PIXEL = 0.25
    private const val MOST_SOUND_BITS = 96_000
    private const val SOUND_BITS_A_SAMPLE = 4 // AAC takes six at most

    /** Bits a second of a video: so many a pixel, within what phones' encoders take. */
    fun videoBits(width: Int, height: Int, fps: Int): Int =
        (BITS_A_PIXEL * width * height * fps).toLong().coerceIn(500_000L, 20_000_000L).toInt()

    /** Bits a second of a voice in one channel. */
    fun soundBits(rate: Int): Int = minOf(MOST_SOUND_BITS, SOUND_BITS_A_SAMPLE * rate)

    /** When a frame is shown. */
    fun videoTime(frame: Int, fps: Int): Long = Film.microseconds(frame, fps)

    /** When a sample is heard, in microseconds. */
    fun soundTime(sample: Long, rate: Int): Long = sample * 1_000_000L / rate

    /** Sound as encoders take it: 16 bits, little-endian. */
    fun pcm(voice: FloatArray, from: Int, count: Int): ByteArray {
        val bytes = ByteArray(2 * count)
        for (index in 0 until count) {
            val level = Math.round(voice[from + index].coerceIn(-1f, 1f) * 32767f)
            bytes[2 * index] = level.toByte()
            bytes[2 * index + 1] = (level shr 8).toByte()
        }
        return bytes
    }
}
