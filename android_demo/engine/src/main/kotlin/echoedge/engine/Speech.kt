package echoedge.engine

import kotlin.math.PI
import kotlin.math.abs
import kotlin.math.floor
import kotlin.math.log10
import kotlin.math.pow
import kotlin.math.sin
import kotlin.math.sqrt

/**
 * Speech as programs hear it: one channel, at the bundle's rate, without a constant, at -23 LUFS, within full scale. docs/PLAYERS.md
 * defines each step; sums are in double.
 */
object Speech {
    private const val TARGET_LUFS = -23.0
    private const val SILENT_LUFS = -70.0
    private const val SILENT_PEAK = 1e-3 // -60 dBFS
    private const val CONSTANT = 1e-3 // of full scale
    private const val CANCELLING = -0.5 // correlation of two channels below which their sum is no voice
    private const val LAG_SECONDS = 0.01
    private const val JUDGED = 1 shl 21 // samples in which channels are compared
    private const val LONGEST_SECONDS = 3600
    private const val CUTOFF = 0.97
    private const val TAPS = 32.0
    private const val SHARPNESS = 9.0

    /**
     * All of it.
     *
     * @param name how messages call the recording.
     * @throws InputException it is longer than an hour, shorter than a video frame at [fps], silent, or has samples that are not finite.
     */
    fun of(sound: Sound, sampleRate: Int, fps: Int, name: String = "The recording"): FloatArray {
        if (sound.length.toLong() > LONGEST_SECONDS.toLong() * sound.rate) {
            throw InputException("$name lasts longer than ${LONGEST_SECONDS / 60} minutes. Cut it into shorter recordings.")
        }
        if (sound.samples.any { !it.isFinite() }) throw InputException("$name has samples that are not finite numbers. Export it again.")
        val wave = level(resampled(mono(sound), sound.rate, sampleRate))
        if (wave.size.toLong() * fps < sampleRate) {
            throw InputException("$name lasts ${wave.size.toDouble() / sampleRate} s, less than one video frame (${1.0 / fps} s).")
        }
        val peak = wave.maxOf { abs(it) }
        if (peak < SILENT_PEAK || Loudness.of(wave, sampleRate).let { it == null || it < SILENT_LUFS }) {
            throw InputException("$name is silent (its peak is $peak of full scale). Give a recording with audible speech.")
        }
        return normalised(wave, sampleRate).also { for (i in it.indices) it[i] = it[i].coerceIn(-1f, 1f) }
    }

    /** One of many channels by ITU-R BS.775, without LFE; of two that cancel each other the louder one alone. */
    fun mono(sound: Sound): FloatArray {
        val n = sound.channels
        val alone = if (n == 2) cancelling(sound) else null
        val weights = when {
            alone != null -> FloatArray(2) { if (it == alone) 1f else 0f }
            n == 2 -> floatArrayOf(0.5f, 0.5f)
            n == 1 || sound.places.none { it in listOf(0x1, 0x2, 0x4) } -> FloatArray(n) { (1.0 / n).toFloat() }
            else -> FloatArray(n) { coefficient(sound.places[it]) }
        }
        return FloatArray(sound.length) { at ->
            var sum = sound.samples[at * n] * weights[0]
            for (channel in 1 until n) sum += sound.samples[at * n + channel] * weights[channel]
            sum
        }
    }

    /** Of a speaker's bit: front left and right 0x1 and 0x2, centre 0x4, LFE 0x8; what stands around counts less. */
    private fun coefficient(place: Int): Float = when (place) {
        0x1, 0x2 -> 0.5
        0x4 -> sqrt(0.5)
        0x8 -> 0.0
        else -> sqrt(0.125)
    }.toFloat()

