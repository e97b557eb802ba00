package echoedge.appcore

/** What the app is doing, one thing at a time. */
enum class Work { NOTHING, OPENING, COPYING, FETCHING, RECORDING, READING, PLAYING, VERIFYING }

/**
 * A bundle as the screen needs it. [readsText]: any prompt can be played; otherwise [prompts] are those that can.
 * [problem]: why this phone cannot play it.
 */
data class Opened(
    val name: String,
    val width: Int,
    val height: Int,
    val fps: Int,
    val clipSeconds: Double,
    val readsText: Boolean,
    val prompts: List<String>,
    val problem: String? = null,
) {
    /** Whether a clip can be played with such a prompt. */
    fun takes(prompt: String): Boolean = readsText || prompt in prompts
}

/** Which message the line for messages shows, and whether it is a fault. */
data class Message(val text: String, val fault: Boolean = false)

/** What happens to the screen. */
sealed class Event {
    /** Something began that takes a while. */
    class Began(val work: Work) : Event()

    /** How far it is: a sentence, and a share from 0 to 1 where there is one. */
    class Told(val text: String, val share: Double? = null) : Event()

    /** The user wants it to end. */
    object Cancel : Event()

    /** It ended; [text]: a sentence for the user. */
    class Ended(val text: String, val fault: Boolean = false) : Event()

    class BundleOpened(val bundle: Opened, val forecast: Forecast?) : Event()

    object BundleGone : Event()

    /** A photograph is there, or none any more. */
    class Portrait(val there: Boolean) : Event()

    /** A sound of so many seconds is there; null: none any more. */
    class Sound(val seconds: Double?, val forecast: Forecast?) : Event()

    class Prompt(val text: String) : Event()

    /** The first frame of a clip exists. */
    object FirstFrame : Event()

    /** A film is whole and can be shared. */
    class Film(val figures: List<Pair<String, String>>) : Event()

    /** What the phone tells of its memory and warmth. */
    class Phone(val text: String) : Event()

    class Verified(val rows: List<VerifyRow>) : Event()
}

/**
 * The app's one screen, without Android: what is there, what goes on, and which buttons may be pressed. Events make one of another;
 * what does not fit changes nothing.
 */
data class Screen(
    val work: Work = Work.NOTHING,
    val cancelling: Boolean = false,
    val bundle: Opened? = null,
    val portrait: Boolean = false,
    val soundSeconds: Double? = null,
    val prompt: String = "",
    val forecast: Forecast? = null,
    val progress: String = "",
    val share: Double? = null,
    val firstFrame: Boolean = false,
    val film: Boolean = false,
    val figures: List<Pair<String, String>> = listOf(),
    val verified: List<VerifyRow> = listOf(),
    val message: Message? = null,
    val phone: String = "",
) {
    private val idle: Boolean get() = work == Work.NOTHING

    val canChooseBundle: Boolean get() = idle

    val canChoosePortrait: Boolean get() = idle

    val canChooseSound: Boolean get() = idle

    val canChoosePrompt: Boolean get() = idle

    /** Holding the button begins a recording, letting it go ends it. */
    val canRecord: Boolean get() = idle || work == Work.RECORDING

    /** Only where the bundle takes prompts; of one that knows a single text there is nothing to write. */
    val showsPrompt: Boolean get() = bundle != null && (bundle.readsText || bundle.prompts.size > 1)

    val canPlay: Boolean get() = idle && whyNot == null

    val canVerify: Boolean get() = idle && bundle != null && bundle.problem == null

    val canCancel: Boolean get() = !idle && work != Work.RECORDING && !cancelling

    val canShare: Boolean get() = idle && film

    val keepsScreenOn: Boolean get() = work == Work.PLAYING || work == Work.VERIFYING || work == Work.RECORDING

    /** What a user has to do before a clip can be played; null: nothing. */
    val whyNot: String?
        get() = when {
            bundle == null -> "Choose a bundle."
            bundle.problem != null -> bundle.problem
            !portrait -> "Choose or take a photograph."
            soundSeconds == null -> "Record or choose a voice."
            forecast?.fits == false -> forecast.sentence
            showsPrompt && !bundle.takes(prompt) ->
                "The bundle knows these prompts: ${bundle.prompts.joinToString()}."
            else -> null
        }

    /** The text that a clip is played with. */
    val playedPrompt: String get() = if (bundle != null && !showsPrompt) bundle.prompts.singleOrNull().orEmpty() else prompt

    /** The line under the buttons: what goes on, else what was said last, else what to do. */
    val line: String
        get() = when {
            cancelling -> "Stopping: the program that runs is still finished."
            !idle -> progress
            message != null -> message.text
            else -> whyNot ?: forecast?.sentence.orEmpty()
        }

    /** The screen after something happened. */
    fun after(event: Event): Screen = when (event) {
        is Event.Began -> if (idle) began(event.work) else this
        is Event.Told -> if (idle) this else copy(progress = event.text, share = event.share)
        Event.Cancel -> if (canCancel) copy(cancelling = true) else this
        is Event.Ended -> copy(
            work = Work.NOTHING, cancelling = false, progress = "", share = null,
            message = if (event.text.isEmpty()) null else Message(event.text, event.fault),
        )
        is Event.BundleOpened -> copy(
            bundle = event.bundle, forecast = event.forecast, verified = listOf(), film = false, firstFrame = false,
            figures = listOf(),
            prompt = if (event.bundle.takes(prompt)) prompt else event.bundle.prompts.firstOrNull().orEmpty(),
        )
        Event.BundleGone -> copy(bundle = null, forecast = null, verified = listOf())
        is Event.Portrait -> copy(portrait = event.there)
        is Event.Sound -> copy(soundSeconds = event.seconds, forecast = event.forecast)
        is Event.Prompt -> if (idle) copy(prompt = event.text) else this
        Event.FirstFrame -> if (work == Work.PLAYING) copy(firstFrame = true) else this
        is Event.Film -> if (work == Work.PLAYING) copy(film = true, figures = event.figures) else this
        is Event.Phone -> copy(phone = event.text)
        is Event.Verified -> if (work == Work.VERIFYING) copy(verified = event.rows) else this
    }

    private fun began(work: Work): Screen {
        val begun = copy(work = work, cancelling = false, progress = Words.begin(work), share = null, message = null)
        return when (work) {
            Work.PLAYING -> begun.copy(firstFrame = false, film = false, figures = listOf())
            Work.VERIFYING -> begun.copy(verified = listOf())
            else -> begun
        }
    }
}
