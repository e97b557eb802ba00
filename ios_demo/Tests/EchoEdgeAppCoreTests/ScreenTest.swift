import XCTest

@testable import EchoEdgeAppCore
@testable import EchoEdgeCore

final class ScreenTest: XCTestCase {
    private func opened(readsText: Bool = false, prompts: [String] = ["a", "b"], problem: String? = nil) -> Opened {
        Opened(
            name: "x.echoedge", width: 16, height: 16, fps: 25, clipSeconds: 0.36, readsText: readsText, prompts: prompts,
            problem: problem)
    }

    private let fits = Forecast(fits: true, sentence: "It fits."), tooLarge = Forecast(fits: false, sentence: "It does not fit.")

    private func ready(_ bundle: Opened? = nil) -> Screen {
        Screen().after(.bundleOpened(bundle ?? opened(), nil)).after(.portrait(true)).after(.sound(3, fits))
    }

    func testItSaysWhatIsMissingOneByOne() {
        var screen = Screen()
        XCTAssertEqual(screen.line, "Choose a bundle.")
        XCTAssertFalse(screen.canPlay || screen.canVerify || screen.canCancel || screen.canShare || screen.showsPrompt)
        XCTAssertTrue(screen.canChooseBundle && screen.canRecord)
        screen = screen.after(.bundleOpened(opened(), nil))
        XCTAssertEqual(screen.line, "Choose or take a photograph.")
        XCTAssertTrue(screen.canVerify)
        screen = screen.after(.portrait(true))
        XCTAssertEqual(screen.line, "Record or choose a voice.")
        XCTAssertTrue(screen.after(.sound(3, fits)).canPlay)
        screen = screen.after(.sound(3, tooLarge))
        XCTAssertEqual(screen.line, "It does not fit.")
        XCTAssertFalse(screen.canPlay)
        screen = screen.after(.bundleOpened(opened(problem: "It needs another phone."), nil))
        XCTAssertEqual(screen.line, "It needs another phone.")
        XCTAssertFalse(screen.canVerify)
        XCTAssertEqual(screen.after(.bundleGone).line, "Choose a bundle.")
    }

    func testOneThingAtATime() {
        for work in Work.allCases where work != .nothing {
            let busy = ready().after(.began(work))
            XCTAssertEqual(busy.work, work)
            XCTAssertFalse(busy.canPlay || busy.canVerify || busy.canChooseBundle || busy.canChoosePortrait || busy.canChooseSound)
            XCTAssertEqual(busy.canRecord, work == .recording)
            XCTAssertEqual(busy.canCancel, ![.recording, .reading].contains(work))
            XCTAssertEqual(busy.after(.cancel).line.contains("program"), [.playing, .verifying].contains(work))
            XCTAssertEqual(Words.stopped(work).contains("clip"), ![.opening, .copying, .fetching].contains(work))
            XCTAssertTrue(busy.keepsScreenOn)
            XCTAssertEqual(busy.line, Words.begin(work))
            XCTAssertEqual(busy.after(.began(.opening)).work, work, "something else began")
            XCTAssertEqual(busy.after(.prompt("x")).prompt, busy.prompt)
            XCTAssertEqual(busy.after(.ended("", fault: false)).work, .nothing)
            XCTAssertFalse(busy.after(.ended("", fault: false)).keepsScreenOn)
        }
        XCTAssertEqual(Screen().after(.began(.nothing)), Screen())
        XCTAssertEqual(Screen().after(.told("late", share: 1)), Screen())
        XCTAssertEqual(Screen().after(.cancel), Screen())
        XCTAssertEqual(Screen().after(.firstFrame), Screen())
        XCTAssertEqual(Screen().after(.film([])), Screen())
    }

