package ai.echoedge.demo

import android.graphics.Bitmap
import android.media.AudioAttributes
import android.media.AudioFormat
import android.media.AudioManager
import android.media.AudioTrack
import android.os.Handler
import android.os.Looper
import echoedge.appcore.FilmPlan
import echoedge.appcore.Reel
import java.nio.ByteBuffer

/**
 * Shows a clip while it is made, at its rate, with its voice: a thread of its own reads frames, the sound's clock says which.
 * Without sound the picture runs by the system's clock.
 *
 * @param show takes a picture on the main thread; it is drawn over when the next but one is shown.
 */
class FilmPlayer(private val reel: Reel, private val show: (Bitmap) -> Unit) {
    private val main = Handler(Looper.getMainLooper())
    private val thread = Thread(::run, "film")

    @Volatile
    private var going = true

    fun start() = thread.start()

    /** Ends it; nothing is shown afterwards. */
    fun stop() {
        going = false
        thread.interrupt()
    }

    private fun run() {
        val clip = reel.clip
        val pictures = Pictures(clip.height, clip.width)
        val voice = Voice(reel)
        try {
            var number = -1
            while (going) {
                val playback = reel.playback
                if (!voice.begun && playback.mayBegin()) voice.begin()
                val position = if (voice.begun) voice.feed() else 0.0
                if (playback.ended(position)) break
                if (voice.playing && playback.mustHold(position)) voice.hold()
                if (voice.begun && !voice.playing && playback.mayGoOn(position)) voice.goOn()
                val due = playback.frameAt(position)
                if (due != null && due != number) {
                    number = due
                    pictures.of(reel, due)?.let { bitmap -> main.post { if (going) show(bitmap) } }
                }
                Thread.sleep(STEP)
            }
        } catch (error: InterruptedException) {
            Thread.currentThread().interrupt() // stopped
        } finally {
            voice.close()
        }
    }

    /** Three pictures in turn: one is shown, one waits for the main thread, one is drawn. */
    private class Pictures(private val height: Int, private val width: Int) {
        private val bitmaps = List(3) { Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888) }
        private val colours = IntArray(height * width)
        private val scratch = ByteArray(height * width * 3)
        private var turn = 0

        fun of(reel: Reel, number: Int): Bitmap? {
            if (!reel.store.colours(number, colours, scratch)) return null
            turn = (turn + 1) % bitmaps.size
            return bitmaps[turn].also { it.setPixels(colours, 0, width, 0, 0, width, height) }
        }
    }

    /** The voice, and the time at which its clock stands. */
    private class Voice(reel: Reel) {
        private val rate = reel.clip.sampleRate
        private val samples = reel.voice
        private val track: AudioTrack? = made()
        private val silence = ByteArray(rate / 5)
        private var fed = 0
        private var since = 0L
        private var before = 0.0
        var begun = false
            private set
        var playing = false
            private set

        private fun made(): AudioTrack? = try {
            val format = AudioFormat.Builder().setEncoding(AudioFormat.ENCODING_PCM_16BIT).setSampleRate(rate)
                .setChannelMask(AudioFormat.CHANNEL_OUT_MONO).build()
            val use = AudioAttributes.Builder().setUsage(AudioAttributes.USAGE_MEDIA)
                .setContentType(AudioAttributes.CONTENT_TYPE_MOVIE).build()
            val least = AudioTrack.getMinBufferSize(rate, AudioFormat.CHANNEL_OUT_MONO, AudioFormat.ENCODING_PCM_16BIT)
            AudioTrack(use, format, maxOf(least, rate), AudioTrack.MODE_STREAM, AudioManager.AUDIO_SESSION_ID_GENERATE)
                .takeIf { it.state == AudioTrack.STATE_INITIALIZED }
        } catch (error: IllegalArgumentException) {
            null // this phone does not play such a rate: the film runs silently
        }

        fun begin() {
            begun = true
            goOn()
        }

        fun goOn() {
            playing = true
            since = System.nanoTime()
            track?.play()
        }

        fun hold() {
            before = clock()
            playing = false
            track?.pause()
        }

        private fun clock(): Double = before + if (playing) (System.nanoTime() - since) / 1e9 else 0.0

        /**
         * Hands over what fits, and says how many seconds were heard. Behind the voice comes silence: a track that is not full does
         * not begin, and one that runs dry stands still.
         */
        fun feed(): Double {
            val track = track ?: return clock()
            val count = minOf(samples.size - fed, rate / 10)
            if (count > 0) {
                val bytes = ByteBuffer.wrap(FilmPlan.pcm(samples, fed, count))
                fed += maxOf(0, track.write(bytes, 2 * count, AudioTrack.WRITE_NON_BLOCKING)) / 2
            } else {
                track.write(ByteBuffer.wrap(silence), silence.size, AudioTrack.WRITE_NON_BLOCKING)
            }
            return (track.playbackHeadPosition.toLong() and 0xFFFFFFFFL).toDouble() / rate
        }

        fun close() {
            track?.release()
        }
    }

    companion object {
        private const val STEP = 8L // milliseconds between two looks at the clock

        /** The first frame of a clip; null: it is gone. */
        fun first(reel: Reel): Bitmap? = Pictures(reel.clip.height, reel.clip.width).of(reel, 0)
    }
}
