package ai.echoedge.demo

import android.app.PendingIntent
import android.app.Service
import android.content.Context
import android.content.Intent
import android.os.IBinder

/**
 * Keeps the process alive, and says so in a notification, while something is played, fetched or proven. The work itself is the
 * session's.
 */
class WorkService : Service() {
    override fun onBind(intent: Intent?): IBinder? = null

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        val open = Intent(this, MainActivity::class.java).addFlags(Intent.FLAG_ACTIVITY_SINGLE_TOP)
        val notification = Shims.notification(this, CHANNEL, getString(R.string.channel))
            .setSmallIcon(R.drawable.ic_notification).setContentTitle(getString(R.string.working)).setOngoing(true)
            .setContentIntent(PendingIntent.getActivity(this, 0, open, PendingIntent.FLAG_IMMUTABLE)).build()
        startForeground(1, notification)
        running = this
        if (!(application as App).session.working) end()
        return START_NOT_STICKY
    }

    override fun onDestroy() {
        running = null
        super.onDestroy()
    }

    @Suppress("DEPRECATION")
    private fun end() {
        stopForeground(true)
        stopSelf()
    }

    companion object {
        private const val CHANNEL = "work"
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
