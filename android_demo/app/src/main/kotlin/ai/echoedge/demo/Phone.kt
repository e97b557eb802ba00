package ai.echoedge.demo

import android.app.ActivityManager
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.content.pm.PackageManager
import android.os.BatteryManager
import android.os.Build
import android.os.Debug
import android.os.Process
import echoedge.appcore.BenchPhone
import echoedge.appcore.DeviceState
import echoedge.appcore.Proc
import echoedge.appcore.Room
import echoedge.appcore.Words
import echoedge.engine.Bundle
import echoedge.engine.Device
import echoedge.engine.Programs
import echoedge.engine.Surroundings
import echoedge.engine.humanBytes
import java.io.File
import java.io.IOException

/** What this phone and this app tell of themselves. */
class Phone(private val context: Context) : BenchPhone {
    private val manager = context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager
    private val cores = Runtime.getRuntime().availableProcessors()

    private val version: String
        get() = context.packageManager.getPackageInfo(context.packageName, 0).versionName.orEmpty()

    override val app: String get() = "EchoEdge demo $version"

    override val versions: Map<String, String>
        get() = mapOf("echoedge-android" to version, "executorch" to executorch(), "android" to Build.VERSION.RELEASE)

    /** The library's version that Gradle put into the manifest; "none" where the app was built without it. */
    private fun executorch(): String = context.packageManager.getApplicationInfo(context.packageName, PackageManager.GET_META_DATA)
        .metaData?.getString("ai.echoedge.executorch").orEmpty()

    override val threads: Int get() = Proc.threads(cores)

    override val device: Device
        get() = Device(
            "phone", "cpu", "${Build.MANUFACTURER} ${Build.MODEL}".take(200), cores, info().totalMem,
            "Android ${Build.VERSION.RELEASE}",
            Build.DISPLAY.ifEmpty { "not told" }.take(200),
        )

    private fun info() = ActivityManager.MemoryInfo().also(manager::getMemoryInfo)

    override fun memory(): Room = info().run { Room(availMem, threshold, totalMem, Runtime.getRuntime().maxMemory()) }

    override fun programs(bundle: Bundle, threads: Int): Programs = EtPrograms(bundle, threads)

    override fun pssBytes(): Long? = Debug.getPss().takeIf { it > 0 }?.times(1024)

    override fun peakRssBytes(): Long = try {
        Proc.peakRssBytes(File("/proc/self/status").readText())
    } catch (error: IOException) {
        null
    } ?: pssBytes() ?: 0L

    override fun cpuSeconds(): Double? = Process.getElapsedCpuTime() / 1000.0

    override fun freeBytes(folder: File): Long = folder.usableSpace

    /** Sensors and load of a phone are not an app's to read; the host reads them. */
    override fun surroundings(): Surroundings = Surroundings(null, null)

    val thermalStatus: Int? get() = Shims.thermalStatus(context)

    override fun state(): DeviceState {
        val battery = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
        fun extra(name: String): Int? = battery?.getIntExtra(name, Int.MIN_VALUE)?.takeIf { it != Int.MIN_VALUE }
        val (level, scale) = extra(BatteryManager.EXTRA_LEVEL) to extra(BatteryManager.EXTRA_SCALE)
        val status = extra(BatteryManager.EXTRA_STATUS)
        return DeviceState(
            Words.thermal(thermalStatus),
            if (level != null && scale != null && scale > 0) (100.0 * level / scale).coerceIn(0.0, 100.0) else null,
            extra(BatteryManager.EXTRA_TEMPERATURE)?.let { it / 10.0 },
            status?.let { it == BatteryManager.BATTERY_STATUS_CHARGING || it == BatteryManager.BATTERY_STATUS_FULL },
        )
    }

    /** One line for the screen. */
    fun memoryWords(): String = "${pssBytes()?.let(::humanBytes) ?: "an unknown amount"} by this app; ${memory().words()}"
}
