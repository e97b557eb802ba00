import EchoEdgeCore
import XCTest

@testable import EchoEdgeAppCore

/// A phone whose clock only grows when it sleeps or is asked, and whose warmth follows a list.
final class ToyPhone: BenchPhone {
    var warmth: [Thermal]
    var available = 1 << 30
    var programs = ToyPrograms()
    var failing: String?
    private(set) var lines: [String] = []
    private var clock = 0.0

    init(_ warmth: [Thermal] = [.cool]) { self.warmth = warmth }

    let app = "EchoEdge test"
    let threads = 3
    func device(_ bundle: ModelBundle) -> Device {
        Device(
            place: "phone", kind: Bench.kind(bundle.manifest), name: "iPhone0,0", cores: 6, memoryBytes: 8 << 30, os: "iOS 17",
            osBuild: "21A")
    }
    func versions(_ bundle: ModelBundle) -> Ordered<String> { ["app": "1", "executorch": "1.4.1"] }
    func programs(_ bundle: ModelBundle) throws -> any Programs {
        programs = ToyPrograms(failing: failing)
        return programs
    }
    func room() -> Room { Room(available: available, used: 1, total: 8 << 30) }
    func state() -> DeviceState {
        DeviceState(thermal: warmth.count > 1 ? warmth.removeFirst() : warmth[0], batteryPercent: 80.5, charging: true)
    }
    func peakBytes() -> Int { 123_456 }
    func cpuSeconds() -> Double? { clock }
    func freeBytes(_ folder: URL) -> Int { 7_000_000 }
    func say(_ line: String) { lines.append(line) }
    func sleep(_ seconds: Double) { clock += seconds }
    func now() -> Double {
        clock += 0.01
        return clock
    }

    var statuses: [Json] { lines.compactMap { try? Json.parse(String($0.dropFirst(Status.mark.count))) } }
    var states: [String] { statuses.compactMap { $0["state"]?.text } }
}

