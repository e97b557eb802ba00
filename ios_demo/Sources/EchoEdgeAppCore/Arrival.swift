import EchoEdgeCore
import Foundation

/// A bundle on its way onto the shelf: files are kept in NAME.partial until all of them are whole, by their SHA-256 in the
/// manifest; then the folder gets its name. What was interrupted goes on where it was.
public final class Arrival {
    public static let partialSuffix = ".partial", oldSuffix = ".old"
    private static let partSuffix = ".part", versionSuffix = ".version"
    static let largestManifest = 64 << 20
    private static let margin = 64 << 20  // what the system should not be left without

    /// Appends to `part`, which may hold the beginning of the file already.
    public typealias Bring = (_ path: String, _ entry: FileEntry, _ part: URL) throws -> Void

    public let shelf: URL
    public let name: String
    private let told: (Int, Int) -> Void
    let cancelled: () -> Bool
    private let freeBytes: (URL) -> Int
    private let partial: URL
    private var there = 0, total = 0

    /// `name`: of the folder that comes of it. `told` hears bytes that are there and all bytes. Throws `bundle`: it is no plain
    /// name.
    public init(
        _ shelf: URL, _ name: String, freeBytes: @escaping (URL) -> Int, told: @escaping (Int, Int) -> Void = { _, _ in },
        cancelled: @escaping () -> Bool = { false }
    ) throws {
        if !isPlainName(name) || name.count > 100 {
            throw EchoEdgeError.bundle("'\(short(name))' is no name of a bundle: up to 100 letters, digits and '._-'. Rename it.")
        }
        (self.shelf, self.name, self.told, self.cancelled, self.freeBytes) = (shelf, name, told, cancelled, freeBytes)
        partial = shelf.appendingPathComponent(name + Arrival.partialSuffix, isDirectory: true)
    }

    /// A name for a bundle of what it was called elsewhere.
    public static func name(of stated: String) -> String {
        let clean = String(stated.map { $0.isASCII && ($0.isLetter || $0.isNumber || "._-".contains($0)) ? $0 : "-" })
            .trimmingCharacters(in: CharacterSet(charactersIn: ".-")).prefix(80)
        let name = clean.isEmpty ? "bundle" : String(clean)
        return name.hasSuffix(".echoedge") ? name : "\(name).echoedge"
    }

    /// Brings a bundle: whatever of its files is not there yet, one by one. The manifest is checked before anything else is asked
    /// for. Throws `bundle`: it is not valid, lists a path outside the bundle, or a file is another than it lists; `resource`: the
    /// disk has no room; `cancelled`: what is there stays for the next time.
    @discardableResult
    public func bring(_ manifestBytes: [UInt8], _ bring: Bring) throws -> URL {
        let manifest = try Manifest.parse(manifestBytes)
        let target = shelf.appendingPathComponent(name, isDirectory: true)
        for path in manifest.entries.keys where !isInside(path) {
            throw EchoEdgeError.bundle("The manifest lists '\(short(path))', which leads out of the bundle. Do not use it.")
        }
        if isSame(target, manifest) { return target }
        try make(partial)
        total = manifest.entries.values.reduce(0) { $0 + $1.bytes }
        let wanted = manifest.entries.entries.filter { !isWhole(partial.appendingPathComponent($0.0), $0.1) }
        there = total - wanted.reduce(0) { $0 + $1.1.bytes }
        let begun = wanted.reduce(0) { $0 + min(Arrival.size(part($1.0)), $1.1.bytes) }
        try requireRoom(total - there - begun)
        told(there, total)
        for (path, entry) in wanted { try one(path, entry, bring) }
        try write(Data(manifestBytes), partial.appendingPathComponent(Manifest.name))
        removeOthers(Set(manifest.entries.keys + [Manifest.name]))
        try place(target)
        return target
    }

    /// Appends a piece to a part, up to the size that the manifest lists. Throws `bundle`: there is more; `resource`: the disk is
    /// full; `cancelled`.
    public func append(_ bytes: Data, _ part: URL, _ entry: FileEntry) throws {
        if cancelled() { throw EchoEdgeError.cancelled }
        let size = Arrival.size(part)
        if size + bytes.count > entry.bytes {
            Arrival.discard(part)
            let name = part.lastPathComponent.dropLast(Arrival.partSuffix.count)
            throw EchoEdgeError.bundle(
                "\(name) is longer than the \(entry.bytes) bytes that the manifest lists. Fetch or export it again.")
        }
        do {
            if !FileManager.default.fileExists(atPath: part.path) { try Data().write(to: part) }
            let file = try FileHandle(forWritingTo: part)
            defer { try? file.close() }
            try file.seekToEnd()
            try file.write(contentsOf: bytes)
        } catch {
            throw EchoEdgeError.resource(
                "The disk is full or cannot be written (\(error.localizedDescription)): \(humanBytes(total)) are needed for "
                    + "\(name). Free some space and try again; it goes on where it stopped.")
        }
        told(there + size + bytes.count, total)
    }

