package ai.echoedge.demo

import android.net.Uri
import android.os.Handler
import android.os.Looper
import echoedge.appcore.Arrival
import echoedge.appcore.Bench
import echoedge.appcore.Event
import echoedge.appcore.Fetch
import echoedge.appcore.Forecast
import echoedge.appcore.Import
import echoedge.appcore.Mode
import echoedge.appcore.Newest
import echoedge.appcore.Opened
import echoedge.appcore.Playable
import echoedge.appcore.Reel
import echoedge.appcore.Room
import echoedge.appcore.Screen
import echoedge.appcore.Shared
import echoedge.appcore.Shelf
import echoedge.appcore.Stoppable
import echoedge.appcore.VerifyRow
import echoedge.appcore.Words
import echoedge.appcore.Work
import echoedge.engine.Bundle
import echoedge.engine.CancelledException
import echoedge.engine.ConfigException
import echoedge.engine.EchoEdgeException
import echoedge.engine.Golden
import echoedge.engine.Pictures
import echoedge.engine.Pixels
import echoedge.engine.Player
import echoedge.engine.Progress
import echoedge.engine.Sound
import echoedge.engine.Speech
import echoedge.engine.Wav
import java.io.File
import java.util.concurrent.Executors
import java.util.concurrent.ScheduledExecutorService
import java.util.concurrent.TimeUnit

/**
 * What the app has and does, apart from any activity. One thing at a time is done on one worker thread; what comes of it is said as
 * events, on the main thread. [screen] is what there is to be seen.
 */
class Session(private val app: App) {
    private val main = Handler(Looper.getMainLooper())
    private val worker = Executors.newSingleThreadExecutor()
    private val phone = Phone(app)
    private val lately = Newest<Event>({ main.postDelayed(it, PAUSE) }, { apply(it) })

    @Volatile
    private var cancelled = false
    private var recorder: Recorder? = null
    private var bundle: Bundle? = null
    private var player: Pair<Player, Mode>? = null
    private var sound: Sound? = null

    /** The photograph, as it was picked. */
    @Volatile
    var portrait: Pixels? = null
        private set

    /** The clip that is played or was played last, for the screen. */
    @Volatile
    var reel: Reel? = null
        private set

    /** The clip that somebody has seen already: it does not begin again by itself when the phone is turned. */
    var watched: Reel? = null

    /** The film that was made last. */
    @Volatile
    var film: File? = null
        private set

    var screen: Screen = Screen()
        private set

    /** Whoever shows the screen; called on the main thread. */
    var shown: (Screen) -> Unit = {}

    private var looking: ScheduledExecutorService? = null
    private var begun = false

    /** Looks at the phone's memory and warmth every five seconds, while somebody sees them. */
    fun look(on: Boolean) {
        if (on) worker.execute { take(sound) } // of memory there may be more, or less, than when the clip was looked at last
        looking?.shutdownNow()
        looking = if (on) Executors.newSingleThreadScheduledExecutor() else null
        looking?.scheduleWithFixedDelay({
            say(Event.Phone(app.getString(R.string.phone_is, phone.memoryWords(), Words.warmth(phone.thermalStatus))))
        }, 0, 5, TimeUnit.SECONDS)
    }

    /** Whether something is done that needs the process. */
    val working: Boolean get() = screen.work != Work.NOTHING

    /** Where bundles lie: `adb push` reaches it too. */
    val shelf: File get() = File(app.getExternalFilesDir(null) ?: app.filesDir, "bundles").also { it.mkdirs() }

    init {
        // A benchmark that lost its host has left its files; while one runs, they are its own.
        worker.execute { // what a kill left
            app.getExternalFilesDir(null)?.let { if (!BenchActivity.running) Bench.sweep(File(it, BenchActivity.FOLDER)) }
            File(app.cacheDir, REEL).deleteRecursively()
            SharedFiles.films(app).listFiles { _, name -> name.endsWith(".partial") }?.forEach { it.delete() }
        }
    }

    /** Something happened. On any thread. */
    fun say(event: Event) {
        if (Looper.myLooper() == main.looper) apply(event) else main.post { apply(event) }
    }

    private fun apply(event: Event) {
        screen = screen.after(event)
        shown(screen)
    }

