import EchoEdgeCore
import XCTest

/// Golden vectors of Python's player: every case, bit for bit or within its bound; what is refused there is refused here.
final class VectorsTest: XCTestCase {
    func testComputesWhatPythonsPlayerComputes() throws {
        let cases = try Vectors.cases()
        for each in cases {
            guard let error = each.error else {
                do {
                    if let wrong = try each.difference(computed(each)) { XCTFail("\(each.name): \(wrong)") }
                } catch let refused {
                    XCTFail("\(each.name): refused, \(refused)")
                }
                continue
            }
            do {
                _ = try computed(each)
                XCTFail("\(each.name) was not refused: \(error["message"] ?? .null)")
            } catch let refused as EchoEdgeError {
                XCTAssertEqual(error["kind"], .text(refused.kind.rawValue), "\(each.name): \(refused.message)")
                XCTAssertTrue(refused.message.hasSuffix("."), "\(each.name): \(refused.message)")
            } catch let other {
                XCTFail("\(each.name): \(other)")
            }
        }
        let kinds = Dictionary(grouping: cases, by: \.kind).mapValues(\.count).sorted { $0.key < $1.key }
        print("\(cases.count) golden vectors: \(kinds.map { "\($0.value) \($0.key)" }.joined(separator: ", ")).")
    }

    /// The comparison itself can fail: the same numbers with one of them moved beyond its bound are told from what is expected.
    func testOneNumberThatIsWrongIsFound() throws {
        var moves = 0
        for each in try Vectors.cases() where each.error == nil {
            let found = try computed(each)
            for key in found.keys {
                guard let moved = moved(found[key]!, each.bound(key) ?? 0) else { continue }
                let other = found.merging([key: moved]) { $1 }
                XCTAssertNotNil(try each.difference(other), "\(each.name): \(key)")
                moves += 1
            }
        }
        XCTAssertGreaterThan(moves, 400)
    }

    private func moved(_ value: Value, _ bound: Double) -> Value? {
        switch value {
        case .floats(var values):
            if values.isEmpty { return nil }
            values[0] += Float(3 * bound) + values[0].ulp
            return .floats(values)
        case .doubles(var values):
            if values.isEmpty { return nil }
            values[0] += 3 * bound + values[0].ulp
            return .doubles(values)
        case .wholes(var values):
            if values.isEmpty { return nil }
            values[0] &+= 1 + Int(3 * bound)
            return .wholes(values)
        case .named(let values): return .named(values.merging(["another": .json(1)]) { one, _ in one })
        case .json(.number(let value)): return .json(.number(value + 3 * bound + value.ulp))
        case .json(.whole(let value)): return .json(.whole(value + 1))
        case .json(.text(let value)): return .json(.text(value + "x"))
        case .json(.bool(let value)): return .json(.bool(!value))
        case .json(.list(let values)): return .json(.list(values + [.null]))
        case .json(.null): return .json(1)
        case .json: return nil
        }
    }
}
