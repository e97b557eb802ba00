package echoedge.engine

import java.math.BigInteger

/**
 * The fields of a record in a file, read strictly: a field that is missing, unknown, of another type or out of range is an error
 * that names its place and quotes its value.
 *
 * @param place where the record stands, "" at the top.
 * @param failure makes the error of a sentence.
 */
class Fields(private val place: String, value: Any?, private val failure: (String) -> EchoEdgeException) {
    private val values: Map<*, *> = value as? Map<*, *> ?: fail(null, "is ${told(value)}; it must be an object")

    fun fail(name: String?, what: String): Nothing =
        throw failure("${listOfNotNull(place.ifEmpty { null }, name).joinToString(".").ifEmpty { "It" }} $what")

    private fun told(value: Any?): String = short(if (value is String) "'$value'" else value.toString())

    /** Refuses fields that are not among [known]. */
    fun only(vararg known: String): Fields = also {
        values.keys.firstOrNull { it !in known }?.let { fail(it.toString(), "is no field that is known here") }
    }

    fun has(name: String): Boolean = values[name] != null

    /** What [read] makes of a field, null where there is none or it is null. */
    fun <T> maybe(name: String, read: Fields.(String) -> T): T? = if (has(name)) read(name) else null

    fun value(name: String): Any? = if (name in values) values[name] else fail(name, "is missing")

    private inline fun <reified T> of(name: String, kind: String): T =
        value(name) as? T ?: fail(name, "is ${told(values[name])}; it must be $kind")

    fun text(name: String, longest: Int = Int.MAX_VALUE, least: Int = 0): String = of<String>(name, "a text").also {
        if (it.length !in least..longest) fail(name, "is ${told(it)}; it must have $least to $longest characters")
    }

    fun matching(name: String, pattern: Regex): String =
        text(name).also { if (!pattern.matches(it)) fail(name, "is ${told(it)}; it must be like ${pattern.pattern}") }

    fun oneOf(name: String, vararg good: String): String =
        text(name).also { if (it !in good) fail(name, "is ${told(it)}. Choose from: ${good.joinToString()}") }

    fun flag(name: String): Boolean = of(name, "true or false")

    fun whole(name: String, value: Any?, range: IntRange): Int = at("", mapOf(name to value)).whole(name, range)

    fun whole(name: String, range: IntRange): Int = count(name, range.first.toLong()..range.last.toLong()).toInt()

    fun count(name: String, range: LongRange = 0..Long.MAX_VALUE): Long =
        of<Long>(name, "a whole number").also {
            if (it !in range) fail(name, "is $it; it must be from ${range.first} to ${range.last}")
        }

    /** An unsigned number of 64 bits. */
    fun seed(name: String): Long = when (val found = value(name)) {
        is Long -> if (found >= 0) found else fail(name, "is $found; it must be from 0 to 2^64-1")
        is BigInteger -> if (found.signum() > 0 && found.bitLength() <= 64) found.toLong() else fail(name, "is beyond 2^64-1")
        else -> fail(name, "is ${told(found)}; it must be a whole number")
    }

    fun number(name: String, range: ClosedRange<Double>): Double = number(name, value(name), range)

    fun number(name: String, value: Any?, range: ClosedRange<Double>): Double {
        val found = (value as? Number)?.toDouble() ?: fail(name, "is ${told(value)}; it must be a number")
        return if (found in range) found else fail(name, "is $found; it must be from ${range.start} to ${range.endInclusive}")
    }

    fun list(name: String): List<Any?> = of(name, "a list")

    fun numbers(name: String, range: ClosedRange<Double>): DoubleArray = numbers(name, value(name), range)

    fun numbers(name: String, value: Any?, range: ClosedRange<Double>): DoubleArray {
        val found = value as? List<*> ?: fail(name, "is ${told(value)}; it must be a list of numbers")
        return DoubleArray(found.size) { number("$name.$it", found[it], range) }
    }

    fun <T> rows(name: String, row: (String, Any?) -> T): List<T> = rows(name, list(name), row)

    fun <T> rows(name: String, value: Any?, row: (String, Any?) -> T): List<T> =
        (value as? List<*> ?: fail(name, "is ${told(value)}; it must be a list")).mapIndexed { index, each -> row("$name.$index", each) }

    fun record(name: String): Fields = at(name, value(name))

    fun records(name: String): List<Fields> = rows(name, ::at)

    /** The fields of a field, by their names in the order of the file. */
    fun named(name: String): Map<String, Any?> =
        of<Map<*, *>>(name, "an object").entries.associate { (key, value) -> key.toString() to value }

    /** Records by their names, of a file whose fields are all records, but for one. */
    fun all(but: String): Map<String, Fields> =
        values.entries.filter { it.key != but }.associate { (key, value) -> key.toString() to at(key.toString(), value) }

    fun recordsByName(name: String): Map<String, Fields> = named(name).mapValues { (key, value) -> at("$name.$key", value) }

    fun at(name: String, value: Any?): Fields = Fields(if (place.isEmpty()) name else "$place.$name", value, failure)
}
