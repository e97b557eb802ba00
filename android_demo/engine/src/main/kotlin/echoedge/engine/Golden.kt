package echoedge.engine

import java.io.File
import kotlin.math.abs
import kotlin.math.log10
import kotlin.math.sqrt

/** Agreement with full precision: [psnr] in dB, at most 150, [cosine] and the largest difference; of what is not finite 0, 0, null. */
data class Agreement(val psnr: Double, val cosine: Double, val largest: Double?) {
    companion object {
        private const val CAP = 150.0

        /** Of the same numbers of two tensors, every [every]-th of [measured]. [peak]: the reference's range by default. */
        fun of(reference: Tensor, measured: Tensor, every: Int = 1, peak: Double? = null): Agreement {
            val size = sizeOf(reference.shape)
            val stated = if (every == 1) sizeOf(measured.shape) else (sizeOf(measured.shape) + every - 1) / every
            if (size != stated || size == 0) throw EngineException("A program gave ${measured.shape}; its record has ${reference.shape}.")
            var squares = 0.0
            var dot = 0.0
            var mine = 0.0
            var theirs = 0.0
            var largest = 0.0
            var low = Double.POSITIVE_INFINITY
            var high = Double.NEGATIVE_INFINITY
            for (i in 0 until size) {
                val a = reference.number(i)
                val b = measured.number(i * every)
                if (!a.isFinite() || !b.isFinite()) return Agreement(0.0, 0.0, null)
                squares += (a - b) * (a - b)
                dot += a * b
                mine += a * a
                theirs += b * b
                largest = maxOf(largest, abs(a - b))
                low = minOf(low, a)
                high = maxOf(high, a)
            }
            val range = peak ?: (high - low).takeIf { it > 0.0 } ?: 1.0
            val psnr = if (squares == 0.0) CAP else minOf(CAP, 10 * log10(range * range / (squares / size)))
            val cosine = when {
                mine == 0.0 || theirs == 0.0 -> if (mine == theirs) 1.0 else 0.0
                else -> (dot / sqrt(mine) / sqrt(theirs)).coerceIn(-1.0, 1.0)
            }
            return Agreement(psnr, cosine, largest)
        }

        /** The lowest of each. */
        fun worst(found: List<Agreement>): Agreement = Agreement(
            found.minOf(Agreement::psnr), found.minOf(Agreement::cosine),
            if (found.any { it.largest == null }) null else found.maxOf { it.largest ?: 0.0 },
        )
    }

    /** Whether this is as good as [demanded] asks, which may ask for nothing. */
    fun meets(demanded: Demand): Boolean = (demanded.psnr == null || psnr >= demanded.psnr) &&
        (demanded.cosine == null || cosine >= demanded.cosine) &&
        (demanded.largest == null || (largest ?: Double.MAX_VALUE) <= demanded.largest)
}

/** One comparison: a program's name, "latents" or "frames"; [passed] is null where nothing is demanded. */
data class Verdict(val name: String, val measured: Agreement, val demanded: Demand?, val passed: Boolean?)

/**
 * The recorded full-precision calls that travel with a bundle, so that a phone can prove its programs.
 *
 * @throws BundleException the bundle has none, or they are damaged.
 */
class Golden(private val bundle: Bundle) {
    private val tensors = bundle.tensors("tests/golden.safetensors")
    private val index = Fields("", Json.parse(File(bundle.root, "tests/golden.json").readBytes())) { damaged(it) }
    private val calls: Map<String, Map<String, List<Fields>>> = index.named("programs").keys.associateWith { name ->
        val methods = index.record("programs").record(name)
        index.record("programs").named(name).keys.associateWith(methods::records)
    }

    private fun damaged(why: String) = BundleException("tests/golden.json of ${bundle.root} is damaged: $why. Export the bundle again.")

    private data class Place(val program: String, val method: String, val call: Int, val output: Int)

    /**
     * Runs every recorded call, program by program, then the recorded clip where there is one. [told] hears each verdict as it is found.
     *
     * A program that is given what another one makes is asked for no more than that one.
     *
     * @param player plays the clip with the same programs.
     */
    fun verify(programs: Programs, player: Player, told: (Verdict) -> Unit = {}): List<Verdict> {
        val found = ArrayList<Verdict>()
        fun say(name: String, measured: Agreement, demanded: Demand?) {
            found.add(Verdict(name, measured, demanded, demanded?.let(measured::meets)))
            told(found.last())
        }
        val readers = readers()
        val kept = HashMap<Place, Tensor>()
        for (name in calls.keys) {
            val program = bundle.manifest.programs[name] ?: throw damaged("it has calls of $name, which the bundle lacks")
            programs.load(program)
            val agreement = try {
                compare(programs, program, readers, kept)
            } finally {
                programs.free(program)
            }
            say(name, agreement, demand(name))
            kept.keys.removeAll { place -> readers.getValue(place).all { it in found.map(Verdict::name) } }
        }
        clip(player)?.let { (latents, frames) ->
            say("latents", latents, demandOf("latents"))
            say("frames", frames, demandOf("frames"))
        }
        return found
    }

