package echoedge.appcore

import echoedge.engine.BenchRecord
import echoedge.engine.Bundle
import echoedge.engine.CancelledException
import echoedge.engine.ConfigException
import echoedge.engine.Device
import echoedge.engine.EchoEdgeException
import echoedge.engine.Floats
import echoedge.engine.InputException
import echoedge.engine.Player
import echoedge.engine.Programs
import echoedge.engine.Surroundings
import echoedge.engine.TimedClip
import echoedge.engine.TimedPrograms
import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** What a benchmark needs of the phone that it runs on. */
interface BenchPhone {
    /** The app's name and version. */
    val app: String

    val device: Device

    /** Threads that programs run on where nobody says. */
    val threads: Int

    /** Of the app and the runtime. */
    val versions: Map<String, String>

    /** A runtime of a bundle that holds nothing yet. */
    fun programs(bundle: Bundle, threads: Int): Programs

    /** What may be taken of memory. */
    fun memory(): Room

    fun state(): DeviceState

    fun surroundings(): Surroundings

    /** The app's memory as the system counts it now; null: not told. */
    fun pssBytes(): Long?

    /** The most that was resident at once. */
    fun peakRssBytes(): Long

    /** CPU time of this process. */
    fun cpuSeconds(): Double?

    fun freeBytes(folder: File): Long

    /** Seconds on a clock that only grows. */
    fun now(): Double = System.nanoTime() / 1e9
}

/**
 * Plays the job that lies in [folder] and writes status.json and result.json, as docs/DEVICE_BENCH.md asks of a player.
 *
 * @param cancelled is asked before every call of a program.
 */
class Bench(private val folder: File, private val phone: BenchPhone, private val cancelled: () -> Boolean = { false }) {
    private var peakPss: Long? = null

    /** Makes the folder and says which version of the contract is kept to and how much room there is. */
    fun prepare(word: String) {
        folder.mkdirs()
        say(Status(word, "ready", phone.app, freeBytes = phone.freeBytes(folder), thermalStatus = phone.state().thermalStatus))
    }

    /** Plays; the last status says done or failed. Gives whether it is done. */
    fun run(word: String): Boolean {
        say(Status(word, "loading", phone.app, thermalStatus = phone.state().thermalStatus))
        val problem = try {
            val job = Job.read(folder, word)
            writeWhole(File(folder, Job.RESULT), played(job).toJson())
            say(Status(word, "done", phone.app, job.clips, job.clips, pssBytes = peakPss))
            return true
        } catch (error: EchoEdgeException) {
            error.message.orEmpty()
        } catch (error: IOException) {
            "The result cannot be written (${error.message}). Free some space, then run this again."
        } catch (error: OutOfMemoryError) {
            "Java's memory is too small for this clip (${error.message}). Play a bundle of fewer --frames or a smaller --size."
        }
        say(Status(word, "failed", phone.app, thermalStatus = phone.state().thermalStatus, fault = "job", message = problem))
        return false
    }

    private fun say(status: Status) = writeWhole(File(folder, Job.STATUS), status.toJson())

    private fun played(job: Job): JobResult {
        val before = phone.state()
        val around = phone.surroundings()
        val course = Course(job)
        val opened = course.open()
        val (first, runs) = course.counted(opened)
        val ends = job.sustainedSeconds?.let { course.sustained(opened, it) }
        val aroundAfter = phone.surroundings()
        val peak = phone.peakRssBytes()
        opened.player.free()
        val reopened = if (job.reload) course.open() else null
        val again = reopened?.let { course.played(it) }
        reopened?.player?.free()
        val bundle = opened.bundle
        val record = BenchRecord(
            bundle, opened.player.clip, job.decoder ?: bundle.manifest.playing.decoders.keys.first(), job.prompt, ENGINE,
            phone.device, opened.threads, phone.versions, opened.seconds to (reopened?.seconds ?: 0.0), first, runs, again,
            peak, around, aroundAfter, course.cpuMilliseconds(),
        )
        return JobResult(job, phone.app, record.toMap(), before, phone.state(), peakPss, ends)
    }

    private class Opened(val bundle: Bundle, val player: Player, val programs: TimedPrograms, val threads: Int, val seconds: Double)

