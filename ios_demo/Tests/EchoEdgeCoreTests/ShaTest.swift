import XCTest

@testable import EchoEdgeCore

final class ShaTest: XCTestCase {
    func testDigests() {
        XCTAssertEqual(sha256Of(Array("abc".utf8)), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    }
}
