package echoedge.appcore

import echoedge.engine.Bundle
import echoedge.engine.BundleException
import echoedge.engine.CancelledException
import echoedge.engine.FileEntry
import echoedge.engine.Manifest
import echoedge.engine.ResourceException
import echoedge.engine.humanBytes
import echoedge.engine.sha256
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream
import java.io.OutputStream

/** Hears how many bytes of how many of a bundle are there. */
fun interface Arriving {
    fun step(done: Long, total: Long)
}

/**
 * A bundle on its way into [shelf]: files are kept in NAME.partial until all of them are whole, by their SHA-256 in the manifest;
 * then the folder gets its name. What was interrupted goes on where it was.
 *
 * @property name of the folder that comes of it.
 * @param freeBytes of the disk that holds a folder.
 */
class Arrival(
    private val shelf: File,
    val name: String,
    private val told: Arriving = Arriving { _, _ -> },
    private val cancelled: () -> Boolean = { false },
    private val freeBytes: (File) -> Long = File::getUsableSpace,
) {
    private val partial = File(shelf, "$name$PARTIAL")
    private var bytesThere = 0L
    private var total = 0L

    init {
        if (!NAME.matches(name)) throw BundleException("'$name' is no name of a bundle: letters, digits and '._+-'. Rename it.")
    }

    /** How one file is brought: appends to [part], which may hold the beginning of it already. */
    fun interface Bring {
        fun file(path: String, entry: FileEntry, part: File)
    }

    /**
     * Brings a bundle: whatever of its files is not there yet, one by one.
     *
     * @param manifestBytes of its manifest.json, which is checked before anything else is asked for.
     * @throws BundleException the manifest is not valid, lists a path outside the bundle, or a file is another than it lists.
     * @throws ResourceException the disk has no room for it.
     * @throws CancelledException as its name says; what is there stays for the next time.
     */
    fun bring(manifestBytes: ByteArray, bring: Bring): File {
        val manifest = Manifest.parse(manifestBytes)
        val target = File(shelf, name)
        if (sameManifest(target, manifest) && runCatching { Bundle.require(target, manifest, verify = false) }.isSuccess) {
            return target
        }
        make(partial)
        val entries = manifest.entries
        total = entries.values.sumOf(FileEntry::bytes)
        val wanted = entries.filter { (path, entry) -> !isWhole(File(partial, path), entry) }
        bytesThere = total - wanted.values.sumOf(FileEntry::bytes)
        val begun = wanted.entries.sumOf { (path, entry) -> minOf(part(path).length(), entry.bytes) }
        requireRoom(total - bytesThere - begun)
        told.step(bytesThere, total)
        for ((path, entry) in wanted) one(path, entry, bring)
        File(partial, Manifest.NAME).writeBytes(manifestBytes)
        removeOthers(entries.keys)
        place(target)
        return target
    }

    private fun part(path: String) = File(partial, "$path$PART")

    private fun one(path: String, entry: FileEntry, bring: Bring) {
        val part = part(path)
        make(part.parentFile)
        if (part.length() > entry.bytes) discard(part)
        if (part.length() < entry.bytes || !part.isFile) bring.file(path, entry, part)
        val found = sha256(part)
        if (part.length() != entry.bytes || found != entry.sha256) {
            val size = part.length()
            discard(part)
            throw BundleException(
                "$path is not the file that the manifest lists: $size bytes with SHA-256 ${found.take(12)}…, not ${entry.bytes} " +
                    "with ${entry.sha256.take(12)}…. It was thrown away; fetch again, and if it stays so, export the bundle again.",
            )
        }
        discard(Validator.file(part))
        if (!part.renameTo(File(partial, path))) throw ResourceException("$path cannot be renamed in $partial. Free some space.")
        bytesThere += entry.bytes
        told.step(bytesThere, total)
    }

    /**
     * Appends a stream to a part, up to the size that the manifest lists.
     *
     * @throws BundleException there is more than that.
     * @throws ResourceException the disk is full.
     * @throws IOException the stream ends with an error.
     */
    fun append(input: InputStream, part: File, entry: FileEntry) {
        FileOutputStream(part, true).use { output ->
            val buffer = ByteArray(1 shl 16)
            var size = part.length()
            while (true) {
                if (cancelled()) throw CancelledException()
                val count = input.read(buffer)
                if (count < 0) return
                size += count
                if (size > entry.bytes) {
                    output.close()
                    discard(part)
                    throw BundleException(
                        "${part.name.removeSuffix(PART)} is longer than the ${entry.bytes} bytes that the manifest lists.",
                    )
                }
                write(output, buffer, count)
                told.step(bytesThere + size, total)
            }
        }
    }

    private fun write(output: OutputStream, buffer: ByteArray, count: Int) = try {
        output.write(buffer, 0, count)
    } catch (error: IOException) {
        throw ResourceException(
            "The disk is full or cannot be written (${error.message}): ${humanBytes(total)} are needed for $name. " +
                "Free some space and fetch again; it goes on where it stopped.",
        )
    }

    private fun requireRoom(bytes: Long) {
        val free = freeBytes(shelf)
        if (free >= bytes + MARGIN) return
        throw ResourceException(
            "${humanBytes(bytes)} are still to come for $name, and ${humanBytes(free)} are free; ${humanBytes(MARGIN)} must stay " +
                "free. Remove another bundle, or free some space.",
        )
    }

    private fun isWhole(file: File, entry: FileEntry) = file.isFile && file.length() == entry.bytes && sha256(file) == entry.sha256

    private fun sameManifest(folder: File, manifest: Manifest): Boolean =
        File(folder, Manifest.NAME).run { isFile && sha256(this) == manifest.sha256 }

    /** What an earlier, other manifest brought. */
    private fun removeOthers(paths: Set<String>) {
        val kept = paths + Manifest.NAME
        partial.walkBottomUp().filter { it.isFile && it.relativeTo(partial).invariantSeparatorsPath !in kept }.forEach(File::delete)
    }

    private fun place(target: File) {
        val old = File(shelf, "$name.old")
        old.deleteRecursively()
        if (target.exists() && !target.renameTo(old)) {
            throw ResourceException("$target cannot be replaced. Remove it, then fetch again.")
        }
        if (!partial.renameTo(target)) {
            old.renameTo(target)
            throw ResourceException("$partial cannot be renamed to $name. Free some space, then fetch again.")
        }
        old.deleteRecursively()
    }

    private fun make(folder: File) {
        if (!folder.isDirectory && !folder.mkdirs()) {
            throw ResourceException("$folder cannot be made. Free some space, then try again.")
        }
    }

    companion object {
        const val PARTIAL: String = ".partial"
        const val PART: String = ".part"
        private const val MARGIN = 64L shl 20 // what the system should not be left without
        private val NAME = Regex("[A-Za-z0-9_-][A-Za-z0-9._+-]{0,99}")

        internal fun discard(file: File) {
            file.delete()
        }

        /** A name for a bundle of what it was called elsewhere. */
        fun nameOf(stated: String): String {
            val clean = stated.replace(Regex("[^A-Za-z0-9._+-]+"), "-").trim('.', '-').take(80).ifEmpty { "bundle" }
            return if (clean.endsWith(SUFFIX)) clean else "$clean$SUFFIX"
        }

        private const val SUFFIX = ".echoedge"
    }
}

