package ai.echoedge.demo

import android.app.Activity
import android.app.Notification
import android.app.NotificationManager
import android.content.Context
import android.content.Intent
import android.os.Build
import android.os.PowerManager
import android.view.WindowManager

/**
 * What Android has gained since API 23, whose class library this is compiled against as well, asked for by name. Each says from
 * which API on it is there; below that, or where a phone lacks it, the older way is taken. The build reads
 * them from here.
 */
object Shims {
    /** Asked of the user from API 33 on; before, everybody has it. */
    const val POST_NOTIFICATIONS: String = "android.permission.POST_NOTIFICATIONS"

    /** Keys of a video format from API 24 on: colours of BT.709 in limited range. Older encoders do not look at them. */
    val COLOUR: Map<String, Int> = mapOf("color-standard" to 1, "color-transfer" to 3, "color-range" to 2)

    private const val LOW_IMPORTANCE = 2 // NotificationManager.IMPORTANCE_LOW

    /** API 26: a notification of a channel, which is made where it is not there. */
    fun notification(context: Context, channel: String, title: String): Notification.Builder = try {
        val kind = Class.forName("android.app.NotificationChannel")
        val made = kind.getConstructor(String::class.java, CharSequence::class.java, Int::class.javaPrimitiveType)
            .newInstance(channel, title, LOW_IMPORTANCE)
        val manager = context.getSystemService(Context.NOTIFICATION_SERVICE) as NotificationManager
        NotificationManager::class.java.getMethod("createNotificationChannel", kind).invoke(manager, made)
        Notification.Builder::class.java.getConstructor(Context::class.java, String::class.java).newInstance(context, channel)
    } catch (error: ReflectiveOperationException) {
        older(context)
    }

    @Suppress("DEPRECATION")
    private fun older(context: Context): Notification.Builder = Notification.Builder(context)

    /**
     * API 26: starts a service that shows itself at once. Gives whether it was started: from API 31 on an app that is not on the
     * screen may not. What it was to stand for goes on without it, for as long as the system lets it.
     */
    fun startForegroundService(context: Context, intent: Intent): Boolean = try {
        Context::class.java.getMethod("startForegroundService", Intent::class.java).invoke(context, intent)
        true
    } catch (error: ReflectiveOperationException) {
        false
    }

    /** API 27: shown on a locked phone, whose screen goes on. */
    @Suppress("DEPRECATION")
    fun showOnLockedScreen(activity: Activity) {
        try {
            val flag = Boolean::class.javaPrimitiveType
            Activity::class.java.getMethod("setShowWhenLocked", flag).invoke(activity, true)
            Activity::class.java.getMethod("setTurnScreenOn", flag).invoke(activity, true)
        } catch (error: ReflectiveOperationException) {
            activity.window.addFlags(
                WindowManager.LayoutParams.FLAG_SHOW_WHEN_LOCKED or WindowManager.LayoutParams.FLAG_TURN_SCREEN_ON,
            )
        }
    }

    /** API 29: how warm the phone is, 0 to 6; null: it does not tell. */
    fun thermalStatus(context: Context): Int? = try {
        val power = context.getSystemService(Context.POWER_SERVICE) as PowerManager
        PowerManager::class.java.getMethod("getCurrentThermalStatus").invoke(power) as? Int
    } catch (error: ReflectiveOperationException) {
        null
    }

    /** Whether notifications have to be asked for. */
    val asksForNotifications: Boolean get() = Build.VERSION.SDK_INT >= 33
}
