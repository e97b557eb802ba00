package echoedge.engine

import java.io.File
import java.math.BigInteger
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** An array of a vector: the numbers in a type that holds them, each as its bits for comparisons to the bit. */
class Vector(val dtype: String, val shape: List<Int>, private val data: ByteBuffer) {
    val size: Int = sizeOf(shape)

    fun floats(): FloatArray = FloatArray(size) { data.getFloat(4 * it) }

    fun doubles(): DoubleArray = DoubleArray(size) { data.getDouble(8 * it) }

    fun bytes(): ByteArray = ByteArray(size) { data.get(it) }

    /** Of whole numbers, those of 64 bits unsigned ones too. */
    fun longs(): LongArray = LongArray(size) {
        when (dtype) {
            "uint8" -> data.get(it).toLong() and 0xFF
            "int32" -> data.getInt(4 * it).toLong()
            "uint32" -> data.getInt(4 * it).toLong() and 0xFFFFFFFFL
            else -> data.getLong(8 * it)
        }
    }

    /** As values to be compared: floats and doubles as they are, all others whole. */
    fun values(): Any = when (dtype) {
        "float32" -> floats()
        "float64" -> doubles()
        else -> longs()
    }

    fun tensor(): Floats = Floats(shape, floats())

    fun latents(): Latents = Latents(shape[0], shape[1], shape[2], shape[3], floats())

    fun pixels(): Pixels = Pixels(shape[0], shape[1], shape[2], bytes())
}

/** A case of golden vectors, as docs/PLAYERS.md tells. */
class Case(private val folder: File, val group: String, private val fields: Map<*, *>) {
    val name: String = fields["name"] as String
    val kind: String = fields["kind"] as String
    val error: Map<*, *>? = fields["error"] as Map<*, *>?
    val within: Map<*, *> = fields["within"] as Map<*, *>? ?: mapOf<String, Any>()
    val expected: Map<*, *> get() = fields["expected"] as Map<*, *>
    private val given = fields["given"] as Map<*, *>

    fun has(key: String): Boolean = given[key] != null

    fun value(key: String): Any? = given.getValue(key)

    private fun Map<*, *>.getValue(key: String): Any? = if (key in this) this[key] else error("$name has no $key")

    fun whole(key: String): Int = (value(key) as Long).toInt()

    fun text(key: String): String = value(key) as String

    fun flag(key: String): Boolean = value(key) as Boolean

    fun wholes(key: String): List<Int> = (value(key) as List<*>).map { (it as Long).toInt() }

    fun texts(key: String): List<String> = (value(key) as List<*>).map { it as String }

    fun array(key: String): Vector = vector(value(key) as Map<*, *>)

    fun vector(stated: Map<*, *>): Vector {
        val shape = (stated["shape"] as List<*>).map { (it as Long).toInt() }
        val data = ByteBuffer.wrap(File(folder, stated["file"] as String).readBytes()).order(ByteOrder.LITTLE_ENDIAN)
        data.position((stated["offset"] as Long).toInt())
        return Vector(stated["dtype"] as String, shape, data.slice().order(ByteOrder.LITTLE_ENDIAN))
    }

    fun floats(key: String): FloatArray = array(key).floats()

    fun doubles(key: String): DoubleArray = array(key).doubles()

    fun longs(key: String): LongArray = array(key).longs()

    /** The bytes of a file that is given whole. */
    fun file(key: String): File = File(folder, (value(key) as Map<*, *>)["file"] as String)

    fun folder(key: String): File = File(folder, text(key))

    fun plan(): SamplingPlan = SamplingPlan.parse(file("plan").readBytes())

    fun seed(key: String): Long = Normals.seed(value(key).toString())

    override fun toString(): String = "$kind: $name"
}

/** The folder of golden vectors that the environment names, or nothing. */
object Vectors {
    val folder: File? = System.getenv("ECHOEDGE_VECTORS")?.let(::File)

