package echoedge.engine

import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.fail
import org.junit.Test
import org.junit.runner.RunWith
import org.junit.runners.Parameterized

/** Golden vectors of Python's player: every case, bit for bit or within its bound; what is refused there is refused here. */
@RunWith(Parameterized::class)
class VectorsTest(@Suppress("unused") private val title: String, private val case: Case) {
    @Test
    fun `computes what Python's player computes`() {
        val error = case.error ?: return assertEquals(null, Vectors.difference(case, computed(case)))
        try {
            computed(case)
        } catch (refused: EchoEdgeException) {
            val kind = when (refused) {
                is BundleException -> "bundle"
                is ConfigException -> "config"
                is InputException -> "input"
                else -> refused::class.java.simpleName
            }
            assertEquals("${refused.message}", error["kind"], kind)
            return
        }
        fail("$case was not refused: ${error["message"]}")
    }

    /** The comparison itself can fail: the same numbers with one of them moved beyond its bound are told from what is expected. */
    @Test
    fun `one number that is wrong is found`() {
        if (case.error != null || case.expected.isEmpty()) return
        val found = computed(case)
        for (key in found.keys) {
            val bound = (case.within[key] as Number?)?.toDouble() ?: 0.0
            val moved = moved(found[key], bound) ?: continue
            assertNotNull("$case: $key", Vectors.difference(case, found + (key to moved)))
        }
    }

    private fun moved(value: Any?, bound: Double): Any? = when (value) {
        is FloatArray -> value.copyOf().takeIf { it.isNotEmpty() }?.also { it[0] = it[0] + (3 * bound).toFloat() + Math.ulp(it[0]) }
        is DoubleArray -> value.copyOf().takeIf { it.isNotEmpty() }?.also { it[0] += 3 * bound + Math.ulp(it[0]) }
        is LongArray -> value.copyOf().takeIf { it.isNotEmpty() }?.also { it[0] += 1 + (3 * bound).toLong() }
        is Double -> value + 3 * bound + Math.ulp(value)
        is Int -> value + 1
        is Long -> value + 1
        is String -> value + "x"
        is Boolean -> !value
        is List<*> -> value + null
        else -> null
    }

    companion object {
        @JvmStatic
        @Parameterized.Parameters(name = "{0}")
        fun cases(): List<Array<Any>> {
            val cases = Vectors.cases()
            if (cases.isNotEmpty()) {
                val kinds = cases.groupingBy(Case::kind).eachCount().toSortedMap().entries.joinToString { (kind, count) -> "$count $kind" }
                println("${cases.size} golden vectors: $kinds.")
            }
            return cases.map { arrayOf(it.toString(), it) }
        }
    }
}

private fun counts(vararg numbers: Int) = LongArray(numbers.size) { numbers[it].toLong() }

private fun unsigned(bytes: ByteArray) = LongArray(bytes.size) { bytes[it].toLong() and 0xFF }

