// Parts of the app that no compiler outside Apple's checks, as the others call them.
import EchoEdgeAppCore
import EchoEdgeCore
import Foundation

final class FramePlayer {
    func begin(_ clip: Clip, frames total: Int, voice samples: [Float]) {}
    func take(_ frame: Data) {}
    func stop() {}
    func hide() {}
}

final class Microphone {
    static func ask(_ answer: @escaping (Bool) -> Void) {}
    func begin() throws {}
    func end() throws -> Sound { fatalError() }
}

enum Media {
    static func picture(_ data: Data, _ clip: Clip) throws -> Pixels { fatalError() }
    static func jpeg(_ pixels: Pixels) -> Data? { fatalError() }
    static func sound(_ file: URL) throws -> Sound { fatalError() }
}

// What Apple's Foundation has and others have not.

extension URL {
    func startAccessingSecurityScopedResource() -> Bool { fatalError() }
    func stopAccessingSecurityScopedResource() {}
}

extension URLResourceKey {
    static var volumeAvailableCapacityForImportantUsageKey: URLResourceKey { fatalError() }
}

extension URLResourceValues {
    var volumeAvailableCapacityForImportantUsage: Int64? { fatalError() }
}

extension ProcessInfo {
    enum ThermalState: Int { case nominal, fair, serious, critical }

    var thermalState: ThermalState { fatalError() }
}
