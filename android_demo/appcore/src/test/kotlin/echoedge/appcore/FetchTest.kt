package echoedge.appcore

import echoedge.engine.Bundle
import echoedge.engine.BundleException
import echoedge.engine.CancelledException
import echoedge.engine.InputException
import echoedge.engine.Manifest
import echoedge.engine.ResourceException
import echoedge.engine.Toy
import echoedge.engine.sha256
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.nio.file.Files
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** Bundles that arrive from a server on this machine, or from a folder: whole, interrupted, wrong, too large. */
class FetchTest {
    @get:Rule
    val scratch = TemporaryFolder()
    private lateinit var source: File
    private lateinit var server: Server
    private val shelf: File get() = File(scratch.root, "shelf").also { it.mkdirs() }
    private val big = "programs/denoise.pte"

    @Before
    fun serve() {
        source = Toy.write(File(scratch.root, "source"))
        grow(source)
        server = Server(source)
    }

    @After
    fun end() = server.close()

    /** The toy with one file of 300,000 bytes, so that it can be interrupted. */
    private fun grow(folder: File) {
        val bytes = ByteArray(300_000) { (it * 31 % 251).toByte() }
        File(folder, big).writeBytes(bytes)
        val manifest = File(folder, Manifest.NAME)
        val old = "\"sha256\": \"${sha256("denoise".toByteArray())}\",\n    \"bytes\": 7"
        val text = manifest.readText()
        assertTrue(old in text)
        manifest.writeText(text.replace(old, "\"sha256\": \"${sha256(bytes)}\",\n    \"bytes\": ${bytes.size}"))
    }

    private fun arrival(told: Arriving = Arriving { _, _ -> }, cancelled: () -> Boolean = { false }, free: Long = Long.MAX_VALUE) =
        Arrival(shelf, "toy.echoedge", told, cancelled) { free }

    private fun fetch(arrival: Arrival = arrival(), tries: Int = 3, url: String = server.url): File =
        Fetch(arrival, tries = tries, waitMilliseconds = 1).fetch(url)

    private fun asked(path: String) = server.asked.filter { it.first == path }

    private val part get() = File(shelf, "toy.echoedge.partial/$big.part")

    @Test
    fun `a bundle is fetched file by file, and nothing else is left`() {
        val told = ArrayList<Pair<Long, Long>>()
        val folder = fetch(arrival({ done, total -> told.add(done to total) }))
        assertEquals(File(shelf, "toy.echoedge"), folder)
        Bundle.open(folder) // every hash
        assertEquals(listOf("toy.echoedge"), shelf.list()!!.toList())
        val files = folder.walk().filter(File::isFile).map { it.relativeTo(folder).path }.toSet()
        assertEquals(source.walk().filter(File::isFile).map { it.relativeTo(source).path }.toSet(), files)
        assertEquals(told.last().first, told.last().second)
        assertTrue(told.zipWithNext().all { (one, next) -> one.first <= next.first })
        val asked = server.asked.size
        fetch() // it is there already: only the manifest is asked for
        assertEquals(asked + 1, server.asked.size)
    }

    @Test
    fun `a file that is interrupted goes on where it stopped`() {
        server.cuts[big] = mutableListOf(100_000)
        Bundle.open(fetch())
        val (first, second) = asked(big)
        assertEquals("", first.second)
        assertTrue(second.second, second.second.matches(Regex("bytes=[1-9]\\d*-")))
    }

    @Test
    fun `what was interrupted for good goes on the next time`() {
        server.cuts[big] = mutableListOf(100_000, 0, 0, 0, 0)
        val error = assertThrows(FetchException::class.java) { fetch() }
        assertTrue(error.message!!, error.message!!.contains("it goes on there"))
        assertTrue(part.length() in 1L..100_000)
        assertFalse(File(shelf, "toy.echoedge").exists())
        assertEquals(listOf("toy.echoedge"), Shelf.arriving(shelf))
        assertEquals(listOf<File>(), Shelf.bundles(listOf(shelf)))
        server.cuts.clear()
        server.asked.clear()
        val kept = part.length()
        Bundle.open(fetch())
        assertEquals(listOf(big to "bytes=$kept-"), asked(big))
        assertEquals(0, asked("programs/audio_encoder.pte").size) // it is whole already
    }

    @Test
    fun `a server's other version of a file begins anew`() {
        server.cuts[big] = mutableListOf(100_000, 0, 0, 0)
        assertThrows(FetchException::class.java) { fetch() }
        server.cuts.clear()
        server.version = "\"two\""
        Bundle.open(fetch())
        assertTrue(asked(big).last().second.isNotEmpty()) // it was asked for the rest, and gave all of it
    }

