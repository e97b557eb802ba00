package echoedge.engine

import java.io.ByteArrayOutputStream
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** A bundle whose programs are formulas: 16×16×9, two latent channels, 40 samples to a frame, windows of 3 latent frames. */
object Toy {
    const val PROMPT = "a toy speaks"
    private const val SIZE = 16

    private fun spec(name: String, vararg shape: Int) = mapOf("name" to name, "dtype" to "float32", "shape" to shape.asList())

    private fun method(inputs: List<Any>, outputs: List<Any>) = mapOf("inputs" to inputs, "outputs" to outputs)

    private val state = spec("state_0", 1, 2)

    private fun stream(given: String, made: String, first: IntArray, next: IntArray, firstOut: IntArray, nextOut: IntArray) = mapOf(
        "first" to method(listOf(spec(given, *first)), listOf(spec(made, *firstOut), state)),
        "next" to method(listOf(spec(given, *next), state), listOf(spec(made, *nextOut), state)),
    )

    private val latents = intArrayOf(1, 2, 1, 2, 2)
    private val one = intArrayOf(1, 1, 3, SIZE, SIZE)
    private val four = intArrayOf(1, 4, 3, SIZE, SIZE)
    private val methods: Map<String, Map<String, Any>> = mapOf(
        "audio_encoder" to mapOf("forward" to method(listOf(spec("waveform", 1, 520)), listOf(spec("features", 1, 13, 2)))),
        "image_encoder" to mapOf("forward" to method(listOf(spec("portrait", 1, 3, SIZE, SIZE)), listOf(spec("tokens", 1, 2, 3)))),
        "vae_encode" to stream("video", "latents", one, four, latents, latents),
        "text_conditions" to mapOf("forward" to method(listOf(spec("text", 1, 4, 3)), listOf(spec("text_k", 1), spec("text_v", 1)))),
        "image_conditions" to mapOf("forward" to method(listOf(spec("image", 1, 2, 3)), listOf(spec("image_k", 1), spec("image_v", 1)))),
        "audio_conditions" to mapOf("forward" to method(listOf(spec("audio", 1, 9, 2)), listOf(spec("audio_k", 1), spec("audio_v", 1)))),
        "patch_conditions" to mapOf("forward" to method(listOf(spec("y", 1, 6, 3, 2, 2)), listOf(spec("patch_bias", 1)))),
        "denoise" to mapOf(
            "forward" to method(
                listOf(
                    spec("latents", 1, 2, 3, 2, 2), spec("time", 1, 2), spec("modulation", 1, 6, 2), spec("modality_weights", 1, 3, 3),
                    spec("patch_bias", 1), spec("text_k", 1), spec("text_v", 1), spec("text_bias", 1, 4), spec("image_k", 1),
                    spec("image_v", 1), spec("audio_k", 1), spec("audio_v", 1), spec("audio_mask", 1, 1),
                ),
                listOf(spec("velocity", 1, 2, 3, 2, 2)),
            ),
        ),
        "vae_decode" to stream("latents", "video", latents, latents, one, four),
    )

    private val plan = mapOf(
        "format" to "echoedge.plan/1", "solver_name" to "euler", "schedule" to "flow", "shift" to 1.0,
        "timesteps" to listOf(1000.0, 500.0), "sigmas" to listOf(1.0, 0.5, 0.0),
        "solver" to listOf(listOf(1.0, -0.5), listOf(1.0, -0.5, -0.5)),
        "branches" to listOf(mapOf("name" to "all", "text" to "prompt"), mapOf("name" to "mute", "text" to "prompt", "audio" to false)),
        "guidance" to listOf(listOf(1.5, -0.5), listOf(1.0, 0.0)), "modality_weights" to List(2) { List(3) { listOf(1.0) } },
        "reuse" to List(2) { listOf(false, false) },
        "window" to mapOf("length" to 3, "overlap" to 1), "noise" to mapOf("seed" to 7),
    )