    /** Every case, group by group, each file found to be what the index says. */
    fun cases(): List<Case> {
        val root = folder ?: return emptyList()
        val index = Json.parse(File(root, "index.json").readBytes()) as Map<*, *>
        check(index["format"] == "echoedge.vectors/1") { "$root has format ${index["format"]}" }
        for ((path, entry) in index["files"] as Map<*, *>) {
            val file = File(root, path as String)
            check(sha256(file) == (entry as Map<*, *>)["sha256"]) { "$file is not what the index says" }
        }
        return (index["groups"] as Map<*, *>).flatMap { (group, entry) ->
            val stated = entry as Map<*, *>
            val cases = (Json.parse(File(root, stated["file"] as String).readBytes()) as Map<*, *>)["cases"] as List<*>
            check(cases.size.toLong() == stated["cases"]) { "$group has ${cases.size} cases, not ${stated["cases"]}" }
            cases.map { Case(root, group as String, it as Map<*, *>) }
        }
    }

    /** What [found] has wrong of what a case expects, in words; null: nothing. */
    fun difference(case: Case, found: Map<String, Any?>): String? {
        val expected = case.expected
        if (expected.keys != found.keys) return "it has ${found.keys}, not ${expected.keys}"
        for ((key, value) in expected) {
            val bound = (case.within[key] as Number?)?.toDouble()
            val shorter = case.kind == "resample" || case.kind == "speech"
            differs(wanted(case, value), found[key as String], bound, shorter)?.let { return "$key $it" }
        }
        return null
    }

    private fun wanted(case: Case, value: Any?): Any? = when {
        value is Map<*, *> && "dtype" in value -> case.vector(value).values()
        value is Map<*, *> -> value.mapValues { wanted(case, it.value) }
        value is List<*> -> value.map { wanted(case, it) }
        else -> value
    }

    private fun differs(wanted: Any?, found: Any?, bound: Double?, shorter: Boolean): String? = when (wanted) {
        is FloatArray -> numbers(wanted.size, (found as FloatArray).size, bound, shorter) { i ->
            close(wanted[i].toDouble(), found[i].toDouble(), bound, wanted[i].toRawBits() == found[i].toRawBits())
        }
        is DoubleArray -> numbers(wanted.size, (found as DoubleArray).size, bound, shorter) { i ->
            close(wanted[i], found[i], bound, wanted[i].toRawBits() == found[i].toRawBits())
        }
        is LongArray -> numbers(wanted.size, (found as LongArray).size, bound, shorter) { i ->
            close(wanted[i].toDouble(), found[i].toDouble(), bound, wanted[i] == found[i])
        }
        is Map<*, *> -> wanted.keys.union((found as Map<*, *>).keys).firstNotNullOfOrNull { key ->
            val there = key in wanted && key in found
            if (there) differs(wanted[key], found[key], bound, shorter)?.let { "$key $it" } else "has or lacks $key"
        }
        is List<*> -> when {
            wanted.size != (found as List<*>).size -> "has ${found.size} entries, not ${wanted.size}"
            else -> wanted.indices.firstNotNullOfOrNull { i -> differs(wanted[i], found[i], bound, shorter)?.let { "$i $it" } }
        }
        is Double -> close(wanted, (found as Double?) ?: Double.NaN, bound, wanted == found)
        is Long, is BigInteger -> if (wanted.toString() == found.toString()) null else "is $found, not $wanted"
        else -> if (wanted == found) null else "is $found, not $wanted"
    }

    private fun numbers(wanted: Int, found: Int, bound: Double?, shorter: Boolean, at: (Int) -> String?): String? {
        val both = minOf(wanted, found)
        val alike = wanted == found || (shorter && bound != null && maxOf(wanted, found) - both <= 1)
        if (!alike) return "has $found numbers, not $wanted"
        return (0 until both).firstNotNullOfOrNull { i -> at(i)?.let { "[$i] $it" } }
    }

    private fun close(wanted: Double, found: Double, bound: Double?, same: Boolean): String? =
        if (same || (bound != null && Math.abs(wanted - found) <= bound)) null else "is $found, not $wanted"
}
