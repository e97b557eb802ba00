import Foundation

/// Milliseconds over runs: the median, and the 10th and 90th percentile between the nearest two runs; three decimals.
public struct Spread: Equatable, Sendable {
    public let median: Double, p10: Double, p90: Double

    /// Of the seconds of at least one run.
    public init(_ seconds: [Double]) {
        let sorted = seconds.sorted()
        func at(_ share: Double) -> Double {
            let place = share * Double(sorted.count - 1)
            let below = Int(place)
            let above = min(below + 1, sorted.count - 1)
            let t = place - Double(below)
            let step = sorted[above] - sorted[below]
            return Spread.milliseconds(t >= 0.5 ? sorted[above] - step * (1 - t) : sorted[below] + step * t)
        }
        (median, p10, p90) = (at(50.0 / 100), at(10.0 / 100), at(90.0 / 100))
    }

    /// Milliseconds with three decimals, of the double's exact value to nearest.
    public static func milliseconds(_ seconds: Double) -> Double {
        Double(String(format: "%.3f", 1000 * seconds)) ?? 1000 * seconds
    }

    var json: Json { ["median": .number(median), "p10": .number(p10), "p90": .number(p90)] }
}

/// One call of a program, by its role.
public struct Call: Sendable {
    public let role: String, method: String
    public let seconds: Double
}

/// Runs programs as others do and keeps how long each call took.
public final class TimedPrograms: Programs {
    private let programs: any Programs
    /// Since it was emptied last.
    public var calls: [Call] = []

    public init(_ programs: any Programs) { self.programs = programs }

    public func load(_ program: Program) throws { try programs.load(program) }

    public func run(_ program: Program, _ method: String, _ inputs: [String: any Tensor]) throws -> [String: any Tensor] {
        let began = now()
        let made = try programs.run(program, method, inputs)
        calls.append(Call(role: program.role, method: method, seconds: now() - began))
        return made
    }

    public func free(_ program: Program) { programs.free(program) }
}

/// One clip that was timed: what came out, wall seconds, and every call.
public struct TimedClip {
    public let played: Played
    public let seconds: Double
    public let calls: [Call]

    public init(_ played: Played, seconds: Double, calls: [Call]) {
        (self.played, self.seconds, self.calls) = (played, seconds, calls)
    }
}

/// Where a benchmark ran; what the platform does not tell is nil. `place`: phone or host; `kind`: cpu, metal or npu.
public struct Device: Sendable {
    public let place: String, kind: String, name: String
    public let cores: Int?, memoryBytes: Int?
    public let os: String, osBuild: String

    public init(place: String, kind: String, name: String, cores: Int?, memoryBytes: Int?, os: String, osBuild: String) {
        (self.place, self.kind, self.name, self.cores) = (place, kind, name, cores)
        (self.memoryBytes, self.os, self.osBuild) = (memoryBytes, os, osBuild)
    }
}

/// What a device tells of itself around the runs. `thermal`: degrees Celsius by sensor.
public struct Surroundings: Sendable {
    public let thermal: [String: Double]?
    public let load: Double?

    public init(thermal: [String: Double]? = nil, load: Double? = nil) { (self.thermal, self.load) = (thermal, load) }

    var json: Json {
        guard let thermal else { return .null }
        var sensors = Ordered<Json>()
        for (name, degrees) in thermal.sorted(by: { $0.key < $1.key }) { sensors[name] = .number(degrees) }
        return .object(sensors)
    }
}

/// A benchmark as `echoedge.bench/1`, the one record of every platform (docs/BENCH.md).
public struct BenchRecord {
    private static let tick = 1e-3  // milliseconds: a clip whose times are below the clock's is one of its ticks long
    private static let agree = 0.01  // share by which a rate may differ from the times that it follows from: both are rounded

    let bundle: ModelBundle
    let clip: Clip
    /// full or tiny.
    let decoder: String
    let prompt: String
    let engine: String
    let device: Device
    let threads: Int
    let versions: Ordered<String>
    /// Seconds until a player was there: the first time, and opened again behind the last clip.
    let opening: (first: Double, again: Double)
    let first: TimedClip
    let runs: [TimedClip]
    let again: TimedClip?
    let peakRssBytes: Int
    let before: Surroundings, after: Surroundings
    let cpuMilliseconds: Double?
    let date: Date

    /// `first`: the first clip; `runs`: those that count, at least one; `again`: one of a player that was opened again.
    public init(
        bundle: ModelBundle, clip: Clip, decoder: String, prompt: String, engine: String, device: Device, threads: Int,
        versions: Ordered<String>, opening: (first: Double, again: Double), first: TimedClip, runs: [TimedClip], again: TimedClip?,
        peakRssBytes: Int, before: Surroundings, after: Surroundings, cpuMilliseconds: Double? = nil, date: Date = Date()
    ) {
        (self.bundle, self.clip, self.decoder, self.prompt, self.engine) = (bundle, clip, decoder, prompt, engine)
        (self.device, self.threads, self.versions, self.opening) = (device, threads, versions, opening)
        (self.first, self.runs, self.again, self.peakRssBytes) = (first, runs, again, peakRssBytes)
        (self.before, self.after, self.cpuMilliseconds, self.date) = (before, after, cpuMilliseconds, date)
    }

