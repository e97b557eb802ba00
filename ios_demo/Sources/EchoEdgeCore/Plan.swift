/// One evaluation of the denoiser with its own conditions: `text` names a text condition whose rows are multiplied by `textScale`;
/// without `image` or `audio` it sees zeros of that kind; it hears the speech `audioShift` video frames late.
public struct Branch: Sendable {
    public let name: String, text: String
    public let textScale: Double
    public let image: Bool, audio: Bool
    public let audioShift: Int
}

/// How a long clip is cut: windows of `length` latent frames that overlap by at least `overlap` of them. `anchorClip`: a window
/// knows of the picture what the clip knows in its frames; otherwise each starts from the picture.
public struct WindowRule: Sendable {
    public var length: Int, overlap: Int
    public let anchorClip: Bool, upstreamCompat: Bool

    public init(length: Int, overlap: Int, anchorClip: Bool = false, upstreamCompat: Bool = false) {
        (self.length, self.overlap, self.anchorClip, self.upstreamCompat) = (length, overlap, anchorClip, upstreamCompat)
    }
}

/// `plan.json`, format "echoedge.plan/1": how noise becomes latents in n steps with B branches. docs/BUNDLE.md tells each field.
public struct SamplingPlan {
    private static let format = "echoedge.plan/1"
    private static let mostSteps = 1000
    private static let consistent = 1e-3  // of a solver row; tables are within 1e-9
    private static let close = 1e-5  // of noise levels, which plans hold in single precision
    private static let coefficient = -1e6...1e6

    public let timesteps: [Double], sigmas: [Double]
    public let solver: [[Double]]
    public let branches: [Branch]
    public let guidance: [[Double]]
    /// [n][3][P]: strengths of text, image and audio.
    public let modalityWeights: [[[Double]]]
    public let reuse: [[Bool]]
    public let residualSlots: [Int]?
    public let texts: Ordered<String>
    public internal(set) var window: WindowRule?
    /// When the user gives none.
    public let seed: UInt64

    /// n.
    public var steps: Int { timesteps.count }

    /// Evaluations of the denoiser per window that run the blocks.
    public var evaluations: Int {
        (0..<steps).reduce(0) { total, step in total + evaluated(step).filter { !reuse[step][$0] }.count }
    }

    /// Indices of the branches whose velocity a step needs, computed or reused.
    public func evaluated(_ step: Int) -> [Int] { branches.indices.filter { guidance[step][$0] != 0 } }

    /// Where a branch keeps and finds its residual.
    public func residualSlot(_ branch: Int) -> Int { residualSlots?[branch] ?? branch }

    /// Strengths of text, image and audio at each latent frame, [3, frames] row by row. Throws `config`: the plan holds weights for
    /// another number of latent frames.
    public func modality(_ step: Int, _ frames: Int) throws -> [Float] {
        let rows = modalityWeights[step]
        if rows[0].count != 1 && rows[0].count != frames {
            throw EchoEdgeError.config("The plan's modality weights are for \(rows[0].count) latent frames; \(frames) are played.")
        }
        return rows.flatMap { row in row.count == 1 ? [Float](repeating: Float(row[0]), count: frames) : row.map { Float($0) } }
    }

    /// Refuses a student's plan that asks for what it was not taught; `levels`: by the number of steps the noise levels before
    /// each.
    func requireTaught(_ levels: [Int: [Double]]) throws {
        guard let taught = levels[steps] else {
            let good = levels.keys.sorted().map(String.init).joined(separator: " or ")
            throw EchoEdgeError.config("This student takes \(good) steps, not \(steps). Export it again.")
        }
        if branches.count > 1 {
            throw EchoEdgeError.config(
                "The plan has \(branches.count) branches of guidance, and this student was taught one. Export it again.")
        }
        if zip(sigmas, taught).contains(where: { abs($0 - $1) > SamplingPlan.close }) {
            throw EchoEdgeError.config("The noise levels are \(sigmas.dropLast()), and \(taught) were taught. Export it again.")
        }
    }

