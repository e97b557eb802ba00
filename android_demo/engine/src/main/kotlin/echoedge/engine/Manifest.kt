package echoedge.engine

import java.io.File
import java.security.MessageDigest

private const val MENDING = "Copy the bundle again, or export it again."

/** What one window plays. [height] and [width] in pixels, [frames] 4n+1 video frames, [fps], [sampleRate] of the voice in Hz. */
data class Clip(val height: Int, val width: Int, val frames: Int, val fps: Int, val sampleRate: Int) {
    /** Samples of the voice to a video frame. */
    val samplesPerFrame: Int get() = sampleRate / fps

    /** HEIGHTxWIDTHxFRAMES, as options name a shape. */
    override fun toString(): String = "${height}x${width}x$frames"
}

/**
 * How a player hears a voice: [rowsPerFrame] rows of features a video frame, [neighbours] frames on either side that stand with each
 * frame's, [beyondFrames] after its last one that a window hears too, [tailFrames] of silence behind the voice, [contextFrames] of a
 * reading that are not kept on either side, [window] (samples, stride) of the encoder's first layer, or null.
 */
data class Hearing(
    val rowsPerFrame: Int = 1,
    val neighbours: Int = 0,
    val beyondFrames: Int = 0,
    val tailFrames: Int = 0,
    val contextFrames: Int = 0,
    val window: Pair<Int, Int>? = null,
) {
    companion object {
        /**
         * The object of a manifest's `playing`, or of one like it.
         *
         * @throws BundleException a field is unknown or wrong.
         */
        fun of(value: Any?): Hearing = of(Fields("hearing", value, ::notValid))

        internal fun of(fields: Fields): Hearing = with(fields) {
            only("rows_per_frame", "neighbours", "beyond_frames", "tail_frames", "context_frames", "window")
            fun whole(name: String, range: IntRange, default: Int) = maybe(name) { whole(it, range) } ?: default
            val window = maybe("window") { rows(it) { place, size -> whole(place, size, 1..64) } }
            if (window != null && window.size != 2) fail("window", "has ${window.size} numbers; it must be length and stride")
            Hearing(
                whole("rows_per_frame", 1..16, 1), whole("neighbours", 0..16, 0), whole("beyond_frames", 0..16, 0),
                whole("tail_frames", 0..16, 0), whole("context_frames", 0..10_000, 0), window?.let { it[0] to it[1] },
            )
        }
    }
}

/** The model's numbers that a player needs; docs/BUNDLE.md tells each. [decoders]: roles of programs by full or tiny. */
data class Playing(
    val latentChannels: Int,
    val temporalStride: Int,
    val spatialStride: Int,
    val patch: Int,
    val maskChannels: Int,
    val encodeUnknown: Boolean,
    val textLength: Int,
    val textRows: Int,
    val textDim: Int,
    val readsText: Boolean,
    val padId: Int,
    val decoders: Map<String, String>,
    val hearing: Hearing,
) {
    /** Latent frames of a clip of so many video frames. */
    fun latentFrames(frames: Int): Int = (frames - 1 + temporalStride - 1) / temporalStride + 1

    /**
     * How long a clip is that lasts as long as [samples] of speech: video frames, and the latent frames that are played, which are a
     * window's at least.
     *
     * @throws InputException the speech is shorter than a frame.
     */
    fun length(samples: Int, clip: Clip): Pair<Int, Int> = length(samples, clip, temporalStride)

    /** Video frames that so many latent frames hold. */
    fun videoFrames(latentFrames: Int): Int = temporalStride * (latentFrames - 1) + 1

    companion object {
        /** As above, of a model with so many video frames to a latent frame. */
        fun length(samples: Int, clip: Clip, temporalStride: Int): Pair<Int, Int> {
            val perFrame = clip.samplesPerFrame
            if (samples < perFrame) throw InputException("The speech has $samples samples; one frame has $perFrame. Record more.")
            val frames = ((samples.toLong() + perFrame - 1) / perFrame).toInt()
            fun latent(count: Int) = (count - 1 + temporalStride - 1) / temporalStride + 1
            return frames to maxOf(latent(frames), latent(clip.frames))
        }
    }
}

