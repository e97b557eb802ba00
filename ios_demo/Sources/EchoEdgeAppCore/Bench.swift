import Dispatch
import EchoEdgeCore
import Foundation

/// What a benchmark needs of the phone that it runs on.
public protocol BenchPhone {
    /// The app's name and version.
    var app: String { get }
    /// `kind` is chosen by what a bundle runs on.
    func device(_ bundle: ModelBundle) -> Device
    /// Threads that programs run on.
    var threads: Int { get }
    /// Of the app and the runtime.
    func versions(_ bundle: ModelBundle) -> Ordered<String>
    /// A runtime of a bundle that holds nothing yet. Throws `engine`: this phone has none for it.
    func programs(_ bundle: ModelBundle) throws -> any Programs
    func room() -> Room
    func state() -> DeviceState
    /// The most that the app's memory was at once.
    func peakBytes() -> Int
    /// CPU time of this process, in seconds.
    func cpuSeconds() -> Double?
    func freeBytes(_ folder: URL) -> Int
    /// Prints a line and flushes it.
    func say(_ line: String)
    func sleep(_ seconds: Double)
    /// Seconds on a clock that only grows.
    func now() -> Double
}

/// Does what docs/DEVICE_BENCH.md asks of a player in a folder of its own: prepares it, plays the job that lies in it, cleans it.
public final class Bench {
    private static let every = 2.0  // seconds between looks while it cools
    private static let tell = 60.0  // seconds between statuses while it cools
    private let folder: URL
    private let phone: any BenchPhone
    private let cancelled: () -> Bool

    public init(_ folder: URL, _ phone: any BenchPhone, cancelled: @escaping () -> Bool = { false }) {
        (self.folder, self.phone, self.cancelled) = (folder, phone, cancelled)
    }

    /// Does what a start asks for. The last status says how it ended.
    public func obey(_ launch: Launch) {
        switch launch.action {
        case .prepare: prepare(launch)
        case .run: run(launch.word)
        case .clean: clean(launch)
        }
    }

    private func prepare(_ launch: Launch) {
        do {
            for name in [""] + launch.folders {
                try FileManager.default.createDirectory(at: folder.appendingPathComponent(name), withIntermediateDirectories: true)
            }
            var status = Status(launch.word, .ready, app: phone.app)
            status.freeBytes = phone.freeBytes(folder)
            say(status)
        } catch {
            fail(launch.word, "job", "The folder of jobs cannot be made (\(error.localizedDescription)). Free some space.")
        }
    }

    private func run(_ word: String) {
        do {
            let job = try Job.read(folder, word)
            let cooled = try cool(job)
            say(Status(word, .loading, app: phone.app))
            let result = try played(job, cooled)
            try writeWhole(folder.appendingPathComponent(Job.result), result.json.written())
            var status = Status(word, .done, app: phone.app)
            (status.done, status.total) = (job.clips, job.clips)
            say(status)
        } catch let error as Hot {
            fail(word, "hot", error.sentence)
        } catch {
            fail(word, "job", Words.problem(error))
        }
    }

    private func clean(_ launch: Launch) {
        if launch.keep { Bench.removeAllBut(folder, kept: kept()) } else { try? FileManager.default.removeItem(at: folder) }
        say(Status(launch.word, .cleaned, app: phone.app))
    }

    /// The paths in the folder that stay with `--keep`: pushed.json, and the files of the bundle that it lists.
    private func kept() -> Set<String> {
        let file = folder.appendingPathComponent(Job.pushed)
        guard let bytes = try? Data(contentsOf: file), let members = (try? Json.parse([UInt8](bytes)))?.members else { return [] }
        return Set(members.keys.filter(isInside).map { "bundle/\($0)" } + [Job.pushed])
    }

    private static func removeAllBut(_ folder: URL, kept: Set<String>) {
        let root = folder.resolvingSymlinksInPath().path + "/"
        let found = FileManager.default.enumerator(at: folder, includingPropertiesForKeys: nil)?.allObjects ?? []
        for case let file as URL in found.reversed() {  // what lies in a folder comes before it
            let path = String(file.resolvingSymlinksInPath().path.dropFirst(root.count))
            let holds = kept.contains { $0 == path || $0.hasPrefix("\(path)/") }
            if !holds { try? FileManager.default.removeItem(at: file) }
        }
    }

