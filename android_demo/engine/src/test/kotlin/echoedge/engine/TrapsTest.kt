package echoedge.engine

import kotlin.math.roundToInt
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Test

/** Mistakes that are easy to make in this language, each found by a golden vector. */
class TrapsTest {
    private fun cases(kind: String): List<Case> {
        val found = Vectors.cases().filter { it.kind == kind && it.error == null }
        assumeTrue("there are no golden vectors here", found.isNotEmpty())
        return found
    }

    private fun found(kind: String, mistake: (Case) -> Map<String, Any?>): Boolean =
        cases(kind).any { Vectors.difference(it, mistake(it)) != null }

    @Test
    fun `the platform's logarithm and cosine are not the generator's`() {
        assertTrue(found("normals") { case ->
            val right = computed(case)
            val uniforms = right.getValue("uniforms") as DoubleArray
            val m = uniforms.size / 4
            right + ("logarithms" to DoubleArray(2 * m) { Math.log(uniforms[it / m * 2 * m + it % m]) })
        })
        assertTrue(found("normals") { case ->
            val right = computed(case)
            val uniforms = right.getValue("uniforms") as DoubleArray
            val m = uniforms.size / 4
            right + ("cosines" to DoubleArray(2 * m) { Math.cos(2 * Math.PI * uniforms[(it / m * 2 + 1) * m + it % m]) })
        })
    }

    @Test
    fun `a number that is read as a float is another number`() {
        assertTrue(found("numbers") { case -> computed(case) + ("floats" to case.texts("texts").map(String::toFloat).toFloatArray()) })
    }

    @Test
    fun `a sum that begins with zero loses the sign of zero`() {
        assertTrue(found("combine") { case ->
            val arrays = case.array("arrays")
            val m = arrays.shape[1]
            val weights = case.doubles("weights")
            val values = arrays.floats()
            mapOf("sum" to FloatArray(m) { i -> weights.indices.fold(0.0) { sum, k -> sum + weights[k] * values[k * m + i] }.toFloat() })
        })
    }

    @Test
    fun `half a level is not rounded upwards`() {
        assertTrue(found("pixels") { case ->
            val video = case.array("video")
            val (t, _, h, w) = video.shape
            val values = video.floats()
            val plane = h * w
            mapOf("pixels" to LongArray(values.size) {
                val frame = it / (3 * plane)
                ((values[(frame * 3 + it % 3) * plane + it % (3 * plane) / 3] + 1f) * 127.5f).roundToInt().coerceIn(0, 255).toLong()
            }.also { check(it.size == t * 3 * plane) })
        })
    }

    @Test
    fun `a byte is divided and not multiplied by a rounded quotient`() {
        assertTrue(found("signed") { case ->
            val pixels = case.array("pixels").pixels()
            val plane = pixels.height * pixels.width
            mapOf("portrait" to FloatArray(3 * plane) { (pixels.bytes[it % plane * 3 + it / plane].toInt() and 0xFF) * (2f / 255f) - 1f })
        })
    }

    @Test
    fun `the colours of BT_601 are others`() {
        assertTrue(found("yuv") { case ->
            val pixels = case.array("pixels").pixels()
            computed(case) + ("y" to LongArray(pixels.height * pixels.width) { at ->
                val (r, g, b) = List(3) { (pixels.bytes[3 * at + it].toInt() and 0xFF) / 255.0 }
                Math.round(16 + 219 * (0.299 * r + 0.587 * g + 0.114 * b))
            })
        })
    }

    @Test
    fun `rounded frame times that are added up drift`() {
        assertTrue(found("times") { case ->
            val step = Film.microseconds(1, case.whole("fps"))
            computed(case) + ("microseconds" to LongArray(case.whole("frames")) { it * step })
        })
    }

    @Test
    fun `what is right is not found to be wrong`() {
        for (kind in listOf("normals", "numbers", "combine", "pixels", "signed", "yuv", "times")) assertFalse(kind, found(kind, ::computed))
    }
}
