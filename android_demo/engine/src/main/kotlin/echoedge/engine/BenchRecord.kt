package echoedge.engine

import java.math.BigDecimal
import java.math.RoundingMode
import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale
import java.util.TimeZone

/** Milliseconds over runs: the median, and the 10th and 90th percentile between the nearest two runs; three decimals. */
data class Spread(val median: Double, val p10: Double, val p90: Double) {
    /** As records hold it. */
    fun toMap(): Map<String, Any?> = mapOf("median" to median, "p10" to p10, "p90" to p90)

    companion object {
        /** Of the seconds of at least one run. */
        fun of(seconds: List<Double>): Spread {
            val sorted = seconds.sorted()
            fun at(share: Double): Double {
                val place = share * (sorted.size - 1)
                val below = place.toInt()
                val above = minOf(below + 1, sorted.size - 1)
                val t = place - below
                val step = sorted[above] - sorted[below]
                return milliseconds(if (t >= 0.5) sorted[above] - step * (1 - t) else sorted[below] + step * t)
            }
            return Spread(at(50.0 / 100), at(10.0 / 100), at(90.0 / 100))
        }

        /** Milliseconds with three decimals, to nearest. */
        fun milliseconds(seconds: Double): Double = BigDecimal(1000 * seconds).setScale(3, RoundingMode.HALF_EVEN).toDouble()
    }
}

/** One call of a program, by its role. */
data class Call(val role: String, val method: String, val seconds: Double)

/** Runs programs as [programs] does and keeps how long each call took. */
class TimedPrograms(private val programs: Programs) : Programs by programs {
    /** Since it was emptied last. */
    val calls: MutableList<Call> = ArrayList()

    override fun run(program: Program, method: String, inputs: Map<String, Tensor>): Map<String, Tensor> {
        val began = System.nanoTime()
        return programs.run(program, method, inputs).also { calls.add(Call(program.role, method, (System.nanoTime() - began) / 1e9)) }
    }
}

/** One clip that was timed: what came out, wall seconds, and every call. */
class TimedClip(val played: Played, val seconds: Double, val calls: List<Call>)

/** Where a benchmark ran; what the platform does not tell is null. [thermal]: degrees Celsius by sensor. */
data class Device(
    val place: String,
    val kind: String,
    val name: String,
    val cores: Int?,
    val memoryBytes: Long?,
    val os: String,
    val osBuild: String,
)

/** What a device tells of itself around the runs. */
data class Surroundings(val thermal: Map<String, Double>?, val load: Double?)

/**
 * A benchmark as `echoedge.bench/1`, the one record of every platform (docs/BENCH.md).
 *
 * @property opening seconds until a player was there, of the first and of one opened again behind the last.
 * @property first the first clip, [runs] those that count, [again] one of a player that was opened again, or null.
 */