    @Test
    fun `servers without ranges or without versions give everything again`() {
        for (change in listOf({ server.ranges = false }, { server.tags = false })) {
            change()
            server.cuts[big] = mutableListOf(100_000)
            Bundle.open(fetch())
            shelf.deleteRecursively()
        }
        assertEquals("", asked(big).last().second) // of a file without a version nobody can ask for the rest
    }

    @Test
    fun `another file than the manifest lists is thrown away`() {
        server.instead[big] = File(source, big).readBytes().also { it[77] = (it[77] + 1).toByte() }
        val error = assertThrows(BundleException::class.java) { fetch() }
        assertTrue(error.message!!, error.message!!.startsWith("$big is not the file that the manifest lists"))
        assertFalse(part.exists())
        assertFalse(File(shelf, "toy.echoedge").exists())
        server.instead[big] = File(source, big).readBytes() + 1
        assertTrue(assertThrows(BundleException::class.java) { fetch() }.message!!.contains("longer than the 300000 bytes"))
        server.instead.clear()
        Bundle.open(fetch())
    }

    @Test
    fun `a manifest that leads out of its bundle is refused before a file is asked for`() {
        val text = File(source, Manifest.NAME).readText()
        for (path in listOf("../outside.pte", "/etc/passwd", "programs/../../outside", "programs\\\\outside")) {
            server.instead[Manifest.NAME] = text.replace("programs/vae_decode.pte", path).toByteArray()
            server.asked.clear()
            val error = assertThrows(BundleException::class.java) { fetch() }
            assertTrue(error.message!!, error.message!!.contains("no path inside a bundle"))
            assertEquals(listOf(Manifest.NAME), server.asked.map { it.first })
        }
        assertEquals(0, shelf.list()!!.size)
    }

    @Test
    fun `redirects are followed five times, and not to what is less protected`() {
        for (hop in 0..4) server.moved["hop$hop/${Manifest.NAME}"] = 302 to "${server.url}/hop${hop + 1}/${Manifest.NAME}"
        server.moved["hop5/${Manifest.NAME}"] = 302 to "${server.url}/${Manifest.NAME}"
        val error = assertThrows(FetchException::class.java) { fetch(url = "${server.url}/hop0") }
        assertTrue(error.message!!, error.message!!.contains("more than 5 times"))
        assertEquals(6, server.asked.size) // the sixth one's answer is not followed any more
        server.moved[big] = 307 to "${server.url}/moved/$big"
        File(source, "moved/programs").mkdirs()
        File(source, big).copyTo(File(source, "moved/$big"))
        Bundle.open(fetch())
        server.moved[Manifest.NAME] = 301 to null
        assertTrue(assertThrows(FetchException::class.java) { fetch() }.message!!.contains("does not say where"))
        server.moved[Manifest.NAME] = 302 to "ftp://127.0.0.1/x"
        assertTrue(assertThrows(FetchException::class.java) { fetch() }.message!!.contains("is not protected"))
    }

    @Test
    fun `hosts beyond this network are asked with TLS alone`() {
        val far = Fetch(arrival(), tries = 1, allowCleartext = { false })
        assertTrue(assertThrows(FetchException::class.java) { far.fetch(server.url) }.message!!.contains("https"))
        assertEquals(0, server.asked.size)
        for (host in listOf("localhost", "127.0.0.1", "10.1.2.3", "192.168.0.7", "172.16.0.1", "172.31.9.9", "nas.local")) {
            assertTrue(host, Fetch.isNear(host))
        }
        for (host in listOf("example.org", "8.8.8.8", "172.32.0.1", "192.169.0.1", "10.0.0", "10.0.0.256", "10.example.org", "")) {
            assertFalse(host, Fetch.isNear(host))
        }
    }

    @Test
    fun `a disk that is too small is told before anything is fetched`() {
        val error = assertThrows(ResourceException::class.java) { fetch(arrival(free = 1_000_000)) }
        assertTrue(error.message!!, error.message!!.contains("1.00 MB are free"))
        assertEquals(1, server.asked.size)
    }

    @Test
    fun `a disk that fills up is a sentence, and what is there stays`() {
        val full = File("/dev/full")
        assumeTrue(full.exists())
        part.parentFile.mkdirs()
        Files.createSymbolicLink(part.toPath(), full.toPath())
        val error = assertThrows(ResourceException::class.java) { fetch() }
        assertTrue(error.message!!, error.message!!.startsWith("The disk is full"))
        assertTrue(File(shelf, "toy.echoedge.partial/programs/audio_encoder.pte").isFile)
    }

