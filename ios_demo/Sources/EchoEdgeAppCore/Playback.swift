import EchoEdgeCore
import Foundation

/// Which frame of a film is to be seen while its frames are still made. The first one is shown as soon as it exists; the film, with
/// its sound, begins when so much of it is there that it will not have to wait, and if it has to all the same, it holds.
public struct Playback: Sendable {
    private static let sure = 0.9  // of the time that the rest may take
    private let fps: Int, total: Int
    private var began: Double?
    private var firstAt: Double?
    private var made = 0

    /// Seconds that the film stood still for want of frames.
    public private(set) var held = 0.0

    public init(fps: Int, total: Int) { (self.fps, self.total) = (fps, total) }

    /// A frame more exists, at a time of a clock that only grows.
    public mutating func frame(_ now: Double) {
        if made == 0 { firstAt = now }
        made += 1
    }

    /// Whether sound may begin now: the film will not run out of frames if they go on being made as fast as up to now.
    public func mayBegin(_ now: Double) -> Bool {
        guard let firstAt, began == nil else { return false }
        if made >= total { return true }
        let rate = made < 2 || now <= firstAt ? 0 : Double(made - 1) / (now - firstAt)
        return rate > 0 && Double(total - made) / rate <= Double(total - 1) / Double(fps) * Playback.sure
    }

    public mutating func begin(_ now: Double) { began = now }

    /// The film is to be seen once more from its beginning, with the frames that are there.
    public mutating func rewind() { (began, held) = (nil, 0) }

    /// The number of the frame to show; nil: none exists.
    public mutating func shown(_ now: Double) -> Int? {
        if made == 0 { return nil }
        guard let began else { return 0 }
        let due = max(0, Int((now - began - held) * Double(fps)))
        if due < made { return min(due, total - 1) }
        if made < total { held = max(held, now - began - Double(made) / Double(fps)) }
        return made - 1
    }

    /// Whether the last frame has had its time.
    public func ended(_ now: Double) -> Bool {
        began.map { made >= total && now - $0 - held >= Double(total) / Double(fps) } ?? false
    }
}

/// What the encoders of a film are asked for.
public enum FilmPlan {
    private static let bitsAPixel = 0.25

    /// Bits a second of a video: so many a pixel, within what phones' encoders take.
    public static func videoBits(width: Int, height: Int, fps: Int) -> Int {
        min(max(Int(bitsAPixel * Double(width * height * fps)), 500_000), 20_000_000)
    }

    /// Sound as encoders take it: 16 bits, little-endian.
    public static func pcm(_ voice: ArraySlice<Float>) -> [UInt8] {
        voice.flatMap { value -> [UInt8] in
            let level = Int16((min(max(value, -1), 1) * 32_767).rounded())
            return [UInt8(truncatingIfNeeded: level), UInt8(truncatingIfNeeded: level >> 8)]
        }
    }

    /// A film's file name: when it was made, and of which bundle.
    public static func name(_ bundle: String, _ date: Date = Date(), zone: TimeZone = .current) -> String {
        let format = DateFormatter()
        format.locale = Locale(identifier: "en_US_POSIX")
        format.timeZone = zone
        format.dateFormat = "yyyy-MM-dd HH.mm.ss"
        let known = CharacterSet.alphanumerics.union(CharacterSet(charactersIn: "._-"))
        let stated = bundle.hasSuffix(".echoedge") ? String(bundle.dropLast(9)) : bundle
        let clean = String(stated.unicodeScalars.map { known.contains($0) ? Character($0) : "-" })
            .trimmingCharacters(in: CharacterSet(charactersIn: ".-")).prefix(60)
        return "\(clean.isEmpty ? "film" : String(clean)) \(format.string(from: date)).mp4"
    }

    /// Films beyond the newest, which are removed: nobody else tidies up.
    public static func tooMany(_ films: [(url: URL, made: Date)], keep: Int = 20) -> [URL] {
        films.sorted { $0.made > $1.made }.dropFirst(keep).map(\.url)
    }
}