class BenchRecord(
    private val bundle: Bundle,
    private val clip: Clip,
    private val decoder: String,
    private val prompt: String,
    private val engine: String,
    private val device: Device,
    private val threads: Int,
    private val versions: Map<String, String>,
    private val opening: Pair<Double, Double>,
    private val first: TimedClip,
    private val runs: List<TimedClip>,
    private val again: TimedClip?,
    private val peakRssBytes: Long,
    private val before: Surroundings,
    private val after: Surroundings,
    private val cpuMilliseconds: Double? = null,
    private val date: Date = Date(),
) {
    /** What the record's file holds. */
    fun toJson(): String = Json.write(toMap())

    /** As above, as values. */
    fun toMap(): Map<String, Any?> {
        val manifest = bundle.manifest
        val plan = bundle.plan(clip)
        val stages = Stage.values().associate { stage -> stage.title to Spread.of(runs.map { it.played.seconds.getValue(stage) }) }
        val whole = Spread.of(runs.map(TimedClip::seconds))
        val frames = runs[0].played.frames
        return mapOf(
            "format" to "echoedge.bench/1",
            "date" to DATE.format(date),
            "manifest_sha256" to manifest.sha256,
            "engine" to mapOf(
                "name" to engine, "target" to listOf(manifest.target, manifest.backend).filter(String::isNotEmpty).joinToString("/"),
                "weights" to manifest.weights, "precision" to manifest.precision,
            ),
            "mode" to "ahead-of-time",
            "savings" to true,
            "machine" to device.run {
                mapOf(
                    "place" to place, "kind" to kind, "name" to name, "cores" to cores, "memory_bytes" to memoryBytes, "os" to os,
                    "os_build" to osBuild,
                )
            },
            "threads" to threads,
            "versions" to versions,
            "workload" to mapOf(
                "preset" to null, "model" to manifest.model["name"], "layers" to manifest.model["layers"], "height" to clip.height,
                "width" to clip.width, "frames" to clip.frames, "fps" to clip.fps, "steps" to plan.steps, "branches" to plan.branches.size,
                "evaluations" to plan.evaluations, "decoder" to decoder, "prompt" to prompt,
            ),
            "runs" to runs.size,
            "stages" to stages.mapValues { it.value.toMap() },
            "programs" to runs[0].calls.map(Call::role).distinct().associateWith { role ->
                Spread.of(runs.map { run -> run.calls.filter { it.role == role }.sumOf(Call::seconds) }).toMap()
            },
            "clip" to whole.toMap(),
            "step" to Spread.of(runs.flatMap(TimedClip::calls).filter { it.role == "denoise" }.map(Call::seconds)).toMap(),
            "first_frame" to Spread.of(runs.map { it.played.firstFrame }).toMap(),
            "cpu_ms" to cpuMilliseconds,
            "first_load_ms" to Spread.milliseconds(load(first, opening.first)),
            "second_load_ms" to again?.let { Spread.milliseconds(load(it, opening.second)) },
            "frames" to frames,
            "peak_rss_bytes" to peakRssBytes,
            "peak_device_bytes" to null,
            "disk_bytes" to bundle.bytes,
            "thermal_before" to before.thermal,
            "thermal_after" to after.thermal,
            "load_average_before" to before.load,
            "load_average_after" to after.load,
        ) + rates(frames, clip.fps, whole.median, stages.getValue(Stage.DECODE.title).median)
    }

    /** Opening, and what the first call of each method took longer than the median of later ones. */
    private fun load(clip: TimedClip, opening: Double): Double {
        val usual = runs.flatMap(TimedClip::calls).groupBy({ it.role to it.method }, Call::seconds)
        return opening + clip.calls.distinctBy { it.role to it.method }.sumOf { call ->
            val later = usual.getValue(call.role to call.method).sorted()
            val median = (later[(later.size - 1) / 2] + later[later.size / 2]) / 2
            maxOf(0.0, call.seconds - median)
        }
    }

    companion object {
        private val DATE = SimpleDateFormat("yyyy-MM-dd'T'HH:mm:ss'Z'", Locale.ROOT).apply { timeZone = TimeZone.getTimeZone("UTC") }
        private const val TICK = 1e-3 // milliseconds: a clip whose times are below the clock's is one of its ticks long
        private const val AGREE = 0.01 // share by which a rate may differ from the times that it follows from: both are rounded
        private val FIELDS = arrayOf(
            "format", "date", "manifest_sha256", "engine", "mode", "savings", "machine", "threads", "versions", "workload", "runs",
            "stages", "programs", "clip", "step", "first_frame", "cpu_ms", "first_load_ms", "second_load_ms", "frames", "fps",
            "fps_without_decode", "realtime_factor", "peak_rss_bytes", "peak_device_bytes", "disk_bytes", "thermal_before",
            "thermal_after", "load_average_before", "load_average_after", "on_device",
        )
        private val COUNTS = listOf("layers", "height", "width", "frames", "fps", "steps", "branches", "evaluations")
        private val FROM_ONE = 1..Long.MAX_VALUE
        private val ALL = 1..Int.MAX_VALUE
        private val POSITIVE = Double.MIN_VALUE..Double.MAX_VALUE
        private val FROM_ZERO = 0.0..Double.MAX_VALUE

        /**
         * Whether bytes are a record that EchoEdge reads.
         *
         * @throws BundleException a field is missing, unknown or wrong, or figures contradict one another.
         */
        fun check(bytes: ByteArray) = with(Fields("", Json.parse(bytes)) { BundleException("The record is not valid: $it.") }) {
            only(*FIELDS)
            oneOf("format", "echoedge.bench/1")
            matching("date", Regex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"))
            told("manifest_sha256") { matching(it, Regex("[0-9a-f]{64}")) }
            with(record("engine").only("name", "target", "weights", "precision")) {
                matching("name", Regex("[a-z0-9_]+"))
                listOf("target", "weights").forEach { text(it) }
                told("precision") { oneOf(it, "fp32", "bf16", "fp16") }
            }
            oneOf("mode", "ahead-of-time", "eager", "compiled")
            flag("savings")
            with(record("machine").only("place", "kind", "name", "cores", "memory_bytes", "os", "os_build")) {
                oneOf("place", "host", "phone")
                oneOf("kind", "cpu", "cuda", "metal", "vulkan", "npu")
                listOf("name", "os", "os_build").forEach { text(it, 200, 1) }
                told("cores") { count(it, FROM_ONE) }
                told("memory_bytes") { count(it) }
            }
            val workload = record("workload").only("preset", "model", "decoder", "prompt", *COUNTS.toTypedArray())
            COUNTS.forEach { workload.count(it, FROM_ONE) }
            workload.text("model", 200, 1)
            workload.text("prompt")
            workload.oneOf("decoder", "full", "tiny")
            listOf("threads", "runs", "frames").forEach { count(it, FROM_ONE) }
            count("peak_rss_bytes")
            for (name in listOf("peak_device_bytes", "disk_bytes")) told(name) { count(it) }
            for (name in listOf("cpu_ms", "first_load_ms", "second_load_ms", "load_average_before", "load_average_after")) {
                told(name) { number(it, FROM_ZERO) }
            }
            maybe("on_device") { record(it) } // the host's, who alone reads it; players leave it out
            named("versions").forEach { (name, version) -> if (version !is String) fail("versions.$name", "is no text") }
            for (name in listOf("thermal_before", "thermal_after")) {
                told(name) { named(it).forEach { (sensor, degrees) -> number("$name.$sensor", degrees, -1e9..1e9) } }
            }
            val stages = recordsByName("stages").mapValues { spread(it.value) }
            val titles = Stage.values().map(Stage::title)
            (titles - stages.keys).firstOrNull()?.let { fail("stages", "has no $it") }
            (stages.keys - titles).firstOrNull()?.let { fail("stages", "has $it, which is no stage") }
            recordsByName("programs").values.forEach { spread(it) }
            listOf("step", "first_frame").forEach { spread(record(it)) }
            val clip = spread(record("clip"))
            for ((name, expected) in rates(whole("frames", ALL), workload.whole("fps", ALL), clip, stages.getValue(Stage.DECODE.title))) {
                val found = number(name, POSITIVE)
                if (Math.abs(found - expected) > AGREE * expected) fail(name, "is $found, but the clip's times make it $expected")
            }
        }

        /** A field that must be there and may be null. */
        private fun <T> Fields.told(name: String, read: Fields.(String) -> T): T? = if (value(name) == null) null else read(name)

        private fun spread(fields: Fields): Double = with(fields.only("median", "p10", "p90")) {
            val (low, middle, high) = listOf("p10", "median", "p90").map { number(it, FROM_ZERO) }
            if (low > middle || middle > high) fail(null, "has p10 $low, median $middle and p90 $high, which are not in this order")
            middle
        }

        /** What follows from the milliseconds of a clip and of its last stage. */
        private fun rates(frames: Int, fps: Int, clip: Double, decode: Double): Map<String, Double> {
            val whole = maxOf(clip, TICK) / 1000
            return mapOf(
                "fps" to frames / whole, "fps_without_decode" to frames / (maxOf(clip - decode, TICK) / 1000),
                "realtime_factor" to frames.toDouble() / fps / whole,
            )
        }
    }
}