    /// What tells a server's version of a file apart from others, kept beside a part of it.
    static func version(_ part: URL) -> String? { try? String(contentsOf: versionFile(part), encoding: .utf8) }

    static func setVersion(_ part: URL, _ version: String?) {
        if let version {
            try? Data(version.utf8).write(to: versionFile(part), options: .atomic)
        } else {
            discard(versionFile(part))
        }
    }

    static func size(_ file: URL) -> Int {
        ((try? FileManager.default.attributesOfItem(atPath: file.path))?[.size] as? NSNumber)?.intValue ?? 0
    }

    static func discard(_ file: URL) { try? FileManager.default.removeItem(at: file) }

    private static func versionFile(_ part: URL) -> URL { URL(fileURLWithPath: part.path + versionSuffix) }

    private func part(_ path: String) -> URL { partial.appendingPathComponent(path + Arrival.partSuffix) }

    private func one(_ path: String, _ entry: FileEntry, _ bring: Bring) throws {
        let part = part(path)
        try make(part.deletingLastPathComponent())
        if Arrival.size(part) > entry.bytes { Arrival.discard(part) }
        if cancelled() { throw EchoEdgeError.cancelled }
        if Arrival.size(part) < entry.bytes || !FileManager.default.fileExists(atPath: part.path) { try bring(path, entry, part) }
        let size = Arrival.size(part)
        let found = sha256Of(part) ?? "none"
        if size != entry.bytes || found != entry.sha256 {
            Arrival.discard(part)
            Arrival.setVersion(part, nil)
            throw EchoEdgeError.bundle(
                "\(path) is not the file that the manifest lists: \(size) bytes with SHA-256 \(short(found, 12)), not "
                    + "\(entry.bytes) with \(short(entry.sha256, 12)). It was thrown away; try again, and if it stays so, export "
                    + "the bundle again."
            )
        }
        Arrival.setVersion(part, nil)
        let whole = partial.appendingPathComponent(path)
        Arrival.discard(whole)
        try move(part, whole)
        there += entry.bytes
        told(there, total)
    }

    private func isWhole(_ file: URL, _ entry: FileEntry) -> Bool {
        Arrival.size(file) == entry.bytes && sha256Of(file) == entry.sha256
    }

    private func isSame(_ folder: URL, _ manifest: Manifest) -> Bool {
        sha256Of(folder.appendingPathComponent(Manifest.name)) == manifest.sha256 && (try? ModelBundle.open(folder)) != nil
    }

    private func requireRoom(_ bytes: Int) throws {
        let free = freeBytes(shelf)
        if free >= bytes + Arrival.margin { return }
        throw EchoEdgeError.resource(
            "\(humanBytes(bytes)) are still to come for \(name), and \(humanBytes(free)) are free; "
                + "\(humanBytes(Arrival.margin)) must stay free. Remove another bundle, or free some space.")
    }

    /// What an earlier, other manifest brought.
    private func removeOthers(_ kept: Set<String>) {
        let root = partial.resolvingSymlinksInPath().path + "/"
        guard let files = FileManager.default.enumerator(at: partial, includingPropertiesForKeys: [.isRegularFileKey]) else {
            return
        }
        for case let file as URL in files.allObjects {
            let path = file.resolvingSymlinksInPath().path
            if Arrival.isFile(file) && path.hasPrefix(root) && !kept.contains(String(path.dropFirst(root.count))) {
                Arrival.discard(file)
            }
        }
    }

    private static func isFile(_ file: URL) -> Bool {
        (try? FileManager.default.attributesOfItem(atPath: file.path))?[.type] as? FileAttributeType == .typeRegular
    }

    private func place(_ target: URL) throws {
        let old = shelf.appendingPathComponent(name + Arrival.oldSuffix)
        Arrival.discard(old)
        if FileManager.default.fileExists(atPath: target.path) { try move(target, old) }
        do {
            try move(partial, target)
        } catch {
            try? FileManager.default.moveItem(at: old, to: target)
            throw error
        }
        Arrival.discard(old)
    }

