import Foundation

/// The stages of a clip, in the order in which they begin. The raw value is what records and messages call it.
public enum Stage: String, CaseIterable, Sendable {
    case listen, look, prepare, denoise, decode
}

/// A clip that was played. `latents`: of the whole clip; `frames`: how many left; `seconds`: wall time by stage; `firstFrame`:
/// seconds from the beginning until the first one left; `evaluations`: how many times the blocks ran.
public struct Played {
    public let latents: Latents
    public let frames: Int
    public let seconds: [Stage: Double]
    public let firstFrame: Double
    public let evaluations: Int
}

/// Plays clips of any length: evaluates programs and takes linear combinations, as the plan says. Used by one thread at a time;
/// `play` comes back when the clip is done, so an app calls it off its main thread.
public final class Player {
    /// Hears how far a stage is: so many of so many readings, windows, velocities or latent frames.
    public typealias Progress = (_ stage: Stage, _ done: Int, _ total: Int) -> Void
    /// Takes the frames of a clip, numbered from 0, as soon as each exists.
    public typealias Frames = (_ number: Int, _ frame: Pixels) throws -> Void

    private static let prompt = "prompt"  // the text condition that is the user's

    /// The shape that is played.
    public let clip: Clip
    private let bundle: ModelBundle
    private let programs: any Programs
    private let plan: SamplingPlan
    private let tables: Ordered<any Tensor>
    private let prompts: Ordered<Floats>
    private let decoding: String
    private let frugal: Bool
    private let progress: Progress
    private let cancelled: () -> Bool
    private var loaded: [Program] = []
    private var playing: Playing { bundle.manifest.playing }

    /// - Parameters:
    ///   - clip: nil: the bundle's main one.
    ///   - decoder: full or tiny, as `playing.decoders` names them; nil: the first.
    ///   - frugal: programs are freed as soon as the clip needs them no more, and frames leave when all are denoised. Otherwise
    ///     programs stay loaded, and a long clip's first frames leave while later windows are still denoised. The numbers are the
    ///     same.
    ///   - cancelled: is asked before every call of a program, such as `{ Task.isCancelled }`.
    /// - Throws: `config`: there is no such decoder; `bundle`: a file of the bundle cannot be played.
    public init(
        _ bundle: ModelBundle, _ programs: any Programs, clip: Clip? = nil, decoder: String? = nil, frugal: Bool = true,
        progress: @escaping Progress = { _, _, _ in }, cancelled: @escaping () -> Bool = { false }
    ) throws {
        self.bundle = bundle
        self.programs = programs
        self.clip = clip ?? bundle.manifest.clips[0]
        self.frugal = frugal
        self.progress = progress
        self.cancelled = cancelled
        plan = try bundle.plan(self.clip)
        tables = try bundle.tensors("step_tables.safetensors")
        for table in tables.values where table.shape.first != plan.steps {
            throw EchoEdgeError.bundle("A step table has shape \(table.shape) for \(plan.steps) steps. Export the bundle again.")
        }
        prompts = try bundle.prompts()
        let decoders = bundle.manifest.playing.decoders
        guard let chosen = decoder == nil ? decoders.first : decoders.first(where: { $0.name == decoder }) else {
            throw EchoEdgeError.config("The decoder is '\(decoder ?? "none")'; the bundle has: \(listed(decoders.map(\.name))).")
        }
        decoding = chosen.role
    }

    /// Texts that are known without a text encoder, but for those that the plan needs for itself.
    public var knownPrompts: [String] {
        let own = plan.branches.filter { $0.text != Player.prompt }.map { plan.texts[$0.text] ?? $0.text }
        return prompts.keys.filter { text in !own.contains { $0.utf8.elementsEqual(text.utf8) } }
    }

    /// Whether any prompt can be played.
    public var readsText: Bool { bundle.manifest.roles.contains("text_encoder") }

