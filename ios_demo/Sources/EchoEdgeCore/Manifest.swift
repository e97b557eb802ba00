import Foundation

let mending = "Copy the bundle again, or export it again."

/// What one window plays. Sides in pixels, `frames` 4n+1 video frames, `sampleRate` of the voice in Hz. Its text is
/// HEIGHTxWIDTHxFRAMES.
public struct Clip: Hashable, Sendable, CustomStringConvertible {
    public let height: Int, width: Int, frames: Int, fps: Int, sampleRate: Int

    public init(height: Int, width: Int, frames: Int, fps: Int, sampleRate: Int) {
        (self.height, self.width, self.frames, self.fps, self.sampleRate) = (height, width, frames, fps, sampleRate)
    }

    /// Samples of the voice to a video frame.
    public var samplesPerFrame: Int { sampleRate / fps }
    public var description: String { "\(height)x\(width)x\(frames)" }
}

/// How a player hears a voice: `rowsPerFrame` rows of features a video frame, `neighbours` frames on either side that stand with
/// each frame's, `beyondFrames` after its last one that a window hears too, `tailFrames` of silence behind the voice,
/// `contextFrames` of a reading that are not kept on either side, `window` of the encoder's first layer, or nil.
public struct Hearing: Sendable {
    public let rowsPerFrame: Int, neighbours: Int, beyondFrames: Int, tailFrames: Int, contextFrames: Int
    public let window: (length: Int, stride: Int)?

    /// The object of a manifest's `playing`, or of one like it. Throws `bundle`: a field is unknown or wrong.
    public init(_ value: Json) throws { try self.init(Fields("hearing", value, notValid)) }

    init(_ fields: Fields) throws {
        try fields.only("rows_per_frame", "neighbours", "beyond_frames", "tail_frames", "context_frames", "window")
        rowsPerFrame = try fields.maybe("rows_per_frame") { try fields.whole($0, 1...16) } ?? 1
        neighbours = try fields.maybe("neighbours") { try fields.whole($0, 0...16) } ?? 0
        beyondFrames = try fields.maybe("beyond_frames") { try fields.whole($0, 0...16) } ?? 0
        tailFrames = try fields.maybe("tail_frames") { try fields.whole($0, 0...16) } ?? 0
        contextFrames = try fields.maybe("context_frames") { try fields.whole($0, 0...10_000) } ?? 0
        let sizes = try fields.maybe("window") { try fields.rows($0) { try fields.whole($0, $1, 1...64) } }
        if let sizes, sizes.count != 2 { throw fields.error("window", "has \(sizes.count) numbers; it must be length and stride") }
        window = sizes.map { ($0[0], $0[1]) }
    }
}

/// The model's numbers that a player needs; docs/BUNDLE.md tells each. `decoders`: roles of programs by full or tiny.
public struct Playing: Sendable {
    public let latentChannels: Int, temporalStride: Int, spatialStride: Int, patch: Int, maskChannels: Int
    public let encodeUnknown: Bool
    public let textLength: Int, textRows: Int, textDim: Int
    public let readsText: Bool
    public let padId: Int
    public let decoders: [(name: String, role: String)]
    public let hearing: Hearing

    init(_ fields: Fields) throws {
        try fields.only(
            "latent_channels", "temporal_stride", "spatial_stride", "patch", "mask_channels", "encode_unknown", "text_length",
            "text_rows",
            "text_dim", "text_ids", "pad_id", "decoders", "hearing")
        latentChannels = try fields.whole("latent_channels", 1...1024)
        temporalStride = try fields.whole("temporal_stride", 1...64)
        spatialStride = try fields.whole("spatial_stride", 1...64)
        patch = try fields.whole("patch", 1...16)
        maskChannels = try fields.whole("mask_channels", 1...64)
        encodeUnknown = try fields.flag("encode_unknown")
        textLength = try fields.whole("text_length", 1...100_000)
        textRows = try fields.whole("text_rows", 1...100_000)
        textDim = try fields.whole("text_dim", 1...100_000)
        readsText = try fields.maybe("text_ids") { try fields.oneOf($0, "utf-8 bytes") } != nil
        padId = try fields.maybe("pad_id") { try fields.whole($0, 0...Int(Int32.max)) } ?? 256
        decoders = try fields.named("decoders").entries.map { name, role in
            guard let text = role.text else { throw fields.error("decoders.\(name)", "is \(role.told); it must be a text") }
            return (name, text)
        }
        hearing = try Hearing(fields.record("hearing"))
    }

