import EchoEdgeCore
import Foundation

/// What a server answers, before its body comes. Names of headers are looked up whichever way they are written.
public struct Answer: Sendable {
    public let status: Int
    private let headers: [String: String]

    public init(status: Int, headers: [String: String]) {
        self.status = status
        self.headers = Dictionary(headers.map { ($0.key.lowercased(), $0.value) }) { first, _ in first }
    }

    public func header(_ name: String) -> String? { headers[name.lowercased()] }

    /// What If-Range takes: a strong ETag, else the date.
    var version: String? {
        if let tag = header("ETag"), !tag.hasPrefix("W/") { return tag }
        return header("Last-Modified")
    }

    /// The first byte of a part; nil: it does not say.
    var begins: Int? {
        guard let range = header("Content-Range"), range.hasPrefix("bytes ") else { return nil }
        return Int(range.dropFirst(6).prefix { $0.isNumber })
    }
}

/// A connection broke, or a server is busy: worth another try.
public struct Interrupted: Error {
    public let why: String

    public init(_ why: String) { self.why = why }
}

/// Asks a server, without following it elsewhere. The app's is URLSession.
public protocol Asking {
    /// `begun` is given the answer, and says whether the body is wanted; then `piece` is given it, piece by piece. Throws
    /// ``Interrupted``: no answer, or the connection broke; and what `begun` or `piece` throws.
    func get(_ url: URL, _ headers: [String: String], begun: (Answer) throws -> Bool, piece: (Data) throws -> Void) throws
}

/// Fetches a bundle's folder over HTTPS: manifest.json, then whatever file of it is not there yet. A file that was interrupted goes
/// on where it stopped, where the server still has the same one (Range with If-Range) and knows ranges; else it begins anew.
public struct Fetch {
    private static let redirects = 5
    private static let moved = [301, 302, 303, 307, 308]
    private let arrival: Arrival
    private let asking: any Asking
    private let tries: Int
    private let wait: () -> Void

    /// `tries`: how often in a row a connection may break without a byte in between; `wait`: is called before each further one.
    public init(
        _ arrival: Arrival, _ asking: any Asking, tries: Int = 3, wait: @escaping () -> Void = { Thread.sleep(forTimeInterval: 1) }
    ) {
        (self.arrival, self.asking, self.tries, self.wait) = (arrival, asking, tries, wait)
    }

    /// `address`: of the folder, or of its manifest.json. Throws `input`: it is none; `resource`: the server cannot be reached, or
    /// refuses; otherwise as ``Arrival/bring(_:_:)``.
    @discardableResult
    public func fetch(_ address: String) throws -> URL {
        let root = try Fetch.folder(address)
        var manifest = Data()
        try again(Manifest.name) {
            manifest = Data()
            try get(root.appendingPathComponent(Manifest.name), [:]) { answer, url in
                if answer.status != 200 { throw refusal(answer, url, Manifest.name) }
            } piece: { bytes in
                manifest.append(bytes)
                if manifest.count > Arrival.largestManifest {
                    throw EchoEdgeError.bundle(
                        "\(Manifest.name) has more than \(humanBytes(Arrival.largestManifest)), which none has.")
                }
            }
        }
        return try arrival.bring([UInt8](manifest)) { path, entry, part in
            try again(path, growing: part) { try one(Fetch.url(root, path), path, entry, part) }
        }
    }

    private func one(_ url: URL, _ path: String, _ entry: FileEntry, _ part: URL) throws {
        let have = Arrival.size(part)
        let version = Arrival.version(part)
        var headers: [String: String] = [:]
        if have > 0, let version {
            headers = ["Range": "bytes=\(have)-", "If-Range": version]
        } else {
            Arrival.discard(part)
        }
        try get(url, headers) { answer, url in
            switch answer.status {
            case 200:
                Arrival.discard(part)
                Arrival.setVersion(part, answer.version)
            case 206 where have > 0 && answer.begins == have: break
            case 206:
                Arrival.discard(part)
                throw Interrupted("the server gave another part than from byte \(have) on")
            case 416:
                Arrival.discard(part)
                throw Interrupted("the server has fewer than \(have) bytes")
            default: throw refusal(answer, url, path)
            }
        } piece: {
            try arrival.append($0, part, entry)
        }
        if entry.bytes == 0 { try arrival.append(Data(), part, entry) }
        let size = Arrival.size(part)
        if size < entry.bytes { throw Interrupted("it ended after \(size) of \(entry.bytes) bytes") }
    }

