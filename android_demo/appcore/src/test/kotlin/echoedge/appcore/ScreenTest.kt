package echoedge.appcore

import echoedge.engine.Agreement
import echoedge.engine.Demand
import echoedge.engine.Latents
import echoedge.engine.Played
import echoedge.engine.Stage
import echoedge.engine.Verdict
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertSame
import org.junit.Assert.assertTrue
import org.junit.Test

/** The screen as a machine of states: what may be pressed when, and what is said. */
class ScreenTest {
    private val reads = Opened("one.echoedge", 256, 256, 25, 0.36, true, listOf("a woman speaks"))
    private val fits = Forecast(true, "Needs about 1.00 GB.")

    private fun ready(bundle: Opened = reads, forecast: Forecast? = fits): Screen = Screen()
        .after(Event.BundleOpened(bundle, null)).after(Event.Portrait(true)).after(Event.Sound(2.5, forecast))

    @Test
    fun `what is missing is asked for, one after the other`() {
        var screen = Screen()
        assertEquals("Choose a bundle.", screen.line)
        screen = screen.after(Event.BundleOpened(reads, null))
        assertEquals("Choose or take a photograph.", screen.line)
        screen = screen.after(Event.Portrait(true))
        assertEquals("Record or choose a voice.", screen.line)
        assertFalse(screen.canPlay)
        screen = screen.after(Event.Sound(2.5, fits))
        assertTrue(screen.canPlay)
        assertEquals(fits.sentence, screen.line)
        screen = screen.after(Event.Sound(200.0, Forecast(false, "9 GB of memory is needed.")))
        assertFalse(screen.canPlay)
        assertEquals("9 GB of memory is needed.", screen.line)
        assertFalse(ready(reads.copy(problem = "It is for another runtime.")).canPlay)
        assertFalse(ready(reads.copy(problem = "It is for another runtime.")).canVerify)
    }

    @Test
    fun `a prompt is there where the bundle takes one`() {
        assertFalse(Screen().showsPrompt)
        assertTrue(ready().showsPrompt)
        assertEquals("", ready().playedPrompt) // an empty text can be played where any can
        val one = ready(reads.copy(readsText = false))
        assertFalse(one.showsPrompt)
        assertEquals("a woman speaks", one.playedPrompt)
        assertTrue(one.canPlay)
        val two = ready(reads.copy(readsText = false, prompts = listOf("a", "b")))
        assertTrue(two.showsPrompt && two.canPlay)
        assertEquals("a", two.prompt) // the first, until another is chosen
        assertEquals("b", two.after(Event.Prompt("b")).playedPrompt)
        assertFalse(two.after(Event.Prompt("c")).canPlay)
        assertTrue(two.after(Event.Prompt("c")).line.contains("a, b"))
        assertFalse(ready(reads.copy(readsText = false, prompts = listOf())).showsPrompt)
    }

    @Test
    fun `one thing is done at a time`() {
        val playing = ready().after(Event.Began(Work.PLAYING))
        assertFalse(playing.canPlay || playing.canVerify || playing.canRecord)
        assertFalse(playing.canChooseBundle || playing.canChoosePortrait || playing.canChooseSound || playing.canChoosePrompt)
        assertTrue(playing.canCancel && playing.keepsScreenOn)
        assertSame(playing, playing.after(Event.Began(Work.VERIFYING)))
        assertSame(playing, playing.after(Event.Prompt("other")))
        val told = playing.after(Event.Told("Denoising", 0.5))
        assertEquals("Denoising" to 0.5, told.line to told.share)
        val cancelling = told.after(Event.Cancel)
        assertTrue(cancelling.cancelling)
        assertFalse(cancelling.canCancel)
        assertTrue(cancelling.line.startsWith("Stopping"))
        val stopped = cancelling.after(Event.Ended("Stopped."))
        assertTrue(stopped.canPlay && !stopped.cancelling && !stopped.keepsScreenOn && !stopped.film)
        assertEquals("Stopped.", stopped.line)
        assertSame(stopped, stopped.after(Event.Told("late", 1.0)))
        assertSame(stopped, stopped.after(Event.Cancel))
        assertSame(stopped, stopped.after(Event.FirstFrame))
    }