    /// Latent frames of a clip of so many video frames.
    public func latentFrames(_ frames: Int) -> Int { Playing.latentFrames(frames, temporalStride) }

    private static func latentFrames(_ frames: Int, _ stride: Int) -> Int { (frames - 1 + stride - 1) / stride + 1 }

    /// Video frames that so many latent frames hold.
    public func videoFrames(_ latentFrames: Int) -> Int { temporalStride * (latentFrames - 1) + 1 }

    /// How long a clip is that lasts as long as so many samples of speech: video frames, and the latent frames that are played,
    /// which are a window's at least. Throws `input`: the speech is shorter than a frame.
    public static func length(_ samples: Int, _ clip: Clip, temporalStride: Int) throws -> (frames: Int, latentFrames: Int) {
        let perFrame = clip.samplesPerFrame
        if samples < perFrame {
            throw EchoEdgeError.input("The speech has \(samples) samples; one frame has \(perFrame). Record more.")
        }
        let frames = (samples + perFrame - 1) / perFrame
        return (frames, max(latentFrames(frames, temporalStride), latentFrames(clip.frames, temporalStride)))
    }
}

/// One dimension of a tensor: a size, or a name where it is the caller's to choose, the same throughout a call.
public enum Dimension: Hashable, Sendable, CustomStringConvertible {
    case size(Int)
    case named(String)

    public var size: Int? {
        if case .size(let size) = self { return size }
        return nil
    }

    public var description: String {
        switch self {
        case .size(let size): return String(size)
        case .named(let name): return name
        }
    }
}

/// One input or output of a method. `dtype` as numpy calls it.
public struct TensorSpec: Hashable, Sendable, CustomStringConvertible {
    public let name: String, dtype: String
    public let shape: [Dimension]

    public var description: String { "\(name) as \(dtype) \(shape)" }
}

/// One entry point of a program; the order is that of the call.
public struct ProgramMethod: Hashable, Sendable {
    public let inputs: [TensorSpec], outputs: [TensorSpec]
}

/// What is known of a file: SHA-256 in hexadecimal digits and its size.
public struct FileEntry: Hashable, Sendable {
    public let sha256: String
    public let bytes: Int
}

/// A compiled program: what it is for (`role`) and for which shape (`clip`, nil: every one), its methods, and where it lies.
/// `prefix` stands before a method's name in the file, which other programs may share; `data`: the file of its weights.
public struct Program {
    public enum Kind: String, Sendable { case pte, file, folder }

    public let name: String, role: String
    public let clip: String?
    public let methods: Ordered<ProgramMethod>
    public let kind: Kind
    public let path: String
    public let entry: FileEntry
    public let prefix: String
    public let data: String?
}

/// What a manifest asks of a program or a clip against full precision: least PSNR in dB, least cosine, largest difference.
public struct Demand: Hashable, Sendable {
    public let psnr: Double?, cosine: Double?, largest: Double?
}

/// `manifest.json`, format "echoedge.bundle/2": what is in a bundle and how it is played. What no player reads is checked for being
/// there, not for what it says.
public struct Manifest {
    public static let name = "manifest.json"
    private static let format = "echoedge.bundle/2"