    /// Plays a clip as long as the speech, up to whole frames.
    ///
    /// - Parameters:
    ///   - portrait: [3, H, W] from -1 to 1, of the clip's size, as ``Pictures/portrait(_:height:width:crop:face:)`` makes it.
    ///   - speech: samples at the clip's rate, as ``Speech/of(_:sampleRate:fps:name:)`` gives them.
    ///   - seed: nil: the plan's.
    ///   - audioMask: [S]: 1 where a frame's tokens hear the speech; nil: everywhere.
    /// - Throws: `input`: the speech is shorter than a frame, the portrait of another size, or the prompt cannot be used;
    ///   `engine`: a program fails; `cancelled`. All programs are freed then, as after every error.
    @discardableResult
    public func play(
        _ portrait: Floats, _ speech: [Float], prompt: String = "", seed: UInt64? = nil, audioMask: [Float]? = nil,
        frames: @escaping Frames
    ) throws -> Played {
        let (count, total) = try Playing.length(speech.count, clip, temporalStride: playing.temporalStride)
        if portrait.shape != [3, clip.height, clip.width] {
            throw EchoEdgeError.input("The portrait is \(portrait.shape); this clip needs \([3, clip.height, clip.width]).")
        }
        let rule = plan.window ?? WindowRule(length: playing.latentFrames(clip.frames), overlap: 0)
        let clock = Clock()
        var ended = false
        defer { if frugal || !ended { free() } }
        let heard = try clock.within(.listen) { try listen(speech, playing.videoFrames(total)) }
        if frugal { free() }
        let given = try clock.within(.look) {
            let y = try look(portrait, rule.anchorClip ? total : min(rule.length, total))
            let image = try floats(
                call("image_encoder", "forward", ["portrait": Floats(portrait.values, [1] + portrait.shape)]), "tokens")
            let side = playing.spatialStride * playing.patch
            let mask = audioMask ?? [Float](repeating: 1, count: clip.height / side * (clip.width / side))
            let audio = Hear.neighbourhoods(heard, playing.hearing.neighbours)
            let texts = try read(prompt)
            return ClipInputs(
                playing: playing, rule: rule, y: y, image: image, text: texts, audio: audio, mask: Floats(mask, [1, mask.count]))
        }
        if frugal { free() }
        let decoder = Decoding(self, count, clock, frames)
        let denoising = Denoising(self, given, clock, decoder)
        let noise = try Normals.noise(
            seed: seed ?? plan.seed, channels: playing.latentChannels, frames: total, height: given.y.height, width: given.y.width)
        let sampled = try clock.within(.denoise) {
            try sample(plan, rule, noise, denoising) { progress(.denoise, $0, $1) }
        }
        if frugal { free() }
        try decoder.until(sampled.latents, total)
        ended = true
        return Played(
            latents: sampled.latents, frames: decoder.out, seconds: clock.seconds, firstFrame: decoder.firstAt,
            evaluations: sampled.evaluations)
    }

    /// Gives back every program that is loaded, but for that of a role to keep.
    public func free(keep: String? = nil) {
        let freed = loaded.filter { $0.role != keep }
        loaded.removeAll { $0.role != keep }
        for program in freed { programs.free(program) }
    }

    // ---- 1. listen ----

    private func listen(_ speech: [Float], _ frames: Int) throws -> Floats {
        let inputs = try bundle.manifest.program("audio_encoder", clip).methods["forward"]?.inputs ?? []
        guard let samples = inputs.first(where: { $0.name == "waveform" })?.shape.dropFirst().first?.size else {
            throw EchoEdgeError.bundle("The audio encoder reads any length, or no waveform. Export the bundle again.")
        }
        let rowsPerFrame = playing.hearing.rowsPerFrame
        let readings = try Hear.readings(
            speech, frames, samplesPerFrame: clip.samplesPerFrame, samples: samples, playing.hearing)
        var kept: [Float] = []
        var shape: [Int] = []
        for (number, heard) in readings.enumerated() {
            var inputs: [String: any Tensor] = ["waveform": Floats(heard.waveform, [1, samples])]
            if let moments = heard.moments { inputs["moments"] = moments }
            if let present = heard.present { inputs["present"] = Floats(present, [1, present.count]) }
            let first = (heard.reading.first - heard.reading.start) * rowsPerFrame
            let last = (heard.reading.last - heard.reading.start) * rowsPerFrame
            let features = try floats(call("audio_encoder", "forward", inputs), "features") {
                $0.count > 2 && $0[0] == 1 && $0[1] >= last && (kept.isEmpty || shape == Array($0[2...]))
            }
            let size = features.values.count / features.shape[1]
            kept.append(contentsOf: features.values[(first * size)..<(last * size)])
            shape = Array(features.shape.dropFirst(2))
            progress(.listen, number + 1, readings.count)
        }
        return Floats(kept, [frames * rowsPerFrame] + shape)
    }