/** What tells a server's version of a file apart from others, kept beside a part of it. */
internal object Validator {
    fun file(part: File) = File(part.path + ".version")

    fun read(part: File): String? = file(part).takeIf(File::isFile)?.readText()

    fun write(part: File, value: String?) {
        if (value == null) file(part).delete() else file(part).writeText(value)
    }
}

/** Files of a folder that somebody picked. */
interface Tree {
    /** What it is called. */
    val name: String

    /**
     * A file of it, null where there is none.
     *
     * @throws IOException whoever holds the folder does not give it.
     */
    fun open(path: String): InputStream?
}

/** Copies a picked folder onto the shelf. */
object Import {
    private const val LARGEST_MANIFEST = 64 shl 20

    /**
     * @throws BundleException the folder is no bundle, or lacks a file. Otherwise as [Arrival.bring].
     */
    fun copy(tree: Tree, arrival: Arrival): File {
        val bytes = reading(tree, Manifest.NAME) {
            val manifest = tree.open(Manifest.NAME)
                ?: throw BundleException("${tree.name} has no ${Manifest.NAME}: it is no bundle. Pick one that ends in .echoedge.")
            manifest.use { readLimited(it, LARGEST_MANIFEST, Manifest.NAME) }
        }
        return arrival.bring(bytes) { path, entry, part ->
            Arrival.discard(part) // a copy begins anew: nobody says that the folder is the same
            reading(tree, path) {
                val input = tree.open(path)
                    ?: throw BundleException("${tree.name} has no $path, which its manifest lists. Copy it again.")
                input.use { arrival.append(it, part, entry) }
            }
        }
    }

    private fun <T> reading(tree: Tree, path: String, body: () -> T): T = try {
        body()
    } catch (error: IOException) {
        throw BundleException("$path of ${tree.name} cannot be read (${error.message}). Copy the bundle to the phone again.", error)
    }
}

/**
 * All bytes of a stream.
 *
 * @throws BundleException there are more than [limit].
 */
fun readLimited(input: InputStream, limit: Int, name: String): ByteArray {
    val into = java.io.ByteArrayOutputStream()
    val buffer = ByteArray(1 shl 16)
    while (true) {
        val count = input.read(buffer)
        if (count < 0) return into.toByteArray()
        into.write(buffer, 0, count)
        if (into.size() > limit) throw BundleException("$name has more than ${humanBytes(limit.toLong())}, which none has.")
    }
}
