import EchoEdgeCore
import Foundation
import XCTest

/// What a vector expects, or what the engine made: arrays by the type of their numbers, all else as JSON has it.
indirect enum Value {
    case floats([Float])
    case doubles([Double])
    case wholes([Int])  // also unsigned ones of 64 bits, by their bits
    case named([String: Value])
    case json(Json)

    static func bytes(_ values: [UInt8]) -> Value { .wholes(values.map(Int.init)) }
}

/// An array of a vector.
struct Vector {
    let dtype: String
    let shape: [Int]
    private let data: [UInt8]
    private let offset: Int

    init(_ stated: Json, in folder: URL) throws {
        dtype = try XCTUnwrap(stated["dtype"]?.text)
        shape = try XCTUnwrap(stated["shape"]?.items).compactMap(\.whole)
        offset = try XCTUnwrap(stated["offset"]?.whole)
        data = try Vectors.content(folder.appendingPathComponent(XCTUnwrap(stated["file"]?.text)))
    }

    var size: Int { sizeOf(shape) }

    private func at<T>(_ index: Int, _ type: T.Type) -> T {
        data.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset + index * MemoryLayout<T>.size, as: type) }
    }

    var floats: [Float] { (0..<size).map { at($0, Float.self) } }
    var doubles: [Double] { (0..<size).map { at($0, Double.self) } }
    var bytes: [UInt8] { (0..<size).map { at($0, UInt8.self) } }
    var words: [UInt32] { (0..<size).map { at($0, UInt32.self) } }

    var value: Value {
        switch dtype {
        case "float32": return .floats(floats)
        case "float64": return .doubles(doubles)
        case "uint8": return .bytes(bytes)
        case "int32": return .wholes((0..<size).map { Int(at($0, Int32.self)) })
        case "uint32": return .wholes(words.map(Int.init))
        default: return .wholes((0..<size).map { at($0, Int.self) })
        }
    }

    func tensor() throws -> Floats { try Floats(shape: shape, floats) }
    func pixels() throws -> Pixels { try Pixels(height: shape[0], width: shape[1], channels: shape[2], bytes) }
}

/// A case of golden vectors, as docs/PLAYERS.md tells.
struct Case {
    let name: String, kind: String
    let error: Json?
    private let folder: URL
    private let fields: Json

    init(_ fields: Json, _ folder: URL) throws {
        self.fields = fields
        self.folder = folder
        name = try XCTUnwrap(fields["name"]?.text)
        kind = try XCTUnwrap(fields["kind"]?.text)
        error = fields["error"]
    }

    func has(_ key: String) -> Bool { fields["given"]?[key] ?? .null != .null }

    func value(_ key: String) throws -> Json {
        guard let found = fields["given"]?[key] else { throw Missing(what: "\(name) has no \(key)") }
        return found
    }

    func whole(_ key: String) throws -> Int { try XCTUnwrap(value(key).whole) }
    func number(_ key: String) throws -> Double { try XCTUnwrap(value(key).double) }
    func text(_ key: String) throws -> String { try XCTUnwrap(value(key).text) }
    func flag(_ key: String) throws -> Bool { try value(key) == .bool(true) }
    func wholes(_ key: String) throws -> [Int] { try XCTUnwrap(value(key).items).compactMap(\.whole) }
    func texts(_ key: String) throws -> [String] { try XCTUnwrap(value(key).items).compactMap(\.text) }
    func array(_ key: String) throws -> Vector { try Vector(value(key), in: folder) }
    func floats(_ key: String) throws -> [Float] { try array(key).floats }
    func file(_ key: String) throws -> URL { try folder.appendingPathComponent(XCTUnwrap(value(key)["file"]?.text)) }
    func content(_ key: String) throws -> [UInt8] { try Vectors.content(file(key)) }
    func path(_ key: String) throws -> URL { try folder.appendingPathComponent(text(key)) }
    func plan() throws -> SamplingPlan { try SamplingPlan.parse(content("plan")) }

    func seed(_ key: String) throws -> UInt64 {
        switch try value(key) {
        case .whole(let seed): return try Normals.seed(String(seed))
        case .big(let digits), .text(let digits): return try Normals.seed(digits)
        case let other: throw Missing(what: "\(name) has the seed \(other)")
        }
    }

    func square(_ key: String) throws -> Square? {
        if !has(key) { return nil }
        let numbers = try XCTUnwrap(value(key).items).compactMap(\.double)
        return Square(top: numbers[0], left: numbers[1], size: numbers[2])
    }

    func bound(_ key: String) -> Double? { fields["within"]?[key]?.double }

    var expected: [String: Value] {
        get throws {
            var found: [String: Value] = [:]
            for (key, value) in try XCTUnwrap(fields["expected"]?.members).entries { found[key] = try wanted(value) }
            return found
        }
    }

