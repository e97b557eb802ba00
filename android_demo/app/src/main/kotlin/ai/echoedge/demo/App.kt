package ai.echoedge.demo

import android.app.Application

/** Holds what outlives the activity: it is made anew when the phone is turned. */
class App : Application() {
    val session: Session by lazy { Session(this) }

    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        if (level >= TRIM_MEMORY_BACKGROUND || level == TRIM_MEMORY_RUNNING_CRITICAL) session.freePrograms()
    }
}
