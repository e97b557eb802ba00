/// Latent frames `start` to `end` - 1 of a clip, and the `shares` of this window in each of them, 0 to 1.
public struct LatentWindow {
    public let start: Int, length: Int
    public let shares: [Double]

    public var end: Int { start + length }
}

/// Windows that cover `total` latent frames and, per frame, shares that sum to 1 (Long Video CFG, arXiv 2507.03905). All have the
/// rule's length; the last one is shifted left until it ends with the clip. Where a window meets the ones before it on o frames,
/// its share on the j-th of them is j / max(1, o - 1), and theirs are multiplied by 1 - that. `step` matters with
/// `upstreamCompat` alone, which repeats the original: later windows replace earlier ones in step 0, and the last window has the
/// frames that are left.
///
/// Throws `config`: the clip is shorter than a window; with `upstreamCompat`, as long as one, where the original never ends.
public func windows(_ total: Int, _ rule: WindowRule, step: Int = 0) throws -> [LatentWindow] {
    let hop = rule.length - rule.overlap
    if !rule.upstreamCompat {
        if total < rule.length {
            throw EchoEdgeError.config(
                "The clip has \(total) latent frames; a window needs \(rule.length). Pad the clip to \(rule.length).")
        }
        let starts = Array(stride(from: 0, to: total - rule.length, by: hop)) + [total - rule.length]
        return blended(total, starts.map { ($0, rule.length) }) { index, covered in
            let shared = covered - starts[index]
            return (0..<rule.length).map { $0 < shared ? Double($0) / Double(max(1, shared - 1)) : 1 }
        }
    }
    if total < rule.length { return [] }
    if total == rule.length {
        throw EchoEdgeError.config(
            "The original never ends on a clip of \(total) latent frames, as a window has. Leave upstream_compat off.")
    }
    let spans = stride(from: 0, to: total - rule.length + hop, by: hop).map { ($0, min(rule.length, total - $0)) }
    return blended(total, spans) { index, _ in
        let shared = index > 0 && step > 0 ? rule.overlap : 0
        return (0..<spans[index].1).map { $0 < shared ? Double($0) / Double(max(1, shared - 1)) : 1 }
    }
}

/// `rise(index, covered)`: a window's shares before later ones take theirs; covered: latent frames that those before it reach.
private func blended(_ total: Int, _ spans: [(start: Int, length: Int)], _ rise: (Int, Int) -> [Double]) -> [LatentWindow] {
    var shares = [[Double]](repeating: [Double](repeating: 0, count: total), count: spans.count)
    var covered = 0
    for (index, span) in spans.enumerated() {
        for (frame, own) in rise(index, covered).enumerated() {
            for earlier in 0..<index { shares[earlier][span.start + frame] *= 1 - own }
            shares[index][span.start + frame] = own
        }
        covered = span.start + span.length
    }
    return zip(spans, shares).map { span, shares in
        LatentWindow(start: span.start, length: span.length, shares: Array(shares[span.start..<(span.start + span.length)]))
    }
}

/// The most windows that can have taken their first step and not their last, whatever the clip's length: a step waits for the
/// windows that reach into it, and those for theirs.
public func windowsUnderWay(steps: Int, _ rule: WindowRule) -> Int {
    let hop = rule.length - rule.overlap
    return (steps - 1) * ((rule.length + hop - 1) / hop - 1) + 2
}

/// Σ weight · array, the accumulation rule of docs/BUNDLE.md: in ascending index, without weights that are zero, each product and
/// each sum one double operation, the result rounded once. The sum starts from the first term. Throws `config`: every weight is
/// zero, or the arrays differ in size.
public func combine(_ weights: [Double], _ arrays: [[Float]]) throws -> [Float] {
    var total: [Double] = []
    for (weight, array) in zip(weights, arrays) {
        if array.count != arrays[0].count {
            throw EchoEdgeError.config("Arrays of \(array.count) and \(arrays[0].count) numbers do not add up.")
        }
        if weight == 0 { continue }
        if total.isEmpty {
            total = array.map { Double($0) * weight }
        } else {
            for i in total.indices { total[i] = total[i] + Double(array[i]) * weight }
        }
    }
    if !weights.contains(where: { $0 != 0 }) {
        throw EchoEdgeError.config("Every weight of this combination is zero; nothing is left to add up.")
    }
    return total.map { Float($0) }
}

/// The guided velocity of a step, Σ guidance · velocity; of branches that the step does not evaluate nil. Throws as
/// ``combine(_:_:)``.
public func guide(_ plan: SamplingPlan, _ step: Int, _ velocities: [[Float]?]) throws -> [Float] {
    let used = plan.evaluated(step)
    let given = try used.map { branch in
        guard let velocity = velocities[branch] else {
            throw EchoEdgeError.config("Step \(step) needs the velocity of branch '\(plan.branches[branch].name)'.")
        }
        return velocity
    }
    return try combine(used.map { plan.guidance[step][$0] }, given)
}

/// Latents after a step, Σ_k solver[step][k] · history[k]; history is the noise and the velocities until now. Throws as
/// ``combine(_:_:)``.
public func advance(_ plan: SamplingPlan, _ step: Int, _ history: [[Float]]) throws -> [Float] {
    let row = plan.solver[step]
    if history.count != row.count {
        throw EchoEdgeError.config("Step \(step) needs a history of \(row.count) arrays; got \(history.count).")
    }
    return try combine(row, history)
}

/// One latent frame [C, h, w] of a clip's velocity, Σ share · velocity of the windows that cover it. Throws `config`: none does.
public func blendFrame(_ parts: [(window: LatentWindow, velocity: Latents)], _ frame: Int) throws -> [Float] {
    let covering = parts.filter { ($0.window.start..<$0.window.end).contains(frame) }
    return try combine(
        covering.map { $0.window.shares[frame - $0.window.start] }, covering.map { $0.velocity.frame(frame - $0.window.start) })
}
