import Foundation

#if canImport(FoundationNetworking)
    import FoundationNetworking  // where URLSession is not Foundation's
#endif

/// Asks servers by URLSession, without following them elsewhere: ``Fetch`` decides that. One request at a time, on the caller's
/// thread.
public final class Downloader: NSObject, Asking, URLSessionDataDelegate, @unchecked Sendable {
    private enum Event {
        case answer(Answer)
        case piece(Data)
        case end((any Error)?)
    }

    private static let mostPieces = 16  // that wait to be written; the session waits meanwhile
    private let ready = DispatchSemaphore(value: 0)
    private let room = DispatchSemaphore(value: mostPieces)
    private let lock = NSLock()
    private var events: [Event] = []

    private lazy var session: URLSession = {
        let configuration = URLSessionConfiguration.ephemeral
        configuration.timeoutIntervalForRequest = 30
        configuration.requestCachePolicy = .reloadIgnoringLocalCacheData
        return URLSession(configuration: configuration, delegate: self, delegateQueue: nil)
    }()

    public func get(_ url: URL, _ headers: [String: String], begun: (Answer) throws -> Bool, piece: (Data) throws -> Void) throws {
        var request = URLRequest(url: url)
        for (name, value) in headers { request.setValue(value, forHTTPHeaderField: name) }
        let task = session.dataTask(with: request)
        task.resume()
        var problem: (any Error)?
        var wanted = true
        while true {
            ready.wait()
            lock.lock()
            let event = events.removeFirst()
            lock.unlock()
            do {
                switch event {
                case .answer(let answer):
                    wanted = try begun(answer)
                    if !wanted { task.cancel() }
                case .piece(let data):
                    room.signal()
                    if wanted && problem == nil { try pooled { try piece(data) } }
                case .end(let error):
                    if let problem { throw problem }
                    if let error, wanted { throw Interrupted(error.localizedDescription) }
                    return
                }
            } catch {
                if case .end = event { throw error }
                problem = problem ?? error  // the task's own end is waited for, so that nothing of it is left for the next one
                task.cancel()
            }
        }
    }

    /// Ends the session, which holds this object.
    public func close() { session.invalidateAndCancel() }

    private func put(_ event: Event) {
        lock.lock()
        events.append(event)
        lock.unlock()
        ready.signal()
    }

    public func urlSession(
        _ session: URLSession, task: URLSessionTask, willPerformHTTPRedirection response: HTTPURLResponse,
        newRequest request: URLRequest,
        completionHandler: @escaping (URLRequest?) -> Void
    ) { completionHandler(nil) }

    public func urlSession(
        _ session: URLSession, dataTask: URLSessionDataTask, didReceive response: URLResponse,
        completionHandler: @escaping (URLSession.ResponseDisposition) -> Void
    ) {
        let answer = response as? HTTPURLResponse
        var headers: [String: String] = [:]
        for (name, value) in answer?.allHeaderFields ?? [:] { headers["\(name)"] = "\(value)" }
        put(.answer(Answer(status: answer?.statusCode ?? 0, headers: headers)))
        completionHandler(.allow)
    }

    public func urlSession(_ session: URLSession, dataTask: URLSessionDataTask, didReceive data: Data) {
        room.wait()
        put(.piece(data))
    }

    public func urlSession(_ session: URLSession, task: URLSessionTask, didCompleteWithError error: (any Error)?) {
        put(.end(error))
    }
}
