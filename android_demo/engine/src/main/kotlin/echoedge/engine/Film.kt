package echoedge.engine

import java.nio.ByteBuffer

/** Planes of a frame in BT.709, limited range: [y] [height, width], [u] and [v] of half the sides. */
class Yuv(val height: Int, val width: Int, val y: ByteArray, val u: ByteArray, val v: ByteArray) {
    /** The three planes one behind the other, as encoders of COLOR_FormatYUV420Planar take them. */
    fun i420(): ByteArray = y + u + v

    /** [y], then u and v in turn, as encoders of COLOR_FormatYUV420SemiPlanar take them. */
    fun nv12(): ByteArray = y + ByteArray(u.size + v.size) { if (it % 2 == 0) u[it / 2] else v[it / 2] }

    companion object {
        /** Puts a plane into a buffer whose rows begin every [rowStride] bytes and whose values stand [pixelStride] apart. */
        fun place(plane: ByteArray, width: Int, into: ByteBuffer, rowStride: Int, pixelStride: Int) {
            for (at in plane.indices) into.put(at / width * rowStride + at % width * pixelStride, plane[at])
        }
    }
}

/** Frames on their way into a film; docs/PLAYERS.md defines each step. */
object Film {
    private const val LEAST_TIME_SCALE = 10_000

    /** A video [t, 3, H, W] from -1 to 1 as frames [H, W, 3]: round((v + 1) · 127.5), halves to even, within 0 … 255. */
    fun frames(video: FloatArray, count: Int, height: Int, width: Int): List<Pixels> {
        val plane = height * width
        return List(count) { frame ->
            val bytes = ByteArray(plane * 3) {
                val value = (video[(frame * 3 + it % 3) * plane + it / 3] + 1f) * 127.5f
                Math.rint(value.toDouble()).coerceIn(0.0, 255.0).toInt().toByte()
            }
            Pixels(height, width, 3, bytes)
        }
    }

    /**
     * A frame for a video encoder.
     *
     * @throws InputException a side is odd.
     */
    fun yuv(pixels: Pixels): Yuv {
        val (height, width) = pixels.height to pixels.width
        if (height % 2 != 0 || width % 2 != 0) {
            throw InputException("A frame of $height rows and $width columns cannot be encoded; both must be even.")
        }
        fun at(place: Int): Double = (pixels.bytes[place].toInt() and 0xFF).toDouble()
        val y = ByteArray(height * width) { level(16.0 + 219.0 / 255.0 * luma(at(3 * it), at(3 * it + 1), at(3 * it + 2))) }
        val u = ByteArray(height * width / 4)
        val v = ByteArray(u.size)
        for (index in u.indices) {
            val first = 3 * (index / (width / 2) * 2 * width + index % (width / 2) * 2) // of four pixels
            fun mean(place: Int): Double = (at(place) + at(place + 3) + at(place + 3 * width) + at(place + 3 * width + 3)) / 4.0
            val (red, blue) = mean(first) to mean(first + 2)
            val luma = luma(red, mean(first + 1), blue)
            u[index] = level(128.0 + 224.0 / 255.0 * (blue - luma) / 1.8556)
            v[index] = level(128.0 + 224.0 / 255.0 * (red - luma) / 1.5748)
        }
        return Yuv(height, width, y, u, v)
    }

    private fun luma(red: Double, green: Double, blue: Double): Double = 0.2126 * red + 0.7152 * green + 0.0722 * blue

    private fun level(value: Double): Byte = (value + 0.5).toInt().toByte()

    /** Ticks a second of an MP4 track of [fps] frames: doubled until they are fine enough. */
    fun timeScale(fps: Int): Int = generateSequence(fps) { it * 2 }.first { it >= LEAST_TIME_SCALE }

    /** When a frame is shown, in ticks of [timeScale]. */
    fun ticks(frame: Int, fps: Int): Long = frame.toLong() * (timeScale(fps) / fps)

    /** When a frame is shown, in microseconds, halves rounded up. */
    fun microseconds(frame: Int, fps: Int): Long = (2_000_000L * frame + fps) / (2L * fps)

    /** Samples of the voice that belong to a frame. */
    fun samples(frame: Int, fps: Int, sampleRate: Int): IntRange =
        (frame.toLong() * sampleRate / fps).toInt() until ((frame + 1L) * sampleRate / fps).toInt()

    /** The voice as a film of [frames] frames has it: within full scale, cut or lengthened with silence. */
    fun voice(speech: FloatArray, frames: Int, fps: Int, sampleRate: Int): FloatArray =
        FloatArray((frames.toLong() * sampleRate / fps).toInt()) { if (it < speech.size) speech[it].coerceIn(-1f, 1f) else 0f }
}
