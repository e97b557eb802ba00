import EchoEdgeCore
import Foundation

/// What a player waits for before it loads anything: the phone is no warmer than `status`, for at most `timeout` seconds.
public struct CoolWish: Equatable, Sendable {
    public let status: Thermal
    public let timeout: Double
}

/// What a benchmark asks of a player, in the folder that holds it; docs/DEVICE_BENCH.md is the contract.
public struct Job: Equatable, Sendable {
    /// The version of the contract that is kept to.
    public static let contract = 1
    public static let file = "job.json", result = "result.json", pushed = "pushed.json"

    public let word: String
    public let bundle: String, portrait: String, speech: String
    public let clip: String
    public let decoder: String?
    public let engine: String
    public let prompt: String
    public let seed: UInt64
    public let warmUp: Int, runs: Int
    public let sustained: Double?
    public let reload: Bool
    public let cool: CoolWish?

    /// Clips that are counted while they are played.
    public var clips: Int { warmUp + runs + (reload ? 1 : 0) }

    /// Whether a text can be a job's word: 8 to 64 lower-case letters and digits.
    public static func isWord(_ text: String) -> Bool {
        (8...64).contains(text.utf8.count) && text.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x7A).contains($0) }
    }

    /// Reads the job that a folder holds, which must be the one called `word`. Throws `input`: it is not there, is no job, another
    /// one, of another contract, or asks for what an app cannot do.
    public static func read(_ folder: URL, _ word: String) throws -> Job {
        do {
            return try parse([UInt8](Data(contentsOf: folder.appendingPathComponent(file))), word)
        } catch let error as EchoEdgeError {
            throw error
        } catch {
            throw EchoEdgeError.input(
                "\(file) cannot be read (\(error.localizedDescription)). `echoedge bench BUNDLE --device ios` writes it.")
        }
    }

    /// As above, of its bytes.
    public static func parse(_ bytes: [UInt8], _ word: String) throws -> Job {
        let value: Json
        do {
            value = try Json.parse(bytes)
        } catch let error as EchoEdgeError {
            throw EchoEdgeError.input("\(file) is no job: \(error.message)")
        }
        return try Job(Fields("", value) { EchoEdgeError.input("\(file) is no job: \($0).") }, word)
    }

    private static let fields = [
        "format", "job", "contract", "bundle", "portrait", "speech", "clip", "decoder", "engine", "prompt", "seed", "threads",
        "warm_up",
        "runs", "sustained_s", "reload", "cool",
    ]
    private static let fromOne = 1...1_000_000

    private init(_ top: Fields, _ wanted: String) throws {
        try top.only(Job.fields)
        _ = try top.ifThere("format") { try top.oneOf($0, "echoedge.job/1") }
        word = try top.text("job")
        if !Job.isWord(word) { throw top.error("job", "is '\(short(word))'; it must be 8 to 64 of a-z and 0-9") }
        if word != wanted { throw top.error("job", "is \(word); the app was asked for \(wanted)") }
        let contract = try top.ifThere("contract") { try top.whole($0, 1...Int.max) } ?? Job.contract
        if contract != Job.contract { throw top.error("contract", "is \(contract); this app keeps to version \(Job.contract)") }
        bundle = try Job.name(top, "bundle") ?? "bundle"
        portrait = try Job.name(top, "portrait") ?? "portrait.f32"
        speech = try Job.name(top, "speech") ?? "speech.f32"
        clip = try top.text("clip", 1...200)
        decoder = try top.orNull("decoder") { try top.oneOf($0, "full", "tiny") }
        engine = try top.oneOf("engine", "auto", "executorch", "coreml", "coreai")
        prompt = try top.text("prompt")
        seed = try top.seed("seed")
        if let threads = try top.orNull("threads", { try top.whole($0, 1...1024) }) {
            throw top.error(
                "threads", "is \(threads); no runtime of an iPhone lets an app choose, so it must be null (no --threads)")
        }
        warmUp = try top.whole("warm_up", Job.fromOne)
        runs = try top.whole("runs", Job.fromOne)
        sustained = try top.orNull("sustained_s") { try top.number($0, Fields.positive) }
        reload = try top.flag("reload")
        cool = try top.orNull("cool") { name in
            let wish = try top.record(name)
            try wish.only("status", "timeout_s")
            let status = try wish.oneOf("status", Thermal.allCases.map(\.rawValue))
            return CoolWish(status: Thermal(rawValue: status) ?? .cool, timeout: try wish.number("timeout_s", Fields.fromZero))
        }
    }

    /// A name in the job's own folder; anything that could lead out of it is refused.
    private static func name(_ top: Fields, _ field: String) throws -> String? {
        try top.ifThere(field) { field in
            let name = try top.text(field, 1...200)
            if !isPlainName(name) { throw top.error(field, "is '\(short(name))'; it must be a plain name in the job's folder") }
            return name
        }
    }
}

