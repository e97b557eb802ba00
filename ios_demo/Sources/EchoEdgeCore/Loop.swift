/// What a model gives of latents: the velocity, of their shape, and what its blocks added, or nil where no step reuses it.
public typealias Evaluated = (velocity: Latents, residual: (any Tensor)?)

/// A model under the conditions of a clip. `position` is the window's number, `branch` the guidance branch's.
public protocol Denoiser {
    /// A window is about to take its first step, one of `count`.
    func begin(_ position: Int, _ span: LatentWindow, _ count: Int) throws

    /// What the model gives of a window's latents.
    func evaluate(_ step: Int, _ branch: Int, _ position: Int, _ latents: Latents) throws -> Evaluated

    /// The velocity with what the blocks added in an earlier evaluation.
    func reuse(_ step: Int, _ branch: Int, _ position: Int, _ latents: Latents, _ residual: any Tensor) throws -> Latents

    /// A window has taken its last step: the leading `finished` frames of `latents` are final.
    func end(_ position: Int, _ latents: Latents, _ finished: Int) throws
}

/// Latents of a clip, and how many times the model ran: `evaluations` of all blocks, `reused` with an earlier residual.
public struct Sampled {
    public let latents: Latents
    public let evaluations: Int, reused: Int
}

/// The one loop from noise to latents of that shape. A window takes its next step as soon as the latents under it have taken
/// theirs, so that a long clip's windows pass as a front. `told` hears (done, total) of all velocities. Throws `config`: the clip
/// is shorter than a window, and what the denoiser throws.
public func sample(
    _ plan: SamplingPlan, _ rule: WindowRule, _ start: Latents, _ denoiser: some Denoiser, told: (Int, Int) -> Void = { _, _ in }
) throws -> Sampled {
    var front = try Front(plan, rule, start)
    var residuals: [Int: [Int: any Tensor]] = [:]  // by window and slot
    let total = front.windows * (0..<plan.steps).reduce(0) { $0 + plan.evaluated($1).count }
    var (evaluations, reused) = (0, 0)
    while let turn = front.next() {
        if turn.step == 0 { try denoiser.begin(turn.position, turn.span, front.windows) }
        let latents = front.latents(turn)
        var velocities = [[Float]?](repeating: nil, count: plan.branches.count)
        for branch in plan.evaluated(turn.step) {
            let slot = plan.residualSlot(branch)
            if plan.reuse[turn.step][branch] {
                guard let residual = residuals[turn.position]?[slot] else {
                    throw EchoEdgeError.engine(
                        "The denoising program gave no residual, which the plan reuses. Export the bundle again.")
                }
                velocities[branch] = try denoiser.reuse(turn.step, branch, turn.position, latents, residual).values
                reused += 1
            } else {
                let made = try denoiser.evaluate(turn.step, branch, turn.position, latents)
                velocities[branch] = made.velocity.values
                evaluations += 1
                if let residual = made.residual { residuals[turn.position, default: [:]][slot] = residual }
            }
            told(evaluations + reused, total)
        }
        try front.take(turn, latents.with(try guide(plan, turn.step, velocities)))
        if turn.step == plan.steps - 1 {
            residuals[turn.position] = nil
            try denoiser.end(turn.position, front.result, front.finished)
        }
    }
    return Sampled(latents: front.result, evaluations: evaluations, reused: reused)
}