    @Test
    fun `a film can be shared when it is whole and nothing is done`() {
        val playing = ready().after(Event.Began(Work.PLAYING)).after(Event.FirstFrame)
        assertTrue(playing.firstFrame)
        val made = playing.after(Event.Film(listOf("Frames" to "9")))
        assertFalse(made.canShare)
        val done = made.after(Event.Ended("ready"))
        assertTrue(done.canShare)
        assertEquals("9", done.figures.single().second)
        assertFalse(done.after(Event.Began(Work.PLAYING)).film)
        assertFalse(done.after(Event.BundleOpened(reads.copy(name = "two"), null)).canShare)
        val failed = done.after(Event.Ended("It failed.", fault = true))
        assertTrue(failed.message!!.fault)
    }

    @Test
    fun `recording is ended by letting go, not by the button that stops`() {
        val recording = ready().after(Event.Began(Work.RECORDING))
        assertTrue(recording.canRecord && !recording.canCancel && recording.keepsScreenOn)
        assertEquals("Recording. Let go to end.", recording.line)
    }

    @Test
    fun `proofs are shown as they come, and forgotten with their bundle`() {
        val row = VerifyRow("denoise", true, "40 dB", "≥ 30 dB")
        val verifying = ready().after(Event.Began(Work.VERIFYING)).after(Event.Verified(listOf(row)))
        assertEquals(listOf(row), verifying.verified)
        val done = verifying.after(Event.Ended("fine"))
        assertEquals(listOf(row), done.verified)
        assertEquals(0, done.after(Event.BundleOpened(reads, null)).verified.size)
        assertEquals(0, done.after(Event.BundleGone).verified.size)
        assertEquals("warm", done.after(Event.Phone("warm")).phone)
    }

    @Test
    fun `verdicts are told as result, error and tolerance`() {
        val good = Words.row(Verdict("denoise", Agreement(41.26, 0.9999, 0.0123), Demand(30.0, 0.99, null), true))
        assertEquals(VerifyRow("denoise", true, "41.3 dB, cosine 0.999900, largest 0.0123", "≥ 30.0 dB, cosine ≥ 0.990000"), good)
        val bad = Words.row(Verdict("frames", Agreement(0.0, 0.0, null), Demand(30.0, null, 0.5), false))
        assertEquals("the whole clip: frames", bad.name)
        assertEquals("not finite", bad.measured)
        assertEquals("nothing is demanded", Words.row(Verdict("x", Agreement(1.0, 1.0, 0.0), null, null)).demanded)
        assertFalse(Words.verdict(listOf(good)).fault)
        assertTrue(Words.verdict(listOf(good, bad)).run { fault && "the whole clip: frames" in text })
    }

    @Test
    fun `steps and windows are told`() {
        assertEquals("Denoising: step 1 of 2, velocity 2 of 3" to 2 / 3.0, Words.progress(Stage.DENOISE, 2, 3, listOf(2, 1)))
        assertEquals("Denoising: step 2 of 2, velocity 3 of 3", Words.progress(Stage.DENOISE, 3, 3, listOf(2, 1)).first)
        assertEquals("Denoising 3 windows in 2 steps: velocity 5 of 9", Words.progress(Stage.DENOISE, 5, 9, listOf(2, 1)).first)
        assertEquals("Window 2 of 3 is prepared", Words.progress(Stage.PREPARE, 2, 3, listOf(1)).first)
        val texts = Stage.values().map { Words.progress(it, 1, 2, listOf(1)).first }
        assertEquals(texts.size, texts.toSet().size)
    }

    @Test
    fun `warmth has Android's words for records and plain ones for people`() {
        val words = listOf("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
        assertEquals(words, (0..6).map { Words.thermal(it) })
        assertEquals(listOf(null, null, null), listOf(null, -1, 7).map { Words.thermal(it) })
        assertEquals("not told", Words.warmth(null))
        assertTrue(Words.warmth(4).startsWith("too hot"))
        assertNotEquals(Words.warmth(0), Words.warmth(3))
    }

    @Test
    fun `figures of a clip are those that were measured`() {
        val seconds = Stage.values().associateWith { 1.0 }
        val played = Played(Latents(1, 1, 1, 1), 50, seconds, 1.5, 8)
        val told = Words.figures(played, 20.0, 25, Mode.ONE_BY_ONE, "much", 1).toMap()
        assertEquals("1.50 s", told["First frame after"])
        assertEquals("50 in 20.0 s: 2.50 a second", told["Frames"])
        assertEquals("10.00", told["Seconds a second of video"])
        assertEquals("one at a time", told["Programs"])
        assertEquals("12 min 5 s", Words.seconds(725.0))
    }
}
