import EchoEdgeAppCore
import Foundation
import XCTest

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// Answers requests on this machine, one connection after the other, each by the next of some texts of bytes; logs what it is
/// asked.
private final class LocalServer: @unchecked Sendable {
    let port: UInt16
    private let listening: Int32
    private let lock = NSLock()
    private var answers: [[UInt8]]
    private var asked: [String] = []

    init(_ answers: [[UInt8]]) throws {
        self.answers = answers
        #if canImport(Glibc)
            let kind = Int32(SOCK_STREAM.rawValue)
        #else
            let kind = SOCK_STREAM
        #endif
        listening = socket(AF_INET, kind, 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = listening
        let bound = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { place in
                bind(descriptor, place, size) == 0 && listen(descriptor, 8) == 0 && getsockname(descriptor, place, &size) == 0
            }
        }
        if !bound { throw XCTSkip("no port of this machine can be had") }
        port = UInt16(bigEndian: address.sin_port)
        Thread { [self] in while serve() {} }.start()
    }

    var requests: [String] {
        lock.lock()
        defer { lock.unlock() }
        return asked
    }

    private func serve() -> Bool {
        let connection = accept(listening, nil, nil)
        if connection < 0 { return false }
        var request: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while !String(decoding: request, as: UTF8.self).contains("\r\n\r\n") {
            let count = recv(connection, &buffer, buffer.count, 0)
            if count <= 0 { break }
            request.append(contentsOf: buffer[..<count])
        }
        lock.lock()
        asked.append(String(decoding: request, as: UTF8.self))
        let answer = answers.isEmpty ? [] : answers.removeFirst()
        let more = !answers.isEmpty
        lock.unlock()
        var sent = 0
        while sent < answer.count {
            let count = answer.withUnsafeBytes {
                send(connection, $0.baseAddress! + sent, answer.count - sent, Int32(MSG_NOSIGNAL))
            }
            if count <= 0 { break }
            sent += count
        }
        close(connection)
        if !more { close(listening) }
        return more
    }
}

final class DownloaderTest: XCTestCase {
    private func head(_ status: String, _ headers: String..., length: Int) -> [UInt8] {
        Array(
            (["HTTP/1.1 \(status)"] + headers + ["Content-Length: \(length)", "Connection: close", "", ""]).joined(
                separator: "\r\n"
            ).utf8)
    }

    private func get(
        _ port: UInt16, _ downloader: Downloader, _ headers: [String: String] = [:], wanted: Bool = true
    ) throws -> (answer: Answer?, body: Data) {
        var answer: Answer?
        var body = Data()
        try downloader.get(XCTUnwrap(URL(string: "http://127.0.0.1:\(port)/x/manifest.json")), headers) {
            answer = $0
            return wanted
        } piece: {
            body.append($0)
        }
        return (answer, body)
    }

    func testBodiesHeadersRedirectsAndBrokenConnections() throws {
        let body = [UInt8]((0..<300_000).map { UInt8(truncatingIfNeeded: $0 &* 31) })
        let server = try LocalServer([
            head("200 OK", "ETag: \"a\"", length: body.count) + body,
            head("206 Partial Content", "Content-Range: bytes 7-9/10", length: 3) + [1, 2, 3],
            head("302 Found", "Location: https://elsewhere/x", length: 0),
            head("200 OK", length: 1000) + [1, 2, 3],  // and no more
            head("404 Not Found", length: 4) + Array("none".utf8),
        ])
        let downloader = Downloader()
        defer { downloader.close() }
        let whole = try get(server.port, downloader, ["Accept-Encoding": "identity"])
        XCTAssertEqual(whole.answer?.status, 200)
        XCTAssertEqual(whole.answer?.header("etag"), "\"a\"")
        XCTAssertEqual([UInt8](whole.body), body)
        let part = try get(server.port, downloader, ["Range": "bytes=7-", "If-Range": "\"a\""])
        XCTAssertEqual(part.answer?.status, 206)
        XCTAssertEqual([UInt8](part.body), [1, 2, 3])
        let moved = try get(server.port, downloader, wanted: false)
        XCTAssertEqual(moved.answer?.status, 302)
        XCTAssertEqual(moved.answer?.header("Location"), "https://elsewhere/x")
        XCTAssertThrowsError(try get(server.port, downloader)) { XCTAssertTrue($0 is Interrupted, "\($0)") }
        XCTAssertEqual(try get(server.port, downloader).answer?.status, 404)
        XCTAssertThrowsError(try get(server.port, downloader), "nobody listens any more") {
            XCTAssertTrue($0 is Interrupted, "\($0)")
        }
        XCTAssertEqual(server.requests.count, 5, "it followed the server elsewhere, or asked twice")
        XCTAssertTrue(server.requests[1].lowercased().contains("range: bytes=7-"), server.requests[1])
    }

    func testWhatTheReaderThrowsComesOutAndTheNextRequestIsClean() throws {
        struct Full: Error {}
        let body = [UInt8](repeating: 7, count: 200_000)
        let server = try LocalServer([head("200 OK", length: body.count) + body, head("200 OK", length: 2) + [8, 9]])
        let downloader = Downloader()
        defer { downloader.close() }
        let url = try XCTUnwrap(URL(string: "http://127.0.0.1:\(server.port)/a"))
        XCTAssertThrowsError(
            try downloader.get(url, [:]) { _ in
                true
            } piece: { _ in
                throw Full()
            }
        ) { XCTAssertTrue($0 is Full) }
        XCTAssertEqual([UInt8](try get(server.port, downloader).body), [8, 9])
    }
}
