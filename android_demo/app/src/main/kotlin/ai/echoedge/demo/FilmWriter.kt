package ai.echoedge.demo

import android.media.MediaCodec
import android.media.MediaCodecInfo
import android.media.MediaFormat
import android.media.MediaMuxer
import echoedge.appcore.FilmPlan
import echoedge.engine.Clip
import echoedge.engine.EngineException
import echoedge.engine.Film
import echoedge.engine.Pixels
import echoedge.engine.Yuv
import java.io.File
import java.io.IOException
import java.nio.ByteBuffer

/**
 * Writes an MP4: H.264 of the frames as they come, AAC of the voice, which is known from the beginning and encoded first. The
 * file has its name when it is whole.
 *
 * @param frames how many will come.
 */
class FilmWriter(private val file: File, private val clip: Clip, speech: FloatArray, private val frames: Int) : AutoCloseable {
    private class Sample(val data: ByteArray, val time: Long, val flags: Int)

    private val partial = File(file.path + ".partial").also { it.parentFile?.mkdirs() }
    private val voice = Film.voice(speech, frames, clip.fps, clip.sampleRate).run { copyOf(size + BEHIND) }
    private var soundFormat: MediaFormat? = null
    private val sounds = ArrayList<Sample>()
    private val muxer: MediaMuxer
    private val video: MediaCodec
    private val info = MediaCodec.BufferInfo()
    private var videoTrack = -1
    private var soundTrack = -1
    private var written = 0
    private var whole = false

    init {
        encodeVoice()
        muxer = guarded("the film's file") { MediaMuxer(partial.path, MediaMuxer.OutputFormat.MUXER_OUTPUT_MPEG_4) }
        video = try {
            encoder(videoFormat())
        } catch (error: EngineException) {
            muxer.release()
            partial.delete()
            throw error
        }
    }

    private fun videoFormat() = MediaFormat.createVideoFormat(MediaFormat.MIMETYPE_VIDEO_AVC, clip.width, clip.height).apply {
        setInteger(MediaFormat.KEY_COLOR_FORMAT, MediaCodecInfo.CodecCapabilities.COLOR_FormatYUV420Flexible)
        setInteger(MediaFormat.KEY_BIT_RATE, FilmPlan.videoBits(clip.width, clip.height, clip.fps))
        setInteger(MediaFormat.KEY_FRAME_RATE, clip.fps)
        setInteger(MediaFormat.KEY_I_FRAME_INTERVAL, 1)
        Shims.COLOUR.forEach { (key, value) -> setInteger(key, value) }
    }

    private fun encoder(format: MediaFormat): MediaCodec = guarded("an encoder of ${format.getString(MediaFormat.KEY_MIME)}") {
        val codec = MediaCodec.createEncoderByType(format.getString(MediaFormat.KEY_MIME).orEmpty())
        try {
            codec.configure(format, null, null, MediaCodec.CONFIGURE_FLAG_ENCODE)
            codec.start()
        } catch (error: RuntimeException) {
            codec.release()
            throw error
        }
        codec
    }

    /** Encodes the next frame. */
    fun frame(pixels: Pixels) = guarded("the encoder of the film") {
        val index = input(video) { drainVideo() }
        val room = video.getInputBuffer(index)?.capacity() ?: 0 // asked for before the picture, which it would take away
        val image = video.getInputImage(index) ?: throw IllegalStateException("it takes no pictures")
        val yuv = Film.yuv(pixels)
        val planes = image.planes
        val sides = listOf(yuv.y to yuv.width, yuv.u to yuv.width / 2, yuv.v to yuv.width / 2)
        sides.forEachIndexed { at, (plane, width) ->
            planes[at].run { Yuv.place(plane, width, buffer, rowStride, pixelStride) }
        }
        video.queueInputBuffer(index, 0, room, FilmPlan.videoTime(written++, clip.fps), 0)
        drainVideo()
    }

    /** Ends the film and gives it its name. */
    fun finish(): File = guarded("the encoder of the film") {
        val index = input(video) { drainVideo() }
        video.queueInputBuffer(index, 0, 0, FilmPlan.videoTime(written, clip.fps), MediaCodec.BUFFER_FLAG_END_OF_STREAM)
        repeat(TRIES) { if (drainVideo(WAIT)) return@guarded whole() }
        throw IllegalStateException("it does not end")
    }

    private fun whole(): File {
        writeSounds(Long.MAX_VALUE)
        muxer.stop()
        whole = partial.renameTo(file)
        if (!whole) throw IOException("$partial cannot be renamed")
        return file
    }

    /** Writes what the encoder has ready; gives whether that was all. */
    private fun drainVideo(wait: Long = 0): Boolean = drain(video, wait) { data, info ->
        writeSounds(info.presentationTimeUs)
        muxer.writeSampleData(videoTrack, data, info)
    }