    // ---- 2. look ----

    private func look(_ portrait: Floats, _ latentFrames: Int) throws -> Latents {
        let grey = Floats.zeros([1, playing.temporalStride] + portrait.shape)
        let chunks = playing.encodeUnknown ? latentFrames : 1
        var encoded: [[Float]] = []
        var state: [String: any Tensor] = [:]
        var made = Latents(channels: 1, frames: 1, height: 1, width: 1)
        for chunk in 0..<chunks {
            state["video"] = chunk == 0 ? Floats(portrait.values, [1, 1] + portrait.shape) : grey
            state = try call("vae_encode", chunk == 0 ? "first" : "next", state)
            made = try Latents(
                floats(state, "latents") {
                    $0.count == 5 && $0[0] == 1 && $0[2] == 1 && (chunk == 0 || $0 == made.tensor.shape)
                })
            encoded.append(made.frame(0))
            progress(.look, chunk + 1, chunks)
        }
        let known = Latents(channels: made.channels, height: made.height, width: made.width, frames: encoded)
        return Inputs.known(known, maskChannels: playing.maskChannels, frames: latentFrames)
    }

    private func read(_ prompt: String) throws -> Ordered<(text: Floats, bias: Floats)> {
        var texts = Ordered<(text: Floats, bias: Floats)>()
        for name in plan.branches.map(\.text) where !texts.has(name) {
            let said = plan.texts[name] ?? (name == Player.prompt ? prompt : name)
            texts[name] = try Inputs.text(rows(said), textLength: playing.textLength, textRows: playing.textRows)
        }
        return texts
    }

    private func rows(_ prompt: String) throws -> Floats {
        if let known = prompts[prompt] { return known }
        if !readsText {
            let known = prompts.isEmpty ? "none" : listed(prompts.keys.sorted().map { "'\($0)'" })
            throw EchoEdgeError.input("There is no text encoder here; the known prompts are \(known), not '\(short(prompt))'.")
        }
        let (ids, length) = Inputs.byteIds(prompt, textLength: playing.textLength, padId: playing.padId)
        let embeddings = try floats(call("text_encoder", "forward", ["ids": Longs(shape: [1, ids.count], ids)]), "embeddings") {
            $0.count == 3 && $0[0] == 1 && $0[1] >= length
        }
        let dim = embeddings.shape[2]
        return Floats(Array(embeddings.values[..<(length * dim)]), [length, dim])
    }

    // ---- 3. and 4. prepare, denoise ----

    private final class Denoising: Denoiser {
        private let player: Player
        private let clock: Clock
        private let conditioner: Conditioner
        private let decoder: Decoding
        private var windows: [Int: [[String: any Tensor]]] = [:]
        private var begun = 0

        init(_ player: Player, _ given: ClipInputs, _ clock: Clock, _ decoder: Decoding) {
            self.player = player
            self.clock = clock
            self.decoder = decoder
            conditioner = Conditioner(player.plan, given) { role, inputs in try player.call(role, "forward", inputs) }
        }

        func begin(_ position: Int, _ span: LatentWindow, _ count: Int) throws {
            windows[position] = try clock.within(.prepare) { try conditioner.window(span) }
            begun += 1
            player.progress(.prepare, begun, count)
            if player.frugal && begun == count { player.free(keep: "denoise") }  // conditions are made
        }

        func evaluate(_ step: Int, _ branch: Int, _ position: Int, _ latents: Latents) throws -> Evaluated {
            var inputs = try given(step, branch, position, latents)
            inputs["modality_weights"] = Floats(try player.plan.modality(step, latents.frames), [1, 3, latents.frames])
            let made = try player.call("denoise", "forward", inputs)
            return (try Latents(player.floats(made, "velocity") { $0 == latents.tensor.shape }), made["residual"])
        }

        func reuse(_ step: Int, _ branch: Int, _ position: Int, _ latents: Latents, _ residual: any Tensor) throws -> Latents {
            var inputs = try given(step, branch, position, latents)
            inputs["residual"] = residual
            let made = try player.call("denoise_reusing", "forward", inputs)
            return try Latents(player.floats(made, "velocity") { $0 == latents.tensor.shape })
        }

