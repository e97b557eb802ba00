package echoedge.engine

import kotlin.math.sqrt

/** One call of the audio program: it reads video frames [start] to [end] - 1, of which [first] to [last] - 1 are kept. */
data class Reading(val start: Int, val end: Int, val first: Int, val last: Int)

/** What one reading gives the audio program: [waveform] [samples]; where the model asks for them [moments] and [present]. */
class Heard(val reading: Reading, val waveform: FloatArray, val moments: Floats?, val present: FloatArray?)

/**
 * Hearing: a voice of any length through an audio encoder that reads so many samples at once, as docs/BUNDLE.md tells under Listen.
 */
object Hear {
    private const val LEAST_VARIANCE = 1e-7

    /**
     * The calls that hear [frames] video frames, [reach] of them at once.
     *
     * @throws BundleException nothing would be left of a reading between its contexts.
     */
    fun readings(frames: Int, reach: Int, hearing: Hearing): List<Reading> {
        val behind = maxOf(hearing.contextFrames, hearing.tailFrames)
        if (reach <= hearing.contextFrames + behind) {
            throw BundleException(
                "The audio encoder reads $reach frames at once, ${hearing.contextFrames} of them as context on either side: nothing is " +
                    "left to keep. Export the bundle again.",
            )
        }
        val total = frames + hearing.tailFrames
        val found = ArrayList<Reading>()
        var first = 0
        while (first < frames) {
            val start = maxOf(0, minOf(first - hearing.contextFrames, total - reach))
            val end = start + reach
            val last = if (end >= total) frames else minOf(frames, end - behind)
            found.add(Reading(start, end, first, last))
            first = last
        }
        return found
    }

    /** What the audio program is given, reading by reading, of a [speech] of which [frames] video frames are heard. */
    fun readings(speech: FloatArray, frames: Int, samplesPerFrame: Int, samples: Int, hearing: Hearing): Sequence<Heard> {
        val reach = samples / samplesPerFrame
        val more = samples % samplesPerFrame
        val total = frames + hearing.tailFrames
        val own = (minOf(frames, (speech.size + samplesPerFrame - 1) / samplesPerFrame) + hearing.tailFrames) * samplesPerFrame
        val voice = part(speech, 0, frames * samplesPerFrame + more)
        var sound = part(voice, 0, total * samplesPerFrame + more)
        var moments: Floats? = null
        val window = hearing.window
        if (window != null) {
            sound = normalised(sound, own)
            moments = moments(sound.copyOf(minOf(own, sound.size)), window.first, window.second)
        }
        return readings(frames, reach, hearing).asSequence().map { reading ->
            val present = if (window == null) null else present(minOf(total, reading.end) - reading.start, reach, hearing.rowsPerFrame)
            Heard(reading, part(sound, reading.start * samplesPerFrame, samples), moments, present)
        }
    }

    /** So many samples from a place on, zeros behind the end. */
    fun part(sound: FloatArray, start: Int, samples: Int): FloatArray = FloatArray(samples).also {
        if (start < sound.size) sound.copyInto(it, 0, start, minOf(sound.size, start + samples))
    }

    /** Shifted and scaled so that the first [own] samples have zero mean and unit variance, in double. */
    fun normalised(sound: FloatArray, own: Int): FloatArray {
        val count = minOf(own, sound.size)
        var sum = 0.0
        for (i in 0 until count) sum += sound[i]
        val mean = sum / count
        var squares = 0.0
        for (i in 0 until count) squares += (sound[i] - mean) * (sound[i] - mean)
        val deviation = sqrt(squares / count + LEAST_VARIANCE)
        return FloatArray(sound.size) { ((sound[it] - mean) / deviation).toFloat() }
    }