    private func wanted(_ value: Json) throws -> Value {
        if value["dtype"] != nil { return try Vector(value, in: folder).value }
        guard let members = value.members else { return .json(value) }
        var found: [String: Value] = [:]
        for (key, member) in members.entries { found[key] = try wanted(member) }
        return .named(found)
    }

    /// What the engine's answer has wrong, in words; nil: nothing.
    func difference(_ found: [String: Value]) throws -> String? {
        let expected = try expected
        if Set(expected.keys) != Set(found.keys) { return "it has \(found.keys.sorted()), not \(expected.keys.sorted())" }
        for (key, value) in expected.sorted(by: { $0.key < $1.key }) {
            // FFmpeg's buffers decide about a resampled sound's last sample
            let shorter = (kind == "resample" || kind == "speech") && bound(key) != nil
            if let wrong = differs(value, found[key]!, bound(key), shorter) { return "\(key) \(wrong)" }
        }
        return nil
    }
}

struct Missing: Error {
    let what: String
}

private func differs(_ wanted: Value, _ found: Value, _ bound: Double?, _ shorter: Bool) -> String? {
    switch (wanted, found) {
    case (.floats(let wanted), .floats(let found)):
        return numbers(wanted.map(Double.init), found.map(Double.init), bound, shorter) {
            wanted[$0].bitPattern == found[$0].bitPattern
        }
    case (.doubles(let wanted), .doubles(let found)):
        return numbers(wanted, found, bound, shorter) { wanted[$0].bitPattern == found[$0].bitPattern }
    case (.wholes(let wanted), .wholes(let found)):
        return numbers(wanted.map(Double.init), found.map(Double.init), bound, shorter) { wanted[$0] == found[$0] }
    case (.named(let wanted), .named(let found)):
        for key in Set(wanted.keys).union(found.keys).sorted() {
            guard let one = wanted[key], let other = found[key] else { return "has or lacks \(key)" }
            if let wrong = differs(one, other, bound, shorter) { return "\(key) \(wrong)" }
        }
        return nil
    case (.json(.number(let wanted)), .json(let found)):
        let same = found.double == wanted || (bound != nil && abs((found.double ?? .nan) - wanted) <= bound ?? 0)
        return same ? nil : "is \(found), not \(wanted)"
    case (.json(let wanted), .json(let found)): return wanted == found ? nil : "is \(found), not \(wanted)"
    default: return "is of another type: \(found), not \(wanted)"
    }
}

private func numbers(_ wanted: [Double], _ found: [Double], _ bound: Double?, _ shorter: Bool, same: (Int) -> Bool) -> String? {
    if wanted.count != found.count && !(shorter && abs(wanted.count - found.count) <= 1) {
        return "has \(found.count) numbers, not \(wanted.count)"
    }
    for i in 0..<min(wanted.count, found.count) where !same(i) {
        if let bound, abs(wanted[i] - found[i]) <= bound { continue }
        return "[\(i)] is \(found[i]), not \(wanted[i])"
    }
    return nil
}

/// The folder of golden vectors that the environment names.
enum Vectors {
    private static var contents: [URL: [UInt8]] = [:]

    static func content(_ file: URL) throws -> [UInt8] {
        if let known = contents[file] { return known }
        let read = [UInt8](try Data(contentsOf: file))
        contents[file] = read
        return read
    }

    /// Every case, group by group, each file found to be what the index says. Skips the test where there are no vectors.
    static func cases(_ kind: String? = nil) throws -> [Case] {
        guard let path = ProcessInfo.processInfo.environment["ECHOEDGE_VECTORS"] else {
            throw XCTSkip("ECHOEDGE_VECTORS names no folder that echoedge vectors wrote.")
        }
        let root = URL(fileURLWithPath: path)
        let index = try Json.parse(content(root.appendingPathComponent("index.json")))
        XCTAssertEqual(index["format"], "echoedge.vectors/1")
        for (path, entry) in try XCTUnwrap(index["files"]?.members).entries {
            let found = sha256Of(try content(root.appendingPathComponent(path)))
            if entry["sha256"] != .text(found) { throw Missing(what: "\(path) is not what the index says") }
        }
        var found: [Case] = []
        for (group, entry) in try XCTUnwrap(index["groups"]?.members).entries {
            let file = try content(root.appendingPathComponent(XCTUnwrap(entry["file"]?.text)))
            let cases = try XCTUnwrap(Json.parse(file)["cases"]?.items)
            if entry["cases"] != .whole(cases.count) {
                throw Missing(what: "\(group) has \(cases.count) cases, the index says otherwise")
            }
            found += try cases.map { try Case($0, root) }
        }
        return found.filter { kind == nil || $0.kind == kind }
    }
}