    func testAClip() {
        var screen = ready().after(.began(.playing)).after(.told("Denoising", share: 0.5))
        XCTAssertEqual(screen.line, "Denoising")
        XCTAssertEqual(screen.share, 0.5)
        screen = screen.after(.loaded("denoise: mapped")).after(.firstFrame).after(.film([Figure("Frames", "9")]))
        XCTAssertTrue(screen.firstFrame && screen.film)
        XCTAssertFalse(screen.canShare, "it is shared while it is written")
        screen = screen.after(.ended("", fault: false))
        XCTAssertTrue(screen.canShare && screen.canPlay)
        XCTAssertEqual(screen.figures, [Figure("Frames", "9")])
        XCTAssertEqual(screen.loads, ["denoise: mapped"])
        XCTAssertEqual(screen.line, "It fits.")
        let next = screen.after(.began(.playing))
        XCTAssertFalse(next.film || next.firstFrame)
        XCTAssertTrue(next.loads.isEmpty)
        XCTAssertTrue(next.after(.cancel).cancelling)
        XCTAssertFalse(next.after(.cancel).canCancel)
        XCTAssertTrue(next.after(.cancel).line.hasPrefix("Stopping"))
        let failed = next.after(.ended("No room.", fault: true))
        XCTAssertEqual(failed.message, Message("No room.", fault: true))
        XCTAssertFalse(failed.canShare)
    }

    func testPrompts() {
        let known = ready()
        XCTAssertTrue(known.showsPrompt)
        XCTAssertEqual(known.prompt, "a")
        XCTAssertEqual(known.after(.prompt("c")).whyNot, "The bundle knows these prompts: a, b.")
        let single = ready(opened(prompts: ["only"]))
        XCTAssertFalse(single.showsPrompt)
        XCTAssertEqual(single.playedPrompt, "only")
        let reads = ready(opened(readsText: true, prompts: [])).after(.prompt("anything"))
        XCTAssertTrue(reads.showsPrompt && reads.canPlay)
        XCTAssertEqual(reads.playedPrompt, "anything")
        XCTAssertEqual(ready(opened(prompts: [])).playedPrompt, "")
    }