    /// Of the file's bytes: records name it.
    public let sha256: String
    /// Whether it ends with a checksum of its own, which is then right.
    public let hasChecksum: Bool
    public let clips: [Clip]
    public let playing: Playing
    public let programs: Ordered<Program>
    public let files: Ordered<FileEntry>
    public let target: String, backend: String
    public let precision: String?
    public let weights: String
    public let versions: Ordered<String>
    /// Bytes by what they are for, for forecasts.
    public let memory: [String: Int]
    /// The configuration of the model, for records only.
    public let model: Ordered<Json>
    /// Of programs by name, and of a whole clip's "latents" and "frames".
    public let demanded: Ordered<Demand>
    /// What a student of few steps was taught, by the number of steps the noise levels before each.
    public let student: [Int: [Double]]?

    /// Reads and checks the bytes of a manifest. Throws `bundle`: it is cut off, not JSON, of another format, altered, or a field
    /// is missing, unknown or wrong.
    public static func parse(_ bytes: [UInt8]) throws -> Manifest {
        let value: Json
        do {
            value = try Json.parse(bytes)
        } catch let error as EchoEdgeError {
            throw EchoEdgeError.bundle("\(name) is cut off or damaged (\(error.message)) \(mending)")
        }
        let stated = value["format"] ?? .null
        if stated != .text(format) { throw EchoEdgeError.bundle("\(name) has format \(stated.told); \(remedy(stated.text ?? ""))") }
        if let checksum = value["checksum"] { try check(checksum, bytes) }
        return try Manifest(Fields("", value, notValid), sha256Of(bytes))
    }

    private static func remedy(_ format: String) -> String {
        let beginning = "echoedge.bundle/"
        if format.hasPrefix(beginning), let number = Int(format.dropFirst(beginning.count)), number > 2 {
            return "it is newer than this player, which reads '\(self.format)'. Install a newer one."
        }
        return "this player reads '\(self.format)'. Export the bundle again."
    }

    /// The sum is of the manifest's own bytes with zeros in the place of its digits, and stands last.
    private static func check(_ told: Json, _ bytes: [UInt8]) throws {
        var found: String?
        if let place = checksumPlace(bytes) {
            var zeroed = bytes
            for at in place { zeroed[at] = UInt8(ascii: "0") }
            found = sha256Of(zeroed)
            if told == .text(found ?? "") { return }
        }
        let stated = short(told.text ?? told.told, 12)
        let right = found.map { short($0, 12) } ?? "at its end"
        throw EchoEdgeError.bundle("\(name) was altered (its checksum is \(stated), not \(right)). \(mending)")
    }

    /// Where the digits of `"checksum": "…"}` stand at the end of a file.
    private static func checksumPlace(_ bytes: [UInt8]) -> Range<Int>? {
        var at = bytes.count
        func space() { while at > 0, [0x20, 0x09, 0x0A, 0x0B, 0x0C, 0x0D].contains(bytes[at - 1]) { at -= 1 } }
        func take(_ text: String) -> Bool {
            guard at >= text.utf8.count, bytes[(at - text.utf8.count)..<at].elementsEqual(text.utf8) else { return false }
            at -= text.utf8.count
            return true
        }
        space()
        guard take("}") else { return nil }
        space()
        guard take("\""), at >= 64, bytes[(at - 64)..<at].allSatisfy(isHexadecimal) else { return nil }
        let place = (at - 64)..<at
        at -= 64
        guard take("\"") else { return nil }
        space()
        return take("\"checksum\":") ? place : nil
    }

