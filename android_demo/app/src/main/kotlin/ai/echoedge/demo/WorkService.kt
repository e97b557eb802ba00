package ai.echoedge.demo

import android.app.PendingIntent
import android.app.Service
import android.content.Context
import android.content.Intent
import android.os.Handler
import android.os.IBinder
import android.os.Looper
import android.os.PowerManager

/**
 * Keeps the process alive and its CPU awake, and says so in a notification, while something is played, fetched or proven. The work
 * itself is the session's.
 */
class WorkService : Service() {
    private val main = Handler(Looper.getMainLooper())
    private val late = Runnable(::end)
    private var awake: PowerManager.WakeLock? = null

    override fun onCreate() {
        super.onCreate()
        val power = getSystemService(Context.POWER_SERVICE) as PowerManager
        awake = power.newWakeLock(PowerManager.PARTIAL_WAKE_LOCK, "echoedge:work").also { it.setReferenceCounted(false) }
    }

    override fun onBind(intent: Intent?): IBinder? = null

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        // As the launcher opens it: what stands on the screen comes to the front as it is.
        val open = Intent(Intent.ACTION_MAIN).addCategory(Intent.CATEGORY_LAUNCHER).setClass(this, MainActivity::class.java)
            .addFlags(Intent.FLAG_ACTIVITY_NEW_TASK)
        val notification = Shims.notification(this, CHANNEL, getString(R.string.channel))
            .setSmallIcon(R.drawable.ic_notification).setContentTitle(getString(R.string.working)).setOngoing(true)
            .setContentIntent(PendingIntent.getActivity(this, 0, open, PendingIntent.FLAG_IMMUTABLE)).build()
        try {
            startForeground(1, notification)
        } catch (error: IllegalStateException) { // from API 31 on: the app has left the screen, or (35) its day's time is used up
            stopSelf()
            return START_NOT_STICKY
        }
        running = this
        if ((application as App).session.working) stay() else end()
        return START_NOT_STICKY
    }

    /** From API 35 on, who is still here after six hours is ended with the whole app. */
    private fun stay() {
        awake?.acquire(LONGEST)
        main.removeCallbacks(late)
        main.postDelayed(late, LONGEST)
    }

    override fun onDestroy() {
        main.removeCallbacks(late)
        awake?.release()
        if (running === this) running = null
        super.onDestroy()
    }

    @Suppress("DEPRECATION")
    private fun end() {
        awake?.release()
        stopForeground(true)
        stopSelf()
    }

    companion object {
        private const val CHANNEL = "work"
        private const val LONGEST = 350 * 60_000L // milliseconds; the system's measure is 360 minutes
        private var running: WorkService? = null // on the main thread only

        /** Shows itself; the app has to be on the screen. */
        fun start(context: Context) = Shims.startForegroundService(context, Intent(context, WorkService::class.java))

        /**
         * Ends it. One that was started and is not there yet ends by itself when it comes: to stop it before it has shown itself
         * would end the app.
         */
        fun stop() {
            running?.end()
        }
    }
}
