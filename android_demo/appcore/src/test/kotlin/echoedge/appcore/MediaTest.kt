package echoedge.appcore

import echoedge.engine.InputException
import echoedge.engine.Pixels
import echoedge.engine.Wav
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Date
import java.util.TimeZone
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** Recordings, frames on their way to the screen and into a film, and files that are shared. */
class MediaTest {
    @get:Rule
    val scratch = TemporaryFolder()

    @Test
    fun `a recording is a WAV file that the engine reads`() {
        val file = File(scratch.root, "voice.wav")
        file.writeText("something older that is longer than what comes now, and must not stay behind its end".repeat(9))
        WavFile(file, 8000).use { wav ->
            wav.write(shortArrayOf(0, 16384, -32768, 5), 3)
            wav.write(shortArrayOf(32767), 1)
            assertEquals(4 / 8000.0, wav.seconds, 0.0)
        }
        val sound = Wav.parse(file.readBytes())
        assertEquals(listOf(1, 8000), listOf(sound.channels, sound.rate))
        assertArrayEquals(floatArrayOf(0f, 0.5f, -1f, 32767 / 32768f), sound.samples, 0f)
    }

    private fun pcm(vararg values: Int): ByteBuffer {
        val buffer = ByteBuffer.allocate(2 * values.size).order(ByteOrder.LITTLE_ENDIAN)
        values.forEach { buffer.putShort(it.toShort()) }
        buffer.rewind()
        return buffer
    }

    @Test
    fun `of words that come fast the newest is taken`() {
        val later = ArrayList<() -> Unit>()
        val taken = ArrayList<Int>()
        val newest = Newest<Int>({ later.add(it) }, taken::add)
        (1..1000).forEach(newest::tell)
        assertEquals(1, later.size) // none waits behind another
        later.removeAt(0)()
        newest.tell(1001)
        assertEquals(listOf(1000), taken)
        newest.clear()
        later.removeAt(0)()
        assertEquals(listOf(1000), taken) // out of date
        newest.tell(1002)
        later.removeAt(0)()
        assertEquals(listOf(1000, 1002), taken)
    }

    @Test
    fun `pieces of a decoder are one sound`() {
        val found = DecodedSound(1)
        found.format(2, 100)
        found.pcm16(pcm(16384, -16384, 8192))
        found.format(2, 100)
        found.pcmFloat(ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putFloat(0.25f).putFloat(0.75f).also { it.rewind() })
        val sound = found.sound()
        assertEquals(2, sound.length) // the last one is no whole frame
        assertArrayEquals(floatArrayOf(0.5f, -0.5f, 0.25f, 0.25f), sound.samples, 0f)
        assertThrows(InputException::class.java) { found.format(1, 100) }
        assertTrue(assertThrows(InputException::class.java) { found.pcm16(pcm(*IntArray(200))) }.message!!.contains("lasts longer"))
        assertThrows(InputException::class.java) { DecodedSound().pcm16(pcm(1)) }
        assertThrows(InputException::class.java) { DecodedSound().apply { format(1, 8000) }.sound() }
        assertThrows(InputException::class.java) { DecodedSound().format(0, 8000) }
        val long = DecodedSound(10).apply { format(1, 50_000) }
        repeat(40) { long.pcm16(pcm(*IntArray(10_000) { at -> at % 100 })) }
        assertEquals(400_000, long.sound().length)
        assertEquals(99 / 32768f, long.sound().samples[399_999], 0f)
    }

    @Test
    fun `large photographs are decoded smaller, never too small`() {
        assertEquals(1, PictureSize.sample(512, 512, 512, 512))
        assertEquals(1, PictureSize.sample(2047, 4000, 512, 512))
        assertEquals(2, PictureSize.sample(2048, 4000, 512, 512))
        assertEquals(4, PictureSize.sample(8000, 6000, 512, 512))
    }

    @Test
    fun `a film begins when it will not have to wait`() {
        val slow = Playback(25, 100) // four seconds
        assertNull(slow.frameAt(0.0))
        assertFalse(slow.mayBegin())
        slow.frame(10.0)
        assertEquals(0, slow.frameAt(0.0))
        assertFalse(slow.mayBegin())
        repeat(49) { slow.frame(10.0 + 0.2 * (it + 1)) } // five a second: the other fifty take ten seconds
        assertFalse(slow.mayBegin())
        repeat(32) { slow.frame(19.8 + 0.2 * (it + 1)) }
        assertFalse(slow.mayBegin()) // 18 frames take 3.6 s
        slow.frame(26.4)
        assertTrue(slow.mayBegin()) // 17 take 3.4 s, less than nine tenths of the film
        val quick = Playback(25, 100)
        repeat(3) { quick.frame(it / 50.0) }
        assertTrue(quick.mayBegin())
        val still = Playback(25, 1).also { it.frame(5.0) }
        assertTrue(still.mayBegin())
    }

