import EchoEdgeCore
import Foundation
import XCTest

/// A bundle whose programs are formulas: 16×16×9, two latent channels, 40 samples to a frame, windows of 3 latent frames.
enum Toy {
    static let prompt = "a toy speaks"
    private static let side = 16

    private static func spec(_ name: String, _ shape: Int...) -> Json {
        ["name": .text(name), "dtype": "float32", "shape": .list(shape.map(Json.whole))]
    }

    private static func forward(_ inputs: Json, _ outputs: Json) -> Json { ["forward": ["inputs": inputs, "outputs": outputs]] }

    private static let latent = spec("latents", 1, 2, 1, 2, 2)
    private static let one = spec("video", 1, 1, 3, side, side)
    private static let four = spec("video", 1, 4, 3, side, side)
    private static let state = spec("state_0", 1, 2)
    private static let keys: (String) -> Json = { [spec("\($0)_k", 1), spec("\($0)_v", 1)] }

    private static let methods: Ordered<Json> = [
        "audio_encoder": forward([spec("waveform", 1, 520)], [spec("features", 1, 13, 2)]),
        "image_encoder": forward([spec("portrait", 1, 3, side, side)], [spec("tokens", 1, 2, 3)]),
        "vae_encode": [
            "first": ["inputs": [one], "outputs": [latent, state]],
            "next": ["inputs": [four, state], "outputs": [latent, state]],
        ],
        "text_conditions": forward([spec("text", 1, 4, 3)], keys("text")),
        "image_conditions": forward([spec("image", 1, 2, 3)], keys("image")),
        "audio_conditions": forward([spec("audio", 1, 9, 2)], keys("audio")),
        "patch_conditions": forward([spec("y", 1, 6, 3, 2, 2)], [spec("patch_bias", 1)]),
        "denoise": forward(
            [
                spec("latents", 1, 2, 3, 2, 2), spec("time", 1, 2), spec("modulation", 1, 6, 2), spec("modality_weights", 1, 3, 3),
                spec("patch_bias", 1), spec("text_k", 1), spec("text_v", 1), spec("text_bias", 1, 4), spec("image_k", 1),
                spec("image_v", 1), spec("audio_k", 1), spec("audio_v", 1), spec("audio_mask", 1, 1),
            ],
            [spec("velocity", 1, 2, 3, 2, 2)]),
        "vae_decode": [
            "first": ["inputs": [latent], "outputs": [one, state]],
            "next": ["inputs": [latent, state], "outputs": [four, state]],
        ],
    ]

    private static let plan: Json = [
        "format": "echoedge.plan/1", "solver_name": "euler", "schedule": "flow", "shift": 1.0, "timesteps": [1000.0, 500.0],
        "sigmas": [1.0, 0.5, 0.0], "solver": [[1.0, -0.5], [1.0, -0.5, -0.5]],
        "branches": [["name": "all", "text": "prompt"], ["name": "mute", "text": "prompt", "audio": false]],
        "guidance": [[1.5, -0.5], [1.0, 0.0]], "modality_weights": [[[1.0], [1.0], [1.0]], [[1.0], [1.0], [1.0]]],
        "reuse": [[false, false], [false, false]], "window": ["length": 3, "overlap": 1], "noise": ["seed": 7],
    ]

    /// Writes it into a folder that is not there yet. `changed`: what else is done to its manifest.
    static func write(_ folder: URL, changed: (inout Ordered<Json>) -> Void = { _ in }) throws -> URL {
        var programs = Ordered<Json>()
        for (name, methods) in methods.entries {
            let bytes = Array(name.utf8)
            try put(folder, "programs/\(name).pte", bytes)
            programs[name] = [
                "role": .text(name), "clip": "16x16x9", "methods": methods, "demanded": ["psnr_db": 100.0, "cosine": 0.99],
                "artifact": entry(bytes, ["kind": "pte", "path": .text("programs/\(name).pte")]),
            ]
        }
        let golden = try golden()
        let contents: Ordered<[UInt8]> = [
            "plan.json": Array(try plan.written().utf8),
            "step_tables.safetensors": try safetensors(["time": ([2, 2], [1, 2, 3, 4]), "modulation": ([2, 6, 2], zeros(24))]),
            "prompts/prompts.safetensors": try safetensors([prompt: ([1, 3], [1, 2, 3])]),
            "tests/golden.json": golden.index, "tests/golden.safetensors": golden.arrays,
        ]
        var files = Ordered<Json>()
        for (path, bytes) in contents.entries {
            try put(folder, path, bytes)
            files[path] = entry(bytes, [:])
        }
        var manifest: Ordered<Json> = [
            "format": "echoedge.bundle/2",
            "model": [
                "preset": "toy", "config": ["name": "toy", "layers": 1], "config_digest": .text(String(repeating: "0", count: 64)),
                "source_sha256": .text(String(repeating: "0", count: 64)),
            ],
            "clips": [["height": 16, "width": 16, "frames": 9, "fps": 25, "sample_rate": 1000]],
            "target": ["name": "executorch", "backend": "xnnpack", "precision": "fp32"], "weights": ["name": "fp32"],
            "versions": ["echoedge": "1"], "programs": .object(programs), "files": .object(files),
            "playing": [
                "latent_channels": 2, "temporal_stride": 4, "spatial_stride": 8, "patch": 2, "mask_channels": 4,
                "encode_unknown": true,
                "text_length": 8, "text_rows": 4, "text_dim": 3, "decoders": ["full": "vae_decode"],
                "hearing": ["context_frames": 2],
            ],
            "memory": [
                "conditions_bytes_per_branch": 1000, "latents_bytes": 96, "step_bytes": 500, "vae_decode_state_bytes": 8,
            ],
            "parity": ["demanded": ["latents": ["psnr_db": 100.0], "frames": ["psnr_db": 30.0]]],
        ]
        changed(&manifest)
        try put(folder, Manifest.name, Array(try Json.object(manifest).written().utf8))
        return folder
    }

