import Foundation

/// Agreement with full precision: `psnr` in dB, at most 150, `cosine` and the largest difference; of what is not finite 0, 0, nil.
public struct Agreement: Equatable, Sendable {
    private static let cap = 150.0

    public let psnr: Double, cosine: Double, largest: Double?

    init(psnr: Double, cosine: Double, largest: Double?) { (self.psnr, self.cosine, self.largest) = (psnr, cosine, largest) }

    /// Of the same numbers of two tensors, every `every`-th of those measured. `peak`: nil: the reference's range. Throws
    /// `engine`: they have different sizes.
    public init(_ reference: any Tensor, _ measured: any Tensor, every: Int = 1, peak: Double? = nil) throws {
        let size = sizeOf(reference.shape)
        if size == 0 || every < 1 || size != (sizeOf(measured.shape) + every - 1) / every {
            throw EchoEdgeError.engine(
                "A program gave \(measured.shape); its record has \(reference.shape). Export the bundle again.")
        }
        var (squares, dot, mine, theirs, largest) = (0.0, 0.0, 0.0, 0.0, 0.0)
        var (low, high) = (Double.infinity, -Double.infinity)
        for i in 0..<size {
            let a = reference.number(i)
            let b = measured.number(i * every)
            if !a.isFinite || !b.isFinite {
                self.init(psnr: 0, cosine: 0, largest: nil)
                return
            }
            squares += (a - b) * (a - b)
            dot += a * b
            mine += a * a
            theirs += b * b
            largest = max(largest, abs(a - b))
            low = min(low, a)
            high = max(high, a)
        }
        let range = peak ?? (high > low ? high - low : 1)
        let psnr = squares == 0 ? Agreement.cap : min(Agreement.cap, 10 * log10(range * range / (squares / Double(size))))
        let product = mine.squareRoot() * theirs.squareRoot()
        let cosine = product == 0 ? (mine == theirs ? 1 : 0) : min(max(dot / mine.squareRoot() / theirs.squareRoot(), -1), 1)
        self.init(psnr: psnr, cosine: cosine, largest: largest)
    }

    /// The lowest of each.
    static func worst(_ found: [Agreement]) -> Agreement {
        let largest = found.compactMap(\.largest)
        return Agreement(
            psnr: found.map(\.psnr).min() ?? 0, cosine: found.map(\.cosine).min() ?? 0,
            largest: largest.count == found.count ? largest.max() : nil)
    }

    /// Whether this is as good as is demanded, which may be nothing.
    public func meets(_ demanded: Demand) -> Bool {
        psnr >= demanded.psnr ?? -.infinity && cosine >= demanded.cosine ?? -.infinity
            && (demanded.largest == nil || (largest ?? .infinity) <= demanded.largest ?? 0)
    }
}

/// One comparison: a program's name, "latents" or "frames"; `passed` is nil where nothing is demanded.
public struct Verdict: Sendable {
    public let name: String
    public let measured: Agreement
    public let demanded: Demand?
    public var passed: Bool? { demanded.map(measured.meets) }
}

/// The recorded full-precision calls that travel with a bundle, so that a phone can prove its programs.
public final class Golden {
    private struct Place: Hashable {
        let program: String, method: String
        let call: Int, output: Int
    }

    private struct Call {
        let inputs: [Json], outputs: [Json]
    }

    private let bundle: ModelBundle
    private let tensors: Ordered<any Tensor>
    private let index: Fields
    private let calls: Ordered<Ordered<[Call]>>
    private let damaged: (String) -> EchoEdgeError

    /// Throws `bundle`: the bundle has no recorded calls, or they are damaged.
    public init(_ bundle: ModelBundle) throws {
        self.bundle = bundle
        let damaged = { (why: String) in
            EchoEdgeError.bundle("tests/golden.json of \(bundle.root.path) is damaged: \(why). Export the bundle again.")
        }
        self.damaged = damaged
        tensors = try bundle.tensors("tests/golden.safetensors")
        index = try Fields("", Json.parse(read(bundle.root.appendingPathComponent("tests/golden.json"))), damaged)
        calls = try index.recordsByName("programs").mapped { _, methods in
            try methods.values.mapped { method, _ in
                try methods.records(method).map { call in
                    Call(inputs: try call.rows("inputs") { $1 }, outputs: try call.rows("outputs") { $1 })
                }
            }
        }
    }

