import EchoEdgeAppCore
import EchoEdgeCore
import Foundation

/// The app's own folders.
enum Places {
    static let documents = FileManager.default.urls(for: .documentDirectory, in: .userDomainMask)[0]
    static let support = FileManager.default.urls(for: .applicationSupportDirectory, in: .userDomainMask)[0]
    static let bench = documents.appendingPathComponent("echoedge-bench", isDirectory: true)
    static let bundles = support.appendingPathComponent("bundles", isDirectory: true)
    static let films = documents.appendingPathComponent("films", isDirectory: true)
    static let compiled: CompiledModels = {
        let folder = support.appendingPathComponent("compiled", isDirectory: true)
        try? make(folder)  // else it is made with the first model, and lies in backups
        return CompiledModels(folder)
    }()

    /// Bundles may be copied into Documents by Finder or AirDrop, or be brought by the app.
    static let shelves = [documents, documents.appendingPathComponent("Inbox"), bundles]

    /// Removes compiled models of packages that no bundle here has.
    static func tidy() {
        let bundles = Shelf.bundles(shelves)
        let manifests = bundles.compactMap {
            try? Manifest.parse([UInt8](Data(contentsOf: $0.appendingPathComponent(Manifest.name))))
        }
        guard manifests.count == bundles.count else { return }  // of one that cannot be read, nobody knows what it needs
        compiled.prune(keep: manifests.reduce(into: []) { $0.formUnion(CompiledModels.digests($1)) })
    }

    /// Makes a folder whose files can be had again, so that they are in no backup.
    static func make(_ folder: URL) throws {
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        var values = URLResourceValues()
        values.isExcludedFromBackup = true
        var place = folder
        try place.setResourceValues(values)
    }
}

/// A text of the screen, from Localizable.strings.
func say(_ key: String) -> String { NSLocalizedString(key, comment: "") }
