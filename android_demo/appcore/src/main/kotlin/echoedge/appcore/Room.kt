package echoedge.appcore

import echoedge.engine.Bundle
import echoedge.engine.Clip
import echoedge.engine.Memory
import echoedge.engine.Need
import echoedge.engine.ResourceException
import echoedge.engine.humanBytes

/** How programs are kept: all of them loaded, so that frames come early, or one stage's at a time. */
enum class Mode { ALL_LOADED, ONE_BY_ONE }

/**
 * Memory as Android tells it: [available] bytes, of which [threshold] are left before it ends apps that nobody sees, and [total].
 * [heap]: what Java's objects may take.
 */
data class Room(val available: Long, val threshold: Long, val total: Long, val heap: Long) {
    /** What may be taken: below the threshold the system ends others and, in the end, this app. */
    val free: Long get() = maxOf(0L, available - threshold)

    /** One line for the screen. */
    fun words(): String = "${humanBytes(available)} of ${humanBytes(total)} free; apps are ended below ${humanBytes(threshold)}"

    companion object {
        /**
         * How a clip of so many [seconds] is played where there is so much room: with all programs loaded if they fit, else one
         * by one.
         *
         * @throws ResourceException not even that fits; the message says how much is needed, how much there is, and what to do.
         */
        fun mode(bundle: Bundle, seconds: Double, room: Room, decoder: String? = null, clip: Clip? = null): Mode {
            val role = decoder?.let { bundle.manifest.playing.decoders[it] }
            val need = Memory.needed(bundle, seconds, role)
            if (all(bundle, need) <= room.free) return Mode.ALL_LOADED
            need.require(purpose(seconds, clip ?: bundle.manifest.clips[0]), room.free)
            return Mode.ONE_BY_ONE
        }

        /** Bytes with every program loaded and packed, by the same measure as the largest one's. */
        fun all(bundle: Bundle, need: Need): Long {
            val manifest = bundle.manifest
            val programs = manifest.programs.values.associate { it.path to it.entry.bytes }.values
            val largest = programs.maxOrNull() ?: 0L
            return need.total + 3 * (programs.sum() - largest)
        }

        private fun purpose(seconds: Double, clip: Clip): String =
            "%.1f s of %d × %d pixels".format(java.util.Locale.ROOT, seconds, clip.width, clip.height)

        /** What is said before a clip is played, or why it cannot be. */
        fun forecast(bundle: Bundle, seconds: Double, room: Room): Forecast = try {
            val mode = mode(bundle, seconds, room)
            val need = Memory.needed(bundle, seconds)
            val bytes = if (mode == Mode.ALL_LOADED) all(bundle, need) else need.total
            val how = if (mode == Mode.ALL_LOADED) "with all programs loaded" else "with one program loaded at a time"
            Forecast(true, "Needs about ${humanBytes(bytes)} of memory $how; ${humanBytes(room.free)} may be taken.")
        } catch (error: ResourceException) {
            Forecast(false, error.message.orEmpty())
        }
    }
}

/** Whether a clip fits into memory, and the sentence that says so. */
data class Forecast(val fits: Boolean, val sentence: String)
