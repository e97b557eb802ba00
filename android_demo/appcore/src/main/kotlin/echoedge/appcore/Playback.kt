package echoedge.appcore

import echoedge.engine.Film

/**
 * Which frame of a film is to be seen while its frames are still made. The first one is shown as soon as it exists; the film, with its
 * sound, begins when so much of it is there that it will not have to wait, and if it has to all the same, it holds.
 */
class Playback(private val fps: Int, private val total: Int) {
    private var began: Double? = null
    private var firstAt: Double? = null
    private var made = 0

    /** Seconds that the film stood still for want of frames. */
    var held: Double = 0.0
        private set

    /** A frame more exists, at a time of a clock that only grows. */
    fun frame(now: Double) {
        if (made == 0) firstAt = now
        made++
    }

    /** Whether sound may begin now: the film will not run out of frames if they go on being made as fast as up to now. */
    fun mayBegin(now: Double): Boolean {
        val first = firstAt ?: return false
        if (began != null) return false
        if (made >= total) return true
        val rate = if (made < 2 || now <= first) 0.0 else (made - 1) / (now - first)
        return rate > 0 && (total - made) / rate <= (total.toDouble() - 1) / fps * SURE
    }

    fun begin(now: Double) {
        began = now
    }

    /** The number of the frame to show; null: none exists. [now]: where sound plays, the time at which its clock stands. */
    fun shown(now: Double): Int? {
        if (made == 0) return null
        val start = began ?: return 0
        val due = ((now - start - held) * fps).toInt().coerceAtLeast(0)
        if (due < made) return minOf(due, total - 1)
        if (made < total) held = maxOf(held, now - start - made.toDouble() / fps)
        return made - 1
    }

    /** Whether the last frame has had its time. */
    fun ended(now: Double): Boolean = began?.let { made >= total && now - it - held >= total.toDouble() / fps } ?: false

    private companion object {
        const val SURE = 0.9 // of the time that the rest may take
    }
}

/** What the encoders of a film are asked for. */
object FilmPlan {
    private const val BITS_A_PIXEL = 0.25
    const val SOUND_BITS: Int = 96_000

    /** Bits a second of a video: so many a pixel, within what phones' encoders take. */
    fun videoBits(width: Int, height: Int, fps: Int): Int =
        (BITS_A_PIXEL * width * height * fps).toLong().coerceIn(500_000L, 20_000_000L).toInt()

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