/** What the engine makes of what a case gives. */
fun computed(case: Case): Map<String, Any?> = with(case) {
    when (kind) {
        "numbers" -> texts("texts").map { (Json.parse(it) as Number).toDouble() }.let { read ->
            mapOf("doubles" to read.toDoubleArray(), "floats" to FloatArray(read.size) { read[it].toFloat() })
        }
        "integers" -> mapOf("values" to texts("texts").map { Normals.seed(Json.parse(it).toString()) }.toLongArray())
        "string" -> mapOf("utf8" to unsigned((Json.parse(text("text")) as String).toByteArray()))
        "document" -> mapOf<String, Any?>().also { Json.parse(text("text")) }
        "philox" -> array("counter").let { counter ->
            val words = counter.longs()
            val m = counter.shape[1]
            val (low, high) = (value("key") as List<*>).map { it as Long }
            for (block in 0 until m) {
                val four = LongArray(4) { words[it * m + block] }
                Normals.philox(four, low, high)
                for (k in 0 until 4) words[k * m + block] = four[k]
            }
            mapOf("words" to words)
        }
        "normals" -> normals(array("words"))
        "noise" -> wholes("shape").let { (c, f, h, w) ->
            mapOf("latents" to Normals.noise(seed("seed"), c, f, h, w, value("first_frame") as Long).values)
        }
        "combine" -> array("arrays").let { arrays ->
            val m = arrays.shape[1]
            val rows = List(arrays.shape[0]) { arrays.floats().copyOfRange(it * m, (it + 1) * m) }
            mapOf("sum" to combine(doubles("weights"), rows))
        }
        "modality" -> plan().let { plan ->
            mapOf("weights" to (0 until plan.steps).flatMap { plan.modality(it, whole("frames")).asList() }.toFloatArray())
        }
        "text_scale" -> mapOf("text" to Inputs.scaled(array("rows").tensor(), (value("scale") as Number).toDouble()).values)
        "step" -> steps(this)
        "loop" -> loop(this)
        "windows" -> WindowRule(whole("length"), whole("overlap"), upstreamCompat = flag("upstream_compat")).let { rule ->
            val found = windows(whole("total"), rule, whole("step"))
            mapOf(
                "starts" to counts(*found.map(Window::start).toIntArray()), "lengths" to counts(*found.map(Window::length).toIntArray()),
                "shares" to found.flatMap { it.shares.copyOf(whole("length")).asList() }.toDoubleArray(),
            )
        }
        "blend" -> array("velocities").let { given ->
            val (count, c, length, h, w) = given.shape
            val size = c * length * h * w
            val spans = windows(whole("total"), WindowRule(whole("length"), whole("overlap")))
            val parts = List(count) { spans[it] to Latents(c, length, h, w, given.floats().copyOfRange(it * size, (it + 1) * size)) }
            mapOf("velocity" to Latents.of(c, h, w, (0 until whole("total")).map { blendFrame(parts, it) }).values)
        }
        "clip" -> Clip(64, 64, whole("frames"), whole("fps"), whole("sample_rate")).let { clip ->
            Playing.length(whole("samples"), clip, 4).let { (frames, latent) -> mapOf("frames" to frames, "latent_frames" to latent) }
        }
        "wav" -> Wav.parse(file("wav").readBytes()).let { mapOf("sample_rate" to it.rate, "wave" to Speech.mono(it)) }
        "resample" -> mapOf("wave" to Speech.resampled(floats("wave"), whole("from"), whole("to")))
        "level" -> mapOf("wave" to Speech.level(floats("wave")))
        "loudness" -> mapOf("lufs" to Loudness.of(floats("wave"), whole("sample_rate")))
        "normalise" -> mapOf("wave" to Speech.normalised(floats("wave"), whole("sample_rate")))
        "speech" -> mapOf("speech" to Speech.of(Wav.parse(file("wav").readBytes()), whole("sample_rate"), whole("fps")))
        "readings" -> Hear.readings(whole("frames"), whole("reach"), Hearing.of(value("hearing"))).let { found ->
            mapOf("readings" to counts(*found.flatMap { listOf(it.start, it.end, it.first, it.last) }.toIntArray()))
        }
        "normalised" -> mapOf("sound" to Hear.normalised(floats("sound"), whole("own")))
        "moments" -> mapOf("moments" to Hear.moments(floats("sound"), whole("length"), whole("stride")).values)
        "present" -> mapOf("present" to Hear.present(whole("frames"), whole("reach"), whole("rows_per_frame")))
        "hear" -> heard(this)
        "neighbours" -> mapOf("rows" to Hear.neighbourhoods(array("features").tensor(), whole("neighbours")).values)
        "audio" -> Hearing.of(value("hearing")).let { hearing ->
            val first = hearing.rowsPerFrame * 4 * whole("start")
            val length = 4 * (whole("length") - 1) + 1
            val (rows, present) = Hear.voice(array("features").tensor(), hearing, first, length, flag("audio"), whole("audio_shift"))
            mapOf("audio" to rows.values) + if (hearing.beyondFrames > 0) mapOf("audio_present" to present.values) else mapOf()
        }
        "ids" -> Inputs.byteIds(text("prompt"), whole("text_length"), whole("pad_id")).let { (ids, length) ->
            mapOf("ids" to ids.values, "length" to length)
        }
        "text" -> Inputs.text(array("rows").tensor(), whole("text_length"), whole("text_rows")).let { (text, bias) ->
            mapOf("text" to text.values, "text_bias" to bias.values)
        }
        "known" -> mapOf("y" to Inputs.known(Latents.of(array("latents").tensor()), whole("mask_channels"), whole("frames")).values)
        "orient" -> mapOf("pixels" to unsigned(Pictures.oriented(array("pixels").pixels(), whole("orientation")).bytes))
        "matte" -> mapOf("pixels" to unsigned(Pictures.matte(array("pixels").pixels()).bytes))
        "part" -> listOf("image_height", "image_width", "height", "width").map(::whole).let { (imageHeight, imageWidth, height, width) ->
            val part = Pictures.part(imageHeight, imageWidth, height, width, square("crop"), square("face"))
            mapOf("part" to doubleArrayOf(part.top, part.left, part.height, part.width))
        }
        "resize" -> doubles("box").map(Double::toFloat).let { (left, top, right, bottom) ->
            val made = Pictures.resized(array("pixels").pixels(), left, top, right, bottom, whole("height"), whole("width"))
            mapOf("pixels" to unsigned(made.bytes))
        }
        "signed" -> mapOf("portrait" to Pictures.signed(array("pixels").pixels()).values)
        "portrait" -> mapOf("portrait" to Pictures.portrait(array("pixels").pixels(), whole("height"), whole("width")).values)
        "pixels" -> array("video").let { video ->
            val (t, _, h, w) = video.shape
            mapOf("pixels" to Film.frames(video.floats(), t, h, w).flatMap { unsigned(it.bytes).asList() }.toLongArray())
        }
        "yuv" -> Film.yuv(array("pixels").pixels()).let { mapOf("y" to unsigned(it.y), "u" to unsigned(it.u), "v" to unsigned(it.v)) }
        "times" -> (0 until whole("frames")).let { frames ->
            val fps = whole("fps")
            mapOf(
                "time_scale" to Film.timeScale(fps), "ticks" to frames.map { Film.ticks(it, fps) }.toLongArray(),
                "microseconds" to frames.map { Film.microseconds(it, fps) }.toLongArray(),
            )
        }
        "sound" -> (0 until whole("frames")).map { Film.samples(it, whole("fps"), whole("sample_rate")) }.let { ranges ->
            val sound = Film.voice(floats("speech"), whole("frames"), whole("fps"), whole("sample_rate"))
            mapOf("ranges" to counts(*ranges.flatMap { listOf(it.first, it.last + 1) }.toIntArray()), "sound" to sound)
        }
        "manifest" -> Manifest.parse(file("manifest").readBytes()).let { manifest ->
            val clip = manifest.clip(text("clip"))
            val programs = manifest.roles.mapNotNull { role ->
                val program = try {
                    manifest.program(role, clip)
                } catch (_: BundleException) {
                    return@mapNotNull null
                }
                role to mapOf("name" to program.name, "path" to program.path, "prefix" to program.prefix, "data" to program.data)
            }
            mapOf("clips" to manifest.clips.map(Clip::toString), "programs" to programs.toMap(), "checksum" to manifest.hasChecksum)
        }
        "plan" -> plan().let { plan ->
            mapOf(
                "steps" to plan.steps, "branches" to plan.branches.map(Branch::name), "evaluations" to plan.evaluations,
                "evaluated" to (0 until plan.steps).map(plan::evaluated), "seed" to plan.seed.toULong(),
            )
        }
        "tensors" -> mapOf("tensors" to Tensors.read(file("safetensors")).mapValues { it.value.floats() })
        "files" -> mapOf<String, Any?>().also { Bundle.open(folder("folder")) }
        "spread" -> Spread.of(doubles("seconds").asList()).let { mapOf("median" to it.median, "p10" to it.p10, "p90" to it.p90) }
        "record" -> mapOf<String, Any?>().also { BenchRecord.check(file("record").readBytes()) }
        else -> error("Nobody here knows what $kind is: $name.")
    }
}

