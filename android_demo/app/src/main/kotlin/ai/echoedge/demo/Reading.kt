package ai.echoedge.demo

import android.content.Context
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.media.AudioFormat
import android.media.ExifInterface
import android.media.MediaCodec
import android.media.MediaExtractor
import android.media.MediaFormat
import android.net.Uri
import echoedge.appcore.DecodedSound
import echoedge.appcore.PictureSize
import echoedge.appcore.readLimited
import echoedge.engine.CancelledException
import echoedge.engine.InputException
import echoedge.engine.Pictures
import echoedge.engine.Pixels
import echoedge.engine.Sound
import echoedge.engine.Wav
import java.io.File
import java.io.IOException
import java.io.InputStream

/** Photographs and sounds that somebody picked, as the engine takes them. */
class Reading(private val context: Context, private val cancelled: () -> Boolean) {
    /** A picture, upright, without transparency. */
    fun picture(uri: Uri): Pixels {
        val copy = File(context.cacheDir, "picked-picture")
        try {
            open(uri).use { input -> copy.outputStream().use { input.copyTo(it) } }
            return decoded(copy)
        } catch (error: IOException) {
            throw InputException("The photograph cannot be read (${error.message}). Choose another one.")
        } finally {
            copy.delete()
        }
    }

    private fun decoded(file: File): Pixels {
        val options = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        BitmapFactory.decodeFile(file.path, options)
        if (options.outWidth < 1 || options.outHeight < 1) {
            throw InputException("This is no photograph that the phone can read. Choose another one.")
        }
        options.inSampleSize = PictureSize.sample(options.outWidth, options.outHeight, LARGEST_CLIP, LARGEST_CLIP)
        options.inJustDecodeBounds = false
        options.inPreferredConfig = Bitmap.Config.ARGB_8888
        val bitmap = BitmapFactory.decodeFile(file.path, options)
            ?: throw InputException("The photograph is damaged. Choose another one.")
        val pixels = pixels(bitmap)
        bitmap.recycle()
        return Pictures.oriented(pixels, ExifInterface(file.path).getAttributeInt(ExifInterface.TAG_ORIENTATION, 1))
    }

    private fun pixels(bitmap: Bitmap): Pixels {
        val channels = if (bitmap.hasAlpha()) 4 else 3
        val bytes = ByteArray(bitmap.height * bitmap.width * channels)
        val row = IntArray(bitmap.width)
        var at = 0
        for (y in 0 until bitmap.height) {
            bitmap.getPixels(row, 0, bitmap.width, 0, y, bitmap.width, 1)
            for (colour in row) {
                bytes[at++] = (colour shr 16).toByte()
                bytes[at++] = (colour shr 8).toByte()
                bytes[at++] = colour.toByte()
                if (channels == 4) bytes[at++] = (colour ushr 24).toByte()
            }
        }
        val read = Pixels(bitmap.height, bitmap.width, channels, bytes)
        return if (channels == 4) Pictures.matte(read) else read
    }

    /** A sound: WAV by the engine's own reader, so that it is the same on every device; anything else by the phone's decoders. */
    fun sound(uri: Uri): Sound = try {
        val begin = ByteArray(4)
        val read = open(uri).use { it.read(begin) }
        if (read == 4 && String(begin, Charsets.ISO_8859_1) == "RIFF") {
            Wav.parse(open(uri).use { readLimited(it, LARGEST_WAV, "The recording") }, "The recording")
        } else {
            extracted(uri)
        }
    } catch (error: IOException) {
        throw InputException("The recording cannot be read (${error.message}). Choose another one, or save it as WAV.")
    }

    private fun open(uri: Uri): InputStream = try {
        context.contentResolver.openInputStream(uri)
    } catch (error: SecurityException) {
        throw IOException("it may not be read: ${error.message}", error)
    } ?: throw IOException("there is nothing at $uri")

    private fun extracted(uri: Uri): Sound {
        val extractor = MediaExtractor()
        try {
            extractor.setDataSource(context, uri, null)
            val track = (0 until extractor.trackCount).firstOrNull { mime(extractor.getTrackFormat(it)).startsWith("audio/") }
                ?: throw InputException("There is no sound in this file. Choose a recording.")
            extractor.selectTrack(track)
            val format = extractor.getTrackFormat(track)
            val decoder = try {
                MediaCodec.createDecoderByType(mime(format))
            } catch (error: IllegalArgumentException) {
                throw InputException("This phone has no decoder of ${mime(format)}. Save the recording as WAV.")
            }
            try {
                decoder.configure(format, null, null, 0)
                decoder.start()
                return decoded(extractor, decoder)
            } catch (error: IllegalArgumentException) {
                throw InputException("The phone's decoder refuses ${mime(format)} (${error.message}). Save the recording as WAV.")
            } catch (error: IllegalStateException) {
                throw InputException("The phone's decoder of ${mime(format)} failed (${error.message}). Save the recording as WAV.")
            } finally {
                decoder.release()
            }
        } finally {
            extractor.release()
        }
    }

    private fun mime(format: MediaFormat): String = format.getString(MediaFormat.KEY_MIME).orEmpty()

    private fun decoded(extractor: MediaExtractor, decoder: MediaCodec): Sound {
        val found = DecodedSound()
        val info = MediaCodec.BufferInfo()
        var fed = false
        var floats = false
        while (true) {
            if (cancelled()) throw CancelledException()
            val input = if (fed) -1 else decoder.dequeueInputBuffer(WAIT)
            if (input >= 0) {
                val buffer = decoder.getInputBuffer(input) ?: throw IllegalStateException("it has no buffer")
                val size = extractor.readSampleData(buffer, 0)
                fed = size < 0
                val flags = if (fed) MediaCodec.BUFFER_FLAG_END_OF_STREAM else 0
                decoder.queueInputBuffer(input, 0, maxOf(size, 0), if (fed) 0L else extractor.sampleTime, flags)
                if (!fed) extractor.advance()
            }
            val output = decoder.dequeueOutputBuffer(info, WAIT)
            if (output == MediaCodec.INFO_OUTPUT_FORMAT_CHANGED || (output >= 0 && info.size > 0)) {
                decoder.outputFormat.run {
                    found.format(getInteger(MediaFormat.KEY_CHANNEL_COUNT), getInteger(MediaFormat.KEY_SAMPLE_RATE))
                    floats = containsKey(PCM_ENCODING) && getInteger(PCM_ENCODING) == AudioFormat.ENCODING_PCM_FLOAT
                }
            }
            if (output >= 0) {
                decoder.getOutputBuffer(output)?.let { data ->
                    data.position(info.offset)
                    data.limit(info.offset + info.size)
                    if (floats) found.pcmFloat(data.slice()) else found.pcm16(data.slice())
                }
                decoder.releaseOutputBuffer(output, false)
                if (info.flags and MediaCodec.BUFFER_FLAG_END_OF_STREAM != 0) return found.sound()
            }
        }
    }

    private companion object {
        const val LARGEST_CLIP = 512 // sides of a clip; pictures are decoded to twice that at least, and whole below
        const val LARGEST_WAV = 200 shl 20
        const val WAIT = 10_000L // microseconds
        const val PCM_ENCODING = "pcm-encoding" // MediaFormat.KEY_PCM_ENCODING, API 24; without it samples have 16 bits
    }
}
