package ai.echoedge.demo

import android.media.AudioFormat
import android.media.AudioRecord
import android.media.MediaRecorder
import echoedge.appcore.WavFile
import echoedge.appcore.Words
import echoedge.engine.InputException
import java.io.File

/** Records the microphone into a WAV file until it is told to end. */
class Recorder(private val file: File) {
    @Volatile
    private var going = true

    /** Ends it; [record] returns soon after. */
    fun end() {
        going = false
    }

    /**
     * Records on this thread. [told] hears how many seconds are there.
     *
     * @throws InputException the microphone is not to be had, or what was recorded is no second long.
     */
    fun record(told: (Double) -> Unit) {
        val least = AudioRecord.getMinBufferSize(RATE, AudioFormat.CHANNEL_IN_MONO, AudioFormat.ENCODING_PCM_16BIT)
        if (least <= 0) throw InputException("This phone does not record at $RATE Hz. Choose a sound instead.")
        val size = maxOf(least, RATE / 5)
        val recorder = try {
            AudioRecord(MediaRecorder.AudioSource.MIC, RATE, AudioFormat.CHANNEL_IN_MONO, AudioFormat.ENCODING_PCM_16BIT, 2 * size)
        } catch (error: IllegalArgumentException) {
            throw InputException("The microphone is not to be had (${error.message}). Choose a sound instead.")
        }
        try {
            if (recorder.state != AudioRecord.STATE_INITIALIZED) {
                throw InputException("The microphone is not to be had: another app may have it, or this one may not use it.")
            }
            recorder.startRecording()
            if (recorder.recordingState != AudioRecord.RECORDSTATE_RECORDING) { // and it would give nothing, over and over
                throw InputException("The microphone does not begin: another app may have it. Choose a sound instead.")
            }
            val seconds = WavFile(file, RATE).use { wav -> wav.also { take(recorder, it, told) }.seconds }
            if (seconds < SHORTEST) {
                throw InputException("Only ${Words.seconds(seconds)} were recorded. Hold the button while you speak.")
            }
        } catch (error: IllegalStateException) {
            throw InputException("The microphone failed (${error.message}). Try again.")
        } finally {
            recorder.release()
        }
    }

    private fun take(recorder: AudioRecord, wav: WavFile, told: (Double) -> Unit) {
        val buffer = ShortArray(RATE / 10)
        while (going && wav.seconds < LONGEST) {
            val count = recorder.read(buffer, 0, buffer.size)
            if (count < 0) throw InputException("The microphone stopped (error $count). Try again.")
            wav.write(buffer, count)
            told(wav.seconds)
        }
    }

    private companion object {
        const val RATE = 44_100 // what every phone records at; the engine resamples
        const val SHORTEST = 0.3
        const val LONGEST = 300.0
    }
}