    private fun begin(work: Work, body: () -> String) {
        if (working) return
        cancelled = false
        say(Event.Began(work))
        if (work in LONG) WorkService.start(app)
        worker.execute {
            val ended = try {
                Event.Ended(body())
            } catch (error: CancelledException) {
                Event.Ended(app.getString(R.string.stopped))
            } catch (error: EchoEdgeException) {
                Event.Ended(error.message.orEmpty(), fault = true)
            } catch (error: OutOfMemoryError) {
                Event.Ended(Words.unforeseen(error), fault = true)
            } catch (error: Exception) {
                Event.Ended(Words.unforeseen(error), fault = true)
            }
            main.post {
                lately.clear()
                apply(ended)
                WorkService.stop()
            }
        }
    }

    /** Ends what is done, as soon as the program that runs is through. */
    fun cancel() {
        cancelled = true
        say(Event.Cancel)
    }

    /** Of a bundle's bytes, far more is told than anybody can see. */
    private fun told(what: Pair<String, Double>) = lately.tell(Event.Told(what.first, what.second))

    // ---- bundles ----

    /** Bundles that are there. */
    fun bundles(): List<File> = Shelf.bundles(listOf(shelf))

    /** Those, and what came of others before they were given up. */
    fun removable(): List<File> = bundles() + Shelf.arriving(shelf).map { File(shelf, it + Arrival.PARTIAL) }

    /** Opens the one bundle that is there, once: also in an app that Android had ended while nobody saw it. */
    fun begin() {
        if (working || begun) return
        begun = true
        bundles().singleOrNull()?.let(::open)
    }

    fun open(folder: File) = begin(Work.OPENING) {
        opened(folder)
        ""
    }

    private fun opened(folder: File) {
        free()
        bundle = null
        val found = Bundle.open(folder) { done, total ->
            if (cancelled) throw CancelledException()
            told(Words.arriving(folder.name, done, total))
        }
        val problem = try {
            Playable.require(found)
            null
        } catch (error: ConfigException) {
            error.message
        }
        val clip = found.manifest.clips[0]
        val known = if (problem == null) Player(found, EtPrograms(found, phone.threads)) else null
        bundle = found
        val facts = Opened(
            folder.name, clip.width, clip.height, clip.fps, clip.frames.toDouble() / clip.fps, known?.readsText == true,
            known?.knownPrompts.orEmpty(), problem,
        )
        say(Event.BundleOpened(facts, forecast(sound)))
    }

    fun remove(folder: File) = begin(Work.READING) {
        if (bundle?.root == folder) {
            free()
            bundle = null
            say(Event.BundleGone)
        }
        if (Shelf.remove(folder)) app.getString(R.string.removed, folder.name) else app.getString(R.string.not_removed, folder.name)
    }

    /** Fetches a bundle and opens it. */
    fun fetch(url: String) = begin(Work.FETCHING) {
        val arrival = arrival(Fetch.nameOf(url))
        opened(Fetch(arrival, { cancelled }).fetch(url))
        ""
    }

    /** Copies a bundle that was picked, and opens it. */
    fun copy(tree: Uri) = begin(Work.COPYING) {
        opened(PickedTree(app.contentResolver, tree).use { Import.copy(it, arrival(Arrival.nameOf(it.name))) })
        ""
    }

    private fun arrival(name: String) =
        Arrival(shelf, name, { done, total -> told(Words.arriving(name, done, total)) }, { cancelled })

    private fun forecast(sound: Sound?): Forecast? {
        val seconds = sound?.run { length.toDouble() / rate } ?: return null
        return bundle?.let { Room.forecast(it, seconds, roomWithHeld()) }
    }

    // ---- photograph and voice ----

    fun choosePortrait(uri: Uri) = begin(Work.READING) {
        portrait = null
        say(Event.Portrait(false))
        portrait = Reading(app) { cancelled }.picture(uri)
        say(Event.Portrait(true))
        ""
    }

    fun chooseSound(uri: Uri) = begin(Work.READING) {
        take(null)
        take(Reading(app) { cancelled }.sound(uri))
        ""
    }

    private fun take(found: Sound?) {
        sound = found
        say(Event.Sound(found?.run { length.toDouble() / rate }, forecast(found)))
    }

