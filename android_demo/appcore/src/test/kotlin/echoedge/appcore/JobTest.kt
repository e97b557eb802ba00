package echoedge.appcore

import echoedge.engine.BenchRecord
import echoedge.engine.Bundle
import echoedge.engine.Clip
import echoedge.engine.Device
import echoedge.engine.InputException
import echoedge.engine.Json
import echoedge.engine.Manifest
import echoedge.engine.Programs
import echoedge.engine.Surroundings
import echoedge.engine.Toy
import echoedge.engine.ToyPrograms
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** Jobs of benchmarks: read, played with programs that are formulas, refused. Python reads what comes out in tests/android. */
class JobTest {
    @get:Rule
    val scratch = TemporaryFolder()
    private lateinit var folder: File
    private val word = "0123abcd"

    private class Bench0(private val failing: String? = null, private val room: Room = PLENTY) : BenchPhone {
        val opened = ArrayList<ToyPrograms>()
        var seconds = 0.0
        override val app = "EchoEdge demo 1.2"
        override val device = Device("phone", "cpu", "A Phone", 8, 4_000_000_000, "Android 14", "BUILD")
        override val threads = 4
        override val versions = mapOf("echoedge-android" to "1.2", "executorch" to "9.9")

        override fun programs(bundle: Bundle, threads: Int): Programs = ToyPrograms(failing).also(opened::add)

        override fun memory() = room

        override fun state() = DeviceState("light", 81.0, 30.5, false)

        override fun surroundings() = Surroundings(null, null)

        override fun pssBytes() = 100_000_000L + opened.sumOf { it.log.size }

        override fun peakRssBytes() = 200_000_000L

        override fun cpuSeconds() = seconds

        override fun freeBytes(folder: File) = 5_000_000_000L

        override fun now(): Double = seconds.also { seconds += 0.25 }
    }

    @Before
    fun write() {
        folder = scratch.newFolder("bench")
        Toy.write(File(folder, "bundle"))
        floats("portrait.f32", Toy.portrait().values)
        floats("speech.f32", Toy.speech(9))
        job()
    }

    private fun floats(name: String, values: FloatArray) {
        val bytes = ByteBuffer.allocate(4 * values.size).order(ByteOrder.LITTLE_ENDIAN)
        values.forEach { bytes.putFloat(it) }
        File(folder, name).writeBytes(bytes.array())
    }

    private fun fields(vararg changes: Pair<String, Any?>): Map<String, Any?> = mapOf<String, Any?>(
        "format" to "echoedge.job/1", "job" to word, "contract" to 1, "bundle" to "bundle", "portrait" to "portrait.f32",
        "speech" to "speech.f32", "clip" to "16x16x9", "decoder" to null, "engine" to "auto", "prompt" to Toy.PROMPT, "seed" to 3,
        "threads" to null, "warm_up" to 1, "runs" to 3, "sustained_s" to null, "reload" to true, "cool" to null,
    ) + changes

    private fun job(vararg changes: Pair<String, Any?>) = File(folder, "job.json").writeText(Json.write(fields(*changes)))

    private fun status(): Map<*, *> = Json.parse(File(folder, "status.json").readBytes()) as Map<*, *>

    private fun result(): Map<*, *> = Json.parse(File(folder, "result.json").readBytes()) as Map<*, *>

    private fun refused(vararg changes: Pair<String, Any?>): String {
        job(*changes)
        return assertThrows(InputException::class.java) { Job.read(folder, word) }.message.orEmpty()
    }

    @Test
    fun `a job is read as it is written`() {
        val job = Job.read(folder, word)
        assertEquals(listOf(1, 3, 5), listOf(job.warmUp, job.runs, job.clips))
        assertEquals(3L, job.seed)
        assertNull(job.sustainedSeconds)
        val seed = Json.write(fields("seed" to java.math.BigInteger("18446744073709551615"), "threads" to 2, "decoder" to "full"))
        assertEquals(-1L, Job.parse(seed.toByteArray(), word).seed)
        val defaults = fields() - setOf("format", "contract", "bundle", "portrait", "speech")
        assertEquals("portrait.f32", Job.parse(Json.write(defaults).toByteArray(), word).portrait)
    }