    private init(_ top: Fields, _ sha256: String) throws {
        try top.only(
            "format", "model", "clips", "target", "weights", "versions", "programs", "files", "playing", "parity", "memory",
            "savings",
            "checksum")
        self.sha256 = sha256
        hasChecksum = top.has("checksum")
        let playing = try Playing(top.record("playing"))
        self.playing = playing
        clips = try top.records("clips").map { try Manifest.clip($0, playing) }
        files = try top.recordsByName("files").mapped { path, fields in
            _ = try Manifest.path(top, path)
            return try Manifest.entry(fields.only("sha256", "bytes"))
        }
        programs = try top.recordsByName("programs").mapped(Manifest.program)
        let target = try top.record("target").only("name", "backend", "precision")
        self.target = try target.text("name", 1...200)
        backend = try target.maybe("backend") { try target.text($0, 0...200) } ?? ""
        precision = try target.maybe("precision") { try target.oneOf($0, "fp32", "bf16", "fp16") }
        let weights = try top.record("weights").only("name", "settings")
        self.weights = try weights.text("name", 1...200)
        versions = try top.named("versions").mapped { $1.text ?? $1.told }
        let sizes = try top.maybe("memory") { try top.named($0) } ?? [:]
        memory = sizes.entries.reduce(into: [:]) { found, size in
            if let bytes = size.1.whole, bytes >= 0 { found[size.0] = bytes }
        }
        model = try top.record("model").only("preset", "config", "config_digest", "source_sha256").named("config")
        demanded = try Manifest.demanded(top)
        student = try weights.maybe("settings") { try weights.record($0) }.flatMap(Manifest.student)
        try checkClips(top)
        try checkPaths(top)
    }

    /// Every file but the manifest and records; a program that is a folder is there as its files.
    public var entries: Ordered<FileEntry> {
        var all = files
        for program in programs.values where program.kind != .folder { all[program.path] = program.entry }
        return all
    }

    /// What there are programs for.
    public var roles: [String] {
        var found: [String] = []
        for program in programs.values where !found.contains(program.role) { found.append(program.role) }
        return found
    }

    /// The program of a role for clips of a shape. Throws `bundle`: there is none; the message lists what there is.
    public func program(_ role: String, _ clip: Clip) throws -> Program {
        let found = programs.values.filter { $0.role == role }
        if let fitting = found.first(where: { $0.clip == clip.description }) ?? found.first(where: { $0.clip == nil }) {
            return fitting
        }
        if found.isEmpty {
            throw EchoEdgeError.bundle("The bundle has no program '\(role)'. It has: \(listed(roles.sorted())).")
        }
        throw EchoEdgeError.bundle("The bundle has no \(role) for clips of \(clip). It has: \(listed(found.compactMap(\.clip))).")
    }

    /// The bundle's shape called HEIGHTxWIDTHxFRAMES, the main one where that is nil. Throws `config`: it has no such shape.
    public func clip(_ shape: String?) throws -> Clip {
        guard let shape else { return clips[0] }
        if let found = clips.first(where: { $0.description == shape }) { return found }
        throw EchoEdgeError.config("The clip is '\(short(shape))'; the bundle plays: \(listed(clips)).")
    }

    // ---- parts ----

    private static func demanded(_ top: Fields) throws -> Ordered<Demand> {
        var found = Ordered<Demand>()
        for (name, fields) in try top.recordsByName("programs").entries where fields.has("demanded") {
            found[name] = try demand(fields.record("demanded"))
        }
        let parity = try top.maybe("parity") { try top.record($0).only("demanded") }
        let clip = try parity.flatMap { parity in try parity.maybe("demanded") { try parity.recordsByName($0) } }
        for (name, fields) in (clip ?? [:]).entries { found[name] = try demand(fields) }
        return found
    }

    private static func demand(_ fields: Fields) throws -> Demand {
        try fields.only("psnr_db", "cosine", "max_abs")
        func figure(_ name: String) throws -> Double? {
            try fields.maybe(name) { try fields.number($0, -Double.greatestFiniteMagnitude...Double.greatestFiniteMagnitude) }
        }
        return Demand(psnr: try figure("psnr_db"), cosine: try figure("cosine"), largest: try figure("max_abs"))
    }

    private static func student(_ settings: Fields) throws -> [Int: [Double]]? {
        if !settings.has("student") { return nil }
        let passport = try settings.record("student")
        _ = try passport.oneOf("format", "echoedge.student/1")
        var levels: [Int: [Double]] = [:]
        for (steps, row) in try passport.named("levels").entries {
            guard let count = Int(steps) else { throw passport.error("levels", "has '\(short(steps))' for a number of steps") }
            levels[count] = try passport.numbers("levels.\(steps)", row, 0...1)
        }
        return levels
    }

