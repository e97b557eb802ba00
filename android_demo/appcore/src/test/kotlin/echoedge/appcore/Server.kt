package echoedge.appcore

import com.sun.net.httpserver.HttpExchange
import com.sun.net.httpserver.HttpServer
import java.io.File
import java.io.IOException
import java.net.InetSocketAddress
import java.util.concurrent.CopyOnWriteArrayList

/** A real server of a folder on this machine, with the faults that servers have. */
class Server(private val folder: File) : AutoCloseable {
    private val http = HttpServer.create(InetSocketAddress("127.0.0.1", 0), 0)

    /** What was asked for: path, and the range or "". */
    val asked: MutableList<Pair<String, String>> = CopyOnWriteArrayList()

    /** Whether it knows ranges, and says which version of a file it gives. */
    var ranges = true
    var tags = true

    /** The version that it gives now. */
    var version = "\"one\""

    /** By path: after how many bytes the connection breaks, once for each number. */
    val cuts = HashMap<String, MutableList<Int>>()

    /** By path: what is given instead of the file. */
    val instead = HashMap<String, ByteArray>()

    /** By path: the status, and where it sends on to. */
    val moved = HashMap<String, Pair<Int, String?>>()

    val url: String get() = "http://127.0.0.1:${http.address.port}/bundle.echoedge"

    init {
        http.createContext("/") { exchange -> exchange.use(::answer) }
        http.start()
    }

    private inline fun HttpExchange.use(body: (HttpExchange) -> Unit) = try {
        body(this)
    } catch (error: IOException) {
        Unit // the other side went away, which is what some tests want
    } finally {
        close()
    }

    private fun answer(exchange: HttpExchange) {
        val path = exchange.requestURI.path.removePrefix("/bundle.echoedge/")
        val range = exchange.requestHeaders.getFirst("Range").orEmpty()
        asked.add(path to range)
        moved[path]?.let { (status, place) ->
            place?.let { exchange.responseHeaders.add("Location", it) }
            return exchange.sendResponseHeaders(status, -1)
        }
        val file = File(folder, path)
        if (!file.isFile) return exchange.sendResponseHeaders(404, -1)
        val bytes = instead[path] ?: file.readBytes()
        if (tags) exchange.responseHeaders.add("ETag", version)
        val same = exchange.requestHeaders.getFirst("If-Range") == version
        val from = if (ranges && same && range.isNotEmpty()) range.removePrefix("bytes=").removeSuffix("-").toInt() else 0
        if (from > 0) exchange.responseHeaders.add("Content-Range", "bytes $from-${bytes.size - 1}/${bytes.size}")
        exchange.sendResponseHeaders(if (from > 0) 206 else 200, (bytes.size - from).toLong())
        val cut = cuts[path]?.let { if (it.isEmpty()) null else it.removeAt(0) }
        exchange.responseBody.write(bytes, from, minOf(cut ?: Int.MAX_VALUE, bytes.size - from))
        exchange.responseBody.flush()
        if (cut != null) throw IOException("cut")
    }

    override fun close() = http.stop(0)
}
