import EchoEdgeCore
import Foundation

/// How programs are kept: all of them loaded, so that frames come early, or one stage's at a time.
public enum Mode: Sendable { case allLoaded, oneByOne }

/// Whether a clip fits into memory, and the sentence that says so.
public struct Forecast: Equatable, Sendable {
    public let fits: Bool
    public let sentence: String
}

/// Memory as iOS tells it: `available` bytes until the app is ended (`os_proc_available_memory`), `used` by it now
/// (`phys_footprint`), `total` of the phone.
public struct Room: Equatable, Sendable {
    private static let margin = 100 << 20  // what the screen, its pictures and the encoder of a film take meanwhile
    public let available: Int, used: Int, total: Int

    public init(available: Int, used: Int, total: Int) { (self.available, self.used, self.total) = (available, used, total) }

    /// What programs may take.
    public var free: Int { max(0, available - Room.margin) }

    /// One line for the screen.
    public var words: String {
        "\(humanBytes(used)) used; the app would be ended after \(humanBytes(available)) more, of \(humanBytes(total)) in "
            + "this phone"
    }

    /// How a clip of so many seconds is played where there is so much room: with all programs loaded if they fit, else one by one.
    /// Throws `resource`: not even that fits; the message says how much is needed, how much there is, and what to do.
    public func mode(_ bundle: ModelBundle, seconds: Double, decoder: String? = nil, clip: Clip? = nil) throws -> Mode {
        let role = decoder.flatMap { name in bundle.manifest.playing.decoders.first { $0.name == name }?.role }
        let need = try Memory.needed(bundle, seconds: seconds, decoder: role)
        if Room.all(bundle, need) <= free { return .allLoaded }
        let clip = clip ?? bundle.manifest.clips[0]
        try need.require("\(Words.decimal(seconds, 1)) s of \(clip.width) × \(clip.height) pixels", have: free)
        return .oneByOne
    }

    /// Bytes with every program loaded and packed, by the same measure as the largest one's.
    public static func all(_ bundle: ModelBundle, _ need: Need) -> Int {
        var files: [String: Int] = [:]
        for program in bundle.manifest.programs.values {
            files[program.path] = program.entry.bytes
            if let data = program.data { files[data] = bundle.manifest.files[data]?.bytes }
        }
        let total = files.values.reduce(0, +)
        let largest = files.values.max() ?? 0
        return need.total + 3 * (total - largest)
    }

    /// What is said before a clip is played, or why it cannot be.
    public func forecast(_ bundle: ModelBundle, seconds: Double) -> Forecast {
        do {
            let need = try Memory.needed(bundle, seconds: seconds)
            let all = try mode(bundle, seconds: seconds) == .allLoaded
            let bytes = humanBytes(all ? Room.all(bundle, need) : need.total)
            let how = all ? "with all programs loaded" : "with one program loaded at a time"
            return Forecast(fits: true, sentence: "Needs about \(bytes) of memory \(how); \(humanBytes(free)) may be taken.")
        } catch {
            return Forecast(fits: false, sentence: error.localizedDescription)
        }
    }
}
