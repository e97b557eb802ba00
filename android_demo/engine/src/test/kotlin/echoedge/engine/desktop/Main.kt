package echoedge.engine.desktop

import echoedge.engine.Bundle
import echoedge.engine.EchoEdgeException
import echoedge.engine.Golden
import echoedge.engine.Json
import echoedge.engine.Normals
import echoedge.engine.Pictures
import echoedge.engine.Pixels
import echoedge.engine.Played
import echoedge.engine.Player
import echoedge.engine.Program
import echoedge.engine.Programs
import echoedge.engine.Speech
import echoedge.engine.Stage
import echoedge.engine.Tensor
import echoedge.engine.Wav
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import javax.imageio.ImageIO
import kotlin.system.exitProcess

/**
 * The engine on a desktop, its programs in a child process.
 *
 *     play BUNDLE --image PNG --audio WAV --prompt TEXT --out FOLDER [--seed N] [--clip SHAPE] [--decoder NAME] [--eager] -- COMMAND…
 *     verify BUNDLE -- COMMAND…
 *
 * `COMMAND…` starts the process, `echoedge serve-programs BUNDLE`. `play` writes latents.f32 [C, F, h, w] and frames.u8 [T, H, W, 3], raw
 * and little-endian, and played.json; `verify` prints a line of JSON for each program and for the clip. Status 1: a sentence says why.
 */
fun main(arguments: Array<String>) {
    val split = arguments.indexOf("--")
    if (split < 2) {
        System.err.println("Usage: play | verify BUNDLE [options] -- COMMAND…")
        exitProcess(2)
    }
    val options = Options(arguments.take(split))
    try {
        ServedPrograms(arguments.drop(split + 1)).use { served ->
            if (options.verb == "verify") verify(options, served) else play(options, served)
        }
    } catch (error: EchoEdgeException) {
        System.err.println(error.message)
        exitProcess(1)
    }
}

private class Options(arguments: List<String>) {
    val verb = arguments[0]
    val bundle = File(arguments[1])
    private val named = arguments.drop(2).filter { it != EAGER }.chunked(2).associate { it[0] to it.getOrElse(1) { "" } }
    val eager = EAGER in arguments

    operator fun get(name: String): String? = named["--$name"]

    fun need(name: String): String = get(name) ?: throw echoedge.engine.ConfigException("--$name is missing.")

    private companion object {
        const val EAGER = "--eager"
    }
}

/** Remembers when the denoiser was first called, in milliseconds since 1970. */
private class Watched(private val programs: Programs) : Programs by programs {
    var firstDenoise: Long? = null
    var calls = 0

    override fun run(program: Program, method: String, inputs: Map<String, Tensor>): Map<String, Tensor> {
        if (program.role == "denoise" && firstDenoise == null) firstDenoise = System.currentTimeMillis()
        calls++
        return programs.run(program, method, inputs)
    }
}

private fun play(options: Options, served: ServedPrograms) {
    val bundle = Bundle.open(options.bundle)
    val programs = Watched(served)
    val player = Player(bundle, programs, bundle.manifest.clip(options["clip"]), options["decoder"], frugal = !options.eager)
    val clip = player.clip
    val portrait = Pictures.portrait(decoded(File(options.need("image"))), clip.height, clip.width)
    val speech = Speech.of(Wav.parse(File(options.need("audio")).readBytes()), clip.sampleRate, clip.fps)
    served.greeting // opening the bundle over there takes longer than all of this
    val ready = System.currentTimeMillis()
    val out = File(options.need("out")).also(File::mkdirs)
    val played = File(out, "frames.u8").outputStream().buffered().use { film ->
        val seed = options["seed"]?.let(Normals::seed)
        player.play(portrait, speech, options["prompt"].orEmpty(), seed) { _, frame -> film.write(frame.bytes) }
    }
    File(out, "latents.f32").writeBytes(little(played))
    File(out, "played.json").writeText(Json.write(told(played, programs, ready)))
}

private fun told(played: Played, programs: Watched, ready: Long): Map<String, Any?> = mapOf(
    "latents" to played.latents.run { listOf(channels, frames, height, width) }, "frames" to played.frames,
    "evaluations" to played.evaluations, "calls" to programs.calls, "first_frame" to played.firstFrame,
    "first_denoise_at" to programs.firstDenoise, "ready_at" to ready,
    "seconds" to played.seconds.mapKeys { (stage: Stage, _) -> stage.title },
)

private fun little(played: Played): ByteArray = ByteBuffer.allocate(4 * played.latents.values.size).order(ByteOrder.LITTLE_ENDIAN)
    .also { it.asFloatBuffer().put(played.latents.values) }.array()

private fun decoded(file: File): Pixels {
    val image = ImageIO.read(file) ?: throw echoedge.engine.InputException("$file is no picture that this Java reads. Save it as PNG.")
    val bytes = ByteArray(image.height * image.width * 3)
    for (at in 0 until image.height * image.width) {
        val rgb = image.getRGB(at % image.width, at / image.width)
        for (channel in 0..2) bytes[3 * at + channel] = (rgb shr (16 - 8 * channel)).toByte()
    }
    return Pixels(image.height, image.width, 3, bytes)
}

private fun verify(options: Options, programs: ServedPrograms) {
    val bundle = Bundle.open(options.bundle)
    val verdicts = Golden(bundle).verify(programs, Player(bundle, programs))
    val lines = verdicts.map {
        val (psnr, cosine, largest) = it.measured
        mapOf("name" to it.name, "psnr_db" to psnr, "cosine" to cosine, "max_abs" to largest, "passed" to it.passed)
    }
    print(Json.write(lines))
}