/// Whether a text is a plain name of a file: letters, digits and "._-", not beginning with a dot.
func isPlainName(_ name: String) -> Bool {
    let others: [UInt8] = [UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-")]
    let fits = name.utf8.allSatisfy { byte in
        (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte) || others.contains(byte)
    }
    return fits && !name.isEmpty && !name.hasPrefix(".")
}

/// JSON without a line end in it. Strings hold none: it is escaped there. Throws as `Json.written()`.
private func oneLine(_ value: Json) throws -> String {
    try value.written().split(separator: "\n").map { String($0.drop(while: { $0 == " " })) }.joined()
}

/// How far a player is.
public struct Status: Equatable, Sendable {
    public enum State: String, Sendable { case ready, cooling, loading, playing, sustaining, done, failed, cleaned }

    /// In front of a status in the console.
    public static let mark = "echoedge-status "

    public let job: String
    public let state: State
    public let app: String
    public var done = 0, total = 0
    public var freeBytes: Int?
    public var thermal: Thermal?
    public var fault: String?
    public var message = ""

    public init(_ job: String, _ state: State, app: String) {
        (self.job, self.state, self.app) = (job, state, app)
    }

    /// The line that a host reads. A console is read line by line: nothing in it ends one.
    public func line() throws -> String {
        Status.mark
            + (try oneLine([
                "format": "echoedge.status/1", "job": .text(job), "state": .text(state.rawValue), "contract": .whole(Job.contract),
                "app": .text(app), "done": .whole(done), "total": .whole(total), "free_bytes": .maybe(freeBytes), "pss_bytes": nil,
                "thermal_status": .maybe(thermal?.rawValue), "fault": .maybe(fault), "message": .text(message),
            ]))
    }
}

/// What a phone tells of itself before or after its clips; nil: it does not.
public struct DeviceState: Equatable, Sendable {
    public let thermal: Thermal?
    public let batteryPercent: Double?
    public let charging: Bool?

    public init(thermal: Thermal?, batteryPercent: Double?, charging: Bool?) {
        (self.thermal, self.batteryPercent, self.charging) = (thermal, batteryPercent, charging)
    }

    /// As a result holds it.
    public var json: Json {
        [
            "thermal_status": .maybe(thermal?.rawValue), "battery_percent": .maybe(batteryPercent), "battery_celsius": nil,
            "charging": charging.map(Json.bool) ?? .null,
        ]
    }
}

/// What a job came to, as result.json holds it. `record`: of the engine; `ends`: of a sustained run, seconds to each clip's end.
public struct JobResult {
    public let job: String, app: String
    public let record: Json
    public let cooled: Double
    public let before: DeviceState, after: DeviceState
    public let ends: [Double]?

    public var json: Json {
        [
            "format": "echoedge.result/1", "job": .text(job), "app": .text(app), "record": record, "cooled_s": .number(cooled),
            "before": before.json, "after": after.json, "peak_pss_bytes": nil,
            "ends_s": ends.map { .list($0.map(Json.number)) } ?? .null,
        ]
    }
}

/// How warm a phone is, in the words of records and of the contract.
public enum Thermal: String, CaseIterable, Comparable, Sendable {
    case cool = "none"
    case light, moderate, severe, critical, emergency, shutdown

    /// Of `ProcessInfo.ThermalState`'s number: nominal 0, fair 1, serious 2, critical 3; nil: another.
    public init?(state: Int) {
        let known: [Thermal] = [.cool, .light, .severe, .critical]
        guard known.indices.contains(state) else { return nil }
        self = known[state]
    }

    public static func < (one: Thermal, other: Thermal) -> Bool { one.place < other.place }

    private var place: Int { Thermal.allCases.firstIndex(of: self) ?? 0 }
}

/// Writes a file under another name and renames it, so that whoever reads it reads all of it. Throws `resource`: it cannot be
/// written.
public func writeWhole(_ file: URL, _ text: String) throws {
    do {
        try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
        try Data(text.utf8).write(to: file, options: .atomic)
    } catch {
        throw EchoEdgeError.resource(
            "\(file.lastPathComponent) cannot be written (\(error.localizedDescription)). Free some space.")
    }
}
