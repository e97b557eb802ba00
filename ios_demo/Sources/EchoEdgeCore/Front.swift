/// Which window takes a step next: the step, the window's number, and the window.
struct Turn {
    let step: Int, position: Int
    let span: LatentWindow
}

/// The windows of a clip as a front: which takes which step next, and the latent frames that are under way. The furthest step
/// that can be taken comes first. The numbers are those of taking all windows through one step after the other; memory holds, of
/// each latent frame, the history from its first step to its last. `start`: noise of the whole clip.
struct Front {
    private let plan: SamplingPlan
    private let spans: [[LatentWindow]]
    private let frames: Int
    private var taken: [Int]
    private var settled: [Int]
    private var parts: [[(window: LatentWindow, velocity: Latents)]]
    private var history: [Int: [[Float]]] = [:]
    private var states: [[Int: [Float]]]

    /// The clip's latents, of which the leading ``finished`` frames are final.
    private(set) var result: Latents

    /// How many windows the clip has.
    var windows: Int { spans[0].count }

    /// Leading latent frames that have taken every step.
    var finished: Int { settled[plan.steps] }

    init(_ plan: SamplingPlan, _ rule: WindowRule, _ start: Latents) throws {
        self.plan = plan
        frames = start.frames
        if rule.upstreamCompat {
            spans = try (0..<plan.steps).map { try EchoEdgeCore.windows(start.frames, rule, step: $0) }
        } else {
            spans = [[LatentWindow]](repeating: try EchoEdgeCore.windows(start.frames, rule), count: plan.steps)
        }
        taken = [Int](repeating: 0, count: plan.steps)
        settled = [start.frames] + taken
        parts = [[(window: LatentWindow, velocity: Latents)]](repeating: [], count: plan.steps)
        states = [[Int: [Float]]](repeating: [:], count: plan.steps + 1)
        result = start.with([Float](repeating: 0, count: start.values.count))
        for frame in 0..<start.frames {
            let noise = start.frame(frame)
            history[frame] = [noise]
            states[0][frame] = noise
        }
    }

    /// nil when all is done.
    func next() -> Turn? {
        for step in stride(from: plan.steps - 1, through: 0, by: -1) {
            let position = taken[step]
            if position < windows && spans[step][position].end <= settled[step] {
                return Turn(step: step, position: position, span: spans[step][position])
            }
        }
        return nil
    }

    /// The window's latents before its step.
    func latents(_ turn: Turn) -> Latents {
        let under = (turn.span.start..<turn.span.end).map { states[turn.step][$0] ?? [] }
        return Latents(channels: result.channels, height: result.height, width: result.width, frames: under)
    }

    /// The guided velocity of the window that ``next()`` gave: frames that no later window reaches advance.
    mutating func take(_ turn: Turn, _ velocity: Latents) throws {
        let step = turn.step
        parts[step].append((turn.span, velocity))
        taken[step] += 1
        let until = taken[step] < windows ? spans[step][taken[step]].start : frames
        for frame in settled[step + 1]..<until {
            history[frame, default: []].append(try blendFrame(parts[step], frame))
            let state = try advance(plan, step, history[frame, default: []])
            states[step][frame] = nil
            if step == plan.steps - 1 {
                result.set(frame, state)
                history[frame] = nil
            } else {
                states[step + 1][frame] = state
            }
        }
        settled[step + 1] = until
        parts[step].removeAll { $0.window.end <= until }
    }
}