    private static func entry(_ bytes: [UInt8], _ more: Ordered<Json>) -> Json {
        var fields = more
        fields["sha256"] = .text(sha256Of(bytes))
        fields["bytes"] = .whole(bytes.count)
        return .object(fields)
    }

    private static func zeros(_ count: Int) -> [Float] { [Float](repeating: 0, count: count) }

    static func put(_ folder: URL, _ path: String, _ bytes: [UInt8]) throws {
        let file = folder.appendingPathComponent(path)
        try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
        try Data(bytes).write(to: file)
    }

    /// Recorded calls of two programs, one of which is given what the other made; computed here by the programs' formula.
    private static func golden() throws -> (index: [UInt8], arrays: [UInt8]) {
        let text = (0..<12).map { Float($0) / 8 }
        let key = ToyPrograms.value(text.reduce(0.0) { $0 + Double($1) }, 0)
        var arrays: Ordered<(shape: [Int], values: [Float])> = ["text": ([1, 4, 3], text), "key": ([1], [key])]
        var inputs: [Json] = []
        for input in try XCTUnwrap(methods["denoise"]?["forward"]?["inputs"]?.items) {
            let name = try XCTUnwrap(input["name"]?.text)
            let shape = try XCTUnwrap(input["shape"]?.items).compactMap(\.whole)
            if name == "text_k" {
                inputs.append(["program": "text_conditions", "method": "forward", "call": 0, "output": 0])
            } else {
                arrays[name] = (shape, zeros(sizeOf(shape)))
                inputs.append(.text(name))
            }
        }
        let velocity = (0..<24).map { ToyPrograms.value(Double(key), $0) }
        arrays["velocity"] = ([12], stride(from: 0, to: 24, by: 2).map { velocity[$0] })
        let index: Json = [
            "settings": ["prompt": .text(prompt), "seed": 7], "clip": [:],
            "programs": [
                "text_conditions": ["forward": [["inputs": ["text"], "outputs": ["key", nil]]]],
                "denoise": ["forward": [["inputs": .list(inputs), "outputs": [["key": "velocity", "every": 2]]]]],
            ],
        ]
        return (Array(try index.written().utf8), try safetensors(arrays))
    }

    /// The bytes of a safetensors file.
    static func safetensors(_ arrays: Ordered<(shape: [Int], values: [Float])>) throws -> [UInt8] {
        var header = Ordered<Json>()
        var body: [UInt8] = []
        for (name, array) in arrays.entries {
            let begin = body.count
            for value in array.values { withUnsafeBytes(of: value.bitPattern.littleEndian) { body.append(contentsOf: $0) } }
            header[name] = [
                "dtype": "F32", "shape": .list(array.shape.map(Json.whole)), "data_offsets": [.whole(begin), .whole(body.count)],
            ]
        }
        let text = Array(try Json.object(header).written().utf8)
        return withUnsafeBytes(of: UInt64(text.count).littleEndian) { Array($0) } + text + body
    }

    static func portrait() throws -> Floats {
        try Floats(shape: [3, side, side], (0..<(3 * side * side)).map { Float($0 % 7) / 7 - 0.5 })
    }

    static func speech(_ frames: Int) -> [Float] { (0..<(40 * frames)).map { Float($0 % 11 - 5) / 20 } }
}

/// Runs the toy's programs: every output is a function of the sum of all inputs. `log` says what was loaded, run and freed.
final class ToyPrograms: Programs {
    private let failing: String?
    private(set) var log: [String] = []
    private(set) var loaded = Set<String>()
    private(set) var most = 0

    init(failing: String? = nil) { self.failing = failing }

    var runs: Int { log.filter { $0.hasPrefix("run") }.count }

    func load(_ program: Program) throws {
        XCTAssertTrue(loaded.insert(program.name).inserted, "\(program.name) is loaded twice")
        most = max(most, loaded.count)
        log.append("load \(program.name)")
    }

    func run(_ program: Program, _ method: String, _ inputs: [String: any Tensor]) throws -> [String: any Tensor] {
        XCTAssertTrue(loaded.contains(program.name), "\(program.name) runs without having been loaded")
        let specs = try XCTUnwrap(program.methods[method])
        XCTAssertEqual(Set(inputs.keys), Set(specs.inputs.map(\.name)))
        log.append("run \(program.name).\(method)")
        if program.name == failing { throw EchoEdgeError.engine("\(program.name) failed.") }
        let sum = try specs.inputs.reduce(0.0) { try XCTUnwrap(inputs[$1.name]).floats().reduce($0) { $0 + Double($1) } }
        var made: [String: any Tensor] = [:]
        for spec in specs.outputs {
            let shape = spec.shape.compactMap(\.size)
            made[spec.name] = try Floats(shape: shape, (0..<sizeOf(shape)).map { ToyPrograms.value(sum, $0) })
        }
        return made
    }

    func free(_ program: Program) {
        XCTAssertNotNil(loaded.remove(program.name), "\(program.name) is freed twice")
        log.append("free \(program.name)")
    }

    static func value(_ sum: Double, _ index: Int) -> Float { Float(sin(sum + Double(index))) * 0.9 }
}