    private static func clip(_ fields: Fields, _ playing: Playing) throws -> Clip {
        try fields.only("height", "width", "frames", "fps", "sample_rate")
        func whole(_ name: String) throws -> Int { try fields.whole(name, 1...Int(Int32.max)) }
        let clip = Clip(
            height: try whole("height"), width: try whole("width"), frames: try whole("frames"), fps: try whole("fps"),
            sampleRate: try whole("sample_rate"))
        let sides = playing.spatialStride * playing.patch
        for (name, side) in [("height", clip.height), ("width", clip.width)] where side % sides != 0 {
            throw fields.error(name, "is \(side); it must be a multiple of \(sides)")
        }
        if (clip.frames - 1) % playing.temporalStride != 0 { throw fields.error("frames", "is \(clip.frames); it must be 4n+1") }
        if clip.sampleRate % clip.fps != 0 {
            throw fields.error("sample_rate", "is \(clip.sampleRate), no multiple of fps, \(clip.fps)")
        }
        return clip
    }

    private static func program(_ name: String, _ fields: Fields) throws -> Program {
        try fields.only("role", "clip", "methods", "artifact", "placement", "layers", "demanded", "measured")
        let stored = try fields.record("artifact")
        let kind = Program.Kind(rawValue: try stored.oneOf("kind", "pte", "file", "folder")) ?? .file
        let own = [Program.Kind.pte: ["prefix", "data"], .file: ["data"], .folder: ["prefix"]]
        try stored.only(["kind", "path", "sha256", "bytes"] + (own[kind] ?? []))
        let methods = try fields.recordsByName("methods").mapped { _, each in
            try each.only("inputs", "outputs")
            return ProgramMethod(inputs: try each.records("inputs").map(spec), outputs: try each.records("outputs").map(spec))
        }
        if let other = try fields.maybe("placement", { try fields.named($0) })?.keys.first(where: { !methods.has($0) }) {
            throw fields.error("placement", "is of \(other), which it does not have")
        }
        return Program(
            name: name, role: try fields.text("role", 1...200), clip: try fields.maybe("clip") { try fields.text($0) },
            methods: methods,
            kind: kind, path: try path(stored, stored.text("path")), entry: try entry(stored),
            prefix: try stored.maybe("prefix") { try stored.text($0, 0...200) } ?? "",
            data: try stored.maybe("data") { try path(stored, stored.text($0)) })
    }

