package echoedge.appcore

import java.io.File
import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale
import java.util.TimeZone

/** Files that other apps may be shown: their names, and which of them an address stands for. */
object Shared {
    const val FILMS: String = "films"
    const val CAMERA: String = "camera"

    /** A film's name: when it was made, and of which bundle. */
    fun filmName(bundle: String, date: Date = Date(), zone: TimeZone = TimeZone.getDefault()): String {
        val stamp = SimpleDateFormat("yyyy-MM-dd HH.mm.ss", Locale.ROOT).also { it.timeZone = zone }.format(date)
        val clean = bundle.removeSuffix(".echoedge").replace(Regex("[^\\p{L}\\p{N}._-]+"), "-").trim('.', '-').take(60)
        return "${clean.ifEmpty { "film" }} $stamp.mp4"
    }

    /** What is read of a file, by its name's end. */
    fun mime(name: String): String = when (name.substringAfterLast('.', "").lowercase(Locale.ROOT)) {
        "mp4" -> "video/mp4"
        "jpg" -> "image/jpeg"
        else -> "application/octet-stream"
    }

    /**
     * The file that the parts of an address stand for: one of the two folders, and a name in it. null: anything else, also what
     * would lead out of them, and folders.
     */
    fun file(root: File, parts: List<String>): File? {
        val (folder, name) = if (parts.size == 2) parts else return null
        if (folder != FILMS && folder != CAMERA) return null
        if (name.isEmpty() || name == "." || name == ".." || name.any { it == '/' || it == '\\' || it == '\u0000' }) return null
        return File(File(root, folder), name)
    }

    /** Whether an address may be written to: the photograph that a camera was asked for, and nothing else. */
    fun mayWrite(parts: List<String>): Boolean = parts.firstOrNull() == CAMERA

    /** Films beyond the newest [keep], which are removed: nobody else tidies up. */
    fun tooMany(films: List<File>, keep: Int = 20): List<File> = films.sortedByDescending(File::lastModified).drop(keep)
}