    private inner class Course(private val job: Job) {
        private val cpu = ArrayList<Double>()
        private var done = 0
        private lateinit var portrait: Floats
        private lateinit var speech: FloatArray

        fun open(): Opened {
            val began = phone.now()
            val bundle = Bundle.open(File(folder, job.bundle))
            val clip = bundle.manifest.clip(job.clip)
            val mode = Room.mode(bundle, clip.frames.toDouble() / clip.fps, phone.memory(), job.decoder, clip)
            val threads = job.threads ?: phone.threads
            val programs = TimedPrograms(phone.programs(bundle, threads))
            val player = Player(bundle, programs, clip, job.decoder, frugal = mode == Mode.ONE_BY_ONE, cancelled = cancelled)
            portrait = Floats.of(numbers(job.portrait, 3 * clip.height * clip.width), 3, clip.height, clip.width)
            speech = numbers(job.speech, clip.frames * clip.samplesPerFrame)
            return Opened(bundle, player, programs, threads, phone.now() - began)
        }

        /** The first clip, and those that count. */
        fun counted(opened: Opened): Pair<TimedClip, List<TimedClip>> {
            val all = List(job.warmUp + job.runs) { played(opened) }
            return all[0] to all.drop(job.warmUp)
        }

        fun played(opened: Opened): TimedClip {
            say(Status(job.word, "playing", phone.app, done, job.clips, pssBytes = peakPss))
            return timed(opened).also {
                done++
                look()
                say(Status(job.word, "playing", phone.app, done, job.clips, pssBytes = peakPss))
            }
        }

        /**
         * Clips without a pause until the time is over, at least one: seconds from the first one's beginning to the end of each.
         */
        fun sustained(opened: Opened, seconds: Double): List<Double> {
            val began = phone.now()
            val ends = ArrayList<Double>()
            val total = Math.round(seconds).coerceIn(1, Int.MAX_VALUE.toLong()).toInt()
            while (ends.isEmpty() || ends.last() < seconds) {
                val done = minOf(ends.lastOrNull()?.toInt() ?: 0, total)
                say(Status(job.word, "sustaining", phone.app, done, total, pssBytes = peakPss))
                timed(opened)
                ends.add(phone.now() - began)
            }
            look()
            return ends
        }

        private fun timed(opened: Opened): TimedClip {
            opened.programs.calls.clear()
            val began = phone.now()
            val cpuBegan = phone.cpuSeconds()
            val clip = opened.player.play(portrait, speech, job.prompt, job.seed) { _, _ -> }
            val seconds = phone.now() - began
            val cpuEnded = phone.cpuSeconds()
            if (cpuBegan != null && cpuEnded != null) cpu.add(cpuEnded - cpuBegan)
            return TimedClip(clip, seconds, opened.programs.calls.toList())
        }

        /** Median CPU time of the clips that count, which stand behind the warm-up. */
        fun cpuMilliseconds(): Double? {
            val counted = cpu.drop(job.warmUp).take(job.runs).sorted()
            return if (counted.size < job.runs) null else 500 * (counted[(counted.size - 1) / 2] + counted[counted.size / 2])
        }

        private fun look() {
            phone.pssBytes()?.let { peakPss = maxOf(peakPss ?: 0L, it) }
        }
    }

    private fun numbers(name: String, count: Int): FloatArray {
        val bytes = try {
            File(folder, name).readBytes()
        } catch (error: IOException) {
            throw InputException("$name of the job cannot be read (${error.message}). Run the benchmark again.")
        }
        if (bytes.size != 4 * count) {
            throw InputException("$name of the job has ${bytes.size / 4} numbers; the clip takes $count. Run the benchmark again.")
        }
        return FloatArray(count).also { ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(it) }
    }

    companion object {
        /** As records name it. */
        const val ENGINE: String = "executorch"

        /**
         * Removes what a benchmark left whose host went away, when the app is opened by hand: a folder without pushed.json. Gives
         * whether there was something.
         */
        fun sweep(folder: File): Boolean =
            folder.isDirectory && !File(folder, Job.PUSHED).isFile && folder.deleteRecursively()

        /** What the extras of an intent ask for; null where it asks for nothing that is known. */
        fun asked(action: String?, word: String?): Pair<String, String>? =
            if (action in listOf("prepare", "run") && word != null && Job.isWord(word)) action.orEmpty() to word else null
    }
}

/** Whether a bundle can be played by an app with ExecuTorch's Android library; a sentence where it cannot. */
object Playable {
    /**
     * @throws ConfigException its programs are another runtime's, or need what Android's library has no way to give.
     */
    fun require(bundle: Bundle) {
        val manifest = bundle.manifest
        if (manifest.target != Bench.ENGINE) {
            throw ConfigException(
                "The bundle is compiled for ${manifest.target}; this app runs ${Bench.ENGINE}. Export it with that --target.",
            )
        }
        val apart = manifest.programs.values.firstOrNull { it.data != null }
        if (apart != null) {
            throw ConfigException(
                "${apart.name} keeps its weights in ${apart.data}, which Android's library cannot load. Export it again.",
            )
        }
        val outputs = manifest.programs.values.flatMap { program ->
            program.methods.values.flatMap { it.outputs }.map { program to it }
        }
        val (program, spec) = outputs.firstOrNull { (_, spec) -> spec.dtype !in OUTPUTS } ?: return
        throw ConfigException(
            "${program.name} gives $spec; Android's library hands over ${OUTPUTS.joinToString()}. Export it again.",
        )
    }

    private val OUTPUTS = listOf("float32", "float16", "int64", "int32", "int8", "uint8")

    /** Whether an exception only says that whoever asked does not want it any more. */
    fun isCancelled(error: Throwable): Boolean = error is CancelledException
}
