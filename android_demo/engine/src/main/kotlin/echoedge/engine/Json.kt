package echoedge.engine

import java.math.BigInteger
import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException

/**
 * JSON as Kotlin values: `Map<String, Any?>` in the order of the text, `List<Any?>`, `String`, `Boolean`, null; whole numbers are
 * `Long`, or [BigInteger] beyond it, all others `Double`. Single precision is the double narrowed, never the text read as a float.
 */
object Json {
    private const val DEEPEST = 200

    /**
     * Reads UTF-8.
     *
     * @throws BundleException it is no JSON, has a key twice, a number that is not finite, or more than 200 levels.
     */
    fun parse(utf8: ByteArray): Any? {
        val text = try {
            Charsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(utf8)).toString()
        } catch (error: CharacterCodingException) {
            throw BundleException("This is not JSON: it is not UTF-8.", error)
        }
        return parse(text)
    }

    /** As above, of a text. */
    fun parse(text: String): Any? = Parser(text).document()

    private class Parser(private val text: String) {
        private var at = 0

        fun document(): Any? {
            val value = value(0)
            space()
            if (at < text.length) fail("there is more behind its end")
            return value
        }

        private fun fail(why: String): Nothing = throw BundleException("This is not JSON: $why (at character $at).")

        private fun space() {
            while (at < text.length && text[at] in " \t\n\r") at++
        }

        private fun peek(): Char = if (at < text.length) text[at] else fail("it is cut off")

        private fun take(expected: String) {
            if (!text.startsWith(expected, at)) fail("${short(text.substring(at).take(20))} stands where $expected is expected")
            at += expected.length
        }

        private fun value(depth: Int): Any? {
            if (depth > DEEPEST) fail("it has more than $DEEPEST levels")
            space()
            return when (val first = peek()) {
                '{' -> record(depth)
                '[' -> list(depth)
                '"' -> string()
                't' -> true.also { take("true") }
                'f' -> false.also { take("false") }
                'n' -> null.also { take("null") }
                else -> if (first == '-' || first in '0'..'9') number() else fail("'$first' begins no value")
            }
        }

        private fun record(depth: Int): Map<String, Any?> {
            val found = LinkedHashMap<String, Any?>()
            members('}') {
                if (peek() != '"') fail("a key is no string")
                val key = string()
                space()
                take(":")
                if (key in found) fail("the key \"${short(key)}\" occurs twice")
                found[key] = value(depth + 1)
            }
            return found
        }

        private fun list(depth: Int): List<Any?> = ArrayList<Any?>().also { found -> members(']') { found.add(value(depth + 1)) } }

        private fun members(end: Char, member: () -> Unit) {
            at++
            space()
            if (peek() == end) {
                at++
                return
            }
            while (true) {
                space()
                member()
                space()
                if (peek() == end) break
                take(",")
            }
            at++
        }

        private fun string(): String {
            val made = StringBuilder()
            at++
            while (true) {
                val next = peek()
                at++
                when {
                    next == '"' -> return made.toString()
                    next == '\\' -> made.append(escaped())
                    next < ' ' -> fail("a string holds a control character")
                    else -> made.append(next)
                }
            }
        }

        private fun escaped(): Char {
            val kind = peek()
            at++
            if (kind == 'u') {
                val digits = text.substring(at, minOf(at + 4, text.length))
                if (digits.length < 4 || digits.any { Character.digit(it, 16) < 0 }) fail("\\u$digits is no character")
                at += 4
                return digits.toInt(16).toChar()
            }
            val index = "\"\\/bfnrt".indexOf(kind)
            return if (index >= 0) "\"\\/\b\u000c\n\r\t"[index] else fail("\\$kind is no escape")
        }

        private fun number(): Number {
            val found = NUMBER.find(text, at)?.takeIf { it.range.first == at } ?: fail("a number is not complete")
            at = found.range.last + 1
            if (found.groupValues[1].isEmpty()) {
                val whole = BigInteger(found.value)
                return if (whole.bitLength() < 64) whole.toLong() else whole
            }
            val value = found.value.toDouble()
            return if (value.isFinite()) value else fail("${short(found.value)} is not a finite number")
        }
    }

    private val NUMBER = Regex("-?(?:0|[1-9][0-9]*)((?:\\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)")

    /**
     * Values as [parse] gives them, as text with one space of indentation for each level. Numbers of any type may be among them.
     *
     * @throws ConfigException a number is not finite, or a value is none of JSON's.
     */
    fun write(value: Any?): String = StringBuilder().also { write(value, it, 0) }.append('\n').toString()

    private fun write(value: Any?, into: StringBuilder, depth: Int) {
        fun many(count: Int, ends: String, member: (Int) -> Unit) {
            into.append(ends[0])
            for (index in 0 until count) {
                into.append(if (index > 0) ",\n" else "\n").append(" ".repeat(depth + 1))
                member(index)
            }
            if (count > 0) into.append('\n').append(" ".repeat(depth))
            into.append(ends[1])
        }
        when (value) {
            null, is Boolean, is Int, is Long, is BigInteger -> into.append(value)
            is Number -> {
                val number = value.toDouble()
                if (!number.isFinite()) throw ConfigException("$number has no form in JSON. Leave it out, or write null.")
                into.append(number)
            }
            is String -> quote(value, into)
            is List<*> -> many(value.size, "[]") { write(value[it], into, depth + 1) }
            is Map<*, *> -> {
                val entries = value.entries.toList()
                many(entries.size, "{}") {
                    quote(entries[it].key.toString(), into)
                    into.append(": ")
                    write(entries[it].value, into, depth + 1)
                }
            }
            else -> throw ConfigException("${value::class.java.simpleName} has no form in JSON.")
        }
    }

    private fun quote(text: String, into: StringBuilder) {
        into.append('"')
        for (one in text) {
            when {
                one == '"' || one == '\\' -> into.append('\\').append(one)
                one < ' ' -> into.append("\\u%04x".format(one.code))
                else -> into.append(one)
            }
        }
        into.append('"')
    }
}