    private func make(_ folder: URL) throws {
        do {
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        } catch {
            throw EchoEdgeError.resource(
                "\(folder.lastPathComponent) cannot be made (\(error.localizedDescription)). Free some space.")
        }
    }

    private func write(_ bytes: Data, _ file: URL) throws {
        do {
            try bytes.write(to: file, options: .atomic)
        } catch {
            throw EchoEdgeError.resource(
                "\(file.lastPathComponent) cannot be written (\(error.localizedDescription)). Free some space.")
        }
    }

    private func move(_ one: URL, _ other: URL) throws {
        do {
            try FileManager.default.moveItem(at: one, to: other)
        } catch {
            throw EchoEdgeError.resource(
                "\(one.lastPathComponent) cannot be renamed (\(error.localizedDescription)). Free some space.")
        }
    }
}

/// Frees at its end what Apple's Foundation would keep until the thread has nothing to do.
public func pooled<Result>(_ body: () throws -> Result) rethrows -> Result {
    #if canImport(ObjectiveC)
        return try autoreleasepool(invoking: body)
    #else
        return try body()
    #endif
}

/// Copies a picked folder onto the shelf.
public enum Import {
    private static let piece = 1 << 20

    /// Throws `bundle`: the folder is no bundle, or lacks a file; otherwise as ``Arrival/bring(_:_:)``.
    @discardableResult
    public static func copy(_ folder: URL, _ arrival: Arrival) throws -> URL {
        let name = folder.lastPathComponent
        let manifest = folder.appendingPathComponent(Manifest.name)
        guard Arrival.size(manifest) <= Arrival.largestManifest, let bytes = try? Data(contentsOf: manifest) else {
            throw EchoEdgeError.bundle(
                "\(name) has no \(Manifest.name): it is no bundle. Pick the folder that ends with .echoedge.")
        }
        return try arrival.bring([UInt8](bytes)) { path, entry, part in
            Arrival.discard(part)  // a copy begins anew: nobody says that the folder is the same
            guard let file = try? FileHandle(forReadingFrom: folder.appendingPathComponent(path)) else {
                throw EchoEdgeError.bundle("\(name) has no \(path), which its manifest lists. Copy it again.")
            }
            defer { try? file.close() }
            if entry.bytes == 0 { try arrival.append(Data(), part, entry) }
            while try pooled({ try one(file, path, arrival, part, entry) }) {}
        }
    }

    /// Copies a piece; false: there is none any more.
    private static func one(_ file: FileHandle, _ path: String, _ arrival: Arrival, _ part: URL, _ entry: FileEntry) throws -> Bool
    {
        let bytes: Data
        do {
            bytes = try file.read(upToCount: piece) ?? Data()
        } catch {
            throw EchoEdgeError.bundle(
                "\(path) cannot be read (\(error.localizedDescription)). Copy the bundle to the phone again.")
        }
        if !bytes.isEmpty { try arrival.append(bytes, part, entry) }
        return !bytes.isEmpty
    }
}

/// Folders of bundles that are there. Those that are still arriving are none.
public enum Shelf {
    /// Bundles of some folders by name; what is no bundle is left out.
    public static func bundles(_ folders: [URL]) -> [URL] {
        let found = folders.flatMap { folder in
            ((try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []).map { folder.appendingPathComponent($0) }
        }
        var names: Set<String> = []
        return found.filter { isBundle($0) && names.insert($0.lastPathComponent).inserted }
            .sorted { $0.lastPathComponent.lowercased() < $1.lastPathComponent.lowercased() }
    }

    private static func isBundle(_ folder: URL) -> Bool {
        let name = folder.lastPathComponent
        let unfinished = [Arrival.partialSuffix, Arrival.oldSuffix].contains { name.hasSuffix($0) }
        return !unfinished && FileManager.default.fileExists(atPath: folder.appendingPathComponent(Manifest.name).path)
    }

    /// Removes a bundle; its manifest goes first, so that half of one is none. Gives whether nothing is left.
    @discardableResult
    public static func remove(_ bundle: URL) -> Bool {
        Arrival.discard(bundle.appendingPathComponent(Manifest.name))
        Arrival.discard(bundle)
        return !FileManager.default.fileExists(atPath: bundle.path)
    }
}
