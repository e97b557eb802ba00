package echoedge.engine

import kotlin.math.floor
import kotlin.math.sqrt

/**
 * Noise from a counter-based generator, the same bits in every language: Philox4x32-10 (Salmon et al., SC 2011) and the method of Box
 * and Muller on doubles, with operations alone that IEEE 754 rounds exactly. The platform's own log and cos would differ.
 */
object Normals {
    private const val MASK = 0xFFFFFFFFL
    private const val LN2 = 0.6931471805599453
    private val COSINE = DoubleArray(10) { coefficient(18 - 2 * it) } // 1/18! down to 1/0!
    private val SINE = DoubleArray(9) { coefficient(17 - 2 * it) }

    private fun coefficient(order: Int): Double {
        val factorial = (1..order).fold(1L) { product, k -> product * k }
        return (if (order / 2 % 2 == 1) -1.0 else 1.0) / factorial
    }

    /**
     * A seed that somebody types: 64 bits, unsigned.
     *
     * @throws ConfigException it is no whole number from 0 to 2^64-1.
     */
    fun seed(text: String): Long = text.trim().toULongOrNull()?.toLong()
        ?: throw ConfigException("The seed is ${short(text)}; it must be a whole number from 0 to 2^64-1.")

    /** Four words of 32 bits, unsigned, of a counter and a key of such words: [words] holds the counter before and the result after. */
    fun philox(words: LongArray, key0: Long, key1: Long) {
        var (c0, c1, c2, c3) = words
        var k0 = key0
        var k1 = key1
        repeat(10) {
            val p0 = c0 * 0xD2511F53L
            val p1 = c2 * 0xCD9E8D57L
            c0 = (p1 ushr 32) xor c1 xor k0
            c1 = p1 and MASK
            c2 = (p0 ushr 32) xor c3 xor k1
            c3 = p0 and MASK
            k0 = (k0 + 0x9E3779B9L) and MASK
            k1 = (k1 + 0xBB67AE85L) and MASK
        }
        words[0] = c0
        words[1] = c1
        words[2] = c2
        words[3] = c3
    }

    /** A word as a number in (0, 1). */
    fun uniform(word: Long): Double = (word + 0.5) / 4294967296.0

    /** ln x of a normal x > 0, relative error below 4e-16. */
    fun ln(x: Double): Double {
        var power = Math.getExponent(x) + 1
        var m = Double.fromBits((x.toRawBits() and 0x000FFFFFFFFFFFFFL) or 0x3FE0000000000000L) // in [0.5, 1)
        if (m < 0.7071067811865476) {
            m *= 2.0
            power -= 1
        }
        val s = (m - 1.0) / (m + 1.0)
        val square = s * s
        var series = 1.0 / 21.0
        for (odd in 19 downTo 1 step 2) series = series * square + 1.0 / odd
        return power * LN2 + 2.0 * s * series
    }

    /** cos 2πu and sin 2πu of u in [0, 1), absolute error below 4e-16. */
    fun cosSinTurns(u: Double): Pair<Double, Double> {
        val quarter = floor(4.0 * u + 0.5)
        val y = (4.0 * u - quarter) * 1.5707963267948966
        val square = y * y
        var cosine = COSINE[0]
        for (k in 1 until COSINE.size) cosine = cosine * square + COSINE[k]
        var sine = SINE[0]
        for (k in 1 until SINE.size) sine = sine * square + SINE[k]
        sine *= y
        return when (quarter.toInt() % 4) {
            0 -> cosine to sine
            1 -> -sine to cosine
            2 -> -cosine to -sine
            else -> sine to -cosine
        }
    }

    /** Four normal numbers, before they are rounded to single precision, of a block's four words. */
    fun normals(words: LongArray): DoubleArray = DoubleArray(4).also { made ->
        for (half in 0..2 step 2) {
            val radius = sqrt(-2.0 * ln(uniform(words[half])))
            val (cosine, sine) = cosSinTurns(uniform(words[half + 1]))
            made[half] = radius * cosine
            made[half + 1] = radius * sine
        }
    }

    /**
     * Standard normal latents whose frame f is latent frame [firstFrame] + f of the endless clip of [seed] (unsigned, 64 bits).
     *
     * @throws ConfigException a size is below 1, or beyond the generator's 2^32 blocks or frames.
     */
    fun noise(seed: Long, channels: Int, frames: Int, height: Int, width: Int, firstFrame: Long = 0): Latents {
        val perFrame = channels.toLong() * height * width
        val within = firstFrame >= 0 && firstFrame + frames <= MASK && perFrame * frames <= Int.MAX_VALUE
        if (minOf(channels, frames, height, width) < 1 || !within) {
            throw ConfigException("Noise of shape [$channels, $frames, $height, $width] from latent frame $firstFrame cannot be made.")
        }
        val latents = Latents(channels, frames, height, width)
        val frame = FloatArray(perFrame.toInt())
        val words = LongArray(4)
        for (index in 0 until frames) {
            for (block in 0 until (frame.size + 3) / 4) {
                words[0] = block.toLong()
                words[1] = firstFrame + index
                words[2] = 0
                words[3] = 0
                philox(words, seed and MASK, seed ushr 32)
                val four = normals(words)
                for (k in 0 until minOf(4, frame.size - 4 * block)) frame[4 * block + k] = four[k].toFloat()
            }
            latents.set(index, frame)
        }
        return latents
    }
}