    func testForecasts() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        defer { try? FileManager.default.removeItem(at: folder) }
        let bundle = try ModelBundle.open(Toy.write(folder))
        let need = try Memory.needed(bundle, seconds: 0.36)
        let margin = 100 << 20
        func room(_ bytes: Int) -> Room { Room(available: margin + bytes, used: 5_000_000, total: 6_000_000_000) }
        XCTAssertEqual(try room(Room.all(bundle, need)).mode(bundle, seconds: 0.36), .allLoaded)
        XCTAssertEqual(try room(Room.all(bundle, need) - 1).mode(bundle, seconds: 0.36), .oneByOne)
        XCTAssertEqual(try room(need.total).mode(bundle, seconds: 0.36), .oneByOne)
        XCTAssertThrowsError(try room(need.total - 1).mode(bundle, seconds: 0.36)) { error in
            XCTAssertEqual((error as? EchoEdgeError)?.kind, .resource)
        }
        let much = room(1 << 30).forecast(bundle, seconds: 0.36)
        XCTAssertTrue(much.fits && much.sentence.contains("all programs loaded"))
        let little = room(10).forecast(bundle, seconds: 0.36)
        XCTAssertFalse(little.fits)
        XCTAssertTrue(
            little.sentence.contains("0.4 s of 16 × 16 pixels") && little.sentence.contains("The cheapest remedy"), little.sentence)
        XCTAssertEqual(Room(available: 5, used: 1, total: 9).free, 0)
        XCTAssertEqual(room(0).words, "5.00 MB used; the app would be ended after 105 MB more, of 6.00 GB in this phone")
    }

    func testWords() {
        XCTAssertEqual(Words.seconds(0.1234), "0.12 s")
        XCTAssertEqual(Words.seconds(59.96), "60.0 s")
        XCTAssertEqual(Words.seconds(661), "11 min 1 s")
        XCTAssertEqual(Words.warmth(nil), "not told")
        XCTAssertEqual(Set(Thermal.allCases.map(Words.warmth)).count, 5)
        XCTAssertEqual(
            Words.loaded(Load(name: "denoise", source: .compiled(12), seconds: 0.5)),
            "denoise: compiled in 12.0 s (first time), loaded in 0.50 s")
        XCTAssertEqual(
            Words.loaded(Load(name: "denoise", source: .kept, seconds: 0.5)), "denoise: loaded in 0.50 s (compiled before)")
        XCTAssertTrue(Words.loaded(Load(name: "a", source: .mapped, seconds: 1)).contains("mapped"))
        XCTAssertEqual(Words.problem(EchoEdgeError.input("No.")), "No.")
        XCTAssertEqual(Words.arriving("x", 500, 1000).text, "x: 500 B of 1.00 kB")
    }

    func testProgressTellsStepsAndWindows() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        defer { try? FileManager.default.removeItem(at: folder) }
        let plan = try ModelBundle.open(Toy.write(folder)).plan()  // of its two steps the first has two branches
        func told(_ done: Int, _ total: Int) -> String { Words.progress(.denoise, done, total, plan).text }
        XCTAssertEqual(told(1, 3), "Denoising: velocity 1 of 3, step 1 of 2")
        XCTAssertEqual(told(2, 3), "Denoising: velocity 2 of 3, step 1 of 2")
        XCTAssertEqual(told(3, 3), "Denoising: velocity 3 of 3, step 2 of 2")
        XCTAssertEqual(told(4, 9), "Denoising: velocity 4 of 9, 2 steps in 3 windows")
        XCTAssertEqual(Words.progress(.listen, 0, 0, plan).share, 0)
        XCTAssertEqual(Words.progress(.decode, 1, 4, plan).share, 0.25)
        XCTAssertEqual(Words.progress(.prepare, 2, 3, plan).text, "Window 2 of 3 prepared")
    }

    func testProofs() throws {
        let reference = try Floats(shape: [2], [1, 2])
        let exact = try Agreement(reference, reference)
        let off = try Agreement(reference, Floats(shape: [2], [1, 3]))
        let demand = Demand(psnr: 40, cosine: 0.99, largest: nil)
        let rows = [
            Words.row(Verdict(name: "denoise", measured: exact, demanded: demand)),
            Words.row(Verdict(name: "frames", measured: off, demanded: demand)),
            Words.row(Verdict(name: "free", measured: off, demanded: nil)),
        ]
        XCTAssertEqual(rows.map(\.passed), [true, false, nil])
        XCTAssertEqual(rows[0].demanded, "≥ 40.0 dB, cosine ≥ 0.990000")
        XCTAssertEqual(rows[0].measured, "150.0 dB, cosine 1.000000, largest 0")
        XCTAssertEqual(rows[2].demanded, "nothing is demanded")
        XCTAssertEqual(rows[1].name, "the whole clip: frames")
        XCTAssertTrue(Words.verdict(rows).fault)
        XCTAssertEqual(Words.verdict([rows[0], rows[2]]), Message("All 1 proofs that demand something pass on this phone."))
    }

    func testFigures() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        defer { try? FileManager.default.removeItem(at: folder) }
        let player = try Player(ModelBundle.open(Toy.write(folder)), ToyPrograms())
        let played = try player.play(Toy.portrait(), Toy.speech(9), prompt: Toy.prompt) { _, _ in }
        let figures = Words.figures(played, seconds: 3, fps: 25, mode: .oneByOne, memory: "little", thermal: .severe)
        XCTAssertEqual(figures.first { $0.name == "Frames" }?.value, "9 in 3.00 s: 3.00 a second")
        XCTAssertEqual(figures.first { $0.name == "Seconds a second of video" }?.value, "8.33")
        XCTAssertEqual(figures.first { $0.name == "Warmth" }?.value, "hot, is slowed down")
    }

    func testACancelledVerificationStops() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        defer { try? FileManager.default.removeItem(at: folder) }
        let bundle = try ModelBundle.open(Toy.write(folder))
        let own = ToyPrograms()
        let cancellation = Cancellation()
        let programs = CancellablePrograms(own) { cancellation.isCancelled }
        var found: [String] = []
        XCTAssertThrowsError(
            try Golden(bundle).verify(programs, Player(bundle, programs)) { verdict in
                found.append(verdict.name)
                cancellation.cancel()
            }
        ) { XCTAssertEqual(($0 as? EchoEdgeError)?.kind, .cancelled) }
        XCTAssertEqual(found.count, 1)
        XCTAssertTrue(own.loaded.isEmpty)
    }
}
