import EchoEdgeCore
import Foundation

/// One line of the table of proofs. `passed`: nil where nothing is demanded.
public struct VerifyRow: Equatable, Sendable, Identifiable {
    public let name: String
    public let passed: Bool?
    public let measured: String, demanded: String

    public var id: String { name }
}

/// One load of a program's method, and how it came about.
public struct Load: Equatable, Sendable {
    public enum Source: Equatable, Sendable {
        /// The package was compiled first, in so many seconds.
        case compiled(Double)
        /// A compiled model, or what the system keeps of it, was there.
        case kept
        /// The file is mapped as it is.
        case mapped
    }

    public let name: String
    public let source: Source
    /// Of the load itself.
    public let seconds: Double

    public init(name: String, source: Source, seconds: Double) { (self.name, self.source, self.seconds) = (name, source, seconds) }
}

/// Sentences and figures of the screen. Numbers are written alike in every language.
public enum Words {
    /// A number with so many digits behind the point.
    static func decimal(_ value: Double, _ digits: Int) -> String {
        String(format: "%.\(digits)f", locale: Locale(identifier: "en_US_POSIX"), value)
    }

    /// How warm a phone is, for people.
    public static func warmth(_ thermal: Thermal?) -> String {
        switch thermal {
        case nil: return "not told"
        case .cool: return "cool"
        case .light: return "warm, at full speed"
        case .moderate: return "warm, may be slowed down"
        case .severe: return "hot, is slowed down"
        case .critical, .emergency, .shutdown: return "too hot: stop and let it cool"
        }
    }

    /// What a work is called when it begins.
    public static func begin(_ work: Work) -> String {
        switch work {
        case .nothing: return ""
        case .opening: return "Checking the bundle …"
        case .copying: return "Copying the bundle …"
        case .fetching: return "Asking for the bundle …"
        case .recording: return "Recording. Let go to end."
        case .reading: return "Reading …"
        case .playing: return "Loading the first program …"
        case .verifying: return "Loading the bundle's proofs …"
        }
    }

    /// How far a clip is: the stage, in words, and its share. Of a clip of one window the step is told, too; several pass as a
    /// front.
    public static func progress(_ stage: Stage, _ done: Int, _ total: Int, _ plan: SamplingPlan) -> (text: String, share: Double) {
        let what: String
        switch stage {
        case .listen: what = "Listening: reading \(done) of \(total)"
        case .look: what = "Looking: \(done) of \(total)"
        case .prepare: what = "Window \(done) of \(total) prepared"
        case .denoise: what = "Denoising: velocity \(done) of \(total), \(front(done, total, plan))"
        case .decode: what = "Frames: latent frame \(done) of \(total)"
        }
        return (what, total > 0 ? Double(done) / Double(total) : 0)
    }

    private static func front(_ done: Int, _ total: Int, _ plan: SamplingPlan) -> String {
        let steps = (0..<plan.steps).map { plan.evaluated($0).count }
        let windows = total / max(1, steps.reduce(0, +))
        if windows > 1 { return "\(counted(plan.steps, "step")) in \(counted(windows, "window"))" }
        var left = done
        let step = steps.firstIndex { count in
            left -= count
            return left <= 0
        }
        return "step \((step ?? plan.steps - 1) + 1) of \(plan.steps)"
    }

    private static func counted(_ count: Int, _ word: String) -> String { "\(count) \(word)\(count == 1 ? "" : "s")" }

    /// How much of a bundle is there.
    public static func arriving(_ name: String, _ done: Int, _ total: Int) -> (text: String, share: Double) {
        ("\(name): \(humanBytes(done)) of \(humanBytes(total))", total > 0 ? Double(done) / Double(total) : 0)
    }

    /// Seconds with figures that can be read at a glance.
    public static func seconds(_ value: Double) -> String {
        if value < 10 { return "\(decimal(value, 2)) s" }
        if value < 600 { return "\(decimal(value, 1)) s" }
        return "\(Int(value) / 60) min \(Int(value) % 60) s"
    }