final class BenchTest: XCTestCase {
    private let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)

    override func tearDown() { try? FileManager.default.removeItem(at: folder) }

    private func launch(_ action: String, _ more: String...) throws -> Launch {
        try XCTUnwrap(Launch(["--bench", action, "--job", JobTest.word] + more))
    }

    private func little(_ values: [Float]) -> [UInt8] {
        values.flatMap { value in withUnsafeBytes(of: value.bitPattern.littleEndian) { Array($0) } }
    }

    private func send(_ changed: (inout Ordered<Json>) -> Void = { _ in }) throws {
        _ = try Toy.write(folder.appendingPathComponent("bundle"))
        try Toy.put(folder, "portrait.f32", little(Toy.portrait().values))
        try Toy.put(folder, "speech.f32", little(Toy.speech(9)))
        try Toy.put(folder, Job.file, JobTest.bytes(changed))
    }

    private func run(_ phone: ToyPhone) throws { Bench(folder, phone).obey(try launch("run")) }

    func testAJobIsPlayedAndItsRecordIsWhole() throws {
        try send {
            $0["cool"] = nil
            $0["cool"] = .null
            $0["sustained_s"] = 0.05
        }
        let phone = ToyPhone()
        try run(phone)
        XCTAssertEqual(phone.states.first, "loading")
        XCTAssertEqual(phone.states.last, "done", "\(phone.lines.last ?? "")")
        XCTAssertTrue(phone.states.contains("playing") && phone.states.contains("sustaining"))
        XCTAssertEqual(phone.statuses.filter { $0["state"] == "playing" }.compactMap { $0["done"]?.whole }, [0, 1, 1, 2, 2, 3])
        let bytes = [UInt8](try Data(contentsOf: folder.appendingPathComponent(Job.result)))
        let result = try Json.parse(bytes)
        XCTAssertEqual(result["job"], .text(JobTest.word))
        XCTAssertEqual(result["before"]?["battery_percent"], 80.5)
        XCTAssertGreaterThan(try XCTUnwrap(result["ends_s"]?.items?.count), 0)
        let record = try XCTUnwrap(result["record"])
        try BenchRecord.check(Array(record.written().utf8))
        XCTAssertEqual(record["machine"]?["place"], "phone")
        XCTAssertEqual(record["runs"], 2)
        XCTAssertEqual(record["peak_rss_bytes"], 123_456)
        XCTAssertNotEqual(record["second_load_ms"], .null)
        XCTAssertTrue(phone.programs.loaded.isEmpty, "programs are left behind")
        try keep(phone.lines, bytes)
    }

    /// Where a folder is named, what a player says and writes is left there for another reader.
    private func keep(_ lines: [String], _ result: [UInt8]) throws {
        guard let place = ProcessInfo.processInfo.environment["ECHOEDGE_APP_OUT"] else { return }
        let folder = URL(fileURLWithPath: place)
        try Toy.put(folder, "result.json", result)
        try Toy.put(folder, "console.txt", Array(lines.joined(separator: "\n").utf8))
    }

    func testWhatGoesWrongIsSaid() throws {
        try send {
            $0["clip"] = "32x32x9"
            $0["cool"] = .null
        }
        let other = ToyPhone()
        try run(other)
        XCTAssertEqual(other.states.last, "failed")
        XCTAssertEqual(other.statuses.last?["fault"], "job")
        XCTAssertTrue(try XCTUnwrap(other.statuses.last?["message"]?.text).contains("16x16x9"))
        XCTAssertFalse(FileManager.default.fileExists(atPath: folder.appendingPathComponent(Job.result).path))

        try send { $0["cool"] = .null }
        let small = ToyPhone()
        small.available = 100 << 20
        try run(small)
        XCTAssertEqual(small.statuses.last?["fault"], "job")
        XCTAssertTrue(try XCTUnwrap(small.statuses.last?["message"]?.text).contains("memory is needed"))
        XCTAssertTrue(small.programs.log.isEmpty, "it was loaded before it was refused")

        let broken = ToyPhone()
        broken.failing = "denoise"
        try run(broken)
        XCTAssertEqual(broken.statuses.last?["message"], "denoise failed.")

        try Toy.put(folder, "speech.f32", [0, 0, 0])
        let short = ToyPhone()
        try run(short)
        XCTAssertTrue(try XCTUnwrap(short.statuses.last?["message"]?.text).contains("speech.f32"))
        try send {
            $0["engine"] = "coreml"
            $0["cool"] = .null
        }
        try run(short)
        XCTAssertTrue(try XCTUnwrap(short.statuses.last?["message"]?.text).contains("coreml"))
    }

    func testAnotherJobIsNotPlayed() throws {
        try send { $0["job"] = "ffffffff" }
        let phone = ToyPhone()
        try run(phone)
        XCTAssertEqual(phone.states, ["failed"])
        XCTAssertEqual(phone.statuses.last?["job"], .text(JobTest.word))
        try FileManager.default.removeItem(at: folder)
        try run(phone)
        XCTAssertTrue(try XCTUnwrap(phone.statuses.last?["message"]?.text).contains("job.json cannot be read"))
    }

    func testItWaitsUntilThePhoneIsCool() throws {
        try send { $0["cool"] = ["status": "light", "timeout_s": 100] }
        let cooling = ToyPhone([.severe, .severe, .moderate, .moderate, .light])
        try run(cooling)
        XCTAssertEqual(cooling.states.first, "cooling")
        XCTAssertEqual(cooling.states.last, "done")
        let result = try Json.parse([UInt8](Data(contentsOf: folder.appendingPathComponent(Job.result))))
        XCTAssertGreaterThan(try XCTUnwrap(result["cooled_s"]?.double), 1)

        try send { $0["cool"] = ["status": "none", "timeout_s": 3] }
        let hot = ToyPhone([.severe])
        try run(hot)
        XCTAssertEqual(hot.statuses.last?["fault"], "hot")
        XCTAssertFalse(hot.states.contains("loading"))
    }

    func testPrepareMakesFoldersAndCleanLeavesNothingElse() throws {
        let phone = ToyPhone()
        let files = FileManager.default
        Bench(folder, phone).obey(try launch("prepare", "--folders", "bundle,bundle/programs/x"))
        XCTAssertEqual(phone.states, ["ready"])
        XCTAssertEqual(phone.statuses.last?["free_bytes"], 7_000_000)
        XCTAssertTrue(files.fileExists(atPath: folder.appendingPathComponent("bundle/programs/x").path))
        let pushed: Json = ["programs/x/a.pte": "0", "../../out": "0"]
        try Toy.put(folder, Job.pushed, Array(pushed.written().utf8))
        for path in ["bundle/programs/x/a.pte", "bundle/programs/x/b.pte", "bundle/old/c", "job.json", "speech.f32"] {
            try Toy.put(folder, path, [1])
        }
        Bench(folder, phone).obey(try launch("clean", "--keep"))
        XCTAssertEqual(phone.states.last, "cleaned")
        let left = try XCTUnwrap(files.subpaths(atPath: folder.path)).filter { !$0.hasSuffix("x") }.sorted()
        XCTAssertEqual(left, ["bundle", "bundle/programs", "bundle/programs/x/a.pte", "pushed.json"])
        XCTAssertFalse(Bench.sweep(folder), "a kept bundle was removed")
        Bench(folder, phone).obey(try launch("clean"))
        XCTAssertFalse(files.fileExists(atPath: folder.path))
        try Toy.put(folder, "bundle/a", [1])
        XCTAssertTrue(Bench.sweep(folder))
        XCTAssertFalse(files.fileExists(atPath: folder.path))
        XCTAssertFalse(Bench.sweep(folder))
    }
}