/** One dimension of a tensor: [size], or, where that is null, the caller's to choose, the same throughout a call under its [name]. */
data class Dimension(val size: Int?, val name: String?) {
    override fun toString(): String = name ?: size.toString()
}

/** One input or output of a method. [dtype] as numpy calls it. */
data class TensorSpec(val name: String, val dtype: String, val shape: List<Dimension>) {
    override fun toString(): String = "$name as $dtype $shape"
}

/** One entry point; the order is that of the call. */
data class Method(val inputs: List<TensorSpec>, val outputs: List<TensorSpec>)

/** What is known of a file: [sha256] in hexadecimal digits and its size. */
data class FileEntry(val sha256: String, val bytes: Long)

/**
 * A compiled program: what it is for ([role]) and for which shape ([clip], null: every one), its [methods], and where it lies.
 *
 * @property kind pte, file or folder.
 * @property prefix stands before a method's name in the file, which other programs may share.
 * @property data the file of its weights, or null.
 */
data class Program(
    val name: String,
    val role: String,
    val clip: String?,
    val methods: Map<String, Method>,
    val kind: String,
    val path: String,
    val entry: FileEntry,
    val prefix: String,
    val data: String?,
)

/** What a manifest asks of a program or a clip against full precision: least PSNR in dB, least cosine, largest difference. */
data class Demand(val psnr: Double?, val cosine: Double?, val largest: Double?)

/**
 * `manifest.json`, format "echoedge.bundle/2": what is in a bundle and how it is played. What no player reads is checked for being
 * there, not for what it says.
 *
 * @property sha256 of the file's bytes: records name it.
 * @property hasChecksum whether it ends with a checksum of its own, which is then right.
 * @property memory bytes by what they are for, for forecasts.
 * @property model the configuration of the model, for records only.
 * @property demanded of programs by name, and of a whole clip's "latents" and "frames".
 * @property student what a student of few steps was taught, by the number of steps the noise levels before each; or null.
 */
