import EchoEdgeCore
import XCTest

@testable import EchoEdgeAppCore

/// A server that has a folder. What it is asked is logged; it may break off, send on, or know no ranges.
private final class ToyServer: Asking {
    let folder: URL
    var log: [String] = []
    var breaks: [Int] = []  // after so many bytes, one for each of the next bodies
    var statuses: [Int] = []  // of the next answers, in place of what would be right
    var redirect: ((URL) -> String?) = { _ in nil }
    var ranges = true
    var tag = "\"1\""

    init(_ folder: URL) { self.folder = folder }

    func get(_ url: URL, _ headers: [String: String], begun: (Answer) throws -> Bool, piece: (Data) throws -> Void) throws {
        log.append(url.lastPathComponent + (headers["Range"].map { " \($0)" } ?? ""))
        XCTAssertEqual(headers["Accept-Encoding"], "identity")
        if let next = redirect(url) {
            _ = try begun(Answer(status: 302, headers: ["location": next]))
            return
        }
        if !statuses.isEmpty {
            let status = statuses.removeFirst()
            if status != 200 {
                _ = try begun(Answer(status: status, headers: [:]))
                return
            }
        }
        let path = url.pathComponents.drop { $0 != "toy.echoedge" }.dropFirst().joined(separator: "/")
        guard var bytes = try? Data(contentsOf: folder.appendingPathComponent(path)) else {
            _ = try begun(Answer(status: 404, headers: [:]))
            return
        }
        var answer = Answer(status: 200, headers: ["ETag": tag])
        if ranges, let range = headers["Range"], headers["If-Range"] == tag, let from = Int(range.dropFirst(6).dropLast()) {
            bytes = Data(bytes.dropFirst(from))
            answer = Answer(status: 206, headers: ["Etag": tag, "content-range": "bytes \(from)-"])
        }
        guard try begun(answer) else { return }
        let most = breaks.isEmpty ? bytes.count : breaks.removeFirst()
        let sent = Data(bytes.prefix(most))
        for at in stride(from: 0, to: sent.count, by: 1000) { try piece(Data(sent.dropFirst(at).prefix(1000))) }
        if most < bytes.count { throw Interrupted("the connection broke") }
    }
}

final class FetchTest: XCTestCase {
    private let place = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    private var shelf: URL { place.appendingPathComponent("shelf") }
    private let address = "https://host/dir/toy.echoedge"

    override func tearDown() { try? FileManager.default.removeItem(at: place) }

    private func server(_ changed: (inout Ordered<Json>) -> Void = { _ in }) throws -> ToyServer {
        ToyServer(try Toy.write(place.appendingPathComponent("server"), changed: changed))
    }

    private func arrival(_ free: Int = 1 << 40, cancelled: @escaping () -> Bool = { false }) throws -> Arrival {
        try Arrival(shelf, Fetch.name(address), freeBytes: { _ in free }, cancelled: cancelled)
    }

    private func fetch(_ server: ToyServer, _ arrival: Arrival? = nil) throws -> URL {
        try Fetch(arrival ?? self.arrival(), server, wait: {}).fetch(address)
    }

    private func refused(_ kind: EchoEdgeError.Kind, _ words: String, _ body: () throws -> Void) {
        XCTAssertThrowsError(try body(), words) { error in
            XCTAssertEqual((error as? EchoEdgeError)?.kind, kind, "\(error)")
            XCTAssertTrue(error.localizedDescription.contains(words), error.localizedDescription)
        }
    }

    func testABundleIsFetchedWholeAndOnlyOnce() throws {
        let server = try server()
        let bundle = try fetch(server)
        XCTAssertEqual(bundle.lastPathComponent, "toy.echoedge")
        XCTAssertEqual(try ModelBundle.open(bundle).manifest.clips[0].description, "16x16x9")
        XCTAssertEqual(Shelf.bundles([shelf]).map(\.lastPathComponent), ["toy.echoedge"])
        server.log = []
        _ = try fetch(server)
        XCTAssertEqual(server.log, [Manifest.name])
        XCTAssertTrue(Shelf.remove(bundle))
        XCTAssertTrue(Shelf.bundles([shelf]).isEmpty)
    }

    func testWhatIsInterruptedGoesOnWhereItStopped() throws {
        let server = try server()
        let file = "step_tables.safetensors"
        let size = try Data(contentsOf: server.folder.appendingPathComponent(file)).count
        server.breaks = Array(repeating: Int.max / 2, count: 2) + [100]  // manifest, plan, then the tables
        _ = try fetch(server)
        XCTAssertTrue(server.log.contains("\(file) bytes=100-"), "\(server.log)")
        XCTAssertGreaterThan(size, 100)
    }

    func testAnotherVersionOrAServerWithoutRangesBeginsAnew() throws {
        for knows in [true, false] {
            let server = try server()
            server.breaks =
                Array(repeating: Int.max / 2, count: 2) + Array(repeating: 100, count: 1) + Array(repeating: 0, count: 2)
            refused(.resource, "are kept") { _ = try self.fetch(server) }
            XCTAssertTrue(Shelf.bundles([shelf]).isEmpty, "half of a bundle is one")
            server.ranges = knows
            server.tag = "\"2\""
            _ = try fetch(server)
            XCTAssertNotNil(try? ModelBundle.open(shelf.appendingPathComponent("toy.echoedge")))
            Shelf.remove(shelf.appendingPathComponent("toy.echoedge"))
        }
    }

