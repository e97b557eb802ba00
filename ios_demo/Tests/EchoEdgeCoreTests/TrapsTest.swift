import EchoEdgeCore
import Foundation
import XCTest

/// Mistakes that are easy to make in this language, each found by a golden vector.
final class TrapsTest: XCTestCase {
    private func found(_ kind: String, _ mistake: (Case) throws -> [String: Value]) throws -> Bool {
        let cases = try Vectors.cases(kind).filter { $0.error == nil }
        XCTAssertFalse(cases.isEmpty, kind)
        return try cases.contains { try $0.difference(mistake($0)) != nil }
    }

    private func replaced(_ given: Case, _ key: String, _ value: Value) throws -> [String: Value] {
        try computed(given).merging([key: value]) { $1 }
    }

    private func uniforms(_ given: Case, _ rows: [Int]) throws -> [Double] {
        let words = try given.array("words")
        let m = words.shape[1]
        return rows.flatMap { words.words[($0 * m)..<(($0 + 1) * m)].map(Normals.uniform) }
    }

    func testThePlatformsLogarithmAndCosineAreNotTheGenerators() throws {
        XCTAssertTrue(try found("normals") { try replaced($0, "logarithms", .doubles(uniforms($0, [0, 2]).map { log($0) })) })
        XCTAssertTrue(
            try found("normals") { try replaced($0, "cosines", .doubles(uniforms($0, [1, 3]).map { cos(2 * .pi * $0) })) })
    }

    /// What a compiler would make of a product and a sum that it may fuse.
    func testAFusedProductAndSumIsAnotherNumber() throws {
        func ln(_ x: Double) -> Double {
            var (power, m) = (Double(x.exponent + 1), x.significand / 2)
            if m < 0.7071067811865476 { (power, m) = (power - 1, m * 2) }
            let s = (m - 1) / (m + 1)
            let square = s * s
            var series = 1.0 / 21
            for odd in stride(from: 19, through: 1, by: -2) { series = (1 / Double(odd)).addingProduct(series, square) }
            return (2 * s * series).addingProduct(power, 0.6931471805599453)
        }
        XCTAssertTrue(try found("normals") { try replaced($0, "logarithms", .doubles(uniforms($0, [0, 2]).map(ln))) })
        XCTAssertTrue(
            try found("combine") { given in
                let arrays = try given.array("arrays")
                let m = arrays.shape[1]
                let weights = try given.array("weights").doubles
                let values = arrays.floats
                let used = weights.indices.filter { weights[$0] != 0 }
                return [
                    "sum": .floats(
                        (0..<m).map { i in
                            Float(
                                used.dropFirst().reduce(weights[used[0]] * Double(values[used[0] * m + i])) { sum, k in
                                    sum.addingProduct(weights[k], Double(values[k * m + i]))
                                })
                        })
                ]
            })
    }

    func testANumberThatIsReadAsAFloatIsAnotherNumber() throws {
        XCTAssertTrue(try found("numbers") { try replaced($0, "floats", .floats($0.texts("texts").compactMap { Float($0) })) })
    }

    /// `JSONSerialization` and `Double` lose the last digits of a seed.
    func testASeedThatGoesThroughADoubleIsAnotherSeed() throws {
        XCTAssertTrue(
            try found("integers") { given in
                let seeds = try given.texts("texts").map { Int(bitPattern: UInt(exactly: Double($0) ?? 0) ?? UInt.max) }
                return ["values": .wholes(seeds)]
            })
    }

    func testASumThatBeginsWithZeroLosesTheSignOfZero() throws {
        XCTAssertTrue(
            try found("combine") { given in
                let arrays = try given.array("arrays")
                let m = arrays.shape[1]
                let weights = try given.array("weights").doubles
                let values = arrays.floats
                let sums = (0..<m).map { i in Float(weights.indices.reduce(0.0) { $0 + weights[$1] * Double(values[$1 * m + i]) }) }
                return ["sum": .floats(sums)]
            })
    }

    private func levels(_ given: Case, _ rule: FloatingPointRoundingRule) throws -> [String: Value] {
        let video = try given.array("video")
        let values = video.floats
        let plane = video.shape[2] * video.shape[3]
        let levels = values.indices.map { place -> Int in
            let frame = place / (3 * plane)
            let value = (values[(frame * 3 + place % 3) * plane + place % (3 * plane) / 3] + 1) * 127.5
            return Int(min(max(value.rounded(rule), 0), 255))
        }
        return ["pixels": .wholes(levels)]
    }

    /// `rounded()` alone rounds halves away from zero.
    func testHalfALevelIsRoundedToEven() throws {
        XCTAssertTrue(try found("pixels") { try levels($0, .toNearestOrAwayFromZero) })
        XCTAssertFalse(try found("pixels") { try levels($0, .toNearestOrEven) })
    }

    func testAByteIsDividedAndNotMultipliedByARoundedQuotient() throws {
        XCTAssertTrue(
            try found("signed") { given in
                let pixels = try given.array("pixels").pixels()
                let plane = pixels.height * pixels.width
                let signed = (0..<(3 * plane)).map { Float(pixels.bytes[$0 % plane * 3 + $0 / plane]) * (2 / 255) - 1 }
                return ["portrait": .floats(signed)]
            })
    }

    func testTheColoursOfBT601AreOthers() throws {
        XCTAssertTrue(
            try found("yuv") { given in
                let pixels = try given.array("pixels").pixels()
                let y = (0..<(pixels.height * pixels.width)).map { at -> Int in
                    let red = 0.299 * Double(pixels.bytes[3 * at])
                    let green = 0.587 * Double(pixels.bytes[3 * at + 1])
                    let blue = 0.114 * Double(pixels.bytes[3 * at + 2])
                    return Int((16 + 219 * (red + green + blue) / 255).rounded())
                }
                return try replaced(given, "y", .wholes(y))
            })
    }

    func testRoundedFrameTimesThatAreAddedUpDrift() throws {
        XCTAssertTrue(
            try found("times") { given in
                let step = Film.microseconds(1, try given.whole("fps"))
                return try replaced(given, "microseconds", .wholes((0..<(try given.whole("frames"))).map { $0 * step }))
            })
    }

    /// Foundation's `%.3f` with a locale rounds digits that it rounded before.
    func testMillisecondsThatAreRoundedTwiceAreOthers() throws {
        XCTAssertTrue(
            try found("spread") { given in
                let sorted = try given.array("seconds").doubles.sorted()
                let at = 0.5 * Double(sorted.count - 1)
                let below = sorted[Int(at)]
                let step = sorted[min(Int(at) + 1, sorted.count - 1)] - below
                let value = below + step * (at - at.rounded(.down))
                let twice = ((1000 * value * 1e6).rounded() / 1e3).rounded() / 1e3
                return try replaced(given, "median", .json(.number(twice)))
            })
    }

    func testWhatIsRightIsNotFoundToBeWrong() throws {
        for kind in ["normals", "numbers", "integers", "combine", "pixels", "signed", "yuv", "times", "spread"] {
            XCTAssertFalse(try found(kind, computed), kind)
        }
    }
}