    private fun drain(codec: MediaCodec, wait: Long, take: (ByteBuffer, MediaCodec.BufferInfo) -> Unit): Boolean {
        while (true) {
            val index = codec.dequeueOutputBuffer(info, wait)
            if (index == MediaCodec.INFO_TRY_AGAIN_LATER) return false
            if (index == MediaCodec.INFO_OUTPUT_FORMAT_CHANGED) begin(codec.outputFormat)
            if (index < 0) continue
            val data = codec.getOutputBuffer(index)
            val settings = info.flags and MediaCodec.BUFFER_FLAG_CODEC_CONFIG != 0
            if (data != null && info.size > 0 && !settings) {
                data.position(info.offset)
                data.limit(info.offset + info.size)
                take(data, info)
            }
            codec.releaseOutputBuffer(index, false)
            if (info.flags and MediaCodec.BUFFER_FLAG_END_OF_STREAM != 0) return true
        }
    }

    /** A format is known: of the voice it is kept; of the frames it begins the file. */
    private fun begin(format: MediaFormat) {
        if (format.getString(MediaFormat.KEY_MIME).orEmpty().startsWith("audio/")) {
            soundFormat = format
        } else if (videoTrack < 0) {
            videoTrack = muxer.addTrack(format)
            soundFormat?.let { soundTrack = muxer.addTrack(it) }
            muxer.start()
        }
    }

    private fun encodeVoice(): Unit = guarded("the encoder of the voice") {
        val format = MediaFormat.createAudioFormat(MediaFormat.MIMETYPE_AUDIO_AAC, clip.sampleRate, 1)
        format.setInteger(MediaFormat.KEY_BIT_RATE, FilmPlan.soundBits(clip.sampleRate))
        format.setInteger(MediaFormat.KEY_AAC_PROFILE, MediaCodecInfo.CodecProfileLevel.AACObjectLC)
        val codec = encoder(format)
        try {
            var at = 0
            fun keep(data: ByteBuffer, info: MediaCodec.BufferInfo) {
                sounds.add(Sample(ByteArray(info.size).also { data.get(it) }, info.presentationTimeUs, info.flags))
            }
            while (at <= voice.size) {
                val index = input(codec) { drain(codec, 0, ::keep) }
                val buffer = codec.getInputBuffer(index) ?: throw IllegalStateException("it has no buffer")
                val count = minOf(buffer.remaining() / 2, voice.size - at)
                buffer.put(FilmPlan.pcm(voice, at, count))
                val ends = at + count == voice.size
                val flags = if (ends) MediaCodec.BUFFER_FLAG_END_OF_STREAM else 0
                codec.queueInputBuffer(index, 0, 2 * count, FilmPlan.soundTime(at.toLong(), clip.sampleRate), flags)
                at += count
                if (ends) break
            }
            repeat(TRIES) { if (drain(codec, WAIT, ::keep)) return@guarded }
            throw IllegalStateException("it does not end")
        } finally {
            codec.release()
        }
    }

    /** An input buffer, waited for while outputs are taken away. */
    private fun input(codec: MediaCodec, drain: () -> Boolean): Int {
        repeat(TRIES) {
            val index = codec.dequeueInputBuffer(WAIT)
            if (index >= 0) return index
            drain()
        }
        throw IllegalStateException("it takes nothing more")
    }

    /** The voice up to a time, so that both tracks lie side by side in the file. */
    private fun writeSounds(until: Long) {
        if (soundTrack < 0) return
        val ready = sounds.takeWhile { it.time <= until }
        for (sample in ready) {
            val told = MediaCodec.BufferInfo()
            val flags = sample.flags and MediaCodec.BUFFER_FLAG_END_OF_STREAM.inv()
            told.set(0, sample.data.size, sample.time, flags)
            muxer.writeSampleData(soundTrack, ByteBuffer.wrap(sample.data), told)
        }
        sounds.subList(0, ready.size).clear()
    }

    private fun <T> guarded(what: String, body: () -> T): T = try {
        body()
    } catch (error: IllegalStateException) {
        throw EngineException(
            "$what failed on this phone (${error.message}). Close apps that record or show films, then play again.", error,
        )
    } catch (error: IllegalArgumentException) {
        throw EngineException(
            "$what is not to be had for ${clip.width} × ${clip.height} (${error.message}). Play another bundle.", error,
        )
    } catch (error: IOException) {
        throw EngineException("The film cannot be written (${error.message}). Free some space, then play again.", error)
    }

    override fun close() {
        try {
            video.release()
            muxer.release()
        } catch (error: IllegalStateException) {
            whole = false // a muxer that was never begun, or cut off: what there is of the file is removed
        }
        if (!whole) partial.delete()
    }

    private companion object {
        const val WAIT = 10_000L // microseconds
        const val TRIES = 1000
        const val BEHIND = 3 * 1024 // samples of silence that push the voice's last through: Android's own encoder keeps two frames
    }
}