    /** The louder of two channels whose sum would cancel, also with some milliseconds between them; else null. */
    private fun cancelling(sound: Sound): Int? {
        val power = DoubleArray(2)
        for (i in sound.samples.indices) power[i % 2] += sound.samples[i].toDouble() * sound.samples[i]
        if (power.any { it <= 0.0 }) return null
        val judged = minOf(sound.length, JUDGED)
        val left = FloatArray(judged) { sound.samples[2 * it] }
        val right = FloatArray(judged) { sound.samples[2 * it + 1] }
        val most = (LAG_SECONDS * sound.rate).toInt()
        val nearest = (-most..most).map { lag -> product(left, right, lag) }.maxByOrNull { abs(it) } ?: 0.0
        val alike = nearest / sqrt(product(left, left, 0) * product(right, right, 0)).let { if (it > 0.0) it else 1.0 }
        return if (alike < CANCELLING) (if (power[1] > power[0]) 1 else 0) else null
    }

    private fun product(one: FloatArray, other: FloatArray, lag: Int): Double {
        var sum = 0.0
        for (i in maxOf(0, -lag) until minOf(one.size, one.size - lag)) sum += one[i + lag].toDouble() * other[i]
        return sum
    }

    /** From one rate to another, by a windowed sinc (Kaiser's window); as it is where they are equal. */
    fun resampled(wave: FloatArray, from: Int, to: Int): FloatArray {
        if (from == to || wave.isEmpty()) return wave
        val gain = minOf(1.0, CUTOFF * to / from)
        val taps = kotlin.math.ceil(TAPS / gain).toInt().let { it + it % 2 }
        val centre = (taps - 1) / 2
        val divisor = greatest(from, to)
        val phases = to / divisor
        val kernels = arrayOfNulls<DoubleArray>(phases)
        val n = wave.size
        val outputs = (n.toLong() * to + from - 1) / from
        return FloatArray(outputs.toInt()) { j ->
            val place = j.toLong() * from
            val first = (place / to).toInt() - centre
            val remainder = (place % to).toInt()
            val phase = remainder / divisor
            val kernel = kernels[phase] ?: kernel(remainder.toDouble() / to, gain, taps, centre).also { kernels[phase] = it }
            var sum = 0.0
            for (t in 0 until taps) sum += kernel[t] * wave[mirrored(first + t, n)]
            sum.toFloat()
        }
    }

    private fun kernel(fraction: Double, gain: Double, taps: Int, centre: Int): DoubleArray {
        val kernel = DoubleArray(taps) { t ->
            val distance = t - centre - fraction
            val across = 2 * distance / taps
            sinc(distance * gain) * bessel(SHARPNESS * sqrt(maxOf(0.0, 1 - across * across)))
        }
        val total = kernel.sum()
        for (t in kernel.indices) kernel[t] /= total
        return kernel
    }

    private fun sinc(u: Double): Double = if (u == 0.0) 1.0 else sin(PI * u) / (PI * u)

    /** The modified Bessel function I₀ by its series. */
    private fun bessel(x: Double): Double {
        var sum = 1.0
        var term = 1.0
        var k = 1
        while (term > 1e-17 * sum) {
            term *= (x / (2 * k)) * (x / (2 * k))
            sum += term
            k++
        }
        return sum
    }

    /** x[-k] = x[k] in front, x[n - 1 + k] = x[n - k] behind. */
    private fun mirrored(index: Int, n: Int): Int {
        var at = index
        while (at !in 0 until n) at = if (at < 0) -at else 2 * n - 1 - at
        return at
    }

    private tailrec fun greatest(a: Int, b: Int): Int = if (b == 0) a else greatest(b, a % b)

    /** Without a constant offset, which nobody hears and every level counts. */
    fun level(wave: FloatArray): FloatArray {
        var sum = 0.0
        for (sample in wave) sum += sample
        val offset = if (wave.isEmpty()) 0.0 else sum / wave.size
        return if (abs(offset) > CONSTANT) FloatArray(wave.size) { wave[it] - offset.toFloat() } else wave
    }

