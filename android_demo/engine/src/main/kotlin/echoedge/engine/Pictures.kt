package echoedge.engine

import kotlin.math.PI
import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.sin

/** A picture: bytes [height, width, channels], row by row. */
class Pixels(val height: Int, val width: Int, val channels: Int, val bytes: ByteArray) {
    init {
        if (height < 1 || width < 1 || bytes.size.toLong() != height.toLong() * width * channels) {
            throw InputException("A picture [$height, $width, $channels] has ${bytes.size} bytes. Decode it again.")
        }
    }
}

/** A rectangle of a picture, in its pixels, rows from the top. */
data class Part(val top: Double, val left: Double, val height: Double, val width: Double)

/** A square of a picture: a face that was found, or rows that the user wants kept. */
data class Square(val top: Double, val left: Double, val size: Double)

/** A picture as a portrait of a clip's size; docs/PLAYERS.md defines each step. */
object Pictures {
    private const val UNSEEN = 0.05 // share of a side that sizes in multiples of 16 leave over
    private const val TOP_SHARE = 0.1
    private const val FACE_HEIGHT = 0.45
    private const val SMALLEST_CROP = 16.0
    private const val BITS = 22 // behind the point of a weight
    private const val LOBES = 3.0

    /** Turned and mirrored as an orientation of EXIF says, 1 to 8; as it is of any other. */
    fun oriented(pixels: Pixels, orientation: Int): Pixels {
        if (orientation !in 2..8) return pixels
        val turned = orientation >= 5 // rows become columns
        val height = if (turned) pixels.width else pixels.height
        val width = if (turned) pixels.height else pixels.width
        val down = orientation in listOf(3, 4, 7, 8)
        val across = orientation in listOf(2, 3, 6, 7)
        val n = pixels.channels
        val made = ByteArray(pixels.bytes.size)
        for (row in 0 until height) {
            for (column in 0 until width) {
                val y = if (down) height - 1 - row else row
                val x = if (across) width - 1 - column else column
                val from = if (turned) x * pixels.width + y else y * pixels.width + x
                pixels.bytes.copyInto(made, (row * width + column) * n, from * n, (from + 1) * n)
            }
        }
        return Pixels(height, width, n, made)
    }

    /** Red, green, blue and alpha over mid grey, which is the model's zero. */
    fun matte(pixels: Pixels): Pixels {
        val made = ByteArray(pixels.height * pixels.width * 3) {
            val at = it / 3 * 4
            val alpha = pixels.bytes[at + 3].toInt() and 0xFF
            val t = (pixels.bytes[at + it % 3].toInt() and 0xFF) * alpha + 128 * (255 - alpha) + 128
            (((t shr 8) + t) shr 8).toByte()
        }
        return Pixels(pixels.height, pixels.width, 3, made)
    }

    /**
     * The part that a clip of [height] × [width] keeps of a picture: [crop]'s rows, or the largest rectangle of the clip's aspect,
     * moved so that it holds the [face], or what stands above the middle.
     *
     * @throws InputException the crop is below 16 pixels or reaches beyond the picture.
     */
    fun part(imageHeight: Int, imageWidth: Int, height: Int, width: Int, crop: Square? = null, face: Square? = null): Part {
        if (crop != null) {
            val wide = crop.size * (width.toDouble() / height)
            val within = crop.top + crop.size <= imageHeight && crop.left + wide <= imageWidth + 0.5
            if (minOf(crop.top, crop.left) < 0 || crop.size < SMALLEST_CROP || !within) {
                throw InputException("The $crop is below 16 pixels, or not within a picture of $imageHeight rows and $imageWidth columns.")
            }
            return Part(crop.top, crop.left, crop.size, minOf(wide, imageWidth - crop.left))
        }
        val scale = minOf(imageWidth.toDouble() / width, imageHeight.toDouble() / height)
        val left = (imageWidth - width * scale) / 2
        val top = (imageHeight - height * scale) / 2
        val part = Part(top, left, minOf(height * scale, imageHeight - top), minOf(width * scale, imageWidth - left))
        if (minOf(part.height / imageHeight, part.width / imageWidth) >= 1 - UNSEEN) return part
        val down = imageHeight - part.height
        val across = imageWidth - part.width
        if (face == null) return part.copy(top = TOP_SHARE * down)
        val middle = face.top + face.size / 2 - FACE_HEIGHT * part.height
        val centre = face.left + face.size / 2 - part.width / 2
        return part.copy(top = minOf(maxOf(0.0, middle), down), left = minOf(maxOf(0.0, centre), across))
    }

