/// A clip, encoded. `y`: of the whole clip or of one window, which then serves them all; `image` tokens; `text`: rows and their
/// bias by the condition's name; `audio`: rows of features, with their neighbours where the model hears those; `mask` [1, S]:
/// which tokens of a frame hear.
struct ClipInputs {
    let playing: Playing
    let rule: WindowRule
    let y: Latents
    let image: Floats
    let text: Ordered<(text: Floats, bias: Floats)>
    let audio: Floats
    let mask: Floats

    /// The window's part of `y`.
    func known(_ span: LatentWindow) -> Latents {
        let first = rule.anchorClip ? span.start : 0
        return Latents(channels: y.channels, height: y.height, width: y.width, frames: (first..<(first + span.length)).map(y.frame))
    }

    /// How many rows of the voice a window hears: as many as programs take, at the clip's end all that is left.
    func heardRows(_ span: LatentWindow) -> Int {
        min(audio.shape[0] - firstRow(span), Hear.rows(playing.hearing, playing.videoFrames(span.length)))
    }

    /// What a branch hears in a window, see ``Hear/voice(_:_:first:length:listens:shift:)``.
    func voice(_ branch: Branch, _ span: LatentWindow) -> (rows: Floats, present: Floats) {
        Hear.voice(
            audio, playing.hearing, first: firstRow(span), length: playing.videoFrames(span.length), listens: branch.audio,
            shift: branch.audioShift)
    }

    private func firstRow(_ span: LatentWindow) -> Int { playing.hearing.rowsPerFrame * playing.temporalStride * span.start }
}

/// Makes the conditions of windows with the programs of a bundle, each key and value once: text and portrait for each strength,
/// known frames once per clip where windows start from the picture, the voice once per window, and silence once per clip. `run`
/// runs the one method of a role's program on named tensors.
final class Conditioner {
    typealias Tensors = [String: any Tensor]

    private enum Key: Hashable {
        case text([UInt8], Double)
        case image(Bool)
        case y(Int)
        case audio(Bool, Int, Int)
    }

    private let plan: SamplingPlan
    private let given: ClipInputs
    private let run: (String, Tensors) throws -> Tensors
    private var made: [Key: Tensors] = [:]

    init(_ plan: SamplingPlan, _ given: ClipInputs, _ run: @escaping (String, Tensors) throws -> Tensors) {
        self.plan = plan
        self.given = given
        self.run = run
    }

    /// By branch what the denoising program takes beside latents and step tables, by name.
    func window(_ span: LatentWindow) throws -> [Tensors] {
        var own: [Key: Tensors] = [:]
        func once(_ key: Key, forAll: Bool, _ make: () throws -> Tensors) throws -> Tensors {
            if let found = forAll ? made[key] : own[key] { return found }
            let new = try make()
            if forAll { made[key] = new } else { own[key] = new }
            return new
        }
        return try plan.branches.map { branch in
            guard let (rows, bias) = given.text[branch.text] else {
                throw EchoEdgeError.config("No text is called '\(branch.text)'.")
            }
            let text = try once(.text(Array(branch.text.utf8), branch.textScale), forAll: true) {
                try run("text_conditions", ["text": Inputs.scaled(rows, branch.textScale)])
            }
            let image = try once(.image(branch.image), forAll: true) {
                try run("image_conditions", ["image": branch.image ? given.image : Floats.zeros(given.image.shape)])
            }
            let patches = try once(.y(span.length), forAll: !given.rule.anchorClip) {
                try run("patch_conditions", ["y": given.known(span).tensor])
            }
            let audio = try once(.audio(branch.audio, branch.audioShift, given.heardRows(span)), forAll: !branch.audio) {
                let voice = given.voice(branch, span)
                return try run("audio_conditions", ["audio": voice.rows, "audio_present": voice.present])
            }
            let beside: Tensors = ["text_bias": bias, "audio_mask": given.mask]
            return [text, beside, image, audio].reduce(patches) { $0.merging($1) { _, later in later } }
        }
    }
}