    /// Tries again while something comes: a file that grows with it.
    private func again(_ what: String, growing part: URL? = nil, _ body: () throws -> Void) throws {
        func progress() -> Int { part.map(Arrival.size) ?? 0 }
        var failures = 0
        var most = progress()
        while true {
            if arrival.cancelled() { throw EchoEdgeError.cancelled }
            do {
                return try body()
            } catch let error as Interrupted {
                let now = progress()
                failures = now > most ? 1 : failures + 1
                most = max(most, now)
                if failures >= tries {
                    let kept = now > 0 ? " \(humanBytes(now)) of it are kept: fetch again, and it goes on there." : ""
                    throw EchoEdgeError.resource("\(what) did not come (\(error.why)). Check the network and the address.\(kept)")
                }
                wait()
            }
        }
    }

    private func get(
        _ begin: URL, _ headers: [String: String], begun: (Answer, URL) throws -> Void, piece: (Data) throws -> Void
    ) throws {
        var url = begin
        for _ in 0...Fetch.redirects {
            var next: URL?
            try asking.get(url, headers.merging(["Accept-Encoding": "identity"]) { own, _ in own }) { answer in
                if Fetch.moved.contains(answer.status) {
                    next = try Fetch.next(url, answer.header("Location"))
                    return false
                }
                try begun(answer, url)
                return true
            } piece: {
                try piece($0)
            }
            guard let next else { return }
            url = next
        }
        throw EchoEdgeError.resource("\(begin) sends on more than \(Fetch.redirects) times. Ask for the address that it ends at.")
    }

    private func refusal(_ answer: Answer, _ url: URL, _ path: String) -> any Error {
        switch answer.status {
        case 404, 410:
            return EchoEdgeError.bundle("There is no \(path) at \(url). Check the address: it is that of the bundle's folder.")
        case 401, 403:
            return EchoEdgeError.resource("\(url) is not given to everybody (\(answer.status)). Ask for another address.")
        case 429, 500...599: return Interrupted("the server says \(answer.status)")
        default: return EchoEdgeError.resource("\(url) answers with \(answer.status). Check the address.")
        }
    }

    /// Where a server sends on to. Throws `resource`: nowhere, or to an address without TLS.
    static func next(_ url: URL, _ location: String?) throws -> URL {
        guard let location, let next = URL(string: location, relativeTo: url)?.absoluteURL, next.host != nil else {
            throw EchoEdgeError.resource(
                "\(url) has moved to '\(short(location ?? "nowhere"))', which is no address. Ask for its new one.")
        }
        if next.scheme?.lowercased() != "https" {
            throw EchoEdgeError.resource("\(url) sends on to \(next), which is not protected. Ask for an address with https.")
        }
        return next
    }

    /// The address of a bundle's folder. Throws `input`: it is none of HTTPS.
    public static func folder(_ text: String) throws -> URL {
        var clean = text.trimmingCharacters(in: .whitespacesAndNewlines)
        if clean.hasSuffix("/\(Manifest.name)") { clean = String(clean.dropLast(Manifest.name.count)) }
        while clean.hasSuffix("/") { clean = String(clean.dropLast()) }
        guard let parts = URLComponents(string: clean), let url = parts.url, parts.scheme?.lowercased() == "https",
            parts.host?.isEmpty == false, parts.query == nil, parts.fragment == nil, parts.user == nil, parts.password == nil
        else {
            throw EchoEdgeError.input("'\(short(text))' is no address of a folder. It is like https://host/folder/NAME.echoedge.")
        }
        return url
    }

    /// What a bundle at an address is called here.
    public static func name(_ text: String) throws -> String {
        let url = try folder(text)
        let last = url.lastPathComponent
        return Arrival.name(of: last.isEmpty || last == "/" ? url.host ?? "bundle" : last)
    }

    /// Of a file that a manifest lists, whose path stays in the folder.
    static func url(_ root: URL, _ path: String) -> URL {
        path.split(separator: "/").reduce(root) { $0.appendingPathComponent(String($1)) }
    }
}
