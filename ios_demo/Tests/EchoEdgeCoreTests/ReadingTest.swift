import EchoEdgeCore
import Foundation
import XCTest

/// What reads files: JSON, names, hashes.
final class ReadingTest: XCTestCase {
    func testJsonThatIsWrittenIsReadAgainAsItWas() throws {
        let text = "\"\\\n\u{1}é中😀"
        let value: Json = [
            "a": [1, -2.5, nil, true, .text(text)], "b": [:], "c": [], "d": 1e300, "e": .whole(Int.max), "f": .whole(Int.min),
        ]
        XCTAssertEqual(try Json.parse(value.written()), value)
        refused(.config, "nan") { try Json.list([.number(.nan)]).written() }
        refused(.config, "inf") { try Json.list([.number(.infinity)]).written() }
    }

    func testDepthIsBoundedAndEncodingIsChecked() throws {
        XCTAssertNoThrow(try Json.parse(String(repeating: "[", count: 150) + String(repeating: "]", count: 150)))
        refused(.bundle, "200 levels") { try Json.parse(String(repeating: "[", count: 100_000)) }
        refused(.bundle, "UTF-8") { try Json.parse([0x22, 0xC3, 0x28, 0x22]) }
        refused(.bundle, "half a character") { try Json.parse("\"\\ud83d x\"") }
        refused(.bundle, "cut off") { try Json.parse("\"ab") }
        refused(.bundle, "is no character") { try Json.parse("\"\\u12g4\"") }
    }

    func testWholeNumbersAreExactAndNoOthers() throws {
        XCTAssertEqual(try Json.parse("9007199254740993"), .whole(9_007_199_254_740_993))
        XCTAssertEqual(try Json.parse("18446744073709551615"), .big("18446744073709551615"))
        XCTAssertEqual(try Json.parse("1.0"), .number(1))
        XCTAssertEqual(try Json.parse("-0.0").double?.sign, .minus)
        XCTAssertEqual(try Normals.seed(" 18446744073709551615 "), UInt64.max)
        for text in ["", "-1", "+1", "1.0", "18446744073709551616", "١", "0x1"] {
            refused(.config, "2^64-1") { try Normals.seed(text) }
        }
    }

    /// Swift's own `==` takes these for one text; a model's prompts are two.
    func testNamesAreTheirBytes() throws {
        let (composed, apart) = ("\u{e9}", "e\u{301}")
        XCTAssertEqual(composed, apart)
        var names: Ordered<Int> = [composed: 1]
        names[apart] = 2
        XCTAssertEqual(names.values, [1, 2])
        XCTAssertEqual(names[composed], 1)
        XCTAssertNil(names["e"])
        XCTAssertEqual(try Json.parse("{\"\u{e9}\": 1, \"e\u{301}\": 2}").members?.count, 2)
        refused(.bundle, "twice") { try Json.parse("{\"\u{e9}\": 1, \"\\u00e9\": 2}") }
    }

    /// FIPS 180-4's own examples, and lengths around a block fed in pieces.
    func testSha256() throws {
        XCTAssertEqual(sha256Of([]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        XCTAssertEqual(sha256Of(Array("abc".utf8)), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        let two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"
        XCTAssertEqual(sha256Of(Array(two.utf8)), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1")
        let million = [UInt8](repeating: UInt8(ascii: "a"), count: 1_000_000)
        XCTAssertEqual(sha256Of(million), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
        var whole = PortableSha256()
        million.withUnsafeBytes { whole.update(bufferPointer: $0) }
        var pieces = PortableSha256()
        var at = 0
        for size in [1, 62, 1, 64, 63, 65, 127, 1000, 998_617] {
            million[at..<(at + size)].withUnsafeBytes { pieces.update(bufferPointer: $0) }
            at += size
        }
        XCTAssertEqual(at, million.count)
        XCTAssertEqual(pieces.finalize(), whole.finalize())
        XCTAssertNotEqual(sha256Of(Array("abd".utf8)), sha256Of(Array("abc".utf8)))
    }

    func testAHashOfAFileIsThatOfItsBytes() throws {
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("echoedge-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: file) }
        let bytes = (0..<600_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        try Data(bytes).write(to: file)
        XCTAssertEqual(sha256Of(file), sha256Of(bytes))
        XCTAssertNil(sha256Of(file.appendingPathComponent("none")))
    }
}