    /** A part of a picture as [height] × [width] pixels, by Lanczos's filter in 8 bits: across, then down. */
    fun resized(pixels: Pixels, part: Part, height: Int, width: Int): Pixels {
        val (left, right) = part.left.toFloat() to minOf(part.left + part.width, pixels.width.toDouble()).toFloat()
        val (top, bottom) = part.top.toFloat() to minOf(part.top + part.height, pixels.height.toDouble()).toFloat()
        return resized(pixels, left, top, right, bottom, height, width)
    }

    /** As above, of a box in pixels. */
    fun resized(pixels: Pixels, left: Float, top: Float, right: Float, bottom: Float, height: Int, width: Int): Pixels {
        val across = Kernel.of(pixels.width, left, right, width)
        val down = Kernel.of(pixels.height, top, bottom, height)
        var made = pixels
        val n = pixels.channels
        if (across != null) {
            val firstRow = down?.first?.first() ?: 0
            val lastRow = down?.run { first.last() + weights.last().size } ?: pixels.height
            val bytes = ByteArray(pixels.height * width * n)
            for (row in firstRow until lastRow) {
                for (column in 0 until width) {
                    val from = (row * pixels.width + across.first[column]) * n
                    for (channel in 0 until n) {
                        bytes[(row * width + column) * n + channel] = weighed(pixels.bytes, from + channel, n, across.weights[column])
                    }
                }
            }
            made = Pixels(pixels.height, width, n, bytes)
        }
        if (down != null) {
            val bytes = ByteArray(height * width * n)
            val line = width * n
            for (row in 0 until height) {
                for (at in 0 until line) bytes[row * line + at] = weighed(made.bytes, down.first[row] * line + at, line, down.weights[row])
            }
            made = Pixels(height, width, n, bytes)
        }
        return made
    }

    private fun weighed(bytes: ByteArray, from: Int, step: Int, weights: IntArray): Byte {
        var sum = 1 shl (BITS - 1)
        for (k in weights.indices) sum += (bytes[from + k * step].toInt() and 0xFF) * weights[k]
        return (sum shr BITS).coerceIn(0, 255).toByte()
    }

    /** Of one axis: for each pixel that comes out the first that goes in, and the weights of those from there on. */
    private class Kernel(size: Int, begin: Float, end: Float, outputs: Int) {
        val first = IntArray(outputs)
        val weights: List<IntArray>

        init {
            val scale = (end - begin).toDouble() / outputs
            val wide = maxOf(scale, 1.0)
            val support = LOBES * wide
            weights = List(outputs) { j ->
                val centre = begin + (j + 0.5) * scale
                first[j] = maxOf(0, (centre - support + 0.5).toInt())
                val last = minOf(size, (centre + support + 0.5).toInt())
                val shares = DoubleArray(last - first[j]) { lanczos((it + first[j] - centre + 0.5) * (1.0 / wide)) }
                var total = 0.0
                for (share in shares) total += share
                IntArray(shares.size) {
                    val share = if (total != 0.0) shares[it] / total else shares[it]
                    (share * (1 shl BITS) + if (share < 0) -0.5 else 0.5).toInt()
                }
            }
        }

        companion object {
            /** null where nothing changes. */
            fun of(size: Int, begin: Float, end: Float, outputs: Int): Kernel? =
                if (outputs == size && begin == 0f && end == size.toFloat()) null else Kernel(size, begin, end, outputs)

            private fun lanczos(x: Double): Double = if (x >= -LOBES && x < LOBES) sinc(x) * sinc(x / LOBES) else 0.0

            private fun sinc(x: Double): Double = if (x == 0.0) 1.0 else sin(x * PI) / (x * PI)
        }
    }

    /** Bytes [H, W, 3] as [3, H, W] from -1 to 1, each operation in single precision. */
    fun signed(pixels: Pixels): Floats {
        val plane = pixels.height * pixels.width
        val values = FloatArray(3 * plane) { (pixels.bytes[it % plane * 3 + it / plane].toInt() and 0xFF) / 255f * 2f - 1f }
        return Floats.of(values, 3, pixels.height, pixels.width)
    }

    /** A decoded picture [H, W, 3] as the portrait of a clip, [3, height, width]. Throws as [part]. */
    fun portrait(pixels: Pixels, height: Int, width: Int, crop: Square? = null, face: Square? = null): Floats =
        signed(resized(pixels, part(pixels.height, pixels.width, height, width, crop, face), height, width))
}
