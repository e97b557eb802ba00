import EchoEdgeCore
import XCTest

@testable import EchoEdgeAppCore

final class JobTest: XCTestCase {
    static let word = "0123abcd"
    static let job: Ordered<Json> = [
        "format": "echoedge.job/1", "job": .text(word), "contract": 1, "bundle": "bundle", "portrait": "portrait.f32",
        "speech": "speech.f32", "clip": "16x16x9", "decoder": nil, "engine": "auto", "prompt": .text(Toy.prompt),
        "seed": .big("18446744073709551615"), "threads": nil, "warm_up": 1, "runs": 2, "sustained_s": nil, "reload": true,
        "cool": ["status": "light", "timeout_s": 12.5],
    ]

    static func bytes(_ changed: (inout Ordered<Json>) -> Void = { _ in }) throws -> [UInt8] {
        var fields = job
        changed(&fields)
        return Array(try Json.object(fields).written().utf8)
    }

    func testAJobIsRead() throws {
        let job = try Job.parse(JobTest.bytes(), JobTest.word)
        XCTAssertEqual(job.seed, UInt64.max)
        XCTAssertEqual(job.clips, 4)
        XCTAssertEqual(job.cool, CoolWish(status: .light, timeout: 12.5))
        XCTAssertNil(job.decoder)
        let named = try Job.parse(JobTest.bytes { $0["decoder"] = "tiny" }, JobTest.word)
        XCTAssertEqual(named.decoder, "tiny")
    }

    func testBadJobsAreRefusedInASentenceThatQuotesThem() throws {
        let bad: [(String, Json, String)] = [
            ("job", "ABCDEFGH", "ABCDEFGH"), ("job", "other000", "other000"), ("contract", 2, "version 1"),
            ("format", "x/9", "x/9"), ("format", nil, "null"), ("bundle", nil, "null"),
            ("bundle", "../bundle", "../bundle"), ("bundle", "a/b", "a/b"), ("portrait", ".hidden", ".hidden"),
            ("speech", "", "1 to 200"),
            ("clip", 3, "must be a text"), ("decoder", "half", "full, tiny"), ("engine", "onnx", "onnx"), ("seed", -1, "2^64-1"),
            ("seed", .big("18446744073709551616"), "2^64-1"), ("threads", 4, "--threads"), ("warm_up", 0, "from 1"),
            ("runs", 1.5, "1.5"),
            ("sustained_s", 0, "above 0"), ("reload", "yes", "true or false"),
            ("cool", ["status": "warm", "timeout_s": 1], "warm"),
            ("cool", ["status": "none", "timeout_s": -1], "-1"), ("cool", ["status": "none"], "timeout_s"), ("more", 1, "more"),
        ]
        for (field, value, quoted) in bad {
            XCTAssertThrowsError(try Job.parse(JobTest.bytes { $0[field] = value }, JobTest.word), field) { error in
                XCTAssertEqual((error as? EchoEdgeError)?.kind, .input)
                XCTAssertTrue(error.localizedDescription.contains(quoted), error.localizedDescription)
            }
        }
        for field in ["job", "clip", "seed", "warm_up", "runs", "reload", "cool", "threads", "decoder", "prompt"] {
            var fields = Ordered<Json>()
            for (name, value) in JobTest.job.entries where name != field { fields[name] = value }
            XCTAssertThrowsError(try Job.parse(Array(Json.object(fields).written().utf8), JobTest.word), field)
        }
        XCTAssertThrowsError(try Job.parse(Array("{".utf8), JobTest.word))
        XCTAssertThrowsError(try Job.parse(Array("[]".utf8), JobTest.word))
    }

    func testAStatusIsOneLine() throws {
        var status = Status(JobTest.word, .failed, app: "EchoEdge 1")
        status.message = "One\nline, \"quoted\" and ünï"
        status.fault = "job"
        status.freeBytes = 5
        status.thermal = .severe
        let line = try status.line()
        XCTAssertTrue(line.hasPrefix("echoedge-status {"))
        XCTAssertFalse(line.contains("\n"))
        let read = try Json.parse(String(line.dropFirst(Status.mark.count)))
        XCTAssertEqual(read["message"], .text(status.message))
        XCTAssertEqual(read["state"], "failed")
        XCTAssertEqual(read["thermal_status"], "severe")
        XCTAssertEqual(read["contract"], 1)
    }

    func testWarmth() {
        XCTAssertEqual((0...3).map { Thermal(state: $0)?.rawValue }, ["none", "light", "severe", "critical"])
        XCTAssertNil(Thermal(state: 4))
        XCTAssertNil(Thermal(state: -1))
        XCTAssertEqual(Thermal.allCases, Thermal.allCases.sorted())
        XCTAssertLessThan(Thermal.light, .severe)
    }

    func testStarts() {
        let word = JobTest.word
        let prepare = Launch(["--bench", "prepare", "--job", word, "--folders", "bundle,bundle/programs"])
        XCTAssertEqual(prepare?.action, .prepare)
        XCTAssertEqual(prepare?.folders, ["bundle", "bundle/programs"])
        XCTAssertEqual(prepare?.keep, false)
        XCTAssertEqual(Launch(["-NSDocumentRevisionsDebugMode", "YES", "--bench", "clean", "--job", word, "--keep"])?.keep, true)
        let none = [
            [], ["--bench"], ["--bench", "run"], ["--bench", "run", "--job"], ["--bench", "erase", "--job", word],
            ["--bench", "run", "--job", "SHORT"], ["--bench", "run", "--job", "0123abc"], ["--bench", "run", "--job", "0123abc_"],
            ["--bench", "prepare", "--job", word, "--folders", "../x"], ["--bench", "prepare", "--job", word, "--folders", "a,/b"],
        ]
        for arguments in none { XCTAssertNil(Launch(arguments), "\(arguments)") }
    }

    func testPathsThatLeadOut() {
        for path in ["a", "a/b", "a/..b", "programs/denoise/x.mlpackage/Data/com.apple.CoreML/model.mlmodel"] {
            XCTAssertTrue(isInside(path), path)
        }
        for path in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a\0b"] { XCTAssertFalse(isInside(path), path) }
    }
}
