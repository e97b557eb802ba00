package echoedge.engine

import java.io.File
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** The player over programs that are formulas: what it loads and frees, tells and refuses. Its numbers are held to Python's elsewhere. */
class PlayerTest {
    @get:Rule
    val scratch = TemporaryFolder()

    private fun bundle(): Bundle = Bundle.open(Toy.write(File(scratch.root, "toy.echoedge")))

    private class Film : Frames {
        val frames = ArrayList<Pixels>()

        override fun take(number: Int, frame: Pixels) {
            assertEquals(frames.size, number)
            frames.add(frame)
        }
    }

    @Test
    fun `a frugal player holds what one stage needs and frees all at the end`() {
        val programs = ToyPrograms()
        val film = Film()
        val played = Player(bundle(), programs).play(Toy.portrait(), Toy.speech(21), Toy.PROMPT, frames = film)
        assertEquals(21, played.frames)
        assertEquals(21, film.frames.size)
        assertEquals(6, played.latents.frames)
        assertEquals(3 * 3, played.evaluations) // three windows, of two branches and then one
        assertEquals(emptySet<String>(), programs.loaded)
        assertEquals(5, programs.most) // four condition programs and the denoiser: windows begin one after the other
        val decoding = programs.log.indexOf("load vae_decode")
        assertTrue(decoding > programs.log.lastIndexOf("run denoise.forward"))
        assertEquals(6, programs.log.count { it.startsWith("run vae_decode") })
    }

    @Test
    fun `frames of a player that keeps its programs are the same and come earlier`() {
        val bundle = bundle()
        val (frugal, eager) = Film() to Film()
        val programs = ToyPrograms()
        val one = Player(bundle, ToyPrograms()).play(Toy.portrait(), Toy.speech(30), Toy.PROMPT, frames = frugal)
        val player = Player(bundle, programs, frugal = false)
        val other = player.play(Toy.portrait(), Toy.speech(30), Toy.PROMPT, frames = eager)
        assertArrayEquals(one.latents.values, other.latents.values, 0f)
        assertEquals(frugal.frames.map { it.bytes.asList() }, eager.frames.map { it.bytes.asList() })
        assertTrue(programs.log.indexOf("run vae_decode.first") < programs.log.lastIndexOf("run denoise.forward"))
        assertTrue(programs.loaded.isNotEmpty())
        player.free()
        assertTrue(programs.loaded.isEmpty())
    }

    @Test
    fun `each of what is given changes the latents`() {
        val bundle = bundle()
        fun latents(portrait: Floats = Toy.portrait(), speech: FloatArray = Toy.speech(9), seed: Long? = null) =
            Player(bundle, ToyPrograms()).play(portrait, speech, Toy.PROMPT, seed) { _, _ -> }.latents.values.asList()
        val usual = latents()
        assertEquals(usual, latents(seed = 7)) // the plan's own
        val other = Toy.portrait().also { it.values[5] += 0.25f }
        val louder = Toy.speech(9).also { it[100] += 0.25f }
        for (changed in listOf(latents(portrait = other), latents(speech = louder), latents(seed = 8))) assertTrue(usual != changed)
    }

    @Test
    fun `progress counts every stage to its end`() {
        val told = LinkedHashMap<Stage, Pair<Int, Int>>()
        Player(bundle(), ToyPrograms(), progress = { stage, done, total -> told[stage] = done to total })
            .play(Toy.portrait(), Toy.speech(21), Toy.PROMPT) { _, _ -> }
        assertEquals(Stage.values().toSet(), told.keys)
        for ((stage, counts) in told) assertEquals("$stage", counts.second, counts.first)
    }

    @Test
    fun `a clip that is cancelled leaves nothing loaded`() {
        val bundle = bundle()
        for (calls in listOf(0, 1, 9, 20)) {
            val programs = ToyPrograms()
            val player = Player(bundle, programs, cancelled = { programs.log.count { it.startsWith("run") } >= calls })
            assertThrows(CancelledException::class.java) { player.play(Toy.portrait(), Toy.speech(21), Toy.PROMPT) { _, _ -> } }
            assertEquals(calls, programs.log.count { it.startsWith("run") })
            assertTrue(programs.loaded.isEmpty())
        }
    }

    @Test
    fun `a program that fails leaves nothing loaded`() {
        val programs = ToyPrograms(failing = "denoise")
        val player = Player(bundle(), programs, frugal = false)
        assertThrows(EngineException::class.java) { player.play(Toy.portrait(), Toy.speech(9), Toy.PROMPT) { _, _ -> } }
        assertTrue(programs.loaded.isEmpty())
    }

