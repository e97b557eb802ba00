import EchoEdgeCore
import Foundation
import XCTest

/// The player over programs that are formulas: what it loads and frees, tells and refuses. Its numbers are held to Python's
/// elsewhere.
final class PlayerTest: XCTestCase {
    private var folder = URL(fileURLWithPath: "/")

    override func setUpWithError() throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent("echoedge-\(UUID().uuidString)")
    }

    override func tearDown() { try? FileManager.default.removeItem(at: folder) }

    private func bundle(_ name: String = "toy.echoedge", changed: (inout Ordered<Json>) -> Void = { _ in }) throws -> ModelBundle {
        try ModelBundle.open(Toy.write(folder.appendingPathComponent(name), changed: changed))
    }

    /// Frames as they come, which must be in order.
    private final class Reel {
        private(set) var frames: [[UInt8]] = []

        func take(_ number: Int, _ frame: Pixels) {
            XCTAssertEqual(frames.count, number)
            frames.append(frame.bytes)
        }
    }

    func testAFrugalPlayerHoldsWhatOneStageNeedsAndFreesAllAtTheEnd() throws {
        let programs = ToyPrograms()
        let reel = Reel()
        let played = try Player(bundle(), programs).play(Toy.portrait(), Toy.speech(21), prompt: Toy.prompt, frames: reel.take)
        XCTAssertEqual(played.frames, 21)
        XCTAssertEqual(reel.frames.count, 21)
        XCTAssertEqual(played.latents.frames, 6)
        XCTAssertEqual(played.evaluations, 3 * 3)  // three windows, of two branches and then one
        XCTAssertEqual(programs.loaded, [])
        XCTAssertEqual(programs.most, 5)  // four condition programs and the denoiser: windows begin one after the other
        let decoding = try XCTUnwrap(programs.log.firstIndex(of: "load vae_decode"))
        XCTAssertGreaterThan(decoding, try XCTUnwrap(programs.log.lastIndex(of: "run denoise.forward")))
        XCTAssertEqual(programs.log.filter { $0.hasPrefix("run vae_decode") }.count, 6)
    }

    func testFramesOfAPlayerThatKeepsItsProgramsAreTheSameAndComeEarlier() throws {
        let bundle = try bundle()
        let frugal = Reel()
        let eager = Reel()
        let programs = ToyPrograms()
        let one = try Player(bundle, ToyPrograms()).play(Toy.portrait(), Toy.speech(30), prompt: Toy.prompt, frames: frugal.take)
        let player = try Player(bundle, programs, frugal: false)
        let other = try player.play(Toy.portrait(), Toy.speech(30), prompt: Toy.prompt, frames: eager.take)
        XCTAssertEqual(one.latents.values, other.latents.values)
        XCTAssertEqual(frugal.frames, eager.frames)
        let decoding = try XCTUnwrap(programs.log.firstIndex(of: "run vae_decode.first"))
        XCTAssertLessThan(decoding, try XCTUnwrap(programs.log.lastIndex(of: "run denoise.forward")))
        XCTAssertFalse(programs.loaded.isEmpty)
        player.free()
        XCTAssertTrue(programs.loaded.isEmpty)
    }

    func testEachOfWhatIsGivenChangesTheLatents() throws {
        let bundle = try bundle()
        func latents(_ portrait: Floats? = nil, _ speech: [Float] = Toy.speech(9), seed: UInt64? = nil) throws -> [Float] {
            try Player(bundle, ToyPrograms())
                .play(portrait ?? Toy.portrait(), speech, prompt: Toy.prompt, seed: seed) { _, _ in }.latents.values
        }
        let usual = try latents()
        XCTAssertEqual(usual, try latents(seed: 7))  // the plan's own
        var pixels = try Toy.portrait().values
        pixels[5] += 0.25
        var louder = Toy.speech(9)
        louder[100] += 0.25
        XCTAssertNotEqual(usual, try latents(Floats(shape: [3, 16, 16], pixels)))
        XCTAssertNotEqual(usual, try latents(nil, louder))
        XCTAssertNotEqual(usual, try latents(seed: 8))
    }

    func testProgressCountsEveryStageToItsEnd() throws {
        var told: [Stage: (done: Int, total: Int)] = [:]
        let player = try Player(bundle(), ToyPrograms(), progress: { told[$0] = ($1, $2) })
        let played = try player.play(Toy.portrait(), Toy.speech(21), prompt: Toy.prompt) { _, _ in }
        XCTAssertEqual(Set(told.keys), Set(Stage.allCases))
        for (stage, counts) in told { XCTAssertEqual(counts.done, counts.total, stage.rawValue) }
        XCTAssertEqual(Set(played.seconds.keys), Set(Stage.allCases))
    }

    func testAClipThatIsCancelledLeavesNothingLoaded() throws {
        let bundle = try bundle()
        for calls in [0, 1, 9, 20] {
            let programs = ToyPrograms()
            let player = try Player(bundle, programs, cancelled: { programs.runs >= calls })
            refused(.cancelled) { try player.play(Toy.portrait(), Toy.speech(21), prompt: Toy.prompt) { _, _ in } }
            XCTAssertEqual(programs.runs, calls)
            XCTAssertTrue(programs.loaded.isEmpty)
        }
    }

    func testAProgramThatFailsLeavesNothingLoaded() throws {
        let programs = ToyPrograms(failing: "denoise")
        let player = try Player(bundle(), programs, frugal: false)
        refused(.engine, "denoise failed") { try player.play(Toy.portrait(), Toy.speech(9), prompt: Toy.prompt) { _, _ in } }
        XCTAssertTrue(programs.loaded.isEmpty)
    }

    /// A runtime's answer of another shape is an error, and never a crash.
    func testAnOutputOfAnotherShapeIsASentence() throws {
        let bundle = try bundle()
        for output in ["features", "latents", "velocity", "video"] {
            let programs = ToyPrograms()
            let player = try Player(bundle, Bent(programs, output))
            refused(.engine, "gave \(output) of shape [") {
                try player.play(Toy.portrait(), Toy.speech(9), prompt: Toy.prompt) { _, _ in }
            }
            let lacking = try Player(bundle, Bent(programs, output, missing: true))
            refused(.engine, "not \(output)") { try lacking.play(Toy.portrait(), Toy.speech(9), prompt: Toy.prompt) { _, _ in } }
            XCTAssertTrue(programs.loaded.isEmpty)
        }
    }

    /// Programs one output of which loses its first axis, or is not there.
    private final class Bent: Programs {
        private let programs: ToyPrograms
        private let output: String
        private let missing: Bool

        init(_ programs: ToyPrograms, _ output: String, missing: Bool = false) {
            (self.programs, self.output, self.missing) = (programs, output, missing)
        }

        func load(_ program: Program) throws { try programs.load(program) }
        func free(_ program: Program) { programs.free(program) }

        func run(_ program: Program, _ method: String, _ inputs: [String: any Tensor]) throws -> [String: any Tensor] {
            var made = try programs.run(program, method, inputs)
            if let tensor = made[output] {
                made[output] = missing ? nil : try Floats(shape: Array(tensor.shape.dropFirst()), tensor.floats())
            }
            return made
        }
    }

    func testAFrameThatNobodyCanTakeEndsTheClip() throws {
        let programs = ToyPrograms()
        let player = try Player(bundle(), programs, frugal: false)
        refused(.resource, "full") {
            try player.play(Toy.portrait(), Toy.speech(9), prompt: Toy.prompt) { number, _ in
                if number == 3 { throw EchoEdgeError.resource("The disk is full.") }
            }
        }
        XCTAssertTrue(programs.loaded.isEmpty)
    }

    func testWhatCannotBePlayedIsRefusedBeforeAnythingRuns() throws {
        let bundle = try bundle()
        let programs = ToyPrograms()
        let player = try Player(bundle, programs)
        XCTAssertEqual(player.knownPrompts, [Toy.prompt])
        XCTAssertFalse(player.readsText)
        refused(.input, "39 samples") {
            try player.play(Toy.portrait(), [Float](repeating: 0, count: 39), prompt: Toy.prompt) { _, _ in }
        }
        refused(.input, "[3, 8, 8]") { try player.play(.zeros([3, 8, 8]), Toy.speech(9), prompt: Toy.prompt) { _, _ in } }
        XCTAssertEqual(programs.log, [])
        refused(.input, Toy.prompt, "'hello'") { try player.play(Toy.portrait(), Toy.speech(9), prompt: "hello") { _, _ in } }
        refused(.config, "'tiny'", "full") { try Player(bundle, programs, decoder: "tiny") }
        refused(.config, "'32x32x9'", "16x16x9") { try bundle.manifest.clip("32x32x9") }
    }

    func testATensorOfAnotherShapeDoesNotReachAProgram() throws {
        let program = try XCTUnwrap(bundle().manifest.programs["audio_conditions"])
        refused(.engine, "[1, 8, 2]") { try program.take("forward", ["audio": Floats.zeros([1, 8, 2])]) }
        refused(.engine, "audio", "not given") { try program.take("forward", ["sound": Floats.zeros([1, 9, 2])]) }
        refused(.engine, "Longs") {
            try program.take("forward", ["audio": Longs(shape: [1, 9, 2], [Int64](repeating: 0, count: 18))])
        }
        refused(.engine, "'backward'", "forward") { try program.take("backward", [:]) }
        let given: [String: any Tensor] = ["audio": Floats.zeros([1, 9, 2]), "more": Floats.zeros([1])]
        XCTAssertEqual(Array(try program.take("forward", given).keys), ["audio"])
        refused(.engine, "[2, 3]", "5 numbers") { try Floats(shape: [2, 3], [1, 2, 3, 4, 5]) }
        XCTAssertEqual(sizeOf([Int(Int32.max), Int(Int32.max), Int(Int32.max)]), Int.max)
    }

    func testRecordedCallsProveProgramsAndFindOneThatIsWrong() throws {
        let bundle = try bundle()
        let programs = ToyPrograms()
        var told: [String] = []
        let verdicts = try Golden(bundle).verify(programs, Player(bundle, programs)) { told.append($0.name) }
        XCTAssertEqual(told, ["text_conditions", "denoise"])
        XCTAssertEqual(verdicts.map(\.passed), [true, true])
        XCTAssertEqual(verdicts.map(\.measured.psnr), [150, 150])
        XCTAssertEqual(programs.loaded, [])
        let wrong = try Golden(bundle).verify(Tilted(programs), Player(bundle, programs))
        XCTAssertEqual(wrong.map(\.passed), [true, false])
        XCTAssertNotNil(wrong[1].measured.largest)
        let lost = try Golden(bundle).verify(Tilted(programs, by: .nan), Player(bundle, programs))
        XCTAssertEqual(lost[1].measured.largest, nil)
        XCTAssertEqual(lost[1].passed, false)
    }

    /// Programs whose denoiser is off in one number.
    private final class Tilted: Programs {
        private let programs: ToyPrograms
        private let by: Float

        init(_ programs: ToyPrograms, by: Float = 0.5) { (self.programs, self.by) = (programs, by) }

        func load(_ program: Program) throws { try programs.load(program) }
        func free(_ program: Program) { programs.free(program) }

        func run(_ program: Program, _ method: String, _ inputs: [String: any Tensor]) throws -> [String: any Tensor] {
            var made = try programs.run(program, method, inputs)
            if let velocity = made["velocity"] {
                var values = try velocity.floats()
                values[2] += by
                made["velocity"] = try Floats(shape: velocity.shape, values)
            }
            return made
        }
    }

    func testWhatOneOfManyIsIgnoredWhereOnlyEverySecondIsRecorded() throws {
        let recorded = try Floats(shape: [2], [1, 3])
        XCTAssertEqual(try Agreement(recorded, Floats(shape: [4], [1, 9, 3, 9]), every: 2).psnr, 150)
        XCTAssertLessThan(try Agreement(recorded, Floats(shape: [4], [1, 9, 4, 9]), every: 2).psnr, 20)
        refused(.engine, "[3]", "[2]") { try Agreement(recorded, Floats(shape: [3], [1, 2, 3])) }
    }

    func testABundleThatIsNotWholeIsRefused() throws {
        let root = try bundle().root
        let file = root.appendingPathComponent("programs/denoise.pte")
        XCTAssertNoThrow(try ModelBundle.open(root))
        XCTAssertThrowsError(try ModelBundle.open(root) { _, _ in throw EchoEdgeError.cancelled }) { error in
            XCTAssertEqual(error as? EchoEdgeError, .cancelled)
        }
        try Data("denoisE".utf8).write(to: file)
        refused(.bundle, "programs/denoise.pte was altered") { try ModelBundle.open(root) }
        XCTAssertNoThrow(try ModelBundle.open(root, verify: false))
        try Data("den".utf8).write(to: file)
        refused(.bundle, "3 bytes instead of 7") { try ModelBundle.open(root, verify: false) }
        try FileManager.default.removeItem(at: file)
        refused(.bundle, "programs/denoise.pte is missing") { try ModelBundle.open(root) }
        refused(.bundle, "There is no bundle") { try ModelBundle.open(root.appendingPathComponent("none")) }
        refused(.bundle, "no bundle, or a copy") { try ModelBundle.open(root.appendingPathComponent("programs")) }
        var heard: [Int] = []
        let whole = try bundle("other.echoedge")
        _ = try ModelBundle.open(whole.root) { done, total in heard.append(done == total ? total : -1) }
        XCTAssertEqual(heard.last, whole.bytes)
        XCTAssertEqual(heard.filter { $0 >= 0 }.count, 1)
    }

    func testAForecastNamesItsLargestPartAndTheRemedy() throws {
        let need = try Memory.needed(bundle(), seconds: 10)
        func term(_ name: String) -> Int? { need.terms.first { $0.name == name }?.bytes }
        XCTAssertEqual(term("the largest program, loaded and packed"), 3 * "image_conditions".count)  // files hold their names
        XCTAssertEqual(term("conditions of the windows under way"), 2 * 3 * 1000)  // two branches, three windows under way
        refused(.resource, "6.00 kB for conditions", "--size") { try need.require("this clip", have: 1000) }
        XCTAssertNoThrow(try need.require("this clip", have: need.total))
        for seconds in [-1, .infinity, .nan] {
            refused(.config, "\(seconds) s") { try Memory.needed(bundle("\(seconds)"), seconds: seconds) }
        }
        let vast = try Memory.needed(
            bundle("vast") { $0["memory"] = ["step_bytes": .whole(Int.max), "latents_bytes": .whole(Int.max)] }, seconds: 1)
        XCTAssertEqual(vast.total, Int.max)
        XCTAssertEqual([999, 3_130_000_000, 12_340, 999_500].map(humanBytes), ["999 B", "3.13 GB", "12.3 kB", "1.00 MB"])
    }

    func testARecordOfTimedClipsIsOneThatEchoEdgeReads() throws {
        let bundle = try bundle()
        let timed = TimedPrograms(ToyPrograms())
        let player = try Player(bundle, timed, frugal: false)
        func clip() throws -> TimedClip {
            timed.calls = []
            let began = Date()
            let played = try player.play(Toy.portrait(), Toy.speech(9), prompt: Toy.prompt) { _, _ in }
            return TimedClip(played, seconds: Date().timeIntervalSince(began), calls: timed.calls)
        }
        let device = Device(place: "host", kind: "cpu", name: "a test", cores: 2, memoryBytes: nil, os: "test", osBuild: "1")
        let record = BenchRecord(
            bundle: bundle, clip: player.clip, decoder: "full", prompt: Toy.prompt, engine: "executorch", device: device,
            threads: 1,
            versions: ["echoedge": "1"], opening: (0.5, 0.25), first: try clip(), runs: [try clip(), try clip(), try clip()],
            again: try clip(), peakRssBytes: 1000, before: Surroundings(), after: Surroundings(thermal: ["skin": 31.5], load: 0.5))
        let written = try record.json()
        try BenchRecord.check(Array(written.written().utf8))
        XCTAssertEqual(Set(try XCTUnwrap(written["programs"]?.members).keys), Set(bundle.manifest.roles))
        XCTAssertGreaterThanOrEqual(try XCTUnwrap(written["first_load_ms"]?.double), 500)
        var broken = try XCTUnwrap(written.members)
        broken["fps"] = 1e9
        let text = Array(try Json.object(broken).written().utf8)
        refused(.bundle, "fps is 1000000000.0") { try BenchRecord.check(text) }
    }
}

/// That something throws an error of a kind whose message has certain words and is a sentence.
func refused<T>(
    _ kind: EchoEdgeError.Kind, _ words: String..., file: StaticString = #filePath, line: UInt = #line, _ body: () throws -> T
) {
    XCTAssertThrowsError(try body(), file: file, line: line) { error in
        guard let error = error as? EchoEdgeError else { return XCTFail("\(error) is of no kind", file: file, line: line) }
        XCTAssertEqual(error.kind, kind, error.message, file: file, line: line)
        for word in words { XCTAssertTrue(error.message.contains(word), error.message, file: file, line: line) }
        XCTAssertTrue(error.message.hasSuffix("."), error.message, file: file, line: line)
        XCTAssertEqual(error.localizedDescription, error.message, file: file, line: line)
    }
}
