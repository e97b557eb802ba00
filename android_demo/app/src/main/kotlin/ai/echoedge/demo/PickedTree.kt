package ai.echoedge.demo

import android.content.ContentResolver
import android.net.Uri
import android.provider.DocumentsContract
import echoedge.appcore.Tree
import java.io.IOException
import java.io.InputStream

/** A folder that was picked in the system's file picker. Names are looked up folder by folder, once each. */
class PickedTree(private val resolver: ContentResolver, private val tree: Uri) : Tree {
    private val root: String = DocumentsContract.getTreeDocumentId(tree)
    private val children = HashMap<String, Map<String, String>>()

    override val name: String = root.substringAfterLast('/').substringAfterLast(':').ifEmpty { "the folder" }

    override fun open(path: String): InputStream? {
        var document = root
        for (part in path.split('/')) document = childrenOf(document)[part] ?: return null
        return resolver.openInputStream(DocumentsContract.buildDocumentUriUsingTree(tree, document))
    }

    private fun childrenOf(document: String): Map<String, String> = children.getOrPut(document) {
        val columns = arrayOf(DocumentsContract.Document.COLUMN_DISPLAY_NAME, DocumentsContract.Document.COLUMN_DOCUMENT_ID)
        val found = HashMap<String, String>()
        val cursor = resolver.query(DocumentsContract.buildChildDocumentsUriUsingTree(tree, document), columns, null, null, null)
            ?: throw IOException("the folder's app does not answer")
        cursor.use { while (it.moveToNext()) found[it.getString(0)] = it.getString(1) }
        found
    }
}