private fun Case.square(key: String): Square? =
    if (has(key)) (value(key) as List<*>).map { (it as Number).toDouble() }.let { (top, left, size) -> Square(top, left, size) } else null

private fun normals(words: Vector): Map<String, Any> {
    val m = words.shape[1]
    val given = words.longs()
    val uniforms = DoubleArray(4 * m) { Normals.uniform(given[it]) }
    val turns = (0 until 2 * m).map { Normals.cosSinTurns(uniforms[(it / m * 2 + 1) * m + it % m]) }
    val doubles = DoubleArray(4 * m)
    for (block in 0 until m) {
        Normals.normals(LongArray(4) { given[it * m + block] }).forEachIndexed { k, value -> doubles[k * m + block] = value }
    }
    return mapOf(
        "uniforms" to uniforms, "logarithms" to DoubleArray(2 * m) { Normals.ln(uniforms[it / m * 2 * m + it % m]) },
        "cosines" to DoubleArray(2 * m) { turns[it].first }, "sines" to DoubleArray(2 * m) { turns[it].second }, "doubles" to doubles,
        "floats" to FloatArray(4 * m) { doubles[it].toFloat() },
    )
}

private fun steps(case: Case): Map<String, Any> {
    val plan = case.plan()
    val noise = case.floats("noise")
    val velocities = case.floats("velocities")
    val (m, b) = noise.size to plan.branches.size
    val history = mutableListOf(noise)
    val latents = ArrayList<Float>()
    for (step in 0 until plan.steps) {
        val given = (0 until b).map { branch -> velocities.copyOfRange((step * b + branch) * m, (step * b + branch + 1) * m) }
        history.add(guide(plan, step, given.mapIndexed { branch, each -> each.takeIf { branch in plan.evaluated(step) } }))
        latents.addAll(advance(plan, step, history).asList())
    }
    return mapOf("guided" to history.drop(1).flatMap(FloatArray::asList).toFloatArray(), "latents" to latents.toFloatArray())
}

