package echoedge.engine

import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder

private const val MENDING = "Copy the bundle again, or export it again."

/**
 * An opened bundle.
 *
 * @property root its folder.
 */
class Bundle private constructor(val root: File, val manifest: Manifest) {
    /** The sampling plan for clips of a shape: windows are as long as its programs' clips. Throws as [SamplingPlan.parse]. */
    fun plan(clip: Clip = manifest.clips[0]): SamplingPlan {
        val plan = SamplingPlan.parse(read("plan.json"))
        manifest.student?.let(plan::requireTaught)
        val window = plan.window ?: return plan
        if (clip == manifest.clips[0]) return plan
        val length = manifest.playing.latentFrames(clip.frames)
        return plan.of(window.copy(length = length, overlap = minOf(window.overlap, length - 1)))
    }

    /**
     * The arrays of a safetensors file of the bundle.
     *
     * @throws BundleException the bundle lists no such file, or it is none.
     */
    fun tensors(name: String): Map<String, Tensor> {
        if (name !in manifest.files) {
            throw BundleException("The bundle has no file '$name'. It has: ${manifest.files.keys.sorted().joinToString()}.")
        }
        return Tensors.read(File(root, name))
    }

    /** Embeddings of texts, rows [L, text_dim]; of a text in several files the last one's. */
    fun prompts(): Map<String, Floats> {
        val packs = manifest.files.keys.filter { it.startsWith("prompts/") }
        return packs.flatMap { tensors(it).entries }.associate { (text, rows) -> text to Floats(rows.shape, rows.floats()) }
    }

    /** Bytes of every file but the manifest and records. */
    val bytes: Long get() = manifest.entries.values.sumOf(FileEntry::bytes)

    private fun read(name: String): ByteArray = try {
        File(root, name).readBytes()
    } catch (error: IOException) {
        throw BundleException("$name of $root cannot be read (${error.message}). $MENDING", error)
    }

    companion object {
        private const val LARGEST_MANIFEST = 64L shl 20

        /**
         * Reads the manifest and checks every file that it lists: its presence and size, and with [verify] its SHA-256. [checked] hears
         * how many bytes of how many have been looked at.
         *
         * @throws BundleException the folder or the manifest is missing or not valid, or a file is missing, cut off or altered; the
         * message names up to five.
         */
        fun open(root: File, verify: Boolean = true, checked: (Long, Long) -> Unit = { _, _ -> }): Bundle {
            val file = File(root, Manifest.NAME)
            if (!root.exists()) throw BundleException("There is no bundle $root. Check the name, or export one.")
            if (!file.isFile) throw BundleException("$root has no ${Manifest.NAME}: it is no bundle, or a copy that was cut off. $MENDING")
            if (file.length() > LARGEST_MANIFEST) throw BundleException("$file has ${file.length()} bytes; no manifest has. $MENDING")
            val manifest = try {
                Manifest.parse(file.readBytes())
            } catch (error: IOException) {
                throw BundleException("$file cannot be read (${error.message}).", error)
            }
            require(root, manifest, verify, checked)
            return Bundle(root, manifest)
        }

        /** That every file of a manifest is there and whole. Throws as [open]. */
        fun require(root: File, manifest: Manifest, verify: Boolean = true, checked: (Long, Long) -> Unit = { _, _ -> }) {
            val total = manifest.entries.values.sumOf(FileEntry::bytes)
            var done = 0L
            val problems = manifest.entries.mapNotNull { (name, entry) ->
                problem(root, name, entry, verify).also {
                    done += entry.bytes
                    checked(done, total)
                }
            }
            if (problems.isEmpty()) return
            val more = if (problems.size > 5) "; and ${problems.size - 5} more" else ""
            throw BundleException("$root is not complete: ${problems.take(5).joinToString("; ")}$more. $MENDING")
        }

        private fun problem(root: File, name: String, entry: FileEntry, verify: Boolean): String? {
            val file = File(root, name)
            if (!file.isFile) return "$name is missing (${entry.bytes} bytes)"
            if (file.length() != entry.bytes) return "$name has ${file.length()} bytes instead of ${entry.bytes}"
            if (!verify) return null
            val found = try {
                sha256(file)
            } catch (error: IOException) {
                return "$name cannot be read (${error.message})"
            }
            if (found == entry.sha256) return null
            return "$name was altered (SHA-256 ${found.take(12)}… instead of ${entry.sha256.take(12)}…)"
        }
    }
}