    @Test
    fun `it ends when it is no longer wanted, and keeps what is there`() {
        var bytes = 0L
        val stop = { bytes > 100_000 }
        val arrival = arrival({ done, _ -> bytes = done }, stop)
        assertThrows(CancelledException::class.java) { Fetch(arrival, stop, waitMilliseconds = 1).fetch(server.url) }
        assertTrue(part.length() > 0)
        Bundle.open(fetch())
    }

    @Test
    fun `what is no bundle, no address or no server is said`() {
        assertTrue(
            assertThrows(BundleException::class.java) { fetch(url = "${server.url}/none") }.message!!
                .contains("There is no manifest.json"),
        )
        for (text in listOf("", "bundle", "ftp://host/x", "http://", "http://host/x?y=1", "file:///etc")) {
            assertThrows(text, InputException::class.java) { fetch(url = text) }
        }
        val url = server.url
        server.close()
        assertTrue(assertThrows(FetchException::class.java) { fetch(url = url) }.message!!.contains("did not come"))
        server = Server(source)
        server.moved[Manifest.NAME] = 503 to null
        assertTrue(assertThrows(FetchException::class.java) { fetch() }.message!!.contains("503"))
        assertEquals(3, server.asked.size)
        server.moved[Manifest.NAME] = 403 to null
        assertTrue(assertThrows(FetchException::class.java) { fetch() }.message!!.contains("403"))
    }

    @Test
    fun `names of bundles are plain`() {
        assertEquals("toy.echoedge", Fetch.nameOf("https://host/a/toy.echoedge/manifest.json"))
        assertEquals("toy.echoedge", Fetch.nameOf(" https://host/a/toy "))
        assertEquals("host.echoedge", Fetch.nameOf("https://host/"))
        assertEquals("a-b.echoedge", Arrival.nameOf("../a b"))
        assertEquals("bundle.echoedge", Arrival.nameOf("..."))
        assertThrows(BundleException::class.java) { Arrival(shelf, "../x") }
    }

    @Test
    fun `a newer bundle takes the place of an older one`() {
        fetch()
        val old = File(source, "programs/vae_decode.pte").readBytes()
        val manifest = File(source, Manifest.NAME)
        File(source, "programs/vae_decode.pte").writeText("VAE_decode")
        manifest.writeText(manifest.readText().replace(sha256(old), sha256("VAE_decode".toByteArray())))
        Bundle.open(fetch())
        assertEquals("VAE_decode", File(shelf, "toy.echoedge/programs/vae_decode.pte").readText())
        assertEquals(listOf("toy.echoedge"), shelf.list()!!.toList())
    }

    private class Folder(private val root: File, private val failing: String? = null, private val withheld: String? = null) : Tree {
        override val name = root.name

        override fun open(path: String): InputStream? {
            if (path == withheld) throw IOException("the permission is gone")
            if (path == failing) return object : InputStream() {
                override fun read(): Int = throw IOException("the card was pulled out")
            }
            return File(root, path).takeIf(File::isFile)?.inputStream()
        }
    }

    @Test
    fun `a folder is copied and checked`() {
        Bundle.open(Import.copy(Folder(source), arrival()))
        shelf.deleteRecursively()
        assertTrue(
            assertThrows(BundleException::class.java) { Import.copy(Folder(source, big), arrival()) }.message!!
                .contains("the card was pulled out"),
        )
        for (withheld in listOf(big, "manifest.json")) {
            val folder = Folder(source, withheld = withheld)
            val said = assertThrows(BundleException::class.java) { Import.copy(folder, arrival()) }.message!!
            assertTrue(said, said.startsWith("$withheld of ") && said.contains("the permission is gone"))
        }
        File(source, big).delete()
        assertTrue(
            assertThrows(BundleException::class.java) { Import.copy(Folder(source), arrival()) }.message!!
                .contains("has no $big"),
        )
        assertTrue(
            assertThrows(BundleException::class.java) { Import.copy(Folder(scratch.newFolder()), arrival()) }.message!!
                .contains("it is no bundle"),
        )
    }

    @Test
    fun `the shelf lists what is whole, and forgets a bundle at once`() {
        val folder = fetch()
        File(shelf, "other").mkdirs()
        assertEquals(listOf(folder), Shelf.bundles(listOf(shelf, shelf, File("nowhere"))))
        assertTrue(Shelf.remove(folder))
        assertEquals(listOf<File>(), Shelf.bundles(listOf(shelf)))
    }
}
