package ai.echoedge.demo

import android.content.ContentProvider
import android.content.ContentValues
import android.content.Context
import android.database.Cursor
import android.database.MatrixCursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import android.provider.OpenableColumns
import echoedge.appcore.Shared
import java.io.File
import java.io.FileNotFoundException

/**
 * Shows films to apps that the user shares them with, and takes one photograph from the camera. Nobody may use it who was not
 * given a permission for one address; films are read only.
 */
class SharedFiles : ContentProvider() {
    override fun onCreate(): Boolean = true

    override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor {
        val file = file(uri) ?: throw FileNotFoundException("$uri is none of this app's files")
        if (mode == "r") return ParcelFileDescriptor.open(file, ParcelFileDescriptor.MODE_READ_ONLY)
        if (!Shared.mayWrite(uri.pathSegments.orEmpty())) throw FileNotFoundException("$uri can only be read")
        file.parentFile?.mkdirs()
        return ParcelFileDescriptor.open(file, ParcelFileDescriptor.parseMode(mode))
    }

    override fun getType(uri: Uri): String? = file(uri)?.let { Shared.mime(it.name) }

    override fun query(
        uri: Uri, projection: Array<out String>?, selection: String?, selectionArgs: Array<out String>?, sortOrder: String?,
    ): Cursor? {
        val file = file(uri)?.takeIf(File::isFile) ?: return null
        val known = mapOf(OpenableColumns.DISPLAY_NAME to file.name, OpenableColumns.SIZE to file.length())
        val columns = (projection?.asList() ?: known.keys.toList()).filter { it in known }
        return MatrixCursor(columns.toTypedArray(), 1).apply { addRow(columns.map { known[it] }) }
    }

    override fun insert(uri: Uri, values: ContentValues?): Uri? = throw UnsupportedOperationException("nothing can be added here")

    override fun update(uri: Uri, values: ContentValues?, selection: String?, selectionArgs: Array<out String>?): Int = 0

    override fun delete(uri: Uri, selection: String?, selectionArgs: Array<out String>?): Int = 0

    private fun file(uri: Uri): File? = context?.let { Shared.file(root(it), uri.pathSegments.orEmpty()) }

    companion object {
        /** The folder whose two folders are shown. */
        fun root(context: Context): File = File(context.filesDir, "shared")

        /** Where films lie. */
        fun films(context: Context): File = File(root(context), Shared.FILMS)

        /** The photograph that a camera is asked for. */
        fun photograph(context: Context): File = File(File(root(context), Shared.CAMERA), "portrait.jpg")

        /** The address of a file below [root]. */
        fun uri(context: Context, file: File): Uri = Uri.Builder().scheme("content").authority("${context.packageName}.files")
            .appendPath(file.parentFile?.name).appendPath(file.name).build()
    }
}
