package echoedge.appcore

import echoedge.engine.BundleException
import echoedge.engine.CancelledException
import echoedge.engine.EchoEdgeException
import echoedge.engine.FileEntry
import echoedge.engine.InputException
import echoedge.engine.Manifest
import echoedge.engine.humanBytes
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.net.HttpURLConnection
import java.net.MalformedURLException
import java.net.URL

/** A server cannot be reached, or does not give what it should. */
class FetchException(message: String, cause: Throwable? = null) : EchoEdgeException(message, cause)

/**
 * Fetches a bundle's folder over HTTP: manifest.json, then whatever file of it is not there yet. A file that was interrupted goes
 * on where it stopped, where the server still has the same one (Range with If-Range) and knows ranges; else it begins anew.
 *
 * @param tries how often in a row a connection may break without a byte in between.
 * @param allowCleartext whether a host may be asked without TLS.
 */
class Fetch(
    private val arrival: Arrival,
    private val cancelled: () -> Boolean = { false },
    private val tries: Int = 3,
    private val waitMilliseconds: Long = 1000,
    private val allowCleartext: (String) -> Boolean = Companion::isNear,
) {
    /**
     * @param url of the folder, or of its manifest.json.
     * @throws FetchException the server cannot be reached, or refuses. Otherwise as [Arrival.bring].
     */
    fun fetch(url: String): File {
        val root = folder(url)
        val manifest = again(Manifest.NAME) {
            get(URL(root, Manifest.NAME), mapOf()).use { answer ->
                if (answer.status != 200) answer.refuse(Manifest.NAME)
                answer.body().use { readLimited(it, LARGEST_MANIFEST, Manifest.NAME) }
            }
        }
        return arrival.bring(manifest) { path, entry, part ->
            again(path, { part.length() }) { one(URL(root, path), path, entry, part) }
        }
    }

    private fun one(url: URL, path: String, entry: FileEntry, part: File) {
        val have = part.length()
        val version = Validator.read(part)
        val resumes = have > 0 && version != null
        if (have > 0 && !resumes) part.delete()
        val headers = if (resumes) mapOf("Range" to "bytes=$have-", "If-Range" to version.orEmpty()) else mapOf()
        get(url, headers).use { answer ->
            when (answer.status) {
                200 -> {
                    if (part.length() > 0) part.delete()
                    Validator.write(part, answer.version())
                }
                206 -> if (answer.begins(path) != have) {
                    part.delete()
                    throw IOException("the server answered from another byte than $have")
                }
                416 -> {
                    part.delete()
                    throw IOException("the server has fewer than $have bytes")
                }
                else -> answer.refuse(path)
            }
            answer.body().use { arrival.append(it, part, entry) }
        }
        if (part.length() < entry.bytes) throw IOException("it ended after ${part.length()} of ${entry.bytes} bytes")
    }

    /** Tries again while something comes: [progress] is a number that grows with it. */
    private fun <T> again(what: String, progress: () -> Long = { 0L }, body: () -> T): T {
        var failures = 0
        var most = progress()
        while (true) {
            if (cancelled()) throw CancelledException()
            try {
                return body()
            } catch (error: IOException) {
                val now = progress()
                failures = if (now > most) 1 else failures + 1
                most = maxOf(most, now)
                if (failures >= tries) {
                    val kept = if (now > 0) " ${humanBytes(now)} of it are kept: fetch again, and it goes on there." else ""
                    throw FetchException("$what did not come ($error). Check the network and the address.$kept", error)
                }
                Thread.sleep(waitMilliseconds)
            }
        }
    }

    private fun get(begin: URL, headers: Map<String, String>): Answer {
        var url = begin
        repeat(REDIRECTS + 1) {
            requirePrivate(url)
            val connection = url.openConnection() as HttpURLConnection
            connection.instanceFollowRedirects = false
            connection.connectTimeout = CONNECT
            connection.readTimeout = READ
            connection.setRequestProperty("Accept-Encoding", "identity") // sizes and ranges are of the file itself
            headers.forEach(connection::setRequestProperty)
            val status = connection.responseCode
            if (status !in MOVED) return Answer(connection, status)
            val place = connection.getHeaderField("Location")
            connection.disconnect()
            val next = try {
                URL(url, place ?: throw FetchException("$url has moved and does not say where. Ask for its new address."))
            } catch (error: MalformedURLException) {
                throw FetchException("$url has moved to '$place', which is no address.", error)
            }
            if (url.protocol == "https" && next.protocol != "https") {
                throw FetchException("$url sends on to $next, which is not protected. Ask for an address with https.")
            }
            url = next
        }
        throw FetchException("$begin sends on more than $REDIRECTS times. Ask for the address that it ends at.")
    }

    private fun requirePrivate(url: URL) {
        if (url.protocol == "https" || (url.protocol == "http" && allowCleartext(url.host))) return
        throw FetchException(
            "$url is not protected: of hosts outside this network an address begins with https. Ask for one that does.",
        )
    }

    private class Answer(private val connection: HttpURLConnection, val status: Int) : AutoCloseable {
        fun body(): InputStream = connection.inputStream

        /** What If-Range takes: a strong ETag, else the date. */
        fun version(): String? = connection.getHeaderField("ETag")?.takeIf { !it.startsWith("W/") }
            ?: connection.getHeaderField("Last-Modified")

        /** The first byte of a part. */
        fun begins(path: String): Long {
            val stated = connection.getHeaderField("Content-Range")?.let { RANGE.find(it) }
            return stated?.groupValues?.get(1)?.toLong()
                ?: throw FetchException("The server gives a part of $path and does not say which. Ask whoever runs it.")
        }

        fun refuse(path: String): Nothing = when (status) {
            404, 410 -> throw BundleException(
                "There is no $path at ${connection.url}. Check the address: it is that of the bundle's folder.",
            )
            401, 403 -> throw FetchException("${connection.url} is not given to everybody ($status). Ask for another address.")
            in 500..599, 429 -> throw IOException("the server says $status")
            else -> throw FetchException("${connection.url} answers with $status. Check the address.")
        }

        override fun close() = connection.disconnect()
    }

    companion object {
        private const val REDIRECTS = 5
        private const val CONNECT = 15_000
        private const val READ = 30_000
        private const val LARGEST_MANIFEST = 64 shl 20
        private val MOVED = listOf(301, 302, 303, 307, 308)
        private val RANGE = Regex("bytes (\\d{1,18})-")

        /**
         * The address of a bundle's folder, with a slash at its end.
         *
         * @throws InputException it is none of HTTP.
         */
        fun folder(text: String): URL {
            val clean = text.trim().removeSuffix(Manifest.NAME)
            val url = try {
                URL(if (clean.endsWith("/")) clean else "$clean/")
            } catch (error: MalformedURLException) {
                throw InputException("'$text' is no address (${error.message}). It is like https://host/folder/NAME.echoedge.")
            }
            if (url.protocol !in listOf("http", "https") || url.host.isEmpty() || url.query != null || url.ref != null) {
                throw InputException("'$text' is no address of a folder. It is like https://host/folder/NAME.echoedge.")
            }
            return url
        }

        /** What a bundle at an address is called here. */
        fun nameOf(text: String): String = folder(text).run {
            Arrival.nameOf(path.trim('/').substringAfterLast('/').ifEmpty { host })
        }

        /** Whether a host is this device or one of a network of its own, where there is no TLS as a rule. */
        fun isNear(host: String): Boolean {
            if (host == "localhost" || host.endsWith(".local") || host == "[::1]") return true
            val parts = host.split('.').map { it.toIntOrNull() ?: return false }
            if (parts.size != 4 || parts.any { it !in 0..255 }) return false
            val (first, second) = parts
            return first == 10 || first == 127 || (first == 192 && second == 168) || (first == 172 && second in 16..31)
        }
    }
}
