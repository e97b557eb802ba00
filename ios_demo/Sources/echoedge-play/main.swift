// The engine on a desktop, its programs in a child process.
//
//     echoedge-play play BUNDLE --image PPM --audio WAV --prompt TEXT --out FOLDER [--seed N] [--clip SHAPE] [--decoder NAME]
//         [--eager] -- COMMAND…
//     echoedge-play verify BUNDLE -- COMMAND…
//
// COMMAND… starts the process, `echoedge serve-programs BUNDLE`. `play` writes latents.f32 [C, F, h, w] and frames.u8
// [T, H, W, 3], raw and little-endian, and played.json; `verify` prints a list of JSON, a record for each program and for the
// clip. Status 1: a sentence says why; 2: this is no such command.

#if os(macOS) || os(Linux)
    import EchoEdgeCore
    import Foundation

    private let usage = "Usage: echoedge-play play | verify BUNDLE [options] -- COMMAND…"

    private struct Options {
        private static let known = ["image", "audio", "prompt", "out", "seed", "clip", "decoder"]

        let verb: String
        let bundle: URL
        let eager: Bool
        let command: [String]
        private var named: [String: String] = [:]

        /// nil: these are no arguments of this command.
        init?(_ arguments: [String]) {
            guard let split = arguments.firstIndex(of: "--"), split >= 2, ["play", "verify"].contains(arguments[0]) else {
                return nil
            }
            verb = arguments[0]
            bundle = URL(fileURLWithPath: arguments[1])
            command = Array(arguments[(split + 1)...])
            var rest = Array(arguments[2..<split])
            eager = rest.contains("--eager")
            rest.removeAll { $0 == "--eager" }
            if rest.count % 2 != 0 || command.isEmpty { return nil }
            for at in stride(from: 0, to: rest.count, by: 2) {
                guard rest[at].hasPrefix("--"), Options.known.contains(String(rest[at].dropFirst(2))) else { return nil }
                named[String(rest[at].dropFirst(2))] = rest[at + 1]
            }
        }

        subscript(name: String) -> String? { named[name] }

        func need(_ name: String) throws -> String {
            guard let value = named[name] else { throw EchoEdgeError.config("--\(name) is missing.") }
            return value
        }
    }

    /// Remembers when the denoiser was first called, in milliseconds since 1970.
    private final class Watched: Programs {
        private let programs: any Programs
        private(set) var firstDenoise: Int?
        private(set) var calls = 0

        init(_ programs: any Programs) { self.programs = programs }

        func load(_ program: Program) throws { try programs.load(program) }
        func free(_ program: Program) { programs.free(program) }

        func run(_ program: Program, _ method: String, _ inputs: [String: any Tensor]) throws -> [String: any Tensor] {
            if program.role == "denoise" && firstDenoise == nil { firstDenoise = milliseconds() }
            calls += 1
            return try programs.run(program, method, inputs)
        }
    }

    private func milliseconds() -> Int { Int(1000 * Date().timeIntervalSince1970) }

    private func content(_ path: String) throws -> [UInt8] {
        guard let data = FileManager.default.contents(atPath: path) else {
            throw EchoEdgeError.input("\(path) cannot be read. Check the name.")
        }
        return [UInt8](data)
    }

    private func play(_ options: Options, _ served: ServedPrograms) throws {
        let bundle = try ModelBundle.open(options.bundle)
        let programs = Watched(served)
        let clip = try bundle.manifest.clip(options["clip"])
        let player = try Player(bundle, programs, clip: clip, decoder: options["decoder"], frugal: !options.eager)
        let picture = try Ppm.parse(content(options.need("image")), name: options.need("image"))
        let portrait = try Pictures.portrait(picture, height: clip.height, width: clip.width)
        let speech = try Speech.of(Wav.parse(content(options.need("audio"))), sampleRate: clip.sampleRate, fps: clip.fps)
        let seed = try options["seed"].map(Normals.seed)
        let out = URL(fileURLWithPath: try options.need("out"))
        try served.greet()  // opening the bundle over there takes longer than all of this
        let ready = milliseconds()
        var film: [UInt8] = []
        let played = try player.play(portrait, speech, prompt: options["prompt"] ?? "", seed: seed) { _, frame in
            film.append(contentsOf: frame.bytes)
        }
        let told: Json = [
            "latents": .list(
                [played.latents.channels, played.latents.frames, played.latents.height, played.latents.width].map(Json.whole)),
            "frames": .whole(played.frames), "evaluations": .whole(played.evaluations), "calls": .whole(programs.calls),
            "first_frame": .number(played.firstFrame), "first_denoise_at": .maybe(programs.firstDenoise), "ready_at": .whole(ready),
            "seconds": .object(Stage.allCases.reduce(into: [:]) { $0[$1.rawValue] = .number(played.seconds[$1] ?? 0) }),
        ]
        do {
            try FileManager.default.createDirectory(at: out, withIntermediateDirectories: true)
            try Data(film).write(to: out.appendingPathComponent("frames.u8"))
            try played.latents.values.withUnsafeBytes { try Data($0).write(to: out.appendingPathComponent("latents.f32")) }
            try Data(told.written().utf8).write(to: out.appendingPathComponent("played.json"))
        } catch let error as EchoEdgeError {
            throw error
        } catch {
            throw EchoEdgeError.resource("\(out.path) cannot be written (\(error.localizedDescription)).")
        }
    }

    private func verify(_ options: Options, _ programs: ServedPrograms) throws {
        let bundle = try ModelBundle.open(options.bundle)
        let verdicts = try Golden(bundle).verify(programs, Player(bundle, programs))
        let rows = verdicts.map { verdict -> Json in
            [
                "name": .text(verdict.name), "psnr_db": .number(verdict.measured.psnr), "cosine": .number(verdict.measured.cosine),
                "max_abs": .maybe(verdict.measured.largest), "passed": verdict.passed.map(Json.bool) ?? .null,
            ]
        }
        print(try Json.list(rows).written(), terminator: "")
    }

    private func say(_ sentence: String) { FileHandle.standardError.write(Data((sentence + "\n").utf8)) }

    guard let options = Options(Array(CommandLine.arguments.dropFirst())) else {
        say(usage)
        exit(2)
    }
    do {
        let served = try ServedPrograms(options.command)
        defer { served.close() }
        try options.verb == "verify" ? verify(options, served) : play(options, served)
    } catch let error as EchoEdgeError {
        say(error.message)
        exit(1)
    }
#endif