    private fun readers(): Map<Place, Set<String>> {
        val found = HashMap<Place, MutableSet<String>>()
        for ((name, methods) in calls) {
            for (call in methods.values.flatten()) {
                for (source in call.list("inputs")) if (source is Map<*, *>) found.getOrPut(place(source)) { HashSet() }.add(name)
            }
        }
        return found
    }

    private fun place(source: Map<*, *>): Place = Fields("inputs", source) { damaged(it) }.run {
        Place(text("program"), text("method"), whole("call", 0..Int.MAX_VALUE), whole("output", 0..Int.MAX_VALUE))
    }

    private fun compare(
        programs: Programs, program: Program, readers: Map<Place, Set<String>>, kept: MutableMap<Place, Tensor>,
    ): Agreement {
        val found = ArrayList<Agreement>()
        for ((method, recorded) in calls.getValue(program.name)) {
            val specs = program.methods[method] ?: throw damaged("it has calls of ${program.name}.$method, which the bundle lacks")
            for ((number, call) in recorded.withIndex()) {
                val given = specs.inputs.zip(call.list("inputs")).associate { (spec, source) ->
                    val earlier = (source as? Map<*, *>)?.let { kept[place(it)] ?: throw damaged("${program.name} needs $it, not run") }
                    spec.name to (earlier ?: tensor(source))
                }
                val outputs = programs.run(program, method, program.take(method, given))
                for ((position, pair) in specs.outputs.zip(call.list("outputs")).withIndex()) {
                    val (spec, expected) = pair
                    val output = outputs.getValue(spec.name)
                    when (expected) {
                        null -> {}
                        is Map<*, *> -> found.add(Agreement.of(tensor(expected["key"]), output, (expected["every"] as? Long ?: 1L).toInt()))
                        else -> found.add(Agreement.of(tensor(expected), output))
                    }
                    Place(program.name, method, number, position).let { if (it in readers) kept[it] = output }
                }
            }
        }
        if (found.isEmpty()) throw damaged("the recorded calls of ${program.name} compare no outputs")
        return Agreement.worst(found)
    }

    private fun tensor(key: Any?): Tensor = tensors[key] ?: throw damaged("there is no array $key")

    private fun demand(name: String): Demand? {
        val sources = calls.getValue(name).values.flatten().flatMap { it.list("inputs") }.filterIsInstance<Map<*, *>>()
        val demands = (sources.map { place(it).program }.toSet() + name).map { bundle.manifest.demanded[it] ?: return null }
        fun least(value: (Demand) -> Double?, choose: (List<Double>) -> Double): Double? =
            demands.mapNotNull(value).takeIf { it.size == demands.size }?.let(choose)
        return Demand(least(Demand::psnr) { it.min() }, least(Demand::cosine) { it.min() }, least(Demand::largest) { it.max() })
    }

    private fun demandOf(name: String): Demand? = bundle.manifest.demanded[name]

    private fun clip(player: Player): Pair<Agreement, Agreement>? {
        val clip = index.named("clip")
        if (clip.isEmpty()) return null
        val settings = index.record("settings")
        val portrait = tensor(clip["portrait"])
        val frames = tensor(clip["frames"])
        val shape = frames.shape
        val bytes = ByteArray(sizeOf(shape))
        val size = shape.drop(1).fold(1, Int::times)
        val speech = tensor(clip["speech"]).floats()
        val given = Floats(portrait.shape, portrait.floats())
        val played = player.play(given, speech, settings.text("prompt"), settings.seed("seed")) { number, frame ->
            if ((number + 1) * size <= bytes.size) frame.bytes.copyInto(bytes, number * size)
        }
        val latents = played.latents.run { Floats.of(values, channels, this.frames, height, width) }
        return Agreement.of(tensor(clip["latents"]), latents) to Agreement.of(frames, Bytes(shape, bytes), peak = 255.0)
    }
}
