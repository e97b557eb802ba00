import Foundation

/// Bytes that something needs, by what they are for, and by the same words the cheapest way to need less.
public struct Need {
    public let terms: [(name: String, bytes: Int, remedy: String)]

    public var total: Int { sum(terms.map(\.bytes)) }

    /// Refuses a purpose where so many bytes are not enough. Throws `resource`: the message names the largest part and its remedy.
    public func require(_ purpose: String, have: Int) throws {
        if total <= have { return }
        let parts = terms.sorted { $0.bytes > $1.bytes }
        let told = parts.map { "\(humanBytes($0.bytes)) for \($0.name)" }.joined(separator: ", ")
        throw EchoEdgeError.resource(
            "\(humanBytes(total)) of memory is needed for \(purpose), and \(humanBytes(have)) is available. It is \(told). "
                + "The cheapest remedy: \(parts.first?.remedy ?? "close other apps.")")
    }
}

/// Forecasts from a manifest, before anything is loaded.
public enum Memory {
    /// What playing so many seconds of speech takes: of the largest program (file, loaded, packed: a phone holds one at a time),
    /// the conditions of each branch and window under way, the states of encoder and decoder, one step, and latents with their
    /// history. `decoder`: the decoding program's role; nil: the first of the bundle.
    public static func needed(_ bundle: ModelBundle, seconds: Double, decoder: String? = nil) throws -> Need {
        let manifest = bundle.manifest
        let plan = try bundle.plan()
        let clip = manifest.clips[0]
        func size(_ name: String) -> Int { manifest.memory[name] ?? 0 }
        let window = manifest.playing.latentFrames(clip.frames)
        if !(0...86_400).contains(seconds) {
            throw EchoEdgeError.config("The speech lasts \(seconds) s; at most a day can be played.")
        }
        let latentFrames = max(window, Int((seconds * Double(clip.fps) / Double(manifest.playing.temporalStride)).rounded(.up)))
        let rule = plan.window ?? WindowRule(length: window, overlap: 0)
        let underWay = windowsUnderWay(steps: plan.steps, rule)
        let hop = rule.length - rule.overlap
        let spans = min((latentFrames + hop - 1) / hop, underWay)
        let files =
            manifest.programs.values.map(\.entry.bytes)
            + manifest.programs.values.compactMap { manifest.files[$0.data ?? ""]?.bytes }
        let moving = min(latentFrames, underWay * rule.length)
        let decoding = decoder ?? manifest.playing.decoders.first?.role ?? ""
        let shorter = "play a bundle that was compiled for a smaller --size or fewer --frames, or a shorter clip."
        return Need(terms: [
            (
                "the largest program, loaded and packed", sizeOf([3, files.max() ?? 0]),
                "export with coarser --weights, int8 or int4."
            ),
            (
                "conditions of the windows under way", sizeOf([spans, plan.branches.count, size("conditions_bytes_per_branch")]),
                shorter
            ),
            (
                "states of the encoder and the decoder",
                sizeOf([2, sum([size("vae_encode_state_bytes"), size("\(decoding)_state_bytes")])]),
                "decode with the tiny decoder, if the bundle has it."
            ),
            ("one step", size("step_bytes"), shorter),
            (
                "latents", sizeOf([(plan.steps + 2) * moving + 2 * latentFrames, size("latents_bytes")]) / window,
                "play a shorter clip."
            ),
        ])
    }
}

/// A sum of sizes; `Int.max` where it is beyond that.
private func sum(_ sizes: [Int]) -> Int {
    sizes.reduce(0) { total, size in
        let (more, beyond) = total.addingReportingOverflow(size)
        return beyond ? Int.max : more
    }
}

/// Bytes in decimal units with three figures: 3130000000 is "3.13 GB".
public func humanBytes(_ count: Int) -> String {
    if count < 1000 { return "\(count) B" }
    var value = Double(count)
    for unit in ["kB", "MB", "GB", "TB"] {
        value /= 1000
        if value < 999.5 || unit == "TB" {
            return String(format: "%.\(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)f \(unit)", value)
        }
    }
    return "\(count) B"
}
