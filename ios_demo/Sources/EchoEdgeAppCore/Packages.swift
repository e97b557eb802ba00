import EchoEdgeCore
import Foundation

/// What Core ML may run programs on, as a bundle's manifest calls it.
public enum ComputeUnits: String, CaseIterable, Sendable {
    case all, gpu, ane, cpu

    /// Throws `bundle`: a manifest names others.
    public static func of(_ backend: String) throws -> ComputeUnits {
        guard let units = ComputeUnits(rawValue: backend) else {
            let known = allCases.map(\.rawValue).joined(separator: ", ")
            throw EchoEdgeError.bundle(
                "The bundle's backend is '\(short(backend))'; Core ML's are \(known). Export the bundle again.")
        }
        return units
    }
}

/// How a program of target coreml lies in its folder, and what its packages take; `targets/coreml/names.py` is its counterpart.
public enum Packages {
    private static let together = "functions.mlpackage"
    private static let row = 32  // numbers that inputs of the Neural Engine's layout may be filled up by
    private static let largest: Float = 32_768  // what stands for numbers that half precision does not hold: masks
    private static let limit: Float = 65_504

    /// The package of a method, by its path in the bundle, and the function in it; nil: the package has that method alone. Throws
    /// `bundle`: the manifest lists neither.
    public static func package(_ manifest: Manifest, _ program: Program, _ method: String) throws -> (
        path: String, function: String?
    ) {
        let shared = "\(program.path)/\(together)"
        if !files(manifest, shared).isEmpty { return (shared, program.prefix + method) }
        let own = "\(program.path)/\(program.prefix)\(method).mlpackage"
        if !files(manifest, own).isEmpty { return (own, nil) }
        throw EchoEdgeError.bundle("\(program.name) has no package for \(method) in \(program.path). Export the bundle again.")
    }

    /// SHA-256 of the lines "sha256  path\n" of a package's files, sorted by path: what the compiled model is called.
    public static func digest(_ manifest: Manifest, _ path: String) -> String {
        let lines = files(manifest, path).map { "\($0.entry.sha256)  \($0.path)\n" }.joined()
        return sha256Of(Array(lines.utf8))
    }

    private static func files(_ manifest: Manifest, _ path: String) -> [(path: String, entry: FileEntry)] {
        manifest.entries.entries.filter { $0.0.hasPrefix("\(path)/") }.map { ($0.0, $0.1) }.sorted { $0.path < $1.path }
    }

    /// What an output is called in a package, which has each name once.
    public static func output(_ name: String, _ method: ProgramMethod) -> String {
        method.inputs.contains { $0.name == name } ? "new_\(name)" : name
    }

    /// Numbers as half precision takes them: those beyond it are masks, and become ±32,768.
    public static func held(_ value: Float) -> Float { abs(value) > limit ? (value < 0 ? -largest : largest) : value }

    /// How many zeros stand behind numbers in a package that has them in other axes. Throws `engine`: the package's shape holds
    /// others.
    @discardableResult
    public static func padding(_ name: String, _ count: Int, _ shape: [Int]) throws -> Int {
        let missing = sizeOf(shape) - count
        if (0..<row).contains(missing) { return missing }
        throw EchoEdgeError.engine("\(name) has \(count) numbers; its package takes \(shape). Export the bundle again.")
    }
}

/// Compiled models, kept by the content of their packages: `DIGEST.mlmodelc` in a folder that is the app's own. Only whole ones
/// have that name: what is made is moved beside them first, then renamed.
public struct CompiledModels {
    private static let suffix = ".mlmodelc", partial = ".partial"
    public let folder: URL

    public init(_ folder: URL) { self.folder = folder }

    /// Where a package's compiled model lies, or will.
    public func place(_ digest: String) -> URL { folder.appendingPathComponent(digest + CompiledModels.suffix) }

