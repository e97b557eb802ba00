package ai.echoedge.demo

import android.app.Activity
import android.content.Intent
import android.os.Bundle
import android.view.WindowManager
import android.widget.TextView
import echoedge.appcore.Bench
import java.io.File
import kotlin.concurrent.thread

/**
 * What `echoedge bench --device adb` starts: plays the job in the app's folder and writes how far it is and what was measured
 * (docs/DEVICE_BENCH.md). Without the extra `bench` it does nothing. Nothing on its screen moves.
 */
class BenchActivity : Activity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        if (savedInstanceState == null) begin(intent) else finish() // made anew by the system: a job is played once
    }

    override fun onNewIntent(intent: Intent) {
        super.onNewIntent(intent)
        begin(intent)
    }

    private fun begin(intent: Intent?) {
        val asked = Bench.asked(intent?.getStringExtra("bench"), intent?.getStringExtra("job"))
        val files = getExternalFilesDir(null)
        if (asked == null || files == null) {
            finish()
            return
        }
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        Shims.showOnLockedScreen(this)
        setContentView(TextView(this).apply { setText(R.string.benchmark) })
        val (action, word) = asked
        val bench = Bench(File(files, FOLDER), Phone(applicationContext)) { isDestroyed }
        running = true
        thread(name = "bench") {
            if (action == "prepare") bench.prepare(word) else bench.run(word)
            runOnUiThread(::finish)
        }
    }

    companion object {
        const val FOLDER: String = "bench"

        /** Whether this process serves a benchmark: its files are not to be tidied away. */
        @Volatile
        var running: Boolean = false
            private set
    }
}
