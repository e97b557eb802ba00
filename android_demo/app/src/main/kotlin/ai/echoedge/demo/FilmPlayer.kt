package ai.echoedge.demo

import android.graphics.Bitmap
import android.media.AudioAttributes
import android.media.AudioFormat
import android.media.AudioManager
import android.media.AudioTrack
import android.os.Handler
import android.os.Looper
import echoedge.appcore.FilmPlan
import echoedge.appcore.Preview
import java.nio.ByteBuffer

/**
 * Shows a clip while it is made, at its rate, with its voice: a thread of its own reads frames, the sound's clock says which. Without
 * sound the picture runs by the system's clock.
 *
 * @param show takes a picture on the main thread; it is drawn over when the next but one is shown.
 */
class FilmPlayer(private val preview: Preview, private val show: (Bitmap) -> Unit) {
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
        val clip = preview.clip
        val pictures = Pictures(clip.height, clip.width)
        val voice = Voice(preview)
        try {
            var number = -1
            while (going) {
                val playback = preview.playback
                if (!voice.begun && playback.mayBegin()) voice.begin()
                val position = if (voice.begun) voice.feed() else 0.0
                if (playback.ended(position)) break
                if (voice.playing && playback.mustHold(position)) voice.hold()
                if (voice.begun && !voice.playing && playback.mayGoOn(position)) voice.goOn()
                val due = playback.frameAt(position)
                if (due != null && due != number) {
                    number = due
                    pictures.of(preview, due)?.let { bitmap -> main.post { if (going) show(bitmap) } }
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

        fun of(preview: Preview, number: Int): Bitmap? {
            if (!preview.store.colours(number, colours, scratch)) return null
            turn = (turn + 1) % bitmaps.size
            return bitmaps[turn].also { it.setPixels(colours, 0, width, 0, 0, width, height) }
        }
    }

    /** The voice, and the time at which its clock stands. */
    private class Voice(preview: Preview) {
        private val rate = preview.clip.sampleRate
        private val samples = preview.voice
        private val track: AudioTrack? = made()
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
            val use = AudioAttributes.Builder().setUsage(AudioAttributes.USAGE_MEDIA).setContentType(AudioAttributes.CONTENT_TYPE_MOVIE).build()
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

        /** Hands over what fits, and says how many seconds were heard. Behind the voice's end the clock runs on. */
        fun feed(): Double {
            val track = track ?: return clock()
            if (fed < samples.size) {
                val count = minOf(samples.size - fed, rate / 10)
                val bytes = ByteBuffer.wrap(FilmPlan.pcm(samples, fed, count))
                fed += maxOf(0, track.write(bytes, 2 * count, AudioTrack.WRITE_NON_BLOCKING)) / 2
            }
            val heard = track.playbackHeadPosition.toLong() and 0xFFFFFFFFL
            val position = heard.toDouble() / rate
            return if (heard < samples.size) position else maxOf(position, clock())
        }

        fun close() {
            track?.release()
        }
    }

    private companion object {
        const val STEP = 8L // milliseconds between two looks at the clock
    }
}
