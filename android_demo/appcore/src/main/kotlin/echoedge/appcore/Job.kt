package echoedge.appcore

import echoedge.engine.EchoEdgeException
import echoedge.engine.Fields
import echoedge.engine.InputException
import echoedge.engine.Json
import java.io.File
import java.io.IOException

/** What a benchmark asks of a player, in the folder that holds it; docs/DEVICE_BENCH.md is the contract. */
data class Job(
    val word: String,
    val bundle: String,
    val portrait: String,
    val speech: String,
    val clip: String,
    val decoder: String?,
    val prompt: String,
    val seed: Long,
    val threads: Int?,
    val warmUp: Int,
    val runs: Int,
    val sustainedSeconds: Double?,
    val reload: Boolean,
) {
    /** Clips that are counted while they are played. */
    val clips: Int get() = warmUp + runs + if (reload) 1 else 0

    companion object {
        /** The version of the contract that is kept to. */
        const val CONTRACT: Int = 1
        const val FILE: String = "job.json"
        const val STATUS: String = "status.json"
        const val RESULT: String = "result.json"
        const val PUSHED: String = "pushed.json"
        private val WORD = Regex("[0-9a-z]{8,64}")
        private val ENGINES = arrayOf("auto", "executorch")
        private val FROM_ONE = 1..1_000_000
        private val PATH = Regex("[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")

        /** Whether a text can be a job's word: eight to 64 lower-case letters and digits. */
        fun isWord(text: String?): Boolean = text != null && WORD.matches(text)

        /**
         * Reads the job that a folder holds, which must be the one called [word].
         *
         * @throws InputException it is not there, not a job, another one, of another contract, or asks for what an app cannot do.
         */
        fun read(folder: File, word: String): Job {
            val bytes = try {
                File(folder, FILE).readBytes()
            } catch (error: IOException) {
                throw InputException("$FILE cannot be read (${error.message}). `echoedge bench BUNDLE --device adb` writes it.")
            }
            return parse(bytes, word)
        }

        /** As above, of its bytes. */
        fun parse(bytes: ByteArray, word: String): Job {
            val value = try {
                Json.parse(bytes)
            } catch (error: EchoEdgeException) {
                throw InputException("$FILE is no job: ${error.message}")
            }
            return with(Fields("", value) { InputException("$FILE is no job: $it.") }) {
                only(
                    "format", "job", "contract", "bundle", "portrait", "speech", "clip", "decoder", "engine", "prompt",
                    "seed", "threads", "warm_up", "runs", "sustained_s", "reload", "cool",
                )
                maybe("format") { oneOf(it, "echoedge.job/1") }
                if (matching("job", WORD) != word) fail("job", "is ${text("job")}; the app was asked for $word")
                val contract = maybe("contract") { count(it, 1..Long.MAX_VALUE) } ?: CONTRACT.toLong()
                if (contract != CONTRACT.toLong()) fail("contract", "is $contract; this app keeps to version $CONTRACT")
                oneOf("engine", *ENGINES)
                if (value("cool") != null) fail("cool", "is an object; the host waits for a phone with adb, so it must be null")
                Job(
                    word, name("bundle", "bundle"), name("portrait", "portrait.f32"), name("speech", "speech.f32"),
                    text("clip", 200, 1),
                    optional("decoder") { oneOf(it, "full", "tiny") }, text("prompt"), seed("seed"),
                    optional("threads") { whole(it, 1..1024) }, whole("warm_up", FROM_ONE), whole("runs", FROM_ONE),
                    optional("sustained_s") { number(it, Double.MIN_VALUE..Double.MAX_VALUE) }, flag("reload"),
                )
            }
        }

        /** A name in the job's own folder. */
        private fun Fields.name(field: String, default: String): String = maybe(field) { matching(it, PATH) } ?: default

        /** A field that must be there and may be null. */
        private fun <T> Fields.optional(name: String, read: Fields.(String) -> T): T? =
            if (value(name) == null) null else read(name)
    }
}

/** How far a player is, as status.json holds it. [state]: of the contract; [app]: its name and version. */
data class Status(
    val job: String,
    val state: String,
    val app: String,
    val done: Int = 0,
    val total: Int = 0,
    val freeBytes: Long? = null,
    val pssBytes: Long? = null,
    val thermalStatus: String? = null,
    val fault: String? = null,
    val message: String = "",
) {
    /** What the file holds. */
    fun toJson(): String = Json.write(
        mapOf(
            "format" to "echoedge.status/1", "job" to job, "state" to state, "contract" to Job.CONTRACT, "app" to app,
            "done" to done, "total" to total, "free_bytes" to freeBytes, "pss_bytes" to pssBytes, "thermal_status" to thermalStatus,
            "fault" to fault, "message" to message,
        ),
    )
}

/** What a phone tells of itself before or after its clips; null: it does not. */
data class DeviceState(
    val thermalStatus: String? = null,
    val batteryPercent: Double? = null,
    val batteryCelsius: Double? = null,
    val charging: Boolean? = null,
) {
    /** As a result holds it. */
    fun toMap(): Map<String, Any?> = mapOf(
        "thermal_status" to thermalStatus, "battery_percent" to batteryPercent, "battery_celsius" to batteryCelsius,
        "charging" to charging,
    )
}

/** What a job came to, as result.json holds it. [record]: of the engine; [ends]: of a sustained run, seconds to each clip's end. */
class JobResult(
    private val job: Job,
    private val app: String,
    private val record: Map<String, Any?>,
    private val before: DeviceState,
    private val after: DeviceState,
    private val peakPssBytes: Long?,
    private val ends: List<Double>?,
) {
    /** What the file holds. */
    fun toJson(): String = Json.write(
        mapOf(
            "format" to "echoedge.result/1", "job" to job.word, "app" to app, "record" to record, "cooled_s" to 0.0,
            "before" to before.toMap(), "after" to after.toMap(), "peak_pss_bytes" to peakPssBytes, "ends_s" to ends,
        ),
    )
}

/**
 * Writes a file under another name and renames it, so that whoever reads it reads all of it.
 *
 * @throws IOException it cannot be written.
 */
fun writeWhole(file: File, text: String) {
    file.parentFile?.mkdirs()
    val beside = File(file.path + ".new")
    beside.writeText(text)
    if (!beside.renameTo(file)) throw IOException("$beside cannot be renamed to ${file.name}")
}
