package echoedge.engine

/**
 * A clip, encoded. [y]: of the whole clip or of one window, which then serves them all; [image] tokens; [text]: rows and their bias by
 * the condition's name; [audio]: rows of features, with their neighbours where the model hears those; [mask] [1, S]: which tokens of a
 * frame hear.
 */
class ClipInputs(
    private val playing: Playing,
    private val rule: WindowRule,
    val y: Latents,
    val image: Floats,
    val text: Map<String, Pair<Floats, Floats>>,
    val audio: Floats,
    val mask: Floats,
) {
    /** Whether a window's known frames are its own, not those that all start from. */
    val ownPicture: Boolean get() = rule.anchorClip

    /** The window's part of [y]. */
    fun known(span: Window): Latents {
        val first = if (rule.anchorClip) span.start else 0
        return Latents.of(y.channels, y.height, y.width, (first until first + span.length).map(y::frame))
    }

    /** How many rows of the voice a window hears: as many as programs take, at the clip's end all that is left. */
    fun heardRows(span: Window): Int = minOf(audio.shape[0] - firstRow(span), Hear.rows(playing.hearing, playing.videoFrames(span.length)))

    /** What a branch hears in a window, see [Hear.voice]. */
    fun voice(branch: Branch, span: Window): Pair<Floats, Floats> =
        Hear.voice(audio, playing.hearing, firstRow(span), playing.videoFrames(span.length), branch.audio, branch.audioShift)

    private fun firstRow(span: Window): Int = playing.hearing.rowsPerFrame * playing.temporalStride * span.start
}

/**
 * Makes the conditions of windows with the programs of a bundle, each key and value once: text and portrait for each strength, known
 * frames once per clip where windows start from the picture, the voice once per window, and silence once per clip.
 *
 * @param run runs the one method of a role's program on named tensors.
 */
class Conditioner(
    private val plan: SamplingPlan,
    private val given: ClipInputs,
    private val run: (String, Map<String, Tensor>) -> Map<String, Tensor>,
) {
    private val made = HashMap<List<Any>, Map<String, Tensor>>()

    /** By branch what the denoising program takes beside latents and step tables, by name. */
    fun window(span: Window): List<Map<String, Tensor>> {
        val own = HashMap<List<Any>, Map<String, Tensor>>()
        return plan.branches.map { branch ->
            val (rows, bias) = given.text.getValue(branch.text)
            val text = made.getOrPut(listOf("text", branch.text, branch.textScale)) {
                run("text_conditions", mapOf("text" to Inputs.scaled(rows, branch.textScale)))
            }
            val image = made.getOrPut(listOf("image", branch.image)) {
                run("image_conditions", mapOf("image" to if (branch.image) given.image else Floats.zeros(given.image.shape)))
            }
            val patches = (if (given.ownPicture) own else made).getOrPut(listOf("y", span.length)) {
                run("patch_conditions", mapOf("y" to given.known(span).tensor()))
            }
            val voices = if (branch.audio) own else made
            val audio = voices.getOrPut(listOf("audio", branch.audio, branch.audioShift, given.heardRows(span))) {
                val (sound, present) = given.voice(branch, span)
                run("audio_conditions", mapOf("audio" to sound, "audio_present" to present))
            }
            patches + text + mapOf("text_bias" to bias, "audio_mask" to given.mask) + image + audio
        }
    }
}