    /// Reads and checks the bytes of a plan. Throws `bundle`: they are not JSON, not of this format, or not a plan that can be
    /// played.
    public static func parse(_ bytes: [UInt8]) throws -> SamplingPlan {
        let value: Json
        do {
            value = try Json.parse(bytes)
        } catch let error as EchoEdgeError {
            throw notPlayable(error.message)
        }
        let top = try Fields("", value, notPlayable)
        _ = try top.oneOf("format", format)
        let plan = try SamplingPlan(top)
        try plan.checkShapes(top)
        try plan.checkSchedule(top)
        try plan.checkBranches(top)
        try plan.checkReuse(top)
        return plan
    }

    private static func notPlayable(_ fault: String) -> EchoEdgeError {
        let sentence = fault.hasSuffix(".") ? String(fault.dropLast()) : fault
        return .bundle("This is not a sampling plan that can be played. \(sentence). Build the bundle again.")
    }

    private init(_ top: Fields) throws {
        try top.only(
            "format", "solver_name", "schedule", "shift", "constructor_shift", "timesteps", "sigmas", "solver", "branches",
            "guidance",
            "modality_weights", "reuse", "residual_slots", "texts", "window", "noise")
        _ = try (top.text("solver_name"), top.text("schedule"), top.number("shift", Fields.positive))
        _ = try top.maybe("constructor_shift") { try top.number($0, Fields.positive) }
        let noise = try top.maybe("noise") { try top.record($0).only("generator", "seed") }
        _ = try noise?.maybe("generator") { try noise?.oneOf($0, "philox4x32-10/box-muller/1") }
        seed = try noise.flatMap { noise in try noise.maybe("seed") { try noise.seed($0) } } ?? 0
        timesteps = try top.numbers("timesteps", 0...1000)
        sigmas = try top.numbers("sigmas", 0...1)
        solver = try top.rows("solver") { try top.numbers($0, $1, SamplingPlan.coefficient) }
        branches = try top.records("branches").map(SamplingPlan.branch)
        guidance = try top.rows("guidance") { try top.numbers($0, $1, SamplingPlan.coefficient) }
        modalityWeights = try top.rows("modality_weights") { try top.rows($0, $1) { try top.numbers($0, $1, 0...10) } }
        reuse = try top.rows("reuse") { try top.rows($0, $1) { try top.flag($0, $1) } }
        residualSlots = try top.maybe("residual_slots") { try top.rows($0) { try top.whole($0, $1, 0...Int(Int32.max)) } }
        texts = try (top.maybe("texts") { try top.named($0) } ?? [:]).mapped { name, text in
            guard let text = text.text else { throw top.error("texts.\(name)", "is no text") }
            return text
        }
        window = try top.maybe("window") { try SamplingPlan.window(top.record($0)) }
    }

    private static func branch(_ fields: Fields) throws -> Branch {
        try fields.only("name", "text", "text_scale", "image", "audio", "audio_shift")
        let branch = Branch(
            name: try fields.text("name", 1...Int.max), text: try fields.text("text"),
            textScale: try fields.maybe("text_scale") { try fields.number($0, 0...1e12) } ?? 1,
            image: try fields.maybe("image") { try fields.flag($0) } ?? true,
            audio: try fields.maybe("audio") { try fields.flag($0) } ?? true,
            audioShift: try fields.maybe("audio_shift") { try fields.whole($0, 0...10_000) } ?? 0)
        if branch.audioShift > 0 && !branch.audio {
            throw fields.error("audio_shift", "is \(branch.audioShift) in a branch without audio")
        }
        return branch
    }

    private static func window(_ fields: Fields) throws -> WindowRule {
        try fields.only("length", "overlap", "anchor", "upstream_compat")
        let rule = WindowRule(
            length: try fields.whole("length", 1...Int(Int32.max)), overlap: try fields.whole("overlap", 0...Int(Int32.max)),
            anchorClip: try fields.maybe("anchor") { try fields.oneOf($0, "window", "clip") } == "clip",
            upstreamCompat: try fields.maybe("upstream_compat") { try fields.flag($0) } ?? false)
        if rule.overlap >= rule.length {
            throw fields.error("overlap", "is \(rule.overlap); it must be less than the window's \(rule.length)")
        }
        if rule.upstreamCompat && rule.anchorClip {
            throw fields.error("anchor", "is 'clip'; upstream_compat starts every window from the picture")
        }
        return rule
    }