    func testABusyServerIsAskedAgainAFewTimes() throws {
        let server = try server()
        server.statuses = [503, 429]
        _ = try fetch(server)
        XCTAssertEqual(server.log.prefix(3), [Manifest.name, Manifest.name, Manifest.name])
        let closed = try self.server()
        closed.statuses = [503, 503, 503]
        refused(.resource, "the server says 503") {
            _ = try self.fetch(closed, try Arrival(self.shelf, "x.echoedge", freeBytes: { _ in 1 << 40 }))
        }
        closed.statuses = [403]
        refused(.resource, "403") { _ = try self.fetch(closed) }
        closed.statuses = [404]
        refused(.bundle, "There is no manifest.json") { _ = try self.fetch(closed) }
    }

    func testServersThatSendOn() throws {
        let server = try server()
        server.redirect = { url in
            url.host == "host" ? "https://other" + url.path : nil
        }
        _ = try fetch(server)
        server.redirect = { $0.absoluteString }
        refused(.resource, "more than 5 times") { _ = try self.fetch(server) }
        server.redirect = { _ in "http://host/x" }
        refused(.resource, "not protected") { _ = try self.fetch(server) }
    }

    func testDamagedAndTooLongFilesAreThrownAway() throws {
        let server = try server()
        let file = server.folder.appendingPathComponent("programs/denoise.pte")
        try Data("altered".utf8).write(to: file)
        refused(.bundle, "is not the file that the manifest lists") { _ = try self.fetch(server) }
        try Data("much longer than it was".utf8).write(to: file)
        refused(.bundle, "is longer than the 7 bytes") { _ = try self.fetch(server) }
        try Data("denoise".utf8).write(to: file)
        _ = try fetch(server)
    }

    func testPathsThatLeadOutOfTheBundleAreRefusedBeforeAnythingIsAsked() throws {
        for path in ["../evil", "/etc/evil", "a/../../evil", "a//b"] {
            let server = try server { manifest in
                var files = manifest["files"]?.members ?? [:]
                files[path] = ["sha256": .text(String(repeating: "0", count: 64)), "bytes": 1]
                manifest["files"] = .object(files)
            }
            XCTAssertThrowsError(try fetch(server), path) { XCTAssertEqual(($0 as? EchoEdgeError)?.kind, .bundle) }
            XCTAssertEqual(server.log, [Manifest.name], path)
            try FileManager.default.removeItem(at: server.folder)
        }
    }

    func testAFullDiskIsSeenBeforeItIsFull() throws {
        let server = try server()
        refused(.resource, "are still to come") { _ = try self.fetch(server, try self.arrival(1000)) }
        XCTAssertEqual(server.log, [Manifest.name])
    }

    func testItCanBeCancelledAndGoesOnLater() throws {
        let server = try server()
        var asked = 0
        let stopped = try arrival(cancelled: {
            asked += 1
            return asked > 6
        })
        XCTAssertThrowsError(try fetch(server, stopped)) { XCTAssertEqual(($0 as? EchoEdgeError)?.kind, .cancelled) }
        let before = server.log.count
        _ = try fetch(server)
        let again = Set(server.log.dropFirst(before)).intersection(server.log.prefix(before)).subtracting([Manifest.name])
        XCTAssertLessThan(again.count, before - 1, "what was there was fetched again")
    }

    func testAddresses() throws {
        XCTAssertEqual(try Fetch.folder(" https://h/x.echoedge/manifest.json ").absoluteString, "https://h/x.echoedge")
        XCTAssertEqual(try Fetch.name("https://h/a b/x"), "x.echoedge")
        XCTAssertEqual(try Fetch.name("https://h"), "h.echoedge")
        for bad in [
            "", "x", "http://h/x", "ftp://h/x", "https://", "https://h/x?y=1", "https://h/x#y", "https://user:word@h/x",
            "file:///etc",
        ] {
            XCTAssertThrowsError(try Fetch.folder(bad), bad) { XCTAssertEqual(($0 as? EchoEdgeError)?.kind, .input) }
        }
        XCTAssertEqual(Arrival.name(of: "../../ä b/"), "b.echoedge")
        XCTAssertEqual(Arrival.name(of: "toy.echoedge"), "toy.echoedge")
        XCTAssertThrowsError(try Arrival(shelf, "../x", freeBytes: { _ in 0 }))
    }

    func testAFolderIsCopiedWithItsHashesChecked() throws {
        let source = try Toy.write(place.appendingPathComponent("picked/toy.echoedge"))
        var told: [Int] = []
        let arrival = try Arrival(shelf, "toy.echoedge", freeBytes: { _ in 1 << 40 }, told: { done, _ in told.append(done) })
        let bundle = try Import.copy(source, arrival)
        XCTAssertNotNil(try? ModelBundle.open(bundle))
        XCTAssertEqual(told, told.sorted())
        XCTAssertEqual(told.last, try ModelBundle.open(bundle).bytes)
        try Data("altered".utf8).write(to: source.appendingPathComponent("programs/denoise.pte"))
        let other = try Arrival(shelf, "other.echoedge", freeBytes: { _ in 1 << 40 })
        refused(.bundle, "is not the file") { _ = try Import.copy(source, other) }
        try FileManager.default.removeItem(at: source.appendingPathComponent("programs/denoise.pte"))
        refused(.bundle, "has no programs/denoise.pte") { _ = try Import.copy(source, other) }
        refused(.bundle, "it is no bundle") { _ = try Import.copy(self.place, other) }
        XCTAssertEqual(Shelf.bundles([shelf]).map(\.lastPathComponent), ["toy.echoedge"])
    }
}