    /// What the record's file holds. Throws what the bundle's plan throws.
    public func json() throws -> Json {
        let manifest = bundle.manifest
        let plan = try bundle.plan(clip)
        var stages = Ordered<Json>()
        var programs = Ordered<Json>()
        for stage in Stage.allCases { stages[stage.rawValue] = spread(stage).json }
        for role in runs[0].calls.map(\.role) where !programs.has(role) {
            programs[role] = Spread(runs.map { $0.calls.filter { $0.role == role }.reduce(0) { $0 + $1.seconds } }).json
        }
        let whole = Spread(runs.map(\.seconds))
        let frames = runs[0].played.frames
        let steps = runs.flatMap(\.calls).filter { $0.role == "denoise" }.map(\.seconds)
        let target = [manifest.target, manifest.backend].filter { !$0.isEmpty }.joined(separator: "/")
        var record: Ordered<Json> = [
            "format": "echoedge.bench/1", "date": .text(ISO8601DateFormatter().string(from: date)),
            "manifest_sha256": .text(manifest.sha256),
            "engine": [
                "name": .text(engine), "target": .text(target), "weights": .text(manifest.weights),
                "precision": .maybe(manifest.precision),
            ],
            "mode": "ahead-of-time", "savings": true,
            "machine": [
                "place": .text(device.place), "kind": .text(device.kind), "name": .text(device.name), "cores": .maybe(device.cores),
                "memory_bytes": .maybe(device.memoryBytes), "os": .text(device.os), "os_build": .text(device.osBuild),
            ],
            "threads": .whole(threads), "versions": .object(versions.mapped { .text($1) }),
            "workload": [
                "preset": nil, "model": manifest.model["name"] ?? nil, "layers": manifest.model["layers"] ?? nil,
                "height": .whole(clip.height), "width": .whole(clip.width), "frames": .whole(clip.frames), "fps": .whole(clip.fps),
                "steps": .whole(plan.steps), "branches": .whole(plan.branches.count), "evaluations": .whole(plan.evaluations),
                "decoder": .text(decoder), "prompt": .text(prompt),
            ],
            "runs": .whole(runs.count), "stages": .object(stages), "programs": .object(programs), "clip": whole.json,
            "step": Spread(steps).json, "first_frame": Spread(runs.map(\.played.firstFrame)).json,
            "cpu_ms": .maybe(cpuMilliseconds),
            "first_load_ms": .number(Spread.milliseconds(load(first, opening.first))),
            "second_load_ms": .maybe(again.map { Spread.milliseconds(load($0, opening.again)) }),
            "frames": .whole(frames), "peak_rss_bytes": .whole(peakRssBytes), "peak_device_bytes": nil,
            "disk_bytes": .whole(bundle.bytes),
            "thermal_before": before.json, "thermal_after": after.json, "load_average_before": .maybe(before.load),
            "load_average_after": .maybe(after.load),
        ]
        for (name, rate) in BenchRecord.rates(frames, clip.fps, clip: whole.median, decode: spread(.decode).median) {
            record[name] = .number(rate)
        }
        return .object(record)
    }

    private func spread(_ stage: Stage) -> Spread { Spread(runs.map { $0.played.seconds[stage] ?? 0 }) }

    /// Opening, and what the first call of each method took longer than the median of later ones.
    private func load(_ clip: TimedClip, _ opening: Double) -> Double {
        var seen = Set<[String]>()
        return clip.calls.filter { seen.insert([$0.role, $0.method]).inserted }.reduce(opening) { total, call in
            let later = runs.flatMap(\.calls).filter { $0.role == call.role && $0.method == call.method }.map(\.seconds).sorted()
            if later.isEmpty { return total }
            return total + max(0, call.seconds - (later[(later.count - 1) / 2] + later[later.count / 2]) / 2)
        }
    }

    /// What follows from the milliseconds of a clip and of its last stage.
    private static func rates(_ frames: Int, _ fps: Int, clip: Double, decode: Double) -> [(String, Double)] {
        let whole = max(clip, tick) / 1000
        let count = Double(frames)
        return [
            ("fps", count / whole), ("fps_without_decode", count / (max(clip - decode, tick) / 1000)),
            ("realtime_factor", count / Double(fps) / whole),
        ]
    }