    /// Removes what a benchmark left whose host went away, when the app is opened by hand: a folder without pushed.json. Gives
    /// whether there was something.
    @discardableResult
    public static func sweep(_ folder: URL) -> Bool {
        let files = FileManager.default
        guard files.fileExists(atPath: folder.path), !files.fileExists(atPath: folder.appendingPathComponent(Job.pushed).path)
        else {
            return false
        }
        return (try? files.removeItem(at: folder)) != nil
    }

    /// What computes a bundle's programs, as records call it. Where the system chooses among units, that is what they were exported
    /// for.
    public static func kind(_ manifest: Manifest) -> String {
        switch (manifest.target, manifest.backend) {
        case ("executorch", "xnnpack"), ("coreml", "cpu"): return "cpu"
        case ("executorch", "mps"), ("coreml", "gpu"): return "metal"
        case ("executorch", "vulkan"): return "vulkan"
        default: return "npu"
        }
    }

    private func say(_ status: Status) {
        var status = status
        status.thermal = phone.state().thermal
        if let line = try? status.line() { phone.say(line) }
    }

    private func fail(_ word: String, _ fault: String, _ message: String) {
        var status = Status(word, .failed, app: phone.app)
        (status.fault, status.message) = (fault, message)
        say(status)
    }

    // ---- playing ----

    private struct Hot: Error { let sentence: String }

    /// Waits until the phone is as cool as the job wants it; gives how long.
    private func cool(_ job: Job) throws -> Double {
        guard let wish = job.cool else { return 0 }
        let began = phone.now()
        var told = -Double.infinity
        while let thermal = phone.state().thermal, thermal > wish.status {
            let waited = phone.now() - began
            if waited >= wish.timeout {
                throw Hot(
                    sentence:
                        "This phone is still '\(thermal.rawValue)' after \(Words.seconds(waited)), not '\(wish.status.rawValue)'. "
                        + "Take it off its charger and out of its case.")
            }
            if cancelled() { throw EchoEdgeError.cancelled }
            if waited - told >= Bench.tell {
                say(Status(job.word, .cooling, app: phone.app))
                told = waited
            }
            phone.sleep(min(Bench.every, wish.timeout - waited))
        }
        return phone.now() - began
    }

    private struct Opening {
        let bundle: ModelBundle
        let player: Player
        let programs: TimedPrograms
        let portrait: Floats
        let speech: [Float]
        let seconds: Double
    }

    private func played(_ job: Job, _ cooled: Double) throws -> JobResult {
        let before = phone.state()
        let opened = try open(job)
        var clips: [TimedClip] = []
        var cpu: [Double] = []
        for _ in 0..<(job.warmUp + job.runs) {
            tell(job, clips.count)
            let began = phone.cpuSeconds()
            clips.append(try timed(opened, job))
            if let began, let ended = phone.cpuSeconds() { cpu.append(ended - began) }
            tell(job, clips.count)
        }
        let ends = try job.sustained.map { try sustained(opened, job, $0) }
        let after = phone.state()
        let peak = phone.peakBytes()
        opened.player.free()
        let reopened = job.reload ? try open(job) : nil
        let again = try reopened.map { try timed($0, job) }
        reopened?.player.free()
        let runs = Array(clips.dropFirst(job.warmUp))
        let decoder = job.decoder ?? opened.bundle.manifest.playing.decoders.first?.name ?? "full"
        let record = try BenchRecord(
            bundle: opened.bundle, clip: opened.player.clip, decoder: decoder, prompt: job.prompt,
            engine: opened.bundle.manifest.target,
            device: phone.device(opened.bundle), threads: phone.threads, versions: phone.versions(opened.bundle),
            opening: (opened.seconds, reopened?.seconds ?? 0), first: clips[0], runs: runs, again: again, peakRssBytes: peak,
            before: Surroundings(), after: Surroundings(), cpuMilliseconds: Bench.middle(cpu.dropFirst(job.warmUp), of: job.runs)
        ).json()
        return JobResult(
            job: job.word, app: phone.app, record: record, cooled: cooled, before: before, after: after, ends: ends)
    }