    /** At -23 LUFS; a loudness beyond ±100 LUFS is left alone. */
    fun normalised(wave: FloatArray, sampleRate: Int): FloatArray {
        val measured = Loudness.of(wave, sampleRate)
        if (measured == null || abs(measured) > 100) return wave
        val gain = 10.0.pow((TARGET_LUFS - measured) / 20).toFloat()
        return FloatArray(wave.size) { wave[it] * gain }
    }
}

/** Integrated loudness of one channel, ITU-R BS.1770. */
object Loudness {
    private const val BLOCK_SECONDS = 0.4
    private const val ABSOLUTE_GATE = -70.0
    private const val RELATIVE_GATE = -10.0
    private const val OFFSET = -0.691

    /** In LUFS, null for silence. A sound shorter than a block of 0.4 s is repeated until it fills one. */
    fun of(wave: FloatArray, sampleRate: Int): Double? {
        if (wave.isEmpty()) return null
        val size = maxOf(kotlin.math.ceil(BLOCK_SECONDS * sampleRate).toInt(), wave.size)
        var weighted = DoubleArray(size) { wave[it % wave.size].toDouble() }
        weighted = filtered(weighted, highShelf(4.0, sqrt(0.5), 1500.0 / sampleRate))
        weighted = filtered(weighted, highPass(0.5, 38.0 / sampleRate))
        val count = Math.rint((size.toDouble() / sampleRate - BLOCK_SECONDS) / (BLOCK_SECONDS / 4)).toInt() + 1
        val powers = DoubleArray(count) { k ->
            var sum = 0.0
            val end = minOf(size, (BLOCK_SECONDS * (k * 0.25 + 1) * sampleRate).toInt())
            for (i in (BLOCK_SECONDS * k * 0.25 * sampleRate).toInt() until end) sum += weighted[i] * weighted[i]
            sum / (BLOCK_SECONDS * sampleRate)
        }
        val heard = powers.filter { lufs(it) >= ABSOLUTE_GATE }
        if (heard.isEmpty()) return null
        val gate = lufs(heard.average()) + RELATIVE_GATE
        return lufs(powers.filter { lufs(it) > gate && lufs(it) > ABSOLUTE_GATE }.average())
    }

    private fun lufs(power: Double): Double = OFFSET + 10 * log10(power)

    /** Three coefficients of the numerator, then three of the denominator; `frequency` in cycles a sample. */
    private fun highShelf(gainDb: Double, q: Double, frequency: Double): DoubleArray {
        val a = 10.0.pow(gainDb / 40)
        val w = 2 * PI * frequency
        val cos = kotlin.math.cos(w)
        val width = 2 * sqrt(a) * sin(w) / (2 * q)
        return doubleArrayOf(
            a * (a + 1 + (a - 1) * cos + width), -2 * a * (a - 1 + (a + 1) * cos), a * (a + 1 + (a - 1) * cos - width),
            a + 1 - (a - 1) * cos + width, 2 * (a - 1 - (a + 1) * cos), a + 1 - (a - 1) * cos - width,
        )
    }

    private fun highPass(q: Double, frequency: Double): DoubleArray {
        val w = 2 * PI * frequency
        val cos = kotlin.math.cos(w)
        val alpha = sin(w) / (2 * q)
        return doubleArrayOf((1 + cos) / 2, -(1 + cos), (1 + cos) / 2, 1 + alpha, -2 * cos, 1 - alpha)
    }

    private fun filtered(x: DoubleArray, k: DoubleArray): DoubleArray {
        val (b0, b1, b2) = DoubleArray(3) { k[it] / k[3] }
        val a1 = k[4] / k[3]
        val a2 = k[5] / k[3]
        var first = 0.0
        var second = 0.0
        return DoubleArray(x.size) {
            val y = b0 * x[it] + first
            first = b1 * x[it] - a1 * y + second
            second = b2 * x[it] - a2 * y
            y
        }
    }
}
