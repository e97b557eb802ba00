package echoedge.appcore

import echoedge.engine.Manifest
import java.io.File

/** Folders of bundles that are there. Those that are still arriving are none. */
object Shelf {
    /** Bundles in some folders by name; what is no bundle is left out. */
    fun bundles(folders: List<File>): List<File> = folders.flatMap { it.listFiles().orEmpty().asList() }
        .filter { isBundle(it) }.distinctBy { it.name }.sortedBy { it.name.lowercase() }

    /** What is still arriving, or was interrupted, by the names that will come of it. */
    fun arriving(folder: File): List<String> = folder.listFiles().orEmpty()
        .filter { it.isDirectory && it.name.endsWith(Arrival.PARTIAL) }.map { it.name.removeSuffix(Arrival.PARTIAL) }.sorted()

    private fun isBundle(folder: File): Boolean = folder.isDirectory && !folder.name.endsWith(Arrival.PARTIAL) &&
        !folder.name.endsWith(".old") && File(folder, Manifest.NAME).isFile

    /** Removes a bundle; its manifest goes first, so that half of one is none. Gives whether nothing is left. */
    fun remove(bundle: File): Boolean {
        File(bundle, Manifest.NAME).delete()
        return bundle.deleteRecursively()
    }
}