    @Test
    fun `a clip that was broken off is a film of the frames that are there`() {
        val film = Playback(10, 40)
        repeat(10) { film.frame(it / 100.0) }
        assertTrue(film.mustHold(1.0))
        assertFalse(film.ended(1.0))
        film.end()
        assertFalse(film.mustHold(1.0))
        assertTrue(film.ended(1.0))
        assertFalse(film.ended(0.9))
        val none = Playback(10, 40).also(Playback::end)
        assertTrue(none.ended(0.0))
        assertFalse(none.mayBegin())
    }

    @Test
    fun `a film that has to wait holds, and goes on with some frames in hand`() {
        val film = Playback(10, 40)
        repeat(10) { film.frame(it / 100.0) }
        assertEquals(9, film.frameAt(0.99))
        assertFalse(film.mustHold(0.99))
        assertTrue(film.mustHold(1.0))
        assertEquals(9, film.frameAt(1.0))
        repeat(4) { film.frame(1.0) }
        assertFalse(film.mayGoOn(1.0))
        film.frame(1.0)
        assertTrue(film.mayGoOn(1.0))
        repeat(25) { film.frame(2.0) }
        assertFalse(film.mustHold(4.5))
        assertEquals(39, film.frameAt(9.0))
        assertFalse(film.ended(3.9))
        assertTrue(film.ended(4.0))
    }

    @Test
    fun `frames come back as colours`() {
        val file = File(scratch.root, "frames/one.rgb")
        val store = FrameStore(file, 1, 2)
        val (colours, bytes) = IntArray(2) to ByteArray(6)
        assertFalse(store.colours(0, colours, bytes))
        store.append(Pixels(1, 2, 3, byteArrayOf(1, 2, 3, -1, 0, 127)))
        store.append(Pixels(1, 2, 3, ByteArray(6)))
        assertEquals(2, store.count)
        assertTrue(store.colours(0, colours, bytes))
        assertArrayEquals(intArrayOf(0xFF010203.toInt(), 0xFFFF007F.toInt()), colours)
        assertThrows(InputException::class.java) { store.append(Pixels(2, 2, 3, ByteArray(12))) }
        store.close()
        assertFalse(store.colours(0, colours, bytes))
        assertFalse(file.exists())
    }

    @Test
    fun `encoders are asked for what phones have`() {
        assertEquals(500_000, FilmPlan.videoBits(64, 64, 25))
        assertEquals(1_638_400, FilmPlan.videoBits(512, 512, 25))
        assertEquals(20_000_000, FilmPlan.videoBits(8192, 8192, 25))
        val times = listOf(FilmPlan.videoTime(0, 25), FilmPlan.videoTime(1, 25), FilmPlan.videoTime(1, 30))
        assertEquals(listOf(0L, 40_000L, 33_333L), times)
        assertEquals(listOf(64_000, 96_000), listOf(16_000, 44_100).map(FilmPlan::soundBits))
        assertEquals(1_000_000L, FilmPlan.soundTime(16_000, 16_000))
        assertEquals(listOf<Byte>(-1, 127, 1, -128), FilmPlan.pcm(floatArrayOf(0f, 1f, -1f), 1, 2).asList())
    }

    @Test
    fun `films have names that say what they are`() {
        val name = Shared.filmName("a bundle/of mine.echoedge", Date(0), TimeZone.getTimeZone("UTC"))
        assertEquals("a-bundle-of-mine 1970-01-01 00.00.00.mp4", name)
        assertEquals("film 1970-01-01 00.00.00.mp4", Shared.filmName("...", Date(0), TimeZone.getTimeZone("UTC")))
        assertEquals(listOf("video/mp4", "image/jpeg", "application/octet-stream"), listOf("a.MP4", "b.jpg", "c").map(Shared::mime))
    }

    @Test
    fun `addresses lead to shared files and nowhere else`() {
        val root = File("/data/shared")
        assertEquals(File("/data/shared/films/a b.mp4"), Shared.file(root, listOf("films", "a b.mp4")))
        for (parts in listOf(
            listOf(), listOf("films"), listOf("films", ""), listOf("films", ".."), listOf("..", "films"), listOf("films", "a", "b"),
            listOf("films", "../x"), listOf("films", "a\\b"), listOf("bundles", "x"), listOf("films", "a\u0000.mp4"),
        )) assertNull("$parts", Shared.file(root, parts))
        assertTrue(Shared.mayWrite(listOf("camera", "portrait.jpg")))
        assertFalse(Shared.mayWrite(listOf("films", "a.mp4")) || Shared.mayWrite(listOf()))
    }

    @Test
    fun `old films are removed, the newest stay`() {
        val films = List(5) { File(scratch.root, "$it.mp4") }
        films.forEachIndexed { number, film ->
            film.writeText("x")
            film.setLastModified(1000L * (number + 1))
        }
        assertEquals(setOf("0.mp4", "1.mp4"), Shared.tooMany(films, 3).map { it.name }.toSet())
    }

    @Test
    fun `Linux tells the peak of a process`() {
        assertEquals(204_800L, Proc.peakRssBytes("Name:\tx\nVmPeak:\t  999 kB\nVmHWM:\t     200 kB\nVmRSS:\t 100 kB\n"))
        assertNull(Proc.peakRssBytes("Name:\tx\n"))
        assertEquals(listOf(1, 1, 4), listOf(1, 2, 8).map(Proc::threads))
    }
}
