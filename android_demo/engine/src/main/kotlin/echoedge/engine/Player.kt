package echoedge.engine

/** The stages of a clip, in the order in which they begin. */
enum class Stage {
    LISTEN, LOOK, PREPARE, DENOISE, DECODE;

    /** As records and messages call it. */
    val title: String get() = name.lowercase()
}

/** Hears how far a stage is: [done] of [total] readings, windows, velocities or latent frames. */
fun interface Progress {
    fun step(stage: Stage, done: Int, total: Int)
}

/** Takes the frames of a clip, numbered from 0, as soon as each exists. */
fun interface Frames {
    fun take(number: Int, frame: Pixels)
}

/**
 * A clip that was played. [latents]: of the whole clip; [frames]: how many left; [seconds]: wall time by stage; [firstFrame]: seconds
 * from the beginning until the first one left; [evaluations]: how many times the blocks ran.
 */
class Played(val latents: Latents, val frames: Int, val seconds: Map<Stage, Double>, val firstFrame: Double, val evaluations: Int)

/**
 * Plays clips of any length: evaluates programs and takes linear combinations, as the plan says.
 *
 * @param clip the shape that is played.
 * @param decoder full or tiny, as `playing.decoders` names them; null: the first.
 * @param frugal programs are freed as soon as the clip needs them no more, and frames leave when all are denoised. Otherwise programs
 * stay loaded, and a long clip's first frames leave while later windows are still denoised. The numbers are the same.
 * @param cancelled is asked before every call of a program.
 */
