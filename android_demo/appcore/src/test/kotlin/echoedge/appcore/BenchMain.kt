package echoedge.appcore

import echoedge.engine.Bundle
import echoedge.engine.Device
import echoedge.engine.Programs
import echoedge.engine.Surroundings
import echoedge.engine.Toy
import echoedge.engine.ToyPrograms
import echoedge.engine.desktop.ServedPrograms
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * What a phone does for a benchmark, on a desktop: `prepare` and `run FOLDER WORD [COMMAND…]`, and `material FOLDER`, which writes
 * a bundle whose programs are formulas with a portrait and a voice. With a command, such as `echoedge serve-programs BUNDLE`, the
 * programs are a real bundle's. For Python, which reads what comes out.
 */
fun main(arguments: Array<String>) {
    val folder = File(arguments[1])
    val desktop = Desktop(arguments.drop(3))
    when (arguments[0]) {
        "material" -> material(folder)
        "prepare" -> Bench(folder, desktop).prepare(arguments[2])
        else -> Bench(folder, desktop).run(arguments[2])
    }
    desktop.served.forEach(ServedPrograms::close)
}

private fun material(folder: File) {
    Toy.write(File(folder, "bundle"))
    for ((name, values) in mapOf("portrait.f32" to Toy.portrait().values, "speech.f32" to Toy.speech(9))) {
        val bytes = ByteBuffer.allocate(4 * values.size).order(ByteOrder.LITTLE_ENDIAN)
        bytes.asFloatBuffer().put(values)
        File(folder, name).writeBytes(bytes.array())
    }
}

private class Desktop(private val command: List<String>) : BenchPhone {
    val served = ArrayList<ServedPrograms>()
    override val app = "EchoEdge demo 0"
    override val device = Device("phone", "cpu", "A desktop as a phone", null, null, "Java", "none")
    override val threads = 1
    override val versions = mapOf("echoedge-android" to "0")

    override fun programs(bundle: Bundle, threads: Int): Programs =
        if (command.isEmpty()) ToyPrograms() else ServedPrograms(command).also(served::add)

    override fun memory() = Room(8_000_000_000, 0, 8_000_000_000, 1_000_000_000)

    override fun state() = DeviceState()

    override fun surroundings() = Surroundings(null, null)

    override fun pssBytes(): Long? = null

    override fun peakRssBytes() = 1L

    override fun cpuSeconds(): Double? = null

    override fun freeBytes(folder: File) = folder.usableSpace
}