/** Files of safetensors: eight bytes of a header's length, a JSON header, numbers. */
object Tensors {
    private const val LARGEST_HEADER = 100L shl 20

    /**
     * Arrays by name: [Floats] of F32 and F64, which is narrowed, [Longs] of I64 and I32, [Bytes] of U8.
     *
     * @throws BundleException it is no such file, or holds another type.
     */
    fun read(file: File): Map<String, Tensor> = try {
        RandomAccessFile(file, "r").use { read(it, file.name) }
    } catch (error: IOException) {
        throw BundleException("${file.name} cannot be read (${error.message}). $MENDING", error)
    }

    private fun read(file: RandomAccessFile, name: String): Map<String, Tensor> {
        fun damaged(why: String): Nothing = throw BundleException("$name cannot be read as arrays: $why. $MENDING")
        if (file.length() < 8) damaged("it has ${file.length()} bytes")
        val size = ByteBuffer.wrap(ByteArray(8).also(file::readFully)).order(ByteOrder.LITTLE_ENDIAN).long
        if (size !in 2..minOf(LARGEST_HEADER, file.length() - 8)) damaged("its header should have $size bytes")
        val stated = Json.parse(ByteArray(size.toInt()).also(file::readFully))
        val header = Fields("", stated) { BundleException("$name cannot be read as arrays: $it. $MENDING") }
        val begin = 8 + size
        val entries = header.all("__metadata__").mapValues { (_, entry) ->
            entry.only("dtype", "shape", "data_offsets")
            val shape = entry.rows("shape") { place, side -> entry.whole(place, side, 0..Int.MAX_VALUE) }
            val offsets = entry.rows("data_offsets") { place, at -> at as? Long ?: damaged("$place is $at") }
            if (offsets.size != 2) damaged("data_offsets are $offsets")
            Entry(entry.text("dtype"), shape, offsets[0], offsets[1])
        }
        var end = 0L
        for ((key, entry) in entries.entries.sortedBy { it.value.begin }) {
            if (entry.begin != end || entry.end < entry.begin) damaged("'${short(key)}' lies from ${entry.begin} to ${entry.end}")
            end = entry.end
        }
        if (begin + end != file.length()) damaged("it has ${file.length()} bytes, its header tells of ${begin + end}")
        return entries.mapValues { (key, entry) ->
            val width = WIDTHS[entry.dtype] ?: damaged("'${short(key)}' is ${entry.dtype}, which is none of ${WIDTHS.keys.joinToString()}")
            val count = entry.shape.fold(1L) { product, side -> product * side }
            val size = entry.end - entry.begin
            if (count * width != size || size > Int.MAX_VALUE) damaged("'${short(key)}' of shape ${entry.shape} has $size bytes")
            val bytes = ByteArray(size.toInt())
            file.seek(begin + entry.begin)
            file.readFully(bytes)
            entry.tensor(ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN), count.toInt())
        }
    }

    private val WIDTHS = mapOf("F32" to 4, "F64" to 8, "I64" to 8, "I32" to 4, "U8" to 1)

    private class Entry(val dtype: String, val shape: List<Int>, val begin: Long, val end: Long) {
        fun tensor(data: ByteBuffer, count: Int): Tensor = when (dtype) {
            "F32" -> Floats(shape, FloatArray(count).also { data.asFloatBuffer().get(it) })
            "F64" -> Floats(shape, FloatArray(count) { data.getDouble(8 * it).toFloat() })
            "U8" -> Bytes(shape, ByteArray(count).also { data.get(it) })
            "I64" -> Longs(shape, LongArray(count).also { data.asLongBuffer().get(it) })
            else -> Longs(shape, LongArray(count) { data.getInt(4 * it).toLong() })
        }
    }
}