    @Test
    fun `a bad job is refused with its bad value`() {
        for ((change, said) in listOf(
            ("job" to "ffffffff") to "ffffffff", ("job" to "SHORT") to "SHORT", ("contract" to 2) to "version 1",
            ("engine" to "coreml") to "coreml",
            ("runs" to 0) to "0", ("warm_up" to 0) to "warm_up", ("seed" to -1) to "-1", ("threads" to 0) to "threads",
            ("decoder" to "huge") to "huge", ("bundle" to "../other") to "../other", ("speech" to "/etc/passwd") to "/etc/passwd",
            ("sustained_s" to 0.0) to "sustained_s", ("reload" to 1) to "reload", ("extra" to 1) to "extra",
            ("format" to "echoedge.job/2") to "echoedge.job/2", ("cool" to mapOf("status" to "none", "timeout_s" to 1)) to "cool",
        )) {
            val message = refused(change)
            assertTrue("$change: $message", said in message && message.startsWith("job.json is no job"))
        }
        File(folder, "job.json").writeText("{")
        assertTrue(assertThrows(InputException::class.java) { Job.read(folder, word) }.message!!.contains("not JSON"))
        File(folder, "job.json").delete()
        assertTrue(assertThrows(InputException::class.java) { Job.read(folder, word) }.message!!.contains("cannot be read"))
        val missing = fields() - "runs"
        assertThrows(InputException::class.java) { Job.parse(Json.write(missing).toByteArray(), word) }
    }

    @Test
    fun `an intent asks for what is known, or for nothing`() {
        assertEquals("run" to word, Bench.asked("run", word))
        assertEquals("prepare" to word, Bench.asked("prepare", word))
        for ((action, job) in listOf(null to word, "run" to null, "clean" to word, "run" to "../x", "run" to "short")) {
            assertNull(Bench.asked(action, job))
        }
    }

    @Test
    fun `prepare says what is kept to and how much room there is`() {
        val other = File(scratch.root, "new/bench")
        Bench(other, Bench0()).prepare(word)
        val said = Json.parse(File(other, "status.json").readBytes()) as Map<*, *>
        val told = listOf("job", "state", "contract", "app", "free_bytes", "thermal_status").map { said[it] }
        assertEquals(listOf(word, "ready", 1L, "EchoEdge demo 1.2", 5_000_000_000L, "light"), told)
    }

    @Test
    fun `a job is played and told`() {
        val phone = Bench0()
        assertTrue(Bench(folder, phone).run(word))
        assertEquals(listOf("done", 5L, 5L), listOf("state", "done", "total").map { status()[it] })
        val result = result()
        val fields = setOf("format", "job", "app", "record", "cooled_s", "before", "after", "peak_pss_bytes", "ends_s")
        assertEquals(fields, result.keys)
        assertNull(result["ends_s"])
        val record = result["record"] as Map<*, *>
        BenchRecord.check(Json.write(record).toByteArray())
        assertEquals(listOf(3L, 4L, 9L, 200_000_000L), listOf("runs", "threads", "frames", "peak_rss_bytes").map { record[it] })
        assertEquals("phone", (record["machine"] as Map<*, *>)["place"])
        assertEquals("executorch", (record["engine"] as Map<*, *>)["name"])
        assertEquals(mapOf("echoedge-android" to "1.2", "executorch" to "9.9"), record["versions"])
        assertEquals("full", (record["workload"] as Map<*, *>)["decoder"])
        assertNotNull(record["second_load_ms"])
        assertTrue((result["peak_pss_bytes"] as Long) > 100_000_000)
        assertEquals(2, phone.opened.size) // once more, behind the clips that count
        assertTrue(phone.opened.all { it.loaded.isEmpty() })
        assertEquals(4, phone.opened[0].log.count { it == "run image_encoder.forward" })
        assertEquals(Manifest.parse(File(folder, "bundle/manifest.json").readBytes()).sha256, record["manifest_sha256"])
    }