    /**
     * Mean and covariance of the windows of [length] samples, one every [stride]: [1, length + 1, length]. Row 0 is the mean, the others
     * are the columns of the covariance's lower triangular factor.
     */
    fun moments(sound: FloatArray, length: Int, stride: Int): Floats {
        val count = (sound.size - length) / stride + 1
        if (sound.size < length) throw InputException("The speech has ${sound.size} samples; the audio encoder hears $length at once.")
        val mean = DoubleArray(length)
        val matrix = Array(length) { DoubleArray(length) }
        for (window in 0 until count) {
            val at = window * stride
            for (i in 0 until length) {
                val value = sound[at + i].toDouble()
                mean[i] += value
                for (j in 0..i) matrix[i][j] += value * sound[at + j]
            }
        }
        for (i in 0 until length) mean[i] /= count.toDouble()
        for (i in 0 until length) {
            for (j in 0..i) {
                matrix[i][j] = matrix[i][j] / count - mean[i] * mean[j]
                matrix[j][i] = matrix[i][j]
            }
        }
        val factor = lowerFactor(matrix)
        val made = FloatArray((length + 1) * length)
        for (i in 0 until length) {
            made[i] = mean[i].toFloat()
            for (row in 0 until length) made[(1 + i) * length + row] = factor[row][i].toFloat()
        }
        return Floats.of(made, 1, length + 1, length)
    }

    /** Cholesky's factor of a symmetric matrix that may be singular: a column without a pivot stays zero. */
    private fun lowerFactor(matrix: Array<DoubleArray>): Array<DoubleArray> {
        val factor = Array(matrix.size) { DoubleArray(matrix.size) }
        val least = 1e-13 * maxOf(0.0, matrix.indices.maxOf { matrix[it][it] })
        for (column in matrix.indices) {
            val rest = DoubleArray(matrix.size)
            for (row in column until matrix.size) {
                var sum = 0.0
                for (k in 0 until column) sum += factor[row][k] * factor[column][k]
                rest[row] = matrix[row][column] - sum
            }
            if (rest[column] > least) {
                val root = sqrt(rest[column])
                for (row in column until matrix.size) factor[row][column] = rest[row] / root
            }
        }
        return factor
    }

    /** Which rows of a reading of [reach] frames are there when the sound fills [frames] of them, 1 or 0. */
    fun present(frames: Int, reach: Int, rowsPerFrame: Int): FloatArray {
        val less = rowsPerFrame - 1
        return FloatArray(rowsPerFrame * reach - less) { if (it < rowsPerFrame * frames - less) 1f else 0f }
    }

    /**
     * What a branch hears of a clip's [features] [rows, …] in a window of [length] video frames from row [first] on, as programs take
     * it: rows [1, N, …], [shift] rows late, or zeros where it does not listen; and which of them are there, [1, N].
     */
    fun voice(features: Floats, hearing: Hearing, first: Int, length: Int, listens: Boolean, shift: Int): Pair<Floats, Floats> {
        val rows = rows(hearing, length)
        val heard = minOf(features.shape[0] - first, rows)
        val size = sizeOf(features.shape.drop(1))
        val made = FloatArray(rows * size)
        val late = shift * hearing.rowsPerFrame % heard
        for (row in 0 until if (listens) heard else 0) {
            val from = first + (row - late + heard) % heard
            features.values.copyInto(made, row * size, from * size, (from + 1) * size)
        }
        return Floats(listOf(1, rows) + features.shape.drop(1), made) to Floats.of(FloatArray(rows) { if (it < heard) 1f else 0f }, 1, rows)
    }

    /** Rows of features that a window of so many video frames takes, with those beyond its last one. */
    fun rows(hearing: Hearing, videoFrames: Int): Int = hearing.rowsPerFrame * (videoFrames + hearing.beyondFrames)

    /** Features [T, …] with their neighbours, clamped at the ends: [T, 2·radius + 1, …]; as they are where the radius is 0. */
    fun neighbourhoods(features: Floats, radius: Int): Floats {
        if (radius == 0) return features
        val rows = features.shape[0]
        val size = features.values.size / rows
        val wide = 2 * radius + 1
        val made = FloatArray(rows * wide * size)
        for (row in 0 until rows) {
            for (k in 0 until wide) {
                val from = (row + k - radius).coerceIn(0, rows - 1)
                features.values.copyInto(made, (row * wide + k) * size, from * size, (from + 1) * size)
            }
        }
        return Floats(listOf(rows, wide) + features.shape.drop(1), made)
    }
}