    fun record() {
        if (working) return // the recorder that runs is the one to end
        val file = File(app.cacheDir, "recording.wav")
        val begun = Recorder(file)
        recorder = begun
        begin(Work.RECORDING) {
            begun.record { say(Event.Told(app.getString(R.string.recording, Words.seconds(it)))) }
            take(Wav.parse(file.readBytes(), "The recording"))
            ""
        }
    }

    fun endRecording() {
        recorder?.end()
    }

    // ---- playing ----

    fun play(prompt: String) = begin(Work.PLAYING) {
        val open = bundle ?: throw ConfigException("Choose a bundle.")
        val pixels = portrait ?: throw ConfigException("Choose or take a photograph.")
        val heard = sound ?: throw ConfigException("Record or choose a voice.")
        val clip = open.manifest.clips[0]
        val speech = Speech.of(heard, clip.sampleRate, clip.fps)
        val mode = Room.mode(open, speech.size.toDouble() / clip.sampleRate, roomWithHeld())
        val frames = open.manifest.playing.length(speech.size, clip).first
        val began = System.nanoTime()
        val seen = Reel(File(app.cacheDir, REEL), clip, speech, frames)
        reel?.close()
        reel = seen
        Shared.tooMany(SharedFiles.films(app).listFiles().orEmpty().asList()).forEach(File::delete)
        val file = File(SharedFiles.films(app), Shared.filmName(open.root.name))
        try {
            FilmWriter(file, clip, speech, frames).use { writer ->
                val face = Pictures.portrait(pixels, clip.height, clip.width)
                val played = player(open, mode).play(face, speech, prompt) { number, frame ->
                    seen.add(frame)
                    if (number == 0) say(Event.FirstFrame)
                    writer.frame(frame)
                }
                film = writer.finish()
                val seconds = (System.nanoTime() - began) / 1e9
                say(Event.Film(Words.figures(played, seconds, clip.fps, mode, phone.memoryWords(), phone.thermalStatus)))
            }
        } finally {
            seen.playback.end()
        }
        app.getString(R.string.film_ready, file.name)
    }

    /** What may be taken, where programs that are loaded already are counted as free: they are used again, or freed before. */
    private fun roomWithHeld(): Room {
        val room = phone.memory()
        if (player?.second != Mode.ALL_LOADED) return room
        val files = bundle?.manifest?.programs?.values?.associate { it.path to it.entry.bytes }?.values?.sum() ?: 0L
        return room.copy(available = room.available + files)
    }

    private fun player(open: Bundle, mode: Mode): Player {
        player?.let { (held, its) -> if (its == mode) return held }
        free()
        val evaluated = open.plan().run { List(steps) { evaluated(it).size } }
        val progress = Progress { stage, done, total -> told(Words.progress(stage, done, total, evaluated)) }
        val programs = EtPrograms(open, phone.threads)
        val made = Player(open, programs, frugal = mode == Mode.ONE_BY_ONE, progress = progress, cancelled = { cancelled })
        player = made to mode
        return made
    }

    private fun free() {
        player?.first?.free()
        player = null
    }

    /** Gives programs back that are kept for the next clip. */
    fun freePrograms() = worker.execute(::free)

    // ---- proving ----

    fun verify() = begin(Work.VERIFYING) {
        val open = bundle ?: throw ConfigException("Choose a bundle.")
        free()
        val golden = Golden(open)
        val clip = open.manifest.clips[0]
        Room.mode(open, clip.frames.toDouble() / clip.fps, phone.memory())
        val rows = ArrayList<VerifyRow>()
        val programs = Stoppable(EtPrograms(open, phone.threads)) { cancelled }
        golden.verify(programs, Player(open, programs, cancelled = { cancelled })) { verdict ->
            rows.add(Words.row(verdict))
            say(Event.Verified(rows.toList()))
            say(Event.Told(app.getString(R.string.verified_yet, verdict.name)))
        }
        val outcome = Words.verdict(rows)
        if (outcome.fault) throw ConfigException(outcome.text)
        outcome.text
    }

    private companion object {
        const val REEL = "reel"
        const val PAUSE = 50L // milliseconds between two words about progress
        val LONG = setOf(Work.FETCHING, Work.COPYING, Work.PLAYING, Work.VERIFYING)
    }
}
