import EchoEdgeCore
import XCTest

@testable import EchoEdgeAppCore

final class NumbersTest: XCTestCase {
    // Held to the compiler's own half precision, which not every machine with Swift has.
    #if !(os(macOS) && arch(x86_64))
        func testEveryHalfIsTheCompilersNumber() {
            for bits in UInt16.min...UInt16.max {
                let expected = Float(Float16(bitPattern: bits))
                let found = Half.float(bits)
                XCTAssertTrue(found == expected || found.isNaN && expected.isNaN, "\(bits): \(found), not \(expected)")
                if !expected.isNaN { XCTAssertEqual(Half.bits(expected), bits) }
            }
            XCTAssertTrue(Half.float(Half.bits(.nan)).isNaN)
        }

        func testNumbersBetweenHalvesAreRoundedAsTheCompilerDoes() {
            var differ = 0
            for step in 0..<400_000 {
                let bits = UInt32(truncatingIfNeeded: step &* 10_007 &* 1_013)
                let value = Float(bitPattern: bits)
                if value.isNaN { continue }
                XCTAssertEqual(Half.bits(value), Float16(value).bitPattern, "\(value)")
                if UInt16(truncatingIfNeeded: bits >> 13) != Half.bits(value) { differ += 1 }
            }
            XCTAssertGreaterThan(differ, 1000, "cutting bits off would do as well: nothing was proven")
        }
    #endif

    /// Storage of a shape in which each number is its place row by row, and -1 lies in the gaps.
    private static func numbered(_ shape: [Int], _ strides: [Int]) -> [Int] {
        var storage = [Int](repeating: -1, count: Strided.extent(shape, strides))
        Strided.rows(shape, strides) { row, place, count in
            for at in 0..<count { storage[place + at * strides[strides.count - 1]] = row + at }
        }
        return storage
    }

    func testStridesOfPaddedAndTurnedStorage() {
        let shape = [2, 3, 4]
        XCTAssertEqual(Strided.rowMajor(shape), [12, 4, 1])
        XCTAssertEqual(Strided.rowMajor([]), [])
        for strides in [[12, 4, 1], [96, 32, 1], [1, 2, 6], [64, 16, 2]] {
            let storage = NumbersTest.numbered(shape, strides)
            for i in 0..<2 {
                for j in 0..<3 {
                    for k in 0..<4 {
                        XCTAssertEqual(storage[i * strides[0] + j * strides[1] + k * strides[2]], 12 * i + 4 * j + k)
                    }
                }
            }
            XCTAssertEqual(Strided.gathered(shape, strides) { storage[$0] }, Array(0..<24))
        }
        let padded = NumbersTest.numbered(shape, [96, 32, 1])
        XCTAssertNotEqual(Array(padded.prefix(24)), Array(0..<24), "read as if it had no padding")
        XCTAssertEqual(Strided.extent([2, 0, 4], [0, 4, 1]), 0)
        XCTAssertEqual(Strided.gathered([], []) { $0 }, [0])
    }

    func testTensorsGoThroughEveryTypeAndBack() throws {
        let values: [Float] = [0, 1, 2, 3, 100, 7]
        let tensor = try Floats(shape: [2, 3], values)
        for type in StoredType.allCases where type != .bool {
            let bytes = try Stored.bytes("x", tensor, type)
            XCTAssertEqual(bytes.count, 6 * type.bytes)
            let back = try bytes.withUnsafeBytes { try Stored.tensor(XCTUnwrap($0.baseAddress), type, [2, 3], [3, 1]) }
            XCTAssertEqual(try Stored.floats(back), values, type.rawValue)
            XCTAssertEqual(back is Longs, type == .int64)
            let turned = try bytes.withUnsafeBytes { try Stored.tensor(XCTUnwrap($0.baseAddress), type, [3, 2], [1, 3]) }
            XCTAssertEqual(try Stored.floats(turned), [0, 3, 1, 100, 2, 7])
        }
    }

    func testNumbersBeyondAType() throws {
        let mask = try Floats(shape: [3], [-1e9, 70_000, 65_504])
        let bytes = try Stored.bytes("mask", mask, .float16)
        let back = try bytes.withUnsafeBytes { try Stored.tensor(XCTUnwrap($0.baseAddress), .float16, [3], [1]) }
        XCTAssertEqual(try back.floats(), [-32_768, 32_768, 65_504])
        let ids = try Longs(shape: [2], [5, 1 << 40])
        XCTAssertEqual(try Stored.bytes("ids", ids, .int64).count, 16)
        XCTAssertThrowsError(try Stored.bytes("ids", ids, .int32)) { XCTAssertEqual(($0 as? EchoEdgeError)?.kind, .engine) }
        XCTAssertThrowsError(try Stored.bytes("x", Floats(shape: [1], [0.5]), .int8))
        XCTAssertThrowsError(try Stored.bytes("x", Floats(shape: [1], [300]), .uint8))
    }

    func testPaddedInputsOfTheNeuralEnginesLayout() throws {
        let bytes = try Stored.bytes("x", Floats(shape: [3], [1, 2, 3]), .float32)
        var storage = [UInt8](repeating: 9, count: 4 * 8)
        storage.withUnsafeMutableBytes { Stored.place(bytes, .float32, into: $0.baseAddress!, [1, 4], [8, 2]) }
        let found = try storage.withUnsafeBytes { try Stored.tensor(XCTUnwrap($0.baseAddress), .float32, [4], [2]) }
        XCTAssertEqual(try found.floats(), [1, 2, 3, 0])
        let six = try Stored.bytes("x", Floats(shape: [6], [1, 2, 3, 4, 5, 6]), .float32)
        var rows = [Float](repeating: 9, count: 12)  // two rows of four with two numbers between them, as chips have them
        rows.withUnsafeMutableBytes { Stored.place(six, .float32, into: $0.baseAddress!, [2, 4], [6, 1]) }
        XCTAssertEqual(rows, [1, 2, 3, 4, 9, 9, 5, 6, 0, 0, 9, 9])
        XCTAssertEqual(try Packages.padding("x", 3, [1, 4]), 1)
        XCTAssertThrowsError(try Packages.padding("x", 3, [1, 64]))
        XCTAssertThrowsError(try Packages.padding("x", 5, [1, 4]))
    }
}
