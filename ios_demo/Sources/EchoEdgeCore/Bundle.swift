import Foundation

/// An opened bundle, a folder that `echoedge export` wrote.
public struct ModelBundle {
    private static let largestManifest = 64 << 20

    public let root: URL
    public let manifest: Manifest

    /// Reads the manifest and checks every file that it lists: its presence and size, and with `verify` its SHA-256. `checked`
    /// hears how many bytes of how many have been looked at; what it throws ends it. Throws `bundle`: the folder or the manifest is
    /// missing or not valid, or a file is missing, cut off or altered; the message names up to five.
    public static func open(
        _ root: URL, verify: Bool = true, checked: (Int, Int) throws -> Void = { _, _ in }
    ) throws -> ModelBundle {
        let file = root.appendingPathComponent(Manifest.name)
        if !FileManager.default.fileExists(atPath: root.path) {
            throw EchoEdgeError.bundle("There is no bundle \(root.path). Check the name, or export one.")
        }
        guard let size = fileSize(file) else {
            throw EchoEdgeError.bundle(
                "\(root.path) has no \(Manifest.name): it is no bundle, or a copy that was cut off. \(mending)")
        }
        if size > largestManifest { throw EchoEdgeError.bundle("\(file.path) has \(size) bytes; no manifest has. \(mending)") }
        let manifest = try Manifest.parse(read(file))
        try requireWhole(root, manifest, verify: verify, checked: checked)
        return ModelBundle(root: root, manifest: manifest)
    }

    private static func requireWhole(
        _ root: URL, _ manifest: Manifest, verify: Bool, checked: (Int, Int) throws -> Void
    ) throws {
        let entries = manifest.entries
        let total = entries.values.reduce(0) { $0 &+ $1.bytes }
        var done = 0
        var problems: [String] = []
        for (name, entry) in entries.entries {
            if let problem = problem(root, name, entry, verify) { problems.append(problem) }
            done = done &+ entry.bytes
            try checked(done, total)
        }
        if problems.isEmpty { return }
        let more = problems.count > 5 ? "; and \(problems.count - 5) more" : ""
        throw EchoEdgeError.bundle("\(root.path) is not complete: \(problems.prefix(5).joined(separator: "; "))\(more). \(mending)")
    }

    private static func problem(_ root: URL, _ name: String, _ entry: FileEntry, _ verify: Bool) -> String? {
        let file = root.appendingPathComponent(name)
        guard let size = fileSize(file) else { return "\(name) is missing (\(entry.bytes) bytes)" }
        if size != entry.bytes { return "\(name) has \(size) bytes instead of \(entry.bytes)" }
        if !verify { return nil }
        guard let found = sha256Of(file) else { return "\(name) cannot be read" }
        return found == entry.sha256
            ? nil : "\(name) was altered (SHA-256 \(short(found, 12)) instead of \(short(entry.sha256, 12)))"
    }

    /// The sampling plan for clips of a shape: windows are as long as its programs' clips. Throws as ``SamplingPlan/parse(_:)``.
    public func plan(_ clip: Clip? = nil) throws -> SamplingPlan {
        var plan = try SamplingPlan.parse(read(root.appendingPathComponent("plan.json")))
        if let levels = manifest.student { try plan.requireTaught(levels) }
        if let clip, clip != manifest.clips[0], let window = plan.window {
            let length = manifest.playing.latentFrames(clip.frames)
            plan.window?.length = length
            plan.window?.overlap = min(window.overlap, length - 1)
        }
        return plan
    }

    /// The arrays of a safetensors file of the bundle. Throws `bundle`: it lists no such file, or it is none.
    public func tensors(_ name: String) throws -> Ordered<any Tensor> {
        if !manifest.files.has(name) {
            throw EchoEdgeError.bundle("The bundle has no file '\(name)'. It has: \(listed(manifest.files.keys.sorted())).")
        }
        return try Tensors.read(root.appendingPathComponent(name))
    }

    /// Embeddings of texts, rows [L, text_dim]; of a text in several files the last one's.
    public func prompts() throws -> Ordered<Floats> {
        var found = Ordered<Floats>()
        for path in manifest.files.keys where path.hasPrefix("prompts/") {
            for (text, rows) in try tensors(path).entries {
                if rows.shape.count != 2 {
                    throw EchoEdgeError.bundle(
                        "\(path) has rows of shape \(rows.shape) for '\(short(text))'. Export the bundle again.")
                }
                found[text] = Floats(try rows.floats(), rows.shape)
            }
        }
        return found
    }

    /// Bytes of every file but the manifest and records.
    public var bytes: Int { manifest.entries.values.reduce(0) { $0 &+ $1.bytes } }
}

/// The bytes of a file. Throws `bundle`: it cannot be read.
func read(_ file: URL) throws -> [UInt8] {
    do {
        return [UInt8](try Data(contentsOf: file))
    } catch {
        throw EchoEdgeError.bundle("\(file.path) cannot be read (\(error.localizedDescription)). \(mending)")
    }
}

