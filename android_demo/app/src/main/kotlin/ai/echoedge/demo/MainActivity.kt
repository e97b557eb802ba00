package ai.echoedge.demo

import android.Manifest
import android.app.Activity
import android.app.AlertDialog
import android.content.ActivityNotFoundException
import android.content.ClipData
import android.content.Intent
import android.content.pm.PackageManager
import android.graphics.Bitmap
import android.net.Uri
import android.os.Bundle
import android.provider.MediaStore
import android.text.Editable
import android.text.InputType
import android.text.TextWatcher
import android.view.KeyEvent
import android.view.MotionEvent
import android.view.View
import android.view.WindowManager
import android.widget.Button
import android.widget.EditText
import android.widget.ImageView
import android.widget.ProgressBar
import android.widget.TableLayout
import android.widget.TableRow
import android.widget.TextView
import android.widget.Toast
import echoedge.appcore.Event
import echoedge.appcore.PictureSize
import echoedge.appcore.Reel
import echoedge.appcore.Screen
import echoedge.appcore.Words
import echoedge.appcore.Work
import echoedge.engine.Pixels
import java.io.File

/** The one screen. What is on it, and what may be pressed, is [Screen]'s to say; what is done is the session's. */
class MainActivity : Activity() {
    private val session: Session get() = (application as App).session
    private var player: FilmPlayer? = null
    private var seen: Reel? = null
    private var pictured: Pixels? = null
    private var filling = false
    private val showing: (Screen) -> Unit = ::show

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.main)
        spareBars()
        view<Button>(R.id.bundle).setOnClickListener { chooseBundle() }
        view<Button>(R.id.photograph).setOnClickListener { pick("image/*", PICTURE) }
        view<Button>(R.id.camera).setOnClickListener { photograph() }
        view<Button>(R.id.sound).setOnClickListener { pick("audio/*", SOUND) }
        holdToRecord(view(R.id.record))
        view<Button>(R.id.prompts).setOnClickListener { choosePrompt() }
        view<Button>(R.id.play).setOnClickListener { play() }
        view<Button>(R.id.stop).setOnClickListener { stop() }
        view<Button>(R.id.share).setOnClickListener { share() }
        view<Button>(R.id.verify).setOnClickListener { session.verify() }
        view<ImageView>(R.id.film).setOnClickListener { session.reel?.let(::watch) }
        view<EditText>(R.id.prompt).addTextChangedListener(object : TextWatcher {
            override fun beforeTextChanged(text: CharSequence?, start: Int, count: Int, after: Int) = Unit

            override fun onTextChanged(text: CharSequence?, start: Int, before: Int, count: Int) = Unit

            override fun afterTextChanged(text: Editable?) {
                if (!filling) session.say(Event.Prompt(text.toString()))
            }
        })
    }

    /** Keeps what can be pressed clear of bars, cutouts and the keyboard, behind which apps are drawn since API 35. */
    @Suppress("DEPRECATION")
    private fun spareBars() {
        val content = view<View>(R.id.content)
        val own = content.paddingLeft
        content.setOnApplyWindowInsetsListener { around, insets ->
            around.setPadding(
                own + insets.systemWindowInsetLeft, own + insets.systemWindowInsetTop, own + insets.systemWindowInsetRight,
                own + insets.systemWindowInsetBottom,
            )
            insets
        }
    }

    override fun onStart() {
        super.onStart()
        session.shown = showing
        session.look(true)
        show(session.screen)
    }

    override fun onResume() {
        super.onResume()
        session.begin() // behind what another app gave, which waits for nobody
    }

    override fun onStop() {
        super.onStop()
        if (session.shown === showing) { // no other one has come before it
            session.shown = {}
            session.look(false)
        }
        session.endRecording()
        player?.stop()
        player = null
        seen = null
    }

    private inline fun <reified V : View> view(id: Int): V {
        val found: View = findViewById(id)
        return found as V
    }

    // ---- what there is to be seen ----

    private fun show(screen: Screen) {
        view<Button>(R.id.bundle).isEnabled = screen.canChooseBundle
        view<TextView>(R.id.bundle_name).text =
            screen.bundle?.run { getString(R.string.bundle_is, name, width, height, fps) } ?: getString(R.string.no_bundle)
        view<Button>(R.id.photograph).isEnabled = screen.canChoosePortrait
        view<Button>(R.id.camera).isEnabled = screen.canChoosePortrait
        view<Button>(R.id.sound).isEnabled = screen.canChooseSound
        view<Button>(R.id.record).isEnabled = screen.canRecord
        view<TextView>(R.id.sound_length).text =
            screen.soundSeconds?.let { getString(R.string.voice_is, Words.seconds(it)) } ?: getString(R.string.no_voice)
        showPrompt(screen)
        view<Button>(R.id.play).isEnabled = screen.canPlay
        view<Button>(R.id.stop).isEnabled = screen.canCancel
        view<Button>(R.id.share).isEnabled = screen.canShare
        view<Button>(R.id.verify).isEnabled = screen.canVerify
        // Set anew, a text is read out again, and what was selected in it is selected no more.
        view<TextView>(R.id.line).run { if (text.toString() != screen.line) text = screen.line }
        view<TextView>(R.id.phone).run { if (text.toString() != screen.phone) text = screen.phone }
        view<ProgressBar>(R.id.progress).run {
            visibility = if (screen.canCancel || screen.cancelling) View.VISIBLE else View.INVISIBLE
            isIndeterminate = screen.share == null
            progress = (1000 * (screen.share ?: 0.0)).toInt()
        }
        table(R.id.figures, screen.figures.map { (name, value) -> listOf(name, value) })
        table(R.id.proofs, screen.verified.map { row ->
            listOf(mark(row.passed), row.name, getString(R.string.measured, row.measured, row.demanded))
        })
        if (screen.keepsScreenOn) window.addFlags(KEEP_ON) else window.clearFlags(KEEP_ON)
        showPortrait()
        session.reel?.takeIf { screen.firstFrame && it !== seen }?.let { reel ->
            if (reel === session.watched && screen.work != Work.PLAYING) still(reel) else watch(reel)
        }
    }

    private fun mark(passed: Boolean?): String =
        getString(if (passed == null) R.string.not_demanded else if (passed) R.string.passes else R.string.fails)

    private fun showPrompt(screen: Screen) {
        val field = view<EditText>(R.id.prompt)
        view<View>(R.id.prompt_row).visibility = if (screen.showsPrompt) View.VISIBLE else View.GONE
        field.isEnabled = screen.bundle?.readsText == true && screen.canChoosePrompt
        view<Button>(R.id.prompts).isEnabled = screen.canChoosePrompt
        view<Button>(R.id.prompts).visibility = if (screen.bundle?.prompts.isNullOrEmpty()) View.GONE else View.VISIBLE
        if (field.text.toString() == screen.prompt) return
        filling = true
        field.setText(screen.prompt)
        filling = false
    }

    private fun table(id: Int, rows: List<List<String>>) {
        val table = view<TableLayout>(id)
        if (table.tag == rows) return
        table.tag = rows
        table.removeAllViews()
        for (texts in rows) {
            val row = TableRow(this)
            for (text in texts) row.addView(TextView(this).also { it.text = text; it.setPadding(0, 0, CELL, 0) })
            table.addView(row)
        }
    }

    private fun showPortrait() {
        val pixels = session.portrait
        if (pixels === pictured) return
        pictured = pixels
        view<ImageView>(R.id.portrait).setImageBitmap(pixels?.let(::small))
    }

    /** A small picture of the photograph: every so many pixels of it. */
    private fun small(pixels: Pixels): Bitmap {
        val step = PictureSize.sample(pixels.width, pixels.height, SMALL, SMALL)
        val (height, width) = pixels.height / step to pixels.width / step
        val colours = IntArray(height * width) {
            val at = (it / width * step * pixels.width + it % width * step) * 3
            fun part(channel: Int) = pixels.bytes[at + channel].toInt() and 0xFF
            -0x1000000 or (part(0) shl 16) or (part(1) shl 8) or part(2)
        }
        return Bitmap.createBitmap(colours, width, height, Bitmap.Config.ARGB_8888)
    }

    /** Shows the first frame of a clip that was seen. */
    private fun still(reel: Reel) {
        seen = reel
        FilmPlayer.first(reel)?.let(view<ImageView>(R.id.film)::setImageBitmap)
    }

    /** Shows a clip from its beginning, while it is made or again. */
    private fun watch(reel: Reel) {
        player?.stop()
        seen = reel
        session.watched = reel
        val image = view<ImageView>(R.id.film)
        player = FilmPlayer(reel) { image.setImageBitmap(it) }.also(FilmPlayer::start)
    }

    // ---- what is chosen ----

    private fun chooseBundle() {
        val there = session.bundles()
        val removable = session.removable()
        val labels = there.map(File::getName) + listOf(getString(R.string.from_folder), getString(R.string.from_address)) +
            if (removable.isEmpty()) listOf() else listOf(getString(R.string.remove))
        AlertDialog.Builder(this).setTitle(R.string.bundle).setItems(labels.toTypedArray()) { _, chosen ->
            when (chosen - there.size) {
                0 -> attempt(Intent(Intent.ACTION_OPEN_DOCUMENT_TREE), TREE)
                1 -> askAddress()
                2 -> removeOne(removable)
                else -> session.open(there[chosen])
            }
        }.show()
    }

    private fun play() {
        askForNotifications()
        player?.stop() // what is still seen of the clip before
        session.play(session.screen.playedPrompt)
    }

    private fun stop() {
        player?.stop() // of the frames that are there, too
        session.cancel()
    }

    private fun askAddress() {
        val field = EditText(this)
        field.inputType = InputType.TYPE_CLASS_TEXT or InputType.TYPE_TEXT_VARIATION_URI
        field.hint = getString(R.string.address_hint)
        AlertDialog.Builder(this).setTitle(R.string.from_address).setView(field)
            .setPositiveButton(R.string.fetch) { _, _ -> fetch(field.text.toString()) }
            .setNegativeButton(android.R.string.cancel, null).show()
    }

    private fun fetch(address: String) {
        askForNotifications()
        session.fetch(address)
    }

    private fun removeOne(bundles: List<File>) {
        AlertDialog.Builder(this).setTitle(R.string.remove)
            .setItems(bundles.map(File::getName).toTypedArray()) { _, chosen -> session.remove(bundles[chosen]) }.show()
    }

    private fun choosePrompt() {
        val prompts = session.screen.bundle?.prompts.orEmpty()
        AlertDialog.Builder(this).setTitle(R.string.prompts)
            .setItems(prompts.toTypedArray()) { _, chosen -> session.say(Event.Prompt(prompts[chosen])) }.show()
    }

    private fun pick(type: String, request: Int) =
        attempt(Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType(type), request)

    private fun photograph() {
        val file = SharedFiles.photograph(this)
        file.delete() // a camera that writes none must not give the one before
        val uri = SharedFiles.uri(this, file)
        val intent = Intent(MediaStore.ACTION_IMAGE_CAPTURE).putExtra(MediaStore.EXTRA_OUTPUT, uri)
        intent.addFlags(Intent.FLAG_GRANT_WRITE_URI_PERMISSION or Intent.FLAG_GRANT_READ_URI_PERMISSION)
        intent.clipData = ClipData.newRawUri("", uri)
        attempt(intent, CAMERA)
    }

    @Suppress("DEPRECATION")
    private fun attempt(intent: Intent, request: Int) {
        try {
            startActivityForResult(intent, request)
        } catch (error: ActivityNotFoundException) {
            Toast.makeText(this, R.string.no_app, Toast.LENGTH_LONG).show()
        }
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        if (resultCode != RESULT_OK) return
        if (requestCode == CAMERA) {
            session.choosePortrait(Uri.fromFile(SharedFiles.photograph(this)))
            return
        }
        val uri = data?.data ?: return
        when (requestCode) {
            PICTURE -> session.choosePortrait(uri)
            SOUND -> session.chooseSound(uri)
            TREE -> session.copy(uri)
        }
    }

    // ---- recording ----

    /**
     * Holding begins, letting go ends; for those who do not hold, a press of a key or of a screen reader begins, and another one
     * ends.
     */
    private fun holdToRecord(button: Button) {
        button.setOnTouchListener { touched, event ->
            when (event.actionMasked) {
                MotionEvent.ACTION_DOWN -> {
                    touched.parent.requestDisallowInterceptTouchEvent(true) // a finger that moves a little does not scroll
                    touched.isPressed = true
                    record()
                }
                MotionEvent.ACTION_UP, MotionEvent.ACTION_CANCEL -> session.endRecording().also { touched.isPressed = false }
            }
            true
        }
        button.setOnClickListener { if (session.screen.work == Work.RECORDING) session.endRecording() else record() }
        button.setOnKeyListener { _, code, event -> code == KeyEvent.KEYCODE_ENTER && event.repeatCount > 0 }
    }

    private fun record() {
        if (checkSelfPermission(Manifest.permission.RECORD_AUDIO) == PackageManager.PERMISSION_GRANTED) {
            session.record()
        } else {
            requestPermissions(arrayOf(Manifest.permission.RECORD_AUDIO), MICROPHONE)
        }
    }

    override fun onRequestPermissionsResult(requestCode: Int, permissions: Array<out String>, grantResults: IntArray) {
        val granted = grantResults.firstOrNull() == PackageManager.PERMISSION_GRANTED
        if (requestCode == MICROPHONE) {
            Toast.makeText(this, if (granted) R.string.hold_again else R.string.no_microphone, Toast.LENGTH_LONG).show()
        }
    }

    private fun askForNotifications() {
        if (Shims.asksForNotifications && checkSelfPermission(Shims.POST_NOTIFICATIONS) != PackageManager.PERMISSION_GRANTED) {
            requestPermissions(arrayOf(Shims.POST_NOTIFICATIONS), NOTIFICATIONS)
        }
    }

    // ---- sharing ----

    private fun share() {
        val film = session.film ?: return
        val uri = SharedFiles.uri(this, film)
        val intent = Intent(Intent.ACTION_SEND).setType("video/mp4").putExtra(Intent.EXTRA_STREAM, uri)
        intent.addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION)
        intent.clipData = ClipData.newRawUri(film.name, uri)
        startActivity(Intent.createChooser(intent, getString(R.string.share)))
    }

    private companion object {
        const val PICTURE = 1
        const val SOUND = 2
        const val TREE = 3
        const val CAMERA = 4
        const val MICROPHONE = 5
        const val NOTIFICATIONS = 6
        const val SMALL = 256
        const val CELL = 24
        const val KEEP_ON = WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON
    }
}