    /// The compiled model of a package: the one that is there, or what `compile` makes, which is moved here. Throws `resource`: it
    /// cannot be kept; and what `compile` throws.
    public func model(_ digest: String, compile: () throws -> URL) throws -> (url: URL, compiled: Bool) {
        let place = place(digest)
        let files = FileManager.default
        if files.fileExists(atPath: place.path) { return (place, false) }
        let made = try compile()
        let beside = folder.appendingPathComponent("\(digest).\(UUID().uuidString)\(CompiledModels.partial)")
        do {
            try files.createDirectory(at: folder, withIntermediateDirectories: true)
            try files.moveItem(at: made, to: beside)  // of another disk this copies, and may end half way
            try files.moveItem(at: beside, to: place)
        } catch {
            try? files.removeItem(at: beside)
            try? files.removeItem(at: made)
            if files.fileExists(atPath: place.path) { return (place, true) }  // somebody else was faster
            throw EchoEdgeError.resource(
                "The compiled model cannot be kept (\(error.localizedDescription)). Free some space, then try again.")
        }
        return (place, true)
    }

    /// A compiled model that its runtime refuses is of no use: the next load makes it anew.
    public func discard(_ digest: String) { try? FileManager.default.removeItem(at: place(digest)) }

    /// Removes what was interrupted, and models of packages that are not among those to keep; nil: all whole ones stay. Gives how
    /// many.
    @discardableResult
    public func prune(keep: Set<String>?) -> Int {
        let found = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
        let stale = found.filter { name in
            if name.hasSuffix(CompiledModels.partial) { return true }
            guard let keep, name.hasSuffix(CompiledModels.suffix) else { return false }
            return !keep.contains(String(name.dropLast(CompiledModels.suffix.count)))
        }
        for name in stale { try? FileManager.default.removeItem(at: folder.appendingPathComponent(name)) }
        return stale.count
    }

    /// Digests of all packages of a bundle of target coreml.
    public static func digests(_ manifest: Manifest) -> Set<String> {
        let folders = manifest.entries.keys.compactMap { path -> String? in
            path.range(of: ".mlpackage/").map { String(path[..<path.index(before: $0.upperBound)]) }
        }
        return Set(Set(folders).map { Packages.digest(manifest, $0) })
    }
}

/// How a method of target coreai is called: names of its inputs and outputs in the record's order, and of the `.aimodel`s that run
/// for it, one after the other; docs/COREAI.md tells.
public struct ChainSignature: Equatable, Sendable {
    public static let function = "main"
    private static let file = "methods.json", program = "main.mlirb", hash = "main.hash"
    private static let magic: [UInt8] = [0x4D, 0x4C, 0xEF, 0x52]  // of MLIR's bytecode

    public let inputs: [String], outputs: [String], parts: [String]

    /// Of a program's method. Throws `engine`: the folder does not tell.
    public static func read(_ folder: URL, _ method: String) throws -> ChainSignature {
        let path = folder.appendingPathComponent(file)
        let failure = { (why: String) in
            EchoEdgeError.engine("\(path.path) does not tell how \(method) is called (\(why)). Export the bundle again.")
        }
        do {
            let top = try Fields("", Json.parse([UInt8](Data(contentsOf: path))), failure)
            let known = try top.record(method)
            let parts = try known.texts("parts")
            if parts.isEmpty || !parts.allSatisfy(isPlainName) { throw known.error("parts", "is \(parts)") }
            return ChainSignature(inputs: try known.texts("inputs"), outputs: try known.texts("outputs"), parts: parts)
        } catch let error as EchoEdgeError {
            throw error.kind == .engine ? error : failure(error.message)
        } catch {
            throw failure(error.localizedDescription)
        }
    }

    /// Refuses a folder whose program is none, or not the one that its hash is of: the runtime would end the app over it. Throws
    /// `engine`.
    public static func requireWhole(_ model: URL) throws {
        let code = model.appendingPathComponent(program)
        guard let told = try? [UInt8](Data(contentsOf: model.appendingPathComponent(hash))), let found = sha256Of(code) else {
            throw EchoEdgeError.engine("\(model.path) lacks \(program) or \(hash). Copy the bundle again, or export it again.")
        }
        let digits = told.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        let begin = (try? FileHandle(forReadingFrom: code))?.readData(ofLength: magic.count)
        if digits != found || begin.map([UInt8].init) != magic {
            throw EchoEdgeError.engine("\(code.path) is not the program that \(hash) beside it is of. Export the bundle again.")
        }
    }
}
