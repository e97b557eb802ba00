import XCTest

@testable import EchoEdgeAppCore
@testable import EchoEdgeCore

final class PackagesTest: XCTestCase {
    private let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)

    override func tearDown() { try? FileManager.default.removeItem(at: folder) }

    /// A toy whose denoiser is a folder of packages with these files.
    private func manifest(_ files: [String], prefix: String = "") throws -> Manifest {
        let digest = sha256Of(Array(files.sorted().map { "\(sha256Of(Array($0.utf8)))  \($0)\n" }.joined().utf8))
        let root = try Toy.write(folder.appendingPathComponent(UUID().uuidString)) { manifest in
            var listed = manifest["files"]?.members ?? [:]
            for path in files { listed[path] = ["sha256": .text(sha256Of(Array(path.utf8))), "bytes": 3] }
            manifest["files"] = .object(listed)
            var programs = manifest["programs"]?.members ?? [:]
            var denoise = programs["denoise"]?.members ?? [:]
            denoise["artifact"] = [
                "kind": "folder", "path": "programs/denoise", "prefix": .text(prefix), "bytes": .whole(3 * files.count),
                "sha256": .text(digest),
            ]
            programs["denoise"] = .object(denoise)
            manifest["programs"] = .object(programs)
            manifest["target"] = ["name": "coreml", "backend": "ane", "precision": "fp16"]
        }
        return try Manifest.parse([UInt8](Data(contentsOf: root.appendingPathComponent(Manifest.name))))
    }

    func testAPackageForEachMethodOrOneWithFunctions() throws {
        let own = try manifest(["programs/denoise/a_forward.mlpackage/Manifest.json"], prefix: "a_")
        let program = try XCTUnwrap(own.programs["denoise"])
        let found = try Packages.package(own, program, "forward")
        XCTAssertEqual(found.path, "programs/denoise/a_forward.mlpackage")
        XCTAssertNil(found.function)
        XCTAssertThrowsError(try Packages.package(own, program, "next")) { XCTAssertEqual(($0 as? EchoEdgeError)?.kind, .bundle) }
        let shared = try manifest(["programs/denoise/functions.mlpackage/Manifest.json"], prefix: "a_")
        let both = try Packages.package(shared, XCTUnwrap(shared.programs["denoise"]), "forward")
        XCTAssertEqual(both.path, "programs/denoise/functions.mlpackage")
        XCTAssertEqual(both.function, "a_forward")
    }

    func testTheKeyOfACompiledModelIsItsContent() throws {
        let paths = ["programs/denoise/forward.mlpackage/b", "programs/denoise/forward.mlpackage/a"]
        let manifest = try manifest(paths)
        let lines = paths.sorted().map { "\(sha256Of(Array($0.utf8)))  \($0)\n" }.joined()
        let key = Packages.digest(manifest, "programs/denoise/forward.mlpackage")
        XCTAssertEqual(key, sha256Of(Array(lines.utf8)))
        XCTAssertEqual(CompiledModels.digests(manifest), [key])
        XCTAssertNotEqual(key, Packages.digest(manifest, "programs/denoise/forward.mlpack"))
    }

    func testACompiledModelIsMadeOnceAndHalfWrittenOnesAreNeverUsed() throws {
        let models = CompiledModels(folder.appendingPathComponent("compiled"))
        var compilations = 0
        func compile() throws -> URL {
            compilations += 1
            let made = folder.appendingPathComponent("made\(compilations).mlmodelc")
            try Toy.put(made, "model.mil", [1, 2, 3])
            return made
        }
        try Toy.put(models.folder, "aa.1234.partial/model.mil", [1])  // of an app that was ended meanwhile
        let first = try models.model("aa", compile: compile)
        XCTAssertTrue(first.compiled)
        XCTAssertEqual(try Data(contentsOf: first.url.appendingPathComponent("model.mil")), Data([1, 2, 3]))
        let second = try models.model("aa", compile: compile)
        XCTAssertFalse(second.compiled)
        XCTAssertEqual(second.url.path, first.url.path)
        XCTAssertEqual(compilations, 1)
        XCTAssertTrue(try models.model("bb", compile: compile).compiled)
        XCTAssertThrowsError(try models.model("cc") { throw EchoEdgeError.engine("no") })
        XCTAssertFalse(FileManager.default.fileExists(atPath: models.place("cc").path))
        XCTAssertEqual(models.prune(keep: nil), 1)
        XCTAssertEqual(models.prune(keep: ["bb"]), 1)
        XCTAssertTrue(try models.model("aa", compile: compile).compiled)
        models.discard("bb")
        XCTAssertTrue(try models.model("bb", compile: compile).compiled)
    }

    func testOutputsThatAreCalledAsInputs() throws {
        let decode = try XCTUnwrap(manifest(["programs/denoise/x"]).programs["vae_decode"]?.methods["next"])
        XCTAssertEqual(Packages.output("state_0", decode), "new_state_0")
        XCTAssertEqual(Packages.output("video", decode), "video")
        XCTAssertEqual(try ComputeUnits.of("ane"), .ane)
        XCTAssertThrowsError(try ComputeUnits.of("xnnpack"))
    }

    func testWhatComputesIsToldAsRecordsCallIt() throws {
        XCTAssertEqual(Bench.kind(try manifest(["programs/denoise/x"])), "npu")
        XCTAssertEqual(
            Bench.kind(try ModelBundle.open(Toy.write(folder.appendingPathComponent("toy"))).manifest), "cpu")
    }

    func testSignaturesOfChains() throws {
        let chains: Json = [
            "forward": ["inputs": ["a", "b"], "outputs": ["v"], "parts": ["forward.0.aimodel", "forward.1.aimodel"]],
            "out": ["inputs": [], "outputs": [], "parts": ["../x.aimodel"]], "none": ["inputs": [], "outputs": [], "parts": []],
        ]
        try Toy.put(folder, "methods.json", Array(chains.written().utf8))
        let read = try ChainSignature.read(folder, "forward")
        XCTAssertEqual(read.inputs, ["a", "b"])
        XCTAssertEqual(read.parts, ["forward.0.aimodel", "forward.1.aimodel"])
        for method in ["out", "none", "other"] {
            XCTAssertThrowsError(try ChainSignature.read(folder, method)) { XCTAssertEqual(($0 as? EchoEdgeError)?.kind, .engine) }
        }
    }

    func testAProgramThatIsNotTheOneOfItsHashIsRefused() throws {
        let program: [UInt8] = [0x4D, 0x4C, 0xEF, 0x52, 9, 9]
        let digits = Array(sha256Of(program))
        let hash = stride(from: 0, to: 64, by: 2).compactMap { UInt8(String(digits[$0...($0 + 1)]), radix: 16) }
        try Toy.put(folder, "main.mlirb", program)
        XCTAssertThrowsError(try ChainSignature.requireWhole(folder))
        try Toy.put(folder, "main.hash", hash)
        try ChainSignature.requireWhole(folder)
        try Toy.put(folder, "main.mlirb", program + [0])
        XCTAssertThrowsError(try ChainSignature.requireWhole(folder))
    }
}
