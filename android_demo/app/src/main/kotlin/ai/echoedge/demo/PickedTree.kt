package ai.echoedge.demo

import android.content.ContentResolver
import android.content.Intent
import android.database.Cursor
import android.net.Uri
import android.provider.DocumentsContract
import android.provider.DocumentsContract.Document
import echoedge.appcore.Tree
import java.io.IOException
import java.io.InputStream

/**
 * A folder that was picked in the system's file picker. Names are looked up folder by folder, once each. Until it is closed it may
 * be read, also when the screen that it was picked on is gone.
 */
class PickedTree(private val resolver: ContentResolver, private val tree: Uri) : Tree, AutoCloseable {
    private val root: String = DocumentsContract.getTreeDocumentId(tree)
    private val children = HashMap<String, Map<String, String>>()
    private val kept = try {
        resolver.takePersistableUriPermission(tree, Intent.FLAG_GRANT_READ_URI_PERMISSION)
        true
    } catch (error: SecurityException) {
        false // whoever holds the folder lends it to that screen alone
    }

    /** As its own app calls it; ids of clouds are no names. */
    override val name: String by lazy {
        val told = try {
            listed(DocumentsContract.buildDocumentUriUsingTree(tree, root)).use { if (it.moveToFirst()) it.getString(0) else null }
        } catch (error: IOException) {
            null
        }
        told ?: root.substringAfterLast('/').substringAfterLast(':').ifEmpty { "the folder" }
    }

    override fun open(path: String): InputStream? {
        var document = root
        for (part in path.split('/')) document = childrenOf(document)[part] ?: return null
        return asked { resolver.openInputStream(DocumentsContract.buildDocumentUriUsingTree(tree, document)) }
    }

    private fun childrenOf(document: String): Map<String, String> = children.getOrPut(document) {
        val found = HashMap<String, String>()
        listed(DocumentsContract.buildChildDocumentsUriUsingTree(tree, document)).use {
            while (it.moveToNext()) found[it.getString(0).orEmpty()] = it.getString(1)
        }
        found
    }

    private fun listed(address: Uri): Cursor =
        asked { resolver.query(address, arrayOf(Document.COLUMN_DISPLAY_NAME, Document.COLUMN_DOCUMENT_ID), null, null, null) }
            ?: throw IOException("the folder's app does not answer")

    /** What the other app throws comes as it is: no permission, no such document, no such volume. */
    private fun <T> asked(body: () -> T): T = try {
        body()
    } catch (error: RuntimeException) {
        throw IOException("the folder's app refuses: ${error.message}", error)
    }

    override fun close() {
        if (kept) resolver.releasePersistableUriPermission(tree, Intent.FLAG_GRANT_READ_URI_PERMISSION)
    }
}