    private static func spec(_ fields: Fields) throws -> TensorSpec {
        try fields.only("name", "dtype", "shape")
        let dtype = try fields.oneOf("dtype", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
        let shape: [Dimension] = try fields.rows("shape") { place, size in
            if let name = size.text, isDimension(name) { return .named(name) }
            if let size = size.whole, (0...Int(Int32.max)).contains(size) { return .size(size) }
            throw fields.error(place, "is \(size.told); it must be a size or a name")
        }
        return TensorSpec(name: try fields.text("name", 1...200), dtype: dtype, shape: shape)
    }

    /// Up to 40 of a-z, 0-9 and _, the first a letter.
    private static func isDimension(_ name: String) -> Bool {
        let letters = UInt8(ascii: "a")...UInt8(ascii: "z")
        let digits = UInt8(ascii: "0")...UInt8(ascii: "9")
        guard let first = name.utf8.first, letters.contains(first), name.utf8.count <= 40 else { return false }
        return name.utf8.allSatisfy { letters.contains($0) || digits.contains($0) || $0 == UInt8(ascii: "_") }
    }

    private static func entry(_ fields: Fields) throws -> FileEntry {
        FileEntry(sha256: try fields.sha256("sha256"), bytes: try fields.whole("bytes"))
    }

    /// A path that means the same file on every system, and none outside the bundle.
    private static func path(_ fields: Fields, _ path: String) throws -> String {
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        if path.utf8.count > 200 || !parts.allSatisfy(isPart) {
            throw fields.error(
                nil, "has '\(short(path))', which is no path inside a bundle: letters, digits and '._+-', parts joined by '/'")
        }
        if path.lowercased() == name { throw fields.error(nil, "has \(name), which cannot list itself") }
        if parts[0].lowercased() == "records" {
            throw fields.error(nil, "has \(short(path)), where figures are kept that are measured later")
        }
        return path
    }

    private static func isPart(_ part: Substring) -> Bool {
        let good = part.utf8.allSatisfy { byte in
            byte < 0x80
                && (Character(Unicode.Scalar(byte)).isLetter || Character(Unicode.Scalar(byte)).isNumber
                    || "._+-".utf8.contains(byte))
        }
        return good && !part.isEmpty && !part.hasPrefix(".") && !part.hasPrefix("+") && !part.hasSuffix(".")
    }

    // ---- whole ----

    private func checkClips(_ top: Fields) throws {
        if clips.isEmpty { throw top.error("clips", "is empty: there is no clip shape") }
        let shapes = clips.map(\.description)
        if Set(shapes).count != shapes.count { throw top.error("clips", "lists a shape twice: \(listed(shapes))") }
        var places: [[String?]: String] = [:]
        for (name, program) in programs.entries {
            if let clip = program.clip, !shapes.contains(clip) {
                throw top.error("programs.\(name)", "is for clips of \(short(clip)); the bundle has \(listed(shapes))")
            }
            if let other = places.updateValue(name, forKey: [program.role, program.clip]) {
                throw top.error(
                    "programs", "has \(other) and \(name), both the \(program.role) of \(program.clip ?? "every shape")")
            }
        }
    }

    private func checkPaths(_ top: Fields) throws {
        var shared = Ordered<Program>()
        var methods = Set<String>()
        for (name, program) in programs.entries {
            func fault(_ what: String) -> EchoEdgeError { top.error("programs.\(name)", what) }
            if let first = shared[program.path] {
                if program.prefix.isEmpty || first.prefix.isEmpty || first.entry != program.entry {
                    throw fault("lists \(program.path) twice and does not say what of it is its own")
                }
            } else {
                shared[program.path] = program
            }
            for method in program.methods.keys where !methods.insert("\(program.path) \(program.prefix)\(method)").inserted {
                throw fault("has a method of another program: \(method)")
            }
            if let data = program.data, !files.has(data) { throw fault("has its weights in \(data), which is not among the files") }
            let inside = files.entries.filter { $0.0.hasPrefix(program.path + "/") }
            if (program.kind == .folder) == inside.isEmpty { throw fault("is a folder without files, or a file with some inside") }
            if !inside.isEmpty, program.entry != Manifest.folderEntry(inside) {
                throw fault("has another SHA-256 or size than its files")
            }
        }
        var seen: [String: String] = [:]  // a phone's storage may not tell upper from lower case
        for path in shared.keys + files.keys {
            if let other = seen.updateValue(path, forKey: path.lowercased()) {
                throw top.error("files", "lists \(path) twice, as \(other)")
            }
        }
        for path in seen.values {
            var parts = path.lowercased().split(separator: "/").dropLast()
            while !parts.isEmpty {
                if let owner = seen[parts.joined(separator: "/")], shared[owner]?.kind != .folder {
                    throw top.error("files", "has \(path) inside \(owner), which is a file")
                }
                parts = parts.dropLast()
            }
        }
    }

    private static func folderEntry(_ inside: [(String, FileEntry)]) -> FileEntry {
        let lines = inside.sorted { $0.0 < $1.0 }.map { "\($0.1.sha256)  \($0.0)\n" }.joined()
        return FileEntry(sha256: sha256Of(Array(lines.utf8)), bytes: inside.reduce(0) { $0 &+ $1.1.bytes })
    }
}

private func notValid(_ sentence: String) -> EchoEdgeError { .bundle("\(Manifest.name) is not valid: \(sentence). \(mending)") }
