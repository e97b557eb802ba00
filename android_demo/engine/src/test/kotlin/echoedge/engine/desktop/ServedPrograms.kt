package echoedge.engine.desktop

import echoedge.engine.EngineException
import echoedge.engine.Bytes
import echoedge.engine.Floats
import echoedge.engine.Json
import echoedge.engine.Longs
import echoedge.engine.Program
import echoedge.engine.Programs
import echoedge.engine.Tensor
import java.io.BufferedInputStream
import java.io.BufferedOutputStream
import java.io.Closeable
import java.io.DataInputStream
import java.io.EOFException
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.concurrent.TimeUnit

/**
 * Programs in a child process that holds a runtime, spoken to over its standard input and output (docs/PLAYERS.md, "A process that runs
 * programs"). What it says on its error stream goes to ours.
 *
 * @param command starts it, such as `echoedge serve-programs BUNDLE`.
 */
class ServedPrograms(command: List<String>) : Programs, Closeable {
    private val process = ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start()
    private val output = BufferedOutputStream(process.outputStream, 1 shl 16)
    private val input = DataInputStream(BufferedInputStream(process.inputStream, 1 shl 16))
    private var greeted = false
    private var calls = 0L

    /** What the process said of itself: `engine`, `threads`, `clip`, `programs`; waits until it has. */
    val greeting: Map<*, *> by lazy {
        greeted = true
        answer().first
    }

    override fun load(program: Program) {
        ask("load", mapOf("program" to program.name), mapOf())
    }

    override fun run(program: Program, method: String, inputs: Map<String, Tensor>): Map<String, Tensor> =
        ask("run", mapOf("program" to program.name, "method" to method), inputs)

    override fun free(program: Program) {
        ask("free", mapOf("program" to program.name), mapOf())
    }

    /** Ends the process. */
    override fun close() {
        try {
            output.close()
        } catch (_: IOException) { // it is gone
        }
        if (!process.waitFor(10, TimeUnit.SECONDS)) process.destroyForcibly()
    }

    private fun ask(what: String, fields: Map<String, Any?>, tensors: Map<String, Tensor>): Map<String, Tensor> {
        if (!greeted) greeting
        val listed = tensors.map { (name, tensor) -> mapOf("name" to name, "dtype" to dtype(tensor), "shape" to tensor.shape) }
        val header = Json.write(mapOf("do" to what, "id" to ++calls) + fields + mapOf("tensors" to listed)).toByteArray()
        val size = tensors.values.sumOf { bytes(it).toLong() }
        try {
            output.write(ByteBuffer.allocate(16).order(ByteOrder.LITTLE_ENDIAN).put(MAGIC).putInt(header.size).putLong(size).array())
            output.write(header)
            tensors.values.forEach { output.write(content(it)) }
            output.flush()
        } catch (error: IOException) {
            throw EngineException("The process that runs programs has ended: $what cannot be asked of it.", error)
        }
        val (said, made) = answer()
        if (said["id"] != calls) throw EngineException("The process that runs programs answered ${said["id"]}, and was asked $calls.")
        return made
    }

    private fun answer(): Pair<Map<*, *>, Map<String, Tensor>> = try {
        val beginning = ByteArray(16).also(input::readFully)
        val numbers = ByteBuffer.wrap(beginning).order(ByteOrder.LITTLE_ENDIAN)
        if (!beginning.copyOf(4).contentEquals(MAGIC)) throw EngineException("The process that runs programs does not speak as it should.")
        val header = Json.parse(ByteArray(numbers.getInt(4)).also(input::readFully)) as Map<*, *>
        val body = ByteBuffer.wrap(ByteArray(numbers.getLong(8).toInt()).also(input::readFully)).order(ByteOrder.LITTLE_ENDIAN)
        if (header["ok"] != true) throw EngineException((header["error"] as Map<*, *>)["message"].toString())
        val listed = (header["tensors"] as List<*>? ?: listOf<Any>()).map { it as Map<*, *> }
        header to listed.associate { it["name"].toString() to tensor(it, body) }
    } catch (error: EOFException) {
        throw EngineException("The process that runs programs has ended without an answer; what it said stands above.", error)
    }

    private fun dtype(tensor: Tensor): String = when (tensor) {
        is Floats -> "float32"
        is Longs -> "int64"
        else -> "uint8"
    }

    private fun bytes(tensor: Tensor): Int = tensor.shape.fold(1, Int::times) * (if (tensor is Floats) 4 else if (tensor is Longs) 8 else 1)

    private fun content(tensor: Tensor): ByteArray {
        val data = ByteBuffer.allocate(bytes(tensor)).order(ByteOrder.LITTLE_ENDIAN)
        when (tensor) {
            is Floats -> data.asFloatBuffer().put(tensor.values)
            is Longs -> data.asLongBuffer().put(tensor.values)
            is Bytes -> data.put(tensor.values)
        }
        return data.array()
    }

    private fun tensor(stated: Map<*, *>, body: ByteBuffer): Tensor {
        val shape = (stated["shape"] as List<*>).map { (it as Long).toInt() }
        val count = shape.fold(1, Int::times)
        return when (val dtype = stated["dtype"]) {
            "float32" -> Floats(shape, FloatArray(count) { body.getFloat() })
            "int64" -> Longs(shape, LongArray(count) { body.getLong() })
            "uint8" -> Bytes(shape, ByteArray(count) { body.get() })
            else -> throw EngineException("A program gave $dtype; this player takes float32, int64 and uint8.")
        }
    }

    private companion object {
        val MAGIC = "EEP1".toByteArray()
    }
}