    /// Figures of a clip that was played in so many seconds, with what the phone tells of itself.
    public static func figures(
        _ played: Played, seconds whole: Double, fps: Int, mode: Mode, memory: String, thermal: Thermal?
    ) -> [Figure] {
        let stages = Stage.allCases.map { "\($0.rawValue) \(seconds(played.seconds[$0] ?? 0))" }.joined(separator: ", ")
        let speed = decimal(Double(played.frames) / max(whole, 1e-3), 2)
        return [
            Figure("First frame after", seconds(played.firstFrame)),
            Figure("Frames", "\(played.frames) in \(seconds(whole)): \(speed) a second"),
            Figure("Seconds a second of video", decimal(whole * Double(fps) / Double(max(played.frames, 1)), 2)),
            Figure("Where the time went", stages),
            Figure("Programs", mode == .allLoaded ? "all loaded" : "one at a time"),
            Figure("Memory", memory),
            Figure("Warmth", warmth(thermal)),
        ]
    }

    /// One load, which tells a first one from later ones.
    public static func loaded(_ load: Load) -> String {
        switch load.source {
        case .compiled(let time):
            return "\(load.name): compiled in \(seconds(time)) (first time), loaded in \(seconds(load.seconds))"
        case .kept: return "\(load.name): loaded in \(seconds(load.seconds)) (compiled before)"
        case .mapped: return "\(load.name): mapped and ready in \(seconds(load.seconds))"
        }
    }

    /// A row of the table of proofs.
    public static func row(_ verdict: Verdict) -> VerifyRow {
        VerifyRow(
            name: title(verdict.name), passed: verdict.passed, measured: measured(verdict.measured),
            demanded: demanded(verdict.demanded))
    }

    private static func title(_ name: String) -> String {
        switch name {
        case "latents": return "the whole clip: latents"
        case "frames": return "the whole clip: frames"
        default: return name
        }
    }

    private static func figure(_ value: Double) -> String {
        String(format: "%.3g", locale: Locale(identifier: "en_US_POSIX"), value)
    }

    private static func measured(_ found: Agreement) -> String {
        guard let largest = found.largest else { return "not finite" }
        return "\(decimal(found.psnr, 1)) dB, cosine \(decimal(found.cosine, 6)), largest \(figure(largest))"
    }

    private static func demanded(_ wanted: Demand?) -> String {
        let parts = [
            wanted?.psnr.map { "≥ \(decimal($0, 1)) dB" }, wanted?.cosine.map { "cosine ≥ \(decimal($0, 6))" },
            wanted?.largest.map { "largest ≤ \(figure($0))" },
        ].compactMap { $0 }
        return parts.isEmpty ? "nothing is demanded" : parts.joined(separator: ", ")
    }

    /// What a verification came to.
    public static func verdict(_ rows: [VerifyRow]) -> Message {
        let failed = rows.filter { $0.passed == false }.map(\.name)
        if !failed.isEmpty {
            return Message(
                "\(failed.joined(separator: ", ")): not as exact as demanded on this phone. Clips may look wrong.", fault: true)
        }
        let passed = rows.filter { $0.passed == true }.count
        return Message("All \(passed) proofs that demand something pass on this phone.")
    }

    /// What is said of a work that its user has stopped.
    public static func stopped(_ work: Work) -> String {
        switch work {
        case .fetching: return "Stopped. Fetch it again, and it goes on where it was."
        case .copying: return "Stopped. Pick the folder again, and what is here whole is not copied twice."
        case .opening: return "Stopped. The bundle was not opened."
        default: return EchoEdgeError.cancelled.message
        }
    }

    /// A sentence for whatever went wrong.
    public static func problem(_ error: any Error) -> String {
        if let known = error as? EchoEdgeError { return known.message }
        return "\(error.localizedDescription) If it stays so, report it with the bundle's manifest.json."
    }
}