/// nil: there is no such file, or it is none.
func fileSize(_ file: URL) -> Int? {
    guard let found = try? FileManager.default.attributesOfItem(atPath: file.resolvingSymlinksInPath().path),
        found[.type] as? FileAttributeType == .typeRegular
    else { return nil }
    return (found[.size] as? NSNumber)?.intValue
}

/// Files of safetensors: eight bytes of a header's length, a JSON header, numbers.
public enum Tensors {
    private static let largestHeader = 100 << 20
    private static let widths: KeyValuePairs = ["F32": 4, "F64": 8, "I64": 8, "I32": 4, "U8": 1]

    /// Arrays by name: ``Floats`` of F32 and F64, which is narrowed, ``Longs`` of I64 and I32, ``Bytes`` of U8. Throws `bundle`:
    /// it is no such file, or holds another type.
    public static func read(_ file: URL) throws -> Ordered<any Tensor> {
        let name = file.lastPathComponent
        func damaged(_ why: String) -> EchoEdgeError { .bundle("\(name) cannot be read as arrays: \(why). \(mending)") }
        let bytes = try EchoEdgeCore.read(file)
        if bytes.count < 8 { throw damaged("it has \(bytes.count) bytes") }
        let size: UInt64 = little(bytes, 0)
        if size < 2 || size > UInt64(min(largestHeader, bytes.count - 8)) { throw damaged("its header should have \(size) bytes") }
        let begin = 8 + Int(size)
        let header = try Fields("", Json.parse(Array(bytes[8..<begin]))) { damaged($0) }
        var entries = Ordered<Entry>()
        for (key, value) in header.values.entries where key != "__metadata__" {
            let entry = try header.at(key, value).only("dtype", "shape", "data_offsets")
            let offsets = try entry.rows("data_offsets") { try entry.whole($0, $1, 0...bytes.count) }
            if offsets.count != 2 { throw damaged("data_offsets are \(offsets)") }
            let shape = try entry.rows("shape") { try entry.whole($0, $1, 0...Int(Int32.max)) }
            entries[key] = Entry(dtype: try entry.text("dtype"), shape: shape, begin: offsets[0], end: offsets[1])
        }
        var end = 0
        for (key, entry) in entries.entries.sorted(by: { ($0.1.begin, $0.1.end) < ($1.1.begin, $1.1.end) }) {
            if entry.begin != end || entry.end < entry.begin {
                throw damaged("'\(short(key))' lies from \(entry.begin) to \(entry.end)")
            }
            end = entry.end
        }
        if begin + end != bytes.count { throw damaged("it has \(bytes.count) bytes, its header tells of \(begin + end)") }
        return try entries.mapped { key, entry in
            guard let width = widths.first(where: { $0.key == entry.dtype })?.value else {
                throw damaged("'\(short(key))' is \(short(entry.dtype)), which is none of \(listed(widths.map(\.key)))")
            }
            let (count, size) = (sizeOf(entry.shape), entry.end - entry.begin)
            if count > size / width || count * width != size {
                throw damaged("'\(short(key))' of shape \(entry.shape) has \(size) bytes")
            }
            return try entry.tensor(bytes, begin + entry.begin, count)
        }
    }

    private struct Entry {
        let dtype: String
        let shape: [Int]
        let begin: Int, end: Int

        func tensor(_ bytes: [UInt8], _ at: Int, _ count: Int) throws -> any Tensor {
            switch dtype {
            case "F32": return Floats(littleFloats(bytes, at, count), shape)
            case "F64": return Floats((0..<count).map { Float(Double(bitPattern: little(bytes, at + 8 * $0))) }, shape)
            case "U8": return try Bytes(shape: shape, Array(bytes[at..<(at + count)]))
            case "I64": return try Longs(shape: shape, (0..<count).map { little(bytes, at + 8 * $0) })
            default: return try Longs(shape: shape, (0..<count).map { Int64(little(bytes, at + 4 * $0) as Int32) })
            }
        }
    }
}

/// An integer of a file, little-endian.
func little<Integer: FixedWidthInteger>(_ bytes: [UInt8], _ at: Int) -> Integer {
    precondition(at >= 0 && at + MemoryLayout<Integer>.size <= bytes.count, "within the file")
    return Integer(littleEndian: bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: at, as: Integer.self) })
}

/// float32 numbers of a file.
public func littleFloats(_ bytes: [UInt8], _ at: Int, _ count: Int) -> [Float] {
    precondition(at >= 0 && count >= 0 && at + 4 * count <= bytes.count, "within the file")
    return bytes.withUnsafeBytes { bytes in
        (0..<count).map {
            Float(bitPattern: UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: at + 4 * $0, as: UInt32.self)))
        }
    }
}