    // ---- what fits together ----

    private func checkShapes(_ top: Fields) throws {
        let n = steps
        let b = branches.count
        if !(1...SamplingPlan.mostSteps).contains(n) {
            throw top.error("timesteps", "are \(n); they must be 1 to \(SamplingPlan.mostSteps)")
        }
        if b == 0 { throw top.error("branches", "is empty") }
        let rows = [
            ("solver", solver.count), ("guidance", guidance.count), ("modality_weights", modalityWeights.count),
            ("reuse", reuse.count),
        ]
        for (name, found) in rows where found != n { throw top.error(name, "has \(found) rows for \(n) timesteps") }
        if sigmas.count != n + 1 { throw top.error("sigmas", "are \(sigmas.count) for \(n) timesteps; \(n + 1) are needed") }
        for i in 0..<n {
            if solver[i].count != i + 2 {
                throw top.error("solver.\(i)", "has \(solver[i].count) coefficients for a history of \(i + 2)")
            }
            if guidance[i].count != b { throw top.error("guidance.\(i)", "has \(guidance[i].count) weights for \(b) branches") }
            if reuse[i].count != b { throw top.error("reuse.\(i)", "has \(reuse[i].count) flags for \(b) branches") }
        }
        let positions = Set(modalityWeights.joined().map(\.count))
        guard modalityWeights.allSatisfy({ $0.count == 3 }), positions.count == 1, let each = positions.first, each > 0 else {
            throw top.error("modality_weights", "must be [steps][3][P], all with the same P of at least 1")
        }
        if let window, each != 1, each != window.length {
            throw top.error("modality_weights", "are for \(each) latent frames; a window has \(window.length)")
        }
    }

    private func checkSchedule(_ top: Fields) throws {
        for (before, after) in zip(timesteps, timesteps.dropFirst()) where after > before {
            throw top.error("timesteps", "rise from \(before) to \(after)")
        }
        for (before, after) in zip(sigmas, sigmas.dropFirst()) where after >= before {
            throw top.error("sigmas", "do not fall from \(before) to \(after)")
        }
        if sigmas[steps] != 0 { throw top.error("sigmas", "end at \(sigmas[steps]), not at 0: noise stays in the clip") }
        for (i, row) in solver.enumerated() {
            let span = sigmas[i + 1] - sigmas[0]
            let moved = row.dropFirst().reduce(0, +)
            if abs(row[0] - 1) > SamplingPlan.consistent || abs(moved - span) > SamplingPlan.consistent {
                throw top.error(
                    "solver.\(i)", "weighs noise by \(row[0]) and velocities by \(moved); the sigmas ask for 1 and \(span)")
            }
        }
    }

    private func checkBranches(_ top: Fields) throws {
        for (i, row) in guidance.enumerated() {
            let total = row.reduce(0, +)
            if abs(total - 1) > 1e-6 { throw top.error("guidance.\(i)", "sums to \(total); guidance mixes, it must sum to 1") }
        }
        var names = Ordered<Bool>()
        for branch in branches {
            if names.has(branch.name) { throw top.error("branches", "has two called '\(short(branch.name))'") }
            names[branch.name] = true
        }
        for name in texts.keys where !branches.contains(where: { $0.text.utf8.elementsEqual(name.utf8) }) {
            throw top.error("texts", "says what '\(short(name))' stands for, which no branch names")
        }
    }

    private func checkReuse(_ top: Fields) throws {
        if let residualSlots, residualSlots.count != branches.count {
            throw top.error("residual_slots", "are \(residualSlots.count) for \(branches.count) branches")
        }
        var filled = Set<Int>()
        for i in 0..<steps {
            for (branch, settings) in branches.enumerated() {
                let weighed = guidance[i][branch] != 0
                if !reuse[i][branch] {
                    if weighed { filled.insert(residualSlot(branch)) }
                } else if !weighed {
                    throw top.error("reuse.\(i)", "reuses branch '\(short(settings.name))', whose guidance weight is 0 there")
                } else if !filled.contains(residualSlot(branch)) {
                    throw top.error("reuse.\(i)", "reuses branch '\(short(settings.name))' before any step has computed it")
                }
            }
        }
    }
}