class Manifest private constructor(
    val sha256: String,
    val hasChecksum: Boolean,
    val clips: List<Clip>,
    val playing: Playing,
    val programs: Map<String, Program>,
    val files: Map<String, FileEntry>,
    val target: String,
    val backend: String,
    val precision: String?,
    val weights: String,
    val versions: Map<String, String>,
    val memory: Map<String, Long>,
    val model: Map<String, Any?>,
    val demanded: Map<String, Demand>,
    val student: Map<Int, DoubleArray>?,
) {
    /** Every file but the manifest and records; a program that is a folder is there as its files. */
    val entries: Map<String, FileEntry> get() = files + programs.values.filter { it.kind != "folder" }.associate { it.path to it.entry }

    /** What there are programs for. */
    val roles: Set<String> get() = programs.values.mapTo(LinkedHashSet()) { it.role }

    /**
     * The program of a role for clips of a shape.
     *
     * @throws BundleException there is none; the message lists what there is.
     */
    fun program(role: String, clip: Clip): Program {
        val found = programs.values.filter { it.role == role }
        if (found.isEmpty()) throw BundleException("The bundle has no program '$role'. It has: ${roles.sorted().joinToString()}.")
        return found.firstOrNull { it.clip == clip.toString() } ?: found.firstOrNull { it.clip == null }
            ?: throw BundleException("The bundle has no $role for clips of $clip. It has: ${found.joinToString { it.clip.orEmpty() }}.")
    }

    /**
     * The bundle's shape called HEIGHTxWIDTHxFRAMES, the main one where that is null.
     *
     * @throws ConfigException it has no such shape.
     */
    fun clip(shape: String?): Clip = if (shape == null) clips[0] else clips.firstOrNull { it.toString() == shape }
        ?: throw ConfigException("The clip is '$shape'; the bundle plays: ${clips.joinToString()}.")

    companion object {
        const val NAME: String = "manifest.json"
        private const val FORMAT = "echoedge.bundle/2"
        private val FIELDS = arrayOf(
            "format", "model", "clips", "target", "weights", "versions", "programs", "files", "playing", "parity", "memory", "savings",
            "checksum",
        )

        /**
         * Reads and checks the bytes of a manifest.
         *
         * @throws BundleException it is cut off, not JSON, of another format, altered, or a field is missing, unknown or wrong.
         */
        fun parse(bytes: ByteArray): Manifest {
            val value = try {
                Json.parse(bytes)
            } catch (error: BundleException) {
                throw BundleException("$NAME is cut off or damaged (${error.message}) $MENDING", error)
            }
            val format = (value as? Map<*, *>)?.get("format")
            if (format != FORMAT) throw BundleException("$NAME has format '${short(format.toString())}'; ${remedy(format)}")
            val checksum = value["checksum"]
            if ("checksum" in value) checkSum(bytes, checksum)
            return read(Fields("", value, ::notValid).only(*FIELDS), sha256(bytes), checksum != null)
        }

        private fun remedy(format: Any?): String {
            val number = Regex("echoedge\\.bundle/(\\d{1,6})").matchEntire(format.toString())?.groupValues?.get(1)?.toInt()
            if (number != null && number > 2) return "it is newer than this player, which reads '$FORMAT'. Install a newer one."
            return "this player reads '$FORMAT'. Export the bundle again."
        }

        /** The sum is of the manifest's own bytes with zeros in the place of its digits, and stands last. */
        private fun checkSum(bytes: ByteArray, told: Any?) {
            val text = String(bytes, Charsets.ISO_8859_1)
            val last = Regex("\"checksum\":\\s*\"([0-9a-f]{64})\"\\s*\\}\\s*\\z").find(text)?.groups?.get(1)
            val found = last?.let { sha256(text.replaceRange(it.range, "0".repeat(64)).toByteArray(Charsets.ISO_8859_1)) }
            if (last == null || found != told) {
                val stated = short(told.toString()).take(12)
                throw BundleException("$NAME was altered (its checksum is $stated…, not ${found?.take(12)}…). $MENDING")
            }
        }

        private fun read(top: Fields, sha256: String, hasChecksum: Boolean): Manifest {
            val model = top.record("model").only("preset", "config", "config_digest", "source_sha256")
            val target = top.record("target").only("name", "backend", "precision")
            val weights = top.record("weights").only("name", "settings")
            val playing = playing(top.record("playing"))
            val clips = top.records("clips").map { clip(it, playing) }
            val files = top.recordsByName("files").mapValues { (path, fields) ->
                path(top, path)
                entry(fields.only("sha256", "bytes"))
            }
            val programs = top.recordsByName("programs").mapValues { (name, fields) -> program(name, fields) }
            checkClips(top, clips, programs)
            checkPaths(top, programs, files)
            return Manifest(
                sha256, hasChecksum, clips, playing, programs, files, target.text("name", 200, 1),
                target.maybe("backend") { text(it, 200) }.orEmpty(), target.maybe("precision") { oneOf(it, "fp32", "bf16", "fp16") },
                weights.text("name", 200, 1), top.named("versions").mapValues { it.value.toString() },
                top.maybe("memory") { named(it) }.orEmpty().filterValues { it is Long }.mapValues { it.value as Long },
                model.named("config"), demanded(top), weights.maybe("settings") { record(it) }?.let(::student),
            )
        }

        private fun demanded(top: Fields): Map<String, Demand> {
            val programs = top.recordsByName("programs").filterValues { it.has("demanded") }.mapValues { it.value.record("demanded") }
            val clips = top.maybe("parity") { record(it).only("demanded").maybe("demanded") { name -> recordsByName(name) } }.orEmpty()
            return (programs + clips).mapValues { (_, fields) ->
                fun figure(name: String) = fields.maybe(name) { number(it, -Double.MAX_VALUE..Double.MAX_VALUE) }
                fields.only("psnr_db", "cosine", "max_abs")
                Demand(figure("psnr_db"), figure("cosine"), figure("max_abs"))
            }
        }

        private fun student(settings: Fields): Map<Int, DoubleArray>? {
            if (!settings.has("student")) return null
            val passport = settings.record("student")
            passport.oneOf("format", "echoedge.student/1")
            val levels = passport.named("levels")
            return levels.entries.associate { (steps, row) ->
                val count = steps.toIntOrNull() ?: passport.fail("levels", "has '$steps' for a number of steps")
                count to passport.numbers("levels.$steps", row, 0.0..1.0)
            }
        }

        private fun clip(fields: Fields, playing: Playing): Clip = with(fields.only("height", "width", "frames", "fps", "sample_rate")) {
            val sides = playing.spatialStride * playing.patch
            val all = 1..Int.MAX_VALUE
            val clip = Clip(whole("height", all), whole("width", all), whole("frames", all), whole("fps", all), whole("sample_rate", all))
            for ((name, side) in listOf("height" to clip.height, "width" to clip.width)) {
                if (side % sides != 0) fail(name, "is $side; it must be a multiple of $sides")
            }
            if ((clip.frames - 1) % playing.temporalStride != 0) fail("frames", "is ${clip.frames}; it must be 4n+1")
            if (clip.sampleRate % clip.fps != 0) fail("sample_rate", "is ${clip.sampleRate}, no multiple of fps, ${clip.fps}")
            clip
        }

        private fun playing(fields: Fields): Playing = with(fields) {
            only(
                "latent_channels", "temporal_stride", "spatial_stride", "patch", "mask_channels", "encode_unknown", "text_length",
                "text_rows", "text_dim", "text_ids", "pad_id", "decoders", "hearing",
            )
            Playing(
                whole("latent_channels", 1..1024), whole("temporal_stride", 1..64), whole("spatial_stride", 1..64), whole("patch", 1..16),
                whole("mask_channels", 1..64), flag("encode_unknown"), whole("text_length", 1..100_000), whole("text_rows", 1..100_000),
                whole("text_dim", 1..100_000), maybe("text_ids") { oneOf(it, "utf-8 bytes") } != null,
                maybe("pad_id") { whole(it, 0..Int.MAX_VALUE) } ?: 256,
                named("decoders").mapValues { (name, role) -> role as? String ?: fail("decoders.$name", "is $role; it must be a text") },
                Hearing.of(record("hearing")),
            )
        }

        private fun program(name: String, fields: Fields): Program = with(fields) {
            only("role", "clip", "methods", "artifact", "placement", "layers", "demanded", "measured")
            val stored = record("artifact")
            val kind = stored.oneOf("kind", "pte", "file", "folder")
            val own = mapOf("pte" to arrayOf("prefix", "data"), "file" to arrayOf("data"), "folder" to arrayOf("prefix"))
            stored.only("kind", "path", "sha256", "bytes", *own.getValue(kind))
            val methods = recordsByName("methods").mapValues { (_, each) ->
                each.only("inputs", "outputs")
                Method(each.records("inputs").map(::spec), each.records("outputs").map(::spec))
            }
            val placed = maybe("placement") { named(it).keys }.orEmpty()
            (placed - methods.keys).firstOrNull()?.let { fail("placement", "is of $it, which it does not have") }
            Program(
                name, text("role", 200, 1), maybe("clip") { text(it) }, methods, kind, path(stored, stored.text("path")), entry(stored),
                stored.maybe("prefix") { text(it, 200) }.orEmpty(), stored.maybe("data") { path(this, text(it)) },
            )
        }

        private val DTYPES = arrayOf("float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
        private val DIMENSION = Regex("[a-z][a-z0-9_]{0,39}")

        private fun spec(fields: Fields): TensorSpec = with(fields.only("name", "dtype", "shape")) {
            val shape = rows("shape") { place, size ->
                when {
                    size is Long && size in 0..Int.MAX_VALUE -> Dimension(size.toInt(), null)
                    size is String && DIMENSION.matches(size) -> Dimension(null, size)
                    else -> fail(place, "is $size; it must be a size or a name")
                }
            }
            TensorSpec(text("name", 200, 1), oneOf("dtype", *DTYPES), shape)
        }

        private val SHA = Regex("[0-9a-f]{64}")

        private fun entry(fields: Fields): FileEntry = FileEntry(fields.matching("sha256", SHA), fields.count("bytes"))

        private val PART = Regex("[A-Za-z0-9_-]([A-Za-z0-9._+-]*[A-Za-z0-9_+-])?")

        /** A path that means the same file on every system, and none outside the bundle. */
        private fun path(fields: Fields, path: String): String {
            if (path.length > 200 || !path.split('/').all(PART::matches)) {
                fields.fail(null, "has '${short(path)}', which is no path inside a bundle: letters, digits and '._+-', parts joined by '/'")
            }
            if (path.lowercase() == NAME) fields.fail(null, "has $NAME, which cannot list itself")
            if (path.substringBefore('/').lowercase() == "records") {
                fields.fail(null, "has ${short(path)}, where figures are kept that are measured later")
            }
            return path
        }

        private fun checkClips(top: Fields, clips: List<Clip>, programs: Map<String, Program>) {
            if (clips.isEmpty()) top.fail("clips", "is empty: there is no clip shape")
            val shapes = clips.map(Clip::toString)
            if (shapes.toSet().size != shapes.size) top.fail("clips", "lists a shape twice: ${shapes.joinToString()}")
            val places = HashMap<Pair<String, String?>, String>()
            for ((name, program) in programs) {
                if (program.clip != null && program.clip !in shapes) {
                    top.fail("programs.$name", "is for clips of ${program.clip}; the bundle has ${shapes.joinToString()}")
                }
                places.put(program.role to program.clip, name)?.let {
                    top.fail("programs", "has $it and $name, both the ${program.role} of ${program.clip ?: "every shape"}")
                }
            }
        }

        private fun checkPaths(top: Fields, programs: Map<String, Program>, files: Map<String, FileEntry>) {
            val shared = LinkedHashMap<String, Program>()
            val methods = HashSet<String>()
            for ((name, program) in programs) {
                val first = shared.getOrPut(program.path) { program }
                val apart = program.prefix.isNotEmpty() && first.prefix.isNotEmpty()
                fun fail(what: String): Nothing = top.fail("programs.$name", what)
                if (first !== program && !(apart && first.entry == program.entry)) {
                    fail("lists ${program.path} twice and does not say what of it is its own")
                }
                for (method in program.methods.keys) {
                    if (!methods.add("${program.path} ${program.prefix}$method")) fail("has a method of another program: $method")
                }
                if (program.data != null && program.data !in files) fail("has its weights in ${program.data}, which is not among the files")
                val inside = files.filterKeys { it.startsWith(program.path + "/") }
                if ((program.kind == "folder") != inside.isNotEmpty()) fail("is a folder without files, or a file with some inside")
                if (inside.isNotEmpty() && program.entry != folderEntry(inside)) fail("has another SHA-256 or size than its files")
            }
            val seen = HashMap<String, String>() // a phone's storage may not tell upper from lower case
            for (path in shared.keys.toList() + files.keys) {
                seen.put(path.lowercase(), path)?.let { top.fail("files", "lists $path twice, as $it") }
            }
            for (path in seen.values) {
                for (parent in generateSequence(File(path).parentFile, File::getParentFile)) {
                    val owner = seen[parent.path.lowercase()] ?: continue
                    if (shared[owner]?.kind != "folder") top.fail("files", "has $path inside $owner, which is a file")
                }
            }
        }

        private fun folderEntry(inside: Map<String, FileEntry>): FileEntry {
            val lines = inside.toSortedMap().entries.joinToString("") { (path, entry) -> "${entry.sha256}  $path\n" }
            return FileEntry(sha256(lines.toByteArray()), inside.values.sumOf(FileEntry::bytes))
        }
    }
}

private fun notValid(sentence: String): BundleException = BundleException("${Manifest.NAME} is not valid: $sentence. $MENDING")

/** SHA-256 in hexadecimal digits. */
fun sha256(bytes: ByteArray): String = hexadecimal(MessageDigest.getInstance("SHA-256").digest(bytes))

/** SHA-256 of a file in constant memory. */
fun sha256(file: File): String {
    val digest = MessageDigest.getInstance("SHA-256")
    file.inputStream().use { input ->
        val buffer = ByteArray(1 shl 16)
        while (true) {
            val count = input.read(buffer)
            if (count < 0) break
            digest.update(buffer, 0, count)
        }
    }
    return hexadecimal(digest.digest())
}

private fun hexadecimal(bytes: ByteArray): String = bytes.joinToString("") { "%02x".format(it) }