    @Test
    fun `sustained clips go on until the time is over`() {
        job("sustained_s" to 2.0, "reload" to false, "threads" to 2)
        assertTrue(Bench(folder, Bench0()).run(word))
        val ends = (result()["ends_s"] as List<*>).map { it as Double }
        assertTrue("$ends", ends.zipWithNext().all { (one, next) -> next > one } && ends[0] > 0)
        assertTrue("$ends", ends.last() >= 2 && ends[ends.size - 2] < 2)
        val record = result()["record"] as Map<*, *>
        assertEquals(2L, record["threads"])
        assertNull(record["second_load_ms"])
    }

    @Test
    fun `what cannot be played is one sentence`() {
        fun said(phone: BenchPhone = Bench0()): String {
            assertFalse(Bench(folder, phone).run(word))
            assertEquals(listOf("failed", "job", word), listOf("state", "fault", "job").map { status()[it] })
            assertFalse(File(folder, "result.json").exists())
            return status()["message"].toString()
        }
        assertTrue(said(Bench0(failing = "denoise")).contains("denoise failed"))
        assertTrue(said(Bench0(room = Room(1000, 0, 1000, 1000))).contains("of memory is needed"))
        floats("speech.f32", Toy.speech(8))
        assertEquals("speech.f32 of the job has 320 numbers; the clip takes 360. Run the benchmark again.", said())
        job("clip" to "32x32x9")
        assertTrue(said().contains("'32x32x9'"))
        File(folder, "bundle/plan.json").delete()
        assertTrue(said().contains("plan.json is missing"))
        File(folder, "job.json").delete()
        assertTrue(said().contains("job.json cannot be read"))
    }

    @Test
    fun `what a benchmark left behind is removed, and what is kept is not`() {
        File(folder, "pushed.json").writeText("{}")
        assertFalse(Bench.sweep(folder))
        assertTrue(folder.exists())
        File(folder, "pushed.json").delete()
        assertTrue(Bench.sweep(folder))
        assertFalse(folder.exists())
        assertFalse(Bench.sweep(folder))
    }

    @Test
    fun `where there is room all programs stay loaded`() {
        val bundle = Bundle.open(File(folder, "bundle"))
        assertEquals(Mode.ALL_LOADED, Room.mode(bundle, 1.0, PLENTY))
        val needed = echoedge.engine.Memory.needed(bundle, 1.0).total
        assertEquals(Mode.ONE_BY_ONE, Room.mode(bundle, 1.0, Room(needed + 10, 10, needed, needed)))
        assertTrue(Room.all(bundle, echoedge.engine.Memory.needed(bundle, 1.0)) > needed)
        val short = Room.forecast(bundle, 1.0, Room(needed + 9, 10, needed, needed))
        assertFalse(short.fits)
        assertTrue(short.sentence, short.sentence.contains("of memory is needed for 1.0 s of 16 × 16 pixels"))
        assertTrue(Room.forecast(bundle, 1.0, PLENTY).sentence.startsWith("Needs about"))
        assertEquals(Clip(16, 16, 9, 25, 1000), bundle.manifest.clips[0])
    }

    @Test
    fun `a bundle of another runtime, or with weights apart, is refused`() {
        fun said(from: String, to: String): String {
            val manifest = File(folder, "bundle/manifest.json")
            val text = manifest.readText()
            assertTrue(from in text)
            manifest.writeText(text.replace(from, to))
            val bundle = Bundle.open(File(folder, "bundle"))
            manifest.writeText(text)
            return assertThrows(echoedge.engine.ConfigException::class.java) { Playable.require(bundle) }.message.orEmpty()
        }
        Playable.require(Bundle.open(File(folder, "bundle")))
        assertTrue(said("\"name\": \"executorch\"", "\"name\": \"coreml\"").contains("compiled for coreml"))
        val path = "\"path\": \"programs/denoise.pte\","
        assertTrue(said(path, "$path \"data\": \"plan.json\",").contains("keeps its weights in plan.json"))
    }

    private companion object {
        val PLENTY = Room(8_000_000_000, 200_000_000, 12_000_000_000, 512_000_000)
    }
}