/** The programs of a loop's case: formulas in single precision. */
private object Formulas : Denoiser {
    override fun begin(position: Int, span: Window, count: Int) = Unit

    override fun evaluate(step: Int, branch: Int, position: Int, latents: Latents): Pair<Latents, Tensor?> {
        val a = (0.5 / (branch + 1)).toFloat()
        val b = (0.125 * (step + 1) - 0.0625 * position).toFloat()
        val residual = latents.tensor().floats().let { x -> FloatArray(x.size) { x[it] * 0.25f } }
        return latents.mapped { it * a + b } to Floats.of(residual, residual.size)
    }

    override fun reuse(step: Int, branch: Int, position: Int, latents: Latents, residual: Tensor): Latents {
        val kept = residual.floats()
        return latents.run { Latents(channels, frames, height, width, FloatArray(values.size) { kept[it] + values[it] * 0.5f }) }
    }

    override fun end(position: Int, latents: Latents, finished: Int) = Unit

    private fun Latents.mapped(formula: (Float) -> Float) =
        Latents(channels, frames, height, width, FloatArray(values.size) { formula(values[it]) })
}

private fun loop(case: Case): Map<String, Any> {
    val (c, f, h, w) = case.wholes("shape")
    val noise = Normals.noise(case.seed("seed"), c, f, h, w)
    val made = sample(case.plan(), WindowRule(case.whole("length"), case.whole("overlap")), noise, Formulas)
    return mapOf("latents" to made.latents.values, "evaluations" to made.evaluations, "reused" to made.reused)
}

private fun heard(case: Case): Map<String, Any> {
    val hearing = Hearing.of(case.value("hearing"))
    val perFrame = case.whole("sample_rate") / case.whole("fps")
    val found = Hear.readings(case.floats("speech"), case.whole("frames"), perFrame, case.whole("samples"), hearing).toList()
    val kept = found.withIndex().flatMap { (call, heard) ->
        val rows = heard.reading.run { (first - start) * hearing.rowsPerFrame until (last - start) * hearing.rowsPerFrame }
        rows.flatMap { listOf(call.toFloat(), it.toFloat()) }
    }
    val plain = mapOf("waveforms" to found.flatMap { it.waveform.asList() }.toFloatArray(), "kept" to kept.toFloatArray())
    if (hearing.window == null) return plain
    return plain + mapOf("moments" to found.first().moments!!.values, "present" to found.flatMap { it.present!!.asList() }.toFloatArray())
}