    /// Whether bytes are a record that EchoEdge reads. Throws `bundle`: a field is missing, unknown or wrong, or figures
    /// contradict one another.
    public static func check(_ bytes: [UInt8]) throws {
        let top = try Fields("", Json.parse(bytes)) { .bundle("The record is not valid: \($0). Measure again.") }
        let counts = ["layers", "height", "width", "frames", "fps", "steps", "branches", "evaluations"]
        try top.only(
            "format", "date", "manifest_sha256", "engine", "mode", "savings", "machine", "threads", "versions", "workload", "runs",
            "stages", "programs", "clip", "step", "first_frame", "cpu_ms", "first_load_ms", "second_load_ms", "frames", "fps",
            "fps_without_decode", "realtime_factor", "peak_rss_bytes", "peak_device_bytes", "disk_bytes", "thermal_before",
            "thermal_after", "load_average_before", "load_average_after", "on_device")
        _ = try top.oneOf("format", "echoedge.bench/1")
        _ = try top.text("date", "a time like 2026-01-31T12:00:00Z", isDate)
        try top.orNull("manifest_sha256") { _ = try top.sha256($0) }
        let engine = try top.record("engine").only("name", "target", "weights", "precision")
        _ = try engine.text("name", "a-z, 0-9 and _") {
            !$0.isEmpty && $0.allSatisfy { "abcdefghijklmnopqrstuvwxyz0123456789_".contains($0) }
        }
        _ = try (engine.text("target"), engine.text("weights"))
        try engine.orNull("precision") { _ = try engine.oneOf($0, "fp32", "bf16", "fp16") }
        _ = try (top.oneOf("mode", "ahead-of-time", "eager", "compiled"), top.flag("savings"))
        let machine = try top.record("machine").only("place", "kind", "name", "cores", "memory_bytes", "os", "os_build")
        _ = try (machine.oneOf("place", "host", "phone"), machine.oneOf("kind", "cpu", "cuda", "metal", "vulkan", "npu"))
        for name in ["name", "os", "os_build"] { _ = try machine.text(name, 1...200) }
        try machine.orNull("cores") { _ = try machine.whole($0, 1...Int.max) }
        try machine.orNull("memory_bytes") { _ = try machine.whole($0) }
        let workload = try top.record("workload").only(["preset", "model", "decoder", "prompt"] + counts)
        for name in counts { _ = try workload.whole(name, 1...Int.max) }
        _ = try (workload.text("model", 1...200), workload.text("prompt"), workload.oneOf("decoder", "full", "tiny"))
        for name in ["threads", "runs", "frames"] { _ = try top.whole(name, 1...Int.max) }
        _ = try top.whole("peak_rss_bytes")
        for name in ["peak_device_bytes", "disk_bytes"] { try top.orNull(name) { _ = try top.whole($0) } }
        for name in ["cpu_ms", "first_load_ms", "second_load_ms", "load_average_before", "load_average_after"] {
            try top.orNull(name) { _ = try top.number($0, Fields.fromZero) }
        }
        _ = try top.maybe("on_device") { try top.record($0) }  // the host's, who alone reads it; players leave it out
        for (name, version) in try top.named("versions").entries where version.text == nil {
            throw top.error("versions.\(name)", "is no text")
        }
        for name in ["thermal_before", "thermal_after"] {
            try top.orNull(name) {
                for (sensor, degrees) in try top.named($0).entries { _ = try top.number("\(name).\(sensor)", degrees, -1e9...1e9) }
            }
        }
        let stages = try top.recordsByName("stages").mapped { _, fields in try spread(fields) }
        if let missing = Stage.allCases.first(where: { !stages.has($0.rawValue) }) {
            throw top.error("stages", "has no \(missing.rawValue)")
        }
        if let other = stages.keys.first(where: { Stage(rawValue: $0) == nil }) {
            throw top.error("stages", "has \(short(other)), which is no stage")
        }
        for fields in try top.recordsByName("programs").values { _ = try spread(fields) }
        for name in ["step", "first_frame"] { _ = try spread(top.record(name)) }
        let clip = try spread(top.record("clip"))
        let fps = try workload.whole("fps")
        for (name, expected) in rates(try top.whole("frames"), fps, clip: clip, decode: stages[Stage.decode.rawValue] ?? 0) {
            let found = try top.number(name, Fields.positive)
            if abs(found - expected) > agree * expected {
                throw top.error(name, "is \(found), but the clip's times make it \(expected)")
            }
        }
    }

    private static func isDate(_ text: String) -> Bool {
        let digits = text.utf8.map { (0x30...0x39).contains($0) ? UInt8(ascii: "0") : $0 }
        return digits == Array("0000-00-00T00:00:00Z".utf8)
    }

    private static func spread(_ fields: Fields) throws -> Double {
        try fields.only("median", "p10", "p90")
        let (low, middle, high) = (
            try fields.number("p10", Fields.fromZero), try fields.number("median", Fields.fromZero),
            try fields.number("p90", Fields.fromZero)
        )
        if low > middle || middle > high {
            throw fields.error(nil, "has p10 \(low), median \(middle) and p90 \(high), which are not in this order")
        }
        return middle
    }
}