class Player(
    private val bundle: Bundle,
    private val programs: Programs,
    val clip: Clip = bundle.manifest.clips[0],
    decoder: String? = null,
    private val frugal: Boolean = true,
    private val progress: Progress = Progress { _, _, _ -> },
    private val cancelled: () -> Boolean = { false },
) {
    private val playing = bundle.manifest.playing
    private val plan = bundle.plan(clip)
    private val tables = bundle.tensors("step_tables.safetensors")
    private val prompts by lazy(bundle::prompts)
    private val decoding: String = (if (decoder == null) playing.decoders.values.firstOrNull() else playing.decoders[decoder])
        ?: throw ConfigException("The decoder is '$decoder'; the bundle has: ${playing.decoders.keys.joinToString()}.")
    private val loaded = LinkedHashMap<String, Program>()
    private val window = playing.latentFrames(clip.frames) // latent frames

    /** Texts that are known without a text encoder, but for those that the plan needs for itself. */
    val knownPrompts: List<String>
        get() = prompts.keys.toList() - plan.branches.filter { it.text != PROMPT }.map { plan.texts[it.text] ?: it.text }.toSet()

    /** Whether any prompt can be played. */
    val readsText: Boolean get() = "text_encoder" in bundle.manifest.roles

    /**
     * Plays a clip as long as the speech, up to whole frames.
     *
     * @param portrait [3, H, W] from -1 to 1, of the clip's size.
     * @param speech samples at the clip's rate, as [Speech.of] gives them.
     * @param seed unsigned; null: the plan's.
     * @param audioMask [S]: 1 where a frame's tokens hear the speech; null: everywhere.
     * @throws InputException the speech is shorter than a frame, the portrait of another size, or the prompt cannot be used.
     * @throws EngineException a program fails.
     * @throws CancelledException as its name says; all programs are freed then, as after every error.
     */
    fun play(
        portrait: Floats, speech: FloatArray, prompt: String = "", seed: Long? = null, audioMask: FloatArray? = null, frames: Frames,
    ): Played {
        val (count, total) = playing.length(speech.size, clip)
        if (portrait.shape != listOf(3, clip.height, clip.width)) {
            throw InputException("The portrait is ${portrait.shape}; this clip needs [3, ${clip.height}, ${clip.width}].")
        }
        val rule = plan.window ?: WindowRule(window, 0)
        val clock = Clock()
        var ended = false
        try {
            val heard = clock.within(Stage.LISTEN) { listen(speech, playing.videoFrames(total)) }
            if (frugal) free()
            val given = clock.within(Stage.LOOK) {
                val y = look(portrait, if (rule.anchorClip) total else minOf(rule.length, total))
                val image = call("image_encoder", "forward", mapOf("portrait" to batched(portrait))).floats("tokens")
                val tokens = clip.height / playing.spatialStride / playing.patch * (clip.width / playing.spatialStride / playing.patch)
                val mask = Floats.of(audioMask ?: FloatArray(tokens) { 1f }, 1, tokens)
                ClipInputs(playing, rule, y, image, read(prompt), Hear.neighbourhoods(heard, playing.hearing.neighbours), mask)
            }
            if (frugal) free()
            val denoising = Denoising(given, clock, Decoding(count, clock, frames))
            val noise = given.y.run { Normals.noise(seed ?: plan.seed, playing.latentChannels, total, height, width) }
            val sampled = clock.within(Stage.DENOISE) {
                sample(plan, rule, noise, denoising) { done, all -> progress.step(Stage.DENOISE, done, all) }
            }
            if (frugal) free()
            denoising.frames.until(sampled.latents, total)
            ended = true
            return Played(sampled.latents, denoising.frames.out, clock.seconds, denoising.frames.firstAt, sampled.evaluations)
        } finally {
            if (frugal || !ended) free()
        }
    }

    /** Gives back every program that is loaded, but for that of a role to [keep]. */
    fun free(keep: String? = null) {
        val freed = loaded.values.filter { it.role != keep }
        freed.forEach { loaded.remove(it.name) }
        freed.forEach(programs::free)
    }

    // ---- 1. listen ----

    private fun listen(speech: FloatArray, frames: Int): Floats {
        val spec = bundle.manifest.program("audio_encoder", clip).methods.getValue("forward").inputs.first { it.name == "waveform" }
        val samples = spec.shape[1].size ?: throw BundleException("The audio encoder reads any length. Export the bundle again.")
        val rowsPerFrame = playing.hearing.rowsPerFrame
        val kept = ArrayList<FloatArray>()
        var shape = listOf<Int>()
        val calls = Hear.readings(frames, samples / clip.samplesPerFrame, playing.hearing).size
        for (heard in Hear.readings(speech, frames, clip.samplesPerFrame, samples, playing.hearing)) {
            val inputs = mutableMapOf<String, Tensor>("waveform" to Floats.of(heard.waveform, 1, samples))
            heard.moments?.let { inputs["moments"] = it }
            heard.present?.let { inputs["present"] = Floats.of(it, 1, it.size) }
            val features = call("audio_encoder", "forward", inputs).floats("features")
            val size = features.values.size / features.shape[1]
            val (first, last) = heard.reading.run { (first - start) * rowsPerFrame to (last - start) * rowsPerFrame }
            kept.add(features.values.copyOfRange(first * size, last * size))
            shape = features.shape.drop(2)
            progress.step(Stage.LISTEN, kept.size, calls)
        }
        val all = FloatArray(kept.sumOf { it.size })
        var at = 0
        for (rows in kept) at += rows.size.also { rows.copyInto(all, at) }
        return Floats(listOf(frames * rowsPerFrame) + shape, all)
    }

    // ---- 2. look ----

    private fun look(portrait: Floats, latentFrames: Int): Latents {
        val grey = Floats.zeros(listOf(1, playing.temporalStride) + portrait.shape)
        val chunks = if (playing.encodeUnknown) latentFrames else 1
        val encoded = ArrayList<FloatArray>()
        var state = mapOf<String, Tensor>()
        var made = Latents(1, 1, 1, 1)
        for (chunk in 0 until chunks) {
            val video = if (chunk == 0) Floats(listOf(1, 1) + portrait.shape, portrait.values) else grey
            state = call("vae_encode", if (chunk == 0) "first" else "next", mapOf<String, Tensor>("video" to video) + state)
            made = Latents.of(state.getValue("latents"))
            encoded.add(made.frame(0))
            progress.step(Stage.LOOK, chunk + 1, chunks)
        }
        return Inputs.known(Latents.of(made.channels, made.height, made.width, encoded), playing.maskChannels, latentFrames)
    }

    private fun batched(tensor: Floats): Floats = Floats(listOf(1) + tensor.shape, tensor.values)

    private fun read(prompt: String): Map<String, Pair<Floats, Floats>> {
        val said = mapOf(PROMPT to prompt) + plan.texts
        return plan.branches.map(Branch::text).distinct().associateWith { name ->
            Inputs.text(rows(said[name] ?: name), playing.textLength, playing.textRows)
        }
    }

    private fun rows(prompt: String): Floats {
        prompts[prompt]?.let { return it }
        if (!readsText) {
            val known = prompts.keys.sorted().joinToString { "'$it'" }.ifEmpty { "none" }
            throw InputException("There is no text encoder here; the known prompts are $known, not '${short(prompt)}'.")
        }
        val (ids, length) = Inputs.byteIds(prompt, playing.textLength, playing.padId)
        val embeddings = call("text_encoder", "forward", mapOf("ids" to ids)).floats("embeddings")
        val dim = embeddings.shape[2]
        return Floats.of(embeddings.values.copyOf(length * dim), length, dim)
    }

    // ---- 3. and 4. prepare, denoise ----

    private inner class Denoising(given: ClipInputs, private val clock: Clock, val frames: Decoding) : Denoiser {
        private val conditioner = Conditioner(plan, given) { role, inputs -> call(role, "forward", inputs) }
        private val windows = HashMap<Int, List<Map<String, Tensor>>>()
        private var begun = 0

        override fun begin(position: Int, span: Window, count: Int) {
            windows[position] = clock.within(Stage.PREPARE) { conditioner.window(span) }
            progress.step(Stage.PREPARE, ++begun, count)
            if (frugal && begun == count) free(keep = "denoise") // conditions are made
        }

        override fun evaluate(step: Int, branch: Int, position: Int, latents: Latents): Pair<Latents, Tensor?> {
            val strengths = Floats.of(plan.modality(step, latents.frames), 1, 3, latents.frames)
            val given = windows.getValue(position)[branch]
            val made = call("denoise", "forward", given + row(step) + mapOf("latents" to latents.tensor(), "modality_weights" to strengths))
            return Latents.of(made.floats("velocity")) to made["residual"]
        }

        override fun reuse(step: Int, branch: Int, position: Int, latents: Latents, residual: Tensor): Latents {
            val given = windows.getValue(position)[branch]
            val made = call("denoise_reusing", "forward", given + row(step) + mapOf("latents" to latents.tensor(), "residual" to residual))
            return Latents.of(made.floats("velocity"))
        }

        override fun end(position: Int, latents: Latents, finished: Int) {
            windows.remove(position)
            if (!frugal) frames.until(latents, finished)
        }

        private fun row(step: Int): Map<String, Tensor> = tables.mapValues { (_, table) ->
            val size = table.floats().size / table.shape[0]
            Floats(listOf(1) + table.shape.drop(1), table.floats().copyOfRange(step * size, (step + 1) * size))
        }
    }

    // ---- 5. decode ----

    private inner class Decoding(private val count: Int, private val clock: Clock, private val sink: Frames) {
        private var state = mapOf<String, Tensor>()
        private var decoded = 0
        var out = 0
        var firstAt = 0.0

        /** Decodes the leading latent frames up to [finished], as far as the clip's frames go. */
        fun until(latents: Latents, finished: Int) {
            while (decoded < finished && out < count) {
                val frames = clock.within(Stage.DECODE) {
                    val chunk = latents.run { Floats.of(frame(decoded), 1, channels, 1, height, width) }
                    state = call(decoding, if (decoded == 0) "first" else "next", mapOf<String, Tensor>("latents" to chunk) + state)
                    val video = state.floats("video")
                    state = state - "video"
                    Film.frames(video.values, video.shape[1], video.shape[3], video.shape[4])
                }
                decoded++
                progress.step(Stage.DECODE, decoded, minOf(latents.frames, playing.latentFrames(count)))
                for (frame in frames.take(count - out)) {
                    if (out == 0) firstAt = clock.elapsed()
                    sink.take(out++, frame)
                }
            }
        }
    }

    private fun call(role: String, method: String, given: Map<String, Tensor>): Map<String, Tensor> {
        if (cancelled()) throw CancelledException()
        val program = bundle.manifest.program(role, clip)
        val inputs = program.take(method, given)
        if (program.name !in loaded) {
            programs.load(program)
            loaded[program.name] = program
        }
        return programs.run(program, method, inputs)
    }

    private fun Map<String, Tensor>.floats(name: String): Floats {
        val tensor = this[name] ?: throw EngineException("A program gave ${keys.joinToString()}, not $name. Export the bundle again.")
        return tensor as? Floats ?: Floats(tensor.shape, tensor.floats())
    }

    companion object {
        private const val PROMPT = "prompt" // the text condition that is the user's
    }
}

/** Wall time by stage; a stage within another one stops that one's time. */
internal class Clock {
    private val began = System.nanoTime()
    private val spent = DoubleArray(Stage.values().size)
    private var current: Stage? = null
    private var since = began

    val seconds: Map<Stage, Double> get() = Stage.values().associateWith { spent[it.ordinal] }

    fun elapsed(): Double = (System.nanoTime() - began) / 1e9

    fun <T> within(stage: Stage, body: () -> T): T {
        val before = current
        turn(stage)
        try {
            return body()
        } finally {
            turn(before)
        }
    }

    private fun turn(stage: Stage?) {
        val now = System.nanoTime()
        current?.let { spent[it.ordinal] += (now - since) / 1e9 }
        current = stage
        since = now
    }
}
