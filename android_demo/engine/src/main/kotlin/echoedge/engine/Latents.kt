package echoedge.engine

/** Latents [channels, frames, height, width], row by row. */
class Latents(val channels: Int, val frames: Int, val height: Int, val width: Int, val values: FloatArray) {
    private val plane = height * width

    constructor(channels: Int, frames: Int, height: Int, width: Int) :
        this(channels, frames, height, width, FloatArray(channels * frames * height * width))

    /** A copy of one latent frame, [channels, height, width]. */
    fun frame(index: Int): FloatArray = FloatArray(channels * plane).also { copy ->
        for (channel in 0 until channels) values.copyInto(copy, channel * plane, at(channel, index), at(channel, index) + plane)
    }

    /** Puts a latent frame [channels, height, width] in its place. */
    fun set(index: Int, frame: FloatArray) {
        for (channel in 0 until channels) frame.copyInto(values, at(channel, index), channel * plane, (channel + 1) * plane)
    }

    /** With a batch axis, as programs take them. */
    fun tensor(): Floats = Floats.of(values, 1, channels, frames, height, width)

    private fun at(channel: Int, frame: Int): Int = (channel * frames + frame) * plane

    companion object {
        /** Of latent frames [channels, height, width], in order. */
        fun of(channels: Int, height: Int, width: Int, frames: List<FloatArray>): Latents =
            Latents(channels, frames.size, height, width).also { made -> frames.forEachIndexed(made::set) }

        /** Of a tensor [1, C, F, h, w]. */
        fun of(tensor: Tensor): Latents = tensor.shape.let { Latents(it[1], it[2], it[3], it[4], tensor.floats()) }
    }
}
