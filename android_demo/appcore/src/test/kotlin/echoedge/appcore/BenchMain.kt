package echoedge.appcore

import echoedge.engine.Bundle
import echoedge.engine.Device
import echoedge.engine.Programs
import echoedge.engine.Surroundings
import echoedge.engine.Toy
import echoedge.engine.ToyPrograms
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * What a phone does for a benchmark, on a desktop: `prepare` and `run FOLDER WORD`, and `material FOLDER`, which writes a bundle
 * whose programs are formulas with a portrait and a voice. For Python, which reads what comes out.
 */
fun main(arguments: Array<String>) {
    val folder = File(arguments[1])
    when (arguments[0]) {
        "material" -> material(folder)
        "prepare" -> Bench(folder, Desktop).prepare(arguments[2])
        else -> Bench(folder, Desktop).run(arguments[2])
    }
}

private fun material(folder: File) {
    Toy.write(File(folder, "bundle"))
    for ((name, values) in mapOf("portrait.f32" to Toy.portrait().values, "speech.f32" to Toy.speech(9))) {
        val bytes = ByteBuffer.allocate(4 * values.size).order(ByteOrder.LITTLE_ENDIAN)
        bytes.asFloatBuffer().put(values)
        File(folder, name).writeBytes(bytes.array())
    }
}

private object Desktop : BenchPhone {
    override val app = "EchoEdge demo 0"
    override val device = Device("phone", "cpu", "A desktop as a phone", null, null, "Java", "none")
    override val threads = 1
    override val versions = mapOf("echoedge-android" to "0")

    override fun programs(bundle: Bundle, threads: Int): Programs = ToyPrograms()

    override fun memory() = Room(8_000_000_000, 0, 8_000_000_000, 1_000_000_000)

    override fun state() = DeviceState()

    override fun surroundings() = Surroundings(null, null)

    override fun pssBytes(): Long? = null

    override fun peakRssBytes() = 1L

    override fun cpuSeconds(): Double? = null

    override fun freeBytes(folder: File) = folder.usableSpace
}