    /** Writes it into a folder that is not there yet. */
    fun write(folder: File): File {
        val programs = methods.mapValues { (name, methods) ->
            val bytes = name.toByteArray()
            put(folder, "programs/$name.pte", bytes)
            val artifact = mapOf("kind" to "pte", "path" to "programs/$name.pte", "sha256" to sha256(bytes), "bytes" to bytes.size)
            mapOf("role" to name, "clip" to "16x16x9", "methods" to methods, "artifact" to artifact)
        }
        val files = mapOf(
            "plan.json" to Json.write(plan).toByteArray(),
            "step_tables.safetensors" to safetensors(
                mapOf("time" to Floats.of(floatArrayOf(1f, 2f, 3f, 4f), 2, 2), "modulation" to Floats.zeros(listOf(2, 6, 2))),
            ),
            "prompts/prompts.safetensors" to safetensors(mapOf(PROMPT to Floats.of(floatArrayOf(1f, 2f, 3f), 1, 3))),
        )
        for ((path, bytes) in files) put(folder, path, bytes)
        val manifest = mapOf(
            "format" to "echoedge.bundle/2",
            "model" to mapOf(
                "preset" to "toy", "config" to mapOf("name" to "toy", "layers" to 1), "config_digest" to "0".repeat(64),
                "source_sha256" to "0".repeat(64),
            ),
            "clips" to listOf(mapOf("height" to SIZE, "width" to SIZE, "frames" to 9, "fps" to 25, "sample_rate" to 1000)),
            "target" to mapOf("name" to "executorch", "backend" to "xnnpack", "precision" to "fp32"), "weights" to mapOf("name" to "fp32"),
            "versions" to mapOf("echoedge" to "1"), "programs" to programs,
            "files" to files.mapValues { (_, bytes) -> mapOf("sha256" to sha256(bytes), "bytes" to bytes.size) },
            "playing" to mapOf(
                "latent_channels" to 2, "temporal_stride" to 4, "spatial_stride" to 8, "patch" to 2, "mask_channels" to 4,
                "encode_unknown" to true, "text_length" to 8, "text_rows" to 4, "text_dim" to 3,
                "decoders" to mapOf("full" to "vae_decode"),
                "hearing" to mapOf("context_frames" to 2),
            ),
            "memory" to mapOf(
                "conditions_bytes_per_branch" to 1000, "latents_bytes" to 96, "step_bytes" to 500, "vae_decode_state_bytes" to 8,
            ),
        )
        put(folder, Manifest.NAME, Json.write(manifest).toByteArray())
        return folder
    }

    private fun put(folder: File, path: String, bytes: ByteArray) = File(folder, path).run {
        parentFile.mkdirs()
        writeBytes(bytes)
    }

    /** The bytes of a safetensors file. */
    fun safetensors(arrays: Map<String, Floats>): ByteArray {
        var at = 0
        val header = arrays.mapValues { (_, tensor) ->
            val begin = at.also { at += 4 * tensor.values.size }
            mapOf("dtype" to "F32", "shape" to tensor.shape, "data_offsets" to listOf(begin, at))
        }
        val text = Json.write(header).toByteArray()
        val body = ByteBuffer.allocate(at).order(ByteOrder.LITTLE_ENDIAN)
        for (tensor in arrays.values) for (value in tensor.values) body.putFloat(value)
        val length = ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(text.size.toLong())
        return ByteArrayOutputStream().run {
            write(length.array())
            write(text)
            write(body.array())
            toByteArray()
        }
    }

    fun portrait(): Floats = Floats.of(FloatArray(3 * SIZE * SIZE) { it % 7 / 7f - 0.5f }, 3, SIZE, SIZE)

    fun speech(frames: Int): FloatArray = FloatArray(40 * frames) { (it % 11 - 5) / 20f }
}

/** Runs the toy's programs: every output is a function of the sum of all inputs. [log] says what was loaded, run and freed. */
class ToyPrograms(private val failing: String? = null) : Programs {
    val log = ArrayList<String>()
    val loaded = LinkedHashSet<String>()
    var most = 0

    override fun load(program: Program) {
        check(loaded.add(program.name)) { "${program.name} is loaded twice" }
        most = maxOf(most, loaded.size)
        log.add("load ${program.name}")
    }

    override fun run(program: Program, method: String, inputs: Map<String, Tensor>): Map<String, Tensor> {
        check(program.name in loaded) { "${program.name} runs without having been loaded" }
        check(inputs.keys == program.methods.getValue(method).inputs.map { it.name }.toSet())
        log.add("run ${program.name}.$method")
        if (program.name == failing) throw EngineException("${program.name} failed.")
        val sum = inputs.values.sumOf { tensor -> tensor.floats().sumOf { it.toDouble() } }
        return program.methods.getValue(method).outputs.associate { spec ->
            val shape = spec.shape.map { it.size!! }
            spec.name to Floats(shape, FloatArray(shape.fold(1, Int::times)) { Math.sin(sum + it).toFloat() * 0.9f })
        }
    }

    override fun free(program: Program) {
        check(loaded.remove(program.name)) { "${program.name} is freed twice" }
        log.add("free ${program.name}")
    }
}