    @Test
    fun `what cannot be played is refused before anything runs`() {
        val bundle = bundle()
        val programs = ToyPrograms()
        val player = Player(bundle, programs)
        assertEquals(listOf(Toy.PROMPT), player.knownPrompts)
        val short = assertThrows(InputException::class.java) { player.play(Toy.portrait(), FloatArray(39), Toy.PROMPT) { _, _ -> } }
        assertTrue(short.message!!, "39 samples" in short.message!!)
        val small = Floats.zeros(listOf(3, 8, 8))
        assertThrows(InputException::class.java) { player.play(small, Toy.speech(9), Toy.PROMPT) { _, _ -> } }
        assertTrue(programs.log.isEmpty())
        val unknown = assertThrows(InputException::class.java) { player.play(Toy.portrait(), Toy.speech(9), "hello") { _, _ -> } }
        assertTrue(unknown.message!!, Toy.PROMPT in unknown.message!! && "hello" in unknown.message!!)
        assertThrows(ConfigException::class.java) { Player(bundle, programs, decoder = "tiny") }
        assertThrows(ConfigException::class.java) { bundle.manifest.clip("32x32x9") }
    }

    @Test
    fun `a tensor of another shape does not reach a program`() {
        val program = bundle().manifest.programs.getValue("audio_conditions")
        val wrong = assertThrows(EngineException::class.java) { program.take("forward", mapOf("audio" to Floats.zeros(listOf(1, 8, 2)))) }
        assertTrue(wrong.message!!, "[1, 8, 2]" in wrong.message!!)
        assertThrows(EngineException::class.java) { program.take("forward", mapOf("sound" to Floats.zeros(listOf(1, 9, 2)))) }
        assertThrows(EngineException::class.java) { program.take("backward", mapOf()) }
        val given = mapOf("audio" to Floats.zeros(listOf(1, 9, 2)), "more" to Floats.zeros(listOf(1)))
        assertEquals(setOf("audio"), program.take("forward", given).keys)
    }

    @Test
    fun `a forecast names its largest part and the remedy`() {
        val need = Memory.needed(bundle(), 10.0)
        assertEquals(3L * "image_conditions".length, need.terms["the largest program, loaded and packed"]) // files that hold their names
        assertEquals(2L * 3 * 1000, need.terms["conditions of the windows under way"]) // two branches, three windows under way
        val refused = assertThrows(ResourceException::class.java) { need.require("this clip", 1000) }
        assertTrue(refused.message!!, "6.00 kB for conditions" in refused.message!! && "--size" in refused.message!!)
        need.require("this clip", need.total)
    }

    @Test
    fun `a record of timed clips is one that EchoEdge reads`() {
        val bundle = bundle()
        val timed = TimedPrograms(ToyPrograms())
        val player = Player(bundle, timed, frugal = false)
        fun clip(): TimedClip {
            timed.calls.clear()
            val began = System.nanoTime()
            val played = player.play(Toy.portrait(), Toy.speech(9), Toy.PROMPT) { _, _ -> }
            return TimedClip(played, (System.nanoTime() - began) / 1e9, timed.calls.toList())
        }
        val device = Device("host", "cpu", "a test", 2, null, "test", "1")
        val nothing = Surroundings(null, null)
        val record = BenchRecord(
            bundle, player.clip, "full", Toy.PROMPT, "executorch", device, 1, mapOf("echoedge" to "1"), 0.5 to 0.25, clip(),
            List(3) { clip() }, clip(), 1000, nothing, Surroundings(mapOf("skin" to 31.5), 0.5),
        )
        BenchRecord.check(record.toJson().toByteArray())
        val programs = record.toMap()["programs"] as Map<*, *>
        assertEquals(bundle.manifest.roles, programs.keys)
        assertTrue((record.toMap()["first_load_ms"] as Double) >= 500.0)
        val broken = Json.write(record.toMap() + ("fps" to 1e9)).toByteArray()
        assertThrows(BundleException::class.java) { BenchRecord.check(broken) }
    }

    @Test
    fun `JSON that is written is read again as it was`() {
        val text = "\"\\\n\u0001é中"
        val value = mapOf("a" to listOf(1L, -2.5, null, true, text), "b" to mapOf<String, Any?>(), "c" to listOf<Any?>(), "d" to 1e300)
        assertEquals(value, Json.parse(Json.write(value)))
        assertThrows(ConfigException::class.java) { Json.write(listOf(Double.NaN)) }
        assertThrows(BundleException::class.java) { Json.parse("[".repeat(300) + "]".repeat(300)) }
    }
}