    private func open(_ job: Job) throws -> Opening {
        let began = phone.now()
        let bundle = try ModelBundle.open(folder.appendingPathComponent(job.bundle))
        let target = bundle.manifest.target
        if job.engine != "auto" && job.engine != target {
            throw EchoEdgeError.config("The bundle is compiled for \(target), not \(job.engine). Leave --engine out.")
        }
        let clip = try bundle.manifest.clip(job.clip)
        let mode = try phone.room().mode(bundle, seconds: Double(clip.frames) / Double(clip.fps), decoder: job.decoder, clip: clip)
        let programs = TimedPrograms(try phone.programs(bundle))
        let player = try Player(
            bundle, programs, clip: clip, decoder: job.decoder, frugal: mode == .oneByOne, cancelled: cancelled)
        let shape = [3, clip.height, clip.width]
        let portrait = try Floats(shape: shape, numbers(job.portrait, sizeOf(shape)))
        let speech = try numbers(job.speech, clip.frames * clip.samplesPerFrame)
        return Opening(
            bundle: bundle, player: player, programs: programs, portrait: portrait, speech: speech, seconds: phone.now() - began)
    }

    private func timed(_ opened: Opening, _ job: Job) throws -> TimedClip {
        opened.programs.calls.removeAll()
        let began = phone.now()
        let clip = try opened.player.play(opened.portrait, opened.speech, prompt: job.prompt, seed: job.seed) { _, _ in }
        return TimedClip(clip, seconds: phone.now() - began, calls: opened.programs.calls)
    }

    /// Clips without a pause until the time is over, at least one: seconds from the first one's beginning to the end of each.
    private func sustained(_ opened: Opening, _ job: Job, _ seconds: Double) throws -> [Double] {
        let began = phone.now()
        let total = max(1, Int(min(seconds, 1e9).rounded()))
        var ends: [Double] = []
        while ends.last ?? -1 < seconds {
            var status = Status(job.word, .sustaining, app: phone.app)
            (status.done, status.total) = (min(Int(ends.last ?? 0), total), total)
            say(status)
            _ = try timed(opened, job)
            ends.append(phone.now() - began)
        }
        return ends
    }

    private func tell(_ job: Job, _ done: Int) {
        var status = Status(job.word, .playing, app: phone.app)
        (status.done, status.total) = (done, job.clips)
        say(status)
    }

    /// The middle of so many seconds, in milliseconds; nil: some are missing.
    private static func middle(_ seconds: ArraySlice<Double>, of runs: Int) -> Double? {
        let sorted = seconds.sorted()
        return sorted.count < runs ? nil : 500 * (sorted[(sorted.count - 1) / 2] + sorted[sorted.count / 2])
    }

    private func numbers(_ name: String, _ count: Int) throws -> [Float] {
        guard let bytes = try? [UInt8](Data(contentsOf: folder.appendingPathComponent(name))) else {
            throw EchoEdgeError.input("\(name) of the job cannot be read. Run the benchmark again.")
        }
        if bytes.count != 4 * count {
            throw EchoEdgeError.input(
                "\(name) of the job has \(bytes.count / 4) numbers; the clip takes \(count). Run the benchmark again.")
        }
        return (0..<count).map { index in
            let word = (0..<4).reduce(UInt32(0)) { $0 | UInt32(bytes[4 * index + $1]) << UInt32(8 * $1) }
            return Float(bitPattern: word)
        }
    }
}

/// Says that whoever asked does not want it any more; set by one thread, read by another.
public final class Cancellation: @unchecked Sendable {
    private let lock = NSLock()
    private var wanted = false

    public init() {}

    public var isCancelled: Bool {
        lock.lock()
        defer { lock.unlock() }
        return wanted
    }

    public func cancel() {
        lock.lock()
        wanted = true
        lock.unlock()
    }
}

/// Runs programs as others do, but not for somebody who does not want it any more. Throws `cancelled` then.
public final class CancellablePrograms: Programs {
    private let programs: any Programs
    private let cancelled: () -> Bool

    public init(_ programs: any Programs, cancelled: @escaping () -> Bool) {
        (self.programs, self.cancelled) = (programs, cancelled)
    }

    public func load(_ program: Program) throws {
        if cancelled() { throw EchoEdgeError.cancelled }
        try programs.load(program)
    }

    public func run(_ program: Program, _ method: String, _ inputs: [String: any Tensor]) throws -> [String: any Tensor] {
        if cancelled() { throw EchoEdgeError.cancelled }
        return try programs.run(program, method, inputs)
    }

    public func free(_ program: Program) { programs.free(program) }
}