        func end(_ position: Int, _ latents: Latents, _ finished: Int) throws {
            windows[position] = nil
            if !player.frugal { try decoder.until(latents, finished) }
        }

        private func given(_ step: Int, _ branch: Int, _ position: Int, _ latents: Latents) throws -> [String: any Tensor] {
            var inputs = windows[position]?[branch] ?? [:]
            for (name, table) in player.tables.entries {
                let values = try table.floats()
                let size = values.count / player.plan.steps
                inputs[name] = Floats(Array(values[(step * size)..<((step + 1) * size)]), [1] + table.shape.dropFirst())
            }
            inputs["latents"] = latents.tensor
            return inputs
        }
    }

    // ---- 5. decode ----

    private final class Decoding {
        private let player: Player
        private let count: Int
        private let clock: Clock
        private let sink: Frames
        private var state: [String: any Tensor] = [:]
        private var decoded = 0
        private(set) var out = 0
        private(set) var firstAt = 0.0

        init(_ player: Player, _ count: Int, _ clock: Clock, _ sink: @escaping Frames) {
            (self.player, self.count, self.clock, self.sink) = (player, count, clock, sink)
        }

        /// Decodes the leading latent frames up to `finished`, as far as the clip's frames go.
        func until(_ latents: Latents, _ finished: Int) throws {
            while decoded < finished && out < count {
                let frames = try clock.within(.decode) {
                    let chunk = Floats(latents.frame(decoded), [1, latents.channels, 1, latents.height, latents.width])
                    state["latents"] = chunk
                    state = try player.call(player.decoding, decoded == 0 ? "first" : "next", state)
                    let video = try player.floats(state, "video") { $0.count == 5 && $0[0] == 1 && $0[2] == 3 }
                    state["video"] = nil
                    return Film.frames(video.values, video.shape[1], height: video.shape[3], width: video.shape[4])
                }
                decoded += 1
                player.progress(.decode, decoded, min(latents.frames, player.playing.latentFrames(count)))
                for frame in frames.prefix(count - out) {
                    if out == 0 { firstAt = clock.elapsed }
                    try sink(out, frame)
                    out += 1
                }
            }
        }
    }

    private func call(_ role: String, _ method: String, _ given: [String: any Tensor]) throws -> [String: any Tensor] {
        if cancelled() { throw EchoEdgeError.cancelled }
        let program = try bundle.manifest.program(role, clip)
        let inputs = try program.take(method, given)
        if !loaded.contains(where: { $0.name == program.name }) {
            try programs.load(program)
            loaded.append(program)
        }
        return try programs.run(program, method, inputs)
    }

    /// An output by its name, of a shape that fits: what a runtime gives is not believed to be what the manifest says.
    private func floats(
        _ made: [String: any Tensor], _ name: String, fits: ([Int]) -> Bool = { _ in true }
    ) throws -> Floats {
        guard let tensor = made[name] else {
            throw EchoEdgeError.engine("A program gave \(listed(made.keys.sorted())), not \(name). Export the bundle again.")
        }
        if !fits(tensor.shape) {
            throw EchoEdgeError.engine("A program gave \(name) of shape \(tensor.shape), which cannot be. Export the bundle again.")
        }
        return try tensor as? Floats ?? Floats(shape: tensor.shape, tensor.floats())
    }
}

/// Seconds since some moment that stands still.
func now() -> Double { Double(DispatchTime.now().uptimeNanoseconds) / 1e9 }

/// Wall time by stage; a stage within another one stops that one's time.
private final class Clock {
    private let began = now()
    private var since = now()
    private var current: Stage?
    private(set) var seconds = Dictionary(uniqueKeysWithValues: Stage.allCases.map { ($0, 0.0) })

    var elapsed: Double { now() - began }

    func within<T>(_ stage: Stage, _ body: () throws -> T) rethrows -> T {
        let before = current
        turn(stage)
        defer { turn(before) }
        return try body()
    }

    private func turn(_ stage: Stage?) {
        let moment = now()
        if let current { seconds[current, default: 0] += moment - since }
        current = stage
        since = moment
    }
}