    /// Runs every recorded call, program by program, then the recorded clip where there is one. `told` hears each verdict as it
    /// is found. A program that is given what another one makes is asked for no more than that one. `player` plays the clip with
    /// the same programs.
    @discardableResult
    public func verify(_ programs: any Programs, _ player: Player, told: (Verdict) -> Void = { _ in }) throws -> [Verdict] {
        var found: [Verdict] = []
        func say(_ name: String, _ measured: Agreement, _ demanded: Demand?) {
            let verdict = Verdict(name: name, measured: measured, demanded: demanded)
            found.append(verdict)
            told(verdict)
        }
        let readers = try readers()
        var kept: [Place: any Tensor] = [:]
        for name in calls.keys {
            guard let program = bundle.manifest.programs[name] else {
                throw damaged("it has calls of \(name), which the bundle lacks")
            }
            try programs.load(program)
            defer { programs.free(program) }
            say(name, try compare(programs, program, readers, &kept), try demand(name))
            let done = Set(found.map(\.name))
            kept = kept.filter { !(readers[$0.key] ?? []).isSubset(of: done) }
        }
        if let clip = try clip(player) {
            say("latents", clip.latents, bundle.manifest.demanded["latents"])
            say("frames", clip.frames, bundle.manifest.demanded["frames"])
        }
        return found
    }

    private func readers() throws -> [Place: Set<String>] {
        var found: [Place: Set<String>] = [:]
        for (name, methods) in calls.entries {
            for source in methods.values.joined().flatMap(\.inputs) where source.members != nil {
                found[try place(source), default: []].insert(name)
            }
        }
        return found
    }

    private func place(_ source: Json) throws -> Place {
        let fields = try Fields("inputs", source, damaged)
        return Place(
            program: try fields.text("program"), method: try fields.text("method"), call: try fields.whole("call"),
            output: try fields.whole("output"))
    }

    private func compare(
        _ programs: any Programs, _ program: Program, _ readers: [Place: Set<String>], _ kept: inout [Place: any Tensor]
    ) throws -> Agreement {
        var found: [Agreement] = []
        for (method, recorded) in (calls[program.name] ?? [:]).entries {
            guard let specs = program.methods[method] else {
                throw damaged("it has calls of \(program.name).\(method), which the bundle lacks")
            }
            for (number, call) in recorded.enumerated() {
                var given: [String: any Tensor] = [:]
                for (spec, source) in zip(specs.inputs, call.inputs) {
                    if source.members == nil {
                        given[spec.name] = try tensor(source)
                    } else {
                        guard let earlier = kept[try place(source)] else {
                            throw damaged("\(program.name) needs \(source.told), not run")
                        }
                        given[spec.name] = earlier
                    }
                }
                let outputs = try programs.run(program, method, program.take(method, given))
                for (position, (spec, expected)) in zip(specs.outputs, call.outputs).enumerated() {
                    guard let output = outputs[spec.name] else {
                        throw EchoEdgeError.engine("\(program.name).\(method) gave no \(spec.name). Export the bundle again.")
                    }
                    if expected.members != nil {
                        let every = try expected["every"].map { try index.whole("every", $0, 1...Int.max) } ?? 1
                        found.append(try Agreement(tensor(expected["key"] ?? .null), output, every: every))
                    } else if expected != .null {
                        found.append(try Agreement(tensor(expected), output))
                    }
                    let place = Place(program: program.name, method: method, call: number, output: position)
                    if readers[place] != nil { kept[place] = output }
                }
            }
        }
        if found.isEmpty { throw damaged("the recorded calls of \(program.name) compare no outputs") }
        return Agreement.worst(found)
    }

    private func tensor(_ key: Json) throws -> any Tensor {
        guard let name = key.text, let found = tensors[name] else { throw damaged("there is no array \(key.told)") }
        return found
    }

    private func demand(_ name: String) throws -> Demand? {
        let sources = (calls[name] ?? [:]).values.joined().flatMap(\.inputs).filter { $0.members != nil }
        let names = Set(try sources.map { try place($0).program } + [name])
        let demands = names.compactMap { bundle.manifest.demanded[$0] }
        if demands.count < names.count { return nil }
        func all(_ figure: (Demand) -> Double?) -> [Double]? {
            let found = demands.compactMap(figure)
            return found.count == demands.count ? found : nil
        }
        return Demand(psnr: all(\.psnr)?.min(), cosine: all(\.cosine)?.min(), largest: all(\.largest)?.max())
    }

    private func clip(_ player: Player) throws -> (latents: Agreement, frames: Agreement)? {
        let clip = try index.named("clip")
        let settings = try index.record("settings")
        if clip.isEmpty { return nil }
        func recorded(_ name: String) throws -> any Tensor { try tensor(clip[name] ?? .null) }
        let (portrait, frames) = (try recorded("portrait"), try recorded("frames"))
        let size = sizeOf(Array(frames.shape.dropFirst()))
        var bytes: [UInt8] = []
        let played = try player.play(
            Floats(shape: portrait.shape, portrait.floats()), recorded("speech").floats(), prompt: settings.text("prompt"),
            seed: settings.seed("seed")
        ) { number, frame in
            if (number + 1) * size <= sizeOf(frames.shape) { bytes.append(contentsOf: frame.bytes) }
        }
        let latents = played.latents
        let made = Floats(latents.values, [latents.channels, latents.frames, latents.height, latents.width])
        return (
            try Agreement(recorded("latents"), made), try Agreement(frames, Bytes(shape: frames.shape, bytes), peak: 255)
        )
    }
}
