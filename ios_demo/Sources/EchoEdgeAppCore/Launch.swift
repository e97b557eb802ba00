/// What the arguments of a start ask of the app as a benchmark's player: `--bench ACTION --job WORD [--folders A,B] [--keep]`.
public struct Launch: Equatable, Sendable {
    public enum Action: String, Sendable { case prepare, run, clean }

    public let action: Action
    public let word: String
    public let folders: [String]
    public let keep: Bool

    /// nil: the app was opened by hand. What comes from elsewhere (Xcode adds arguments of its own) is left alone, so that only a
    /// whole and right request is one; a folder's name that leads out of the job's folder makes it none.
    public init?(_ arguments: [String]) {
        func after(_ name: String) -> String? {
            guard let place = arguments.firstIndex(of: name), place + 1 < arguments.count else { return nil }
            return arguments[place + 1]
        }
        guard let action = after("--bench").flatMap(Action.init(rawValue:)), let word = after("--job"), Job.isWord(word) else {
            return nil
        }
        let folders = after("--folders")?.split(separator: ",").map(String.init) ?? []
        guard folders.allSatisfy(isInside) else { return nil }
        self.action = action
        self.word = word
        self.folders = folders
        keep = arguments.contains("--keep")
    }
}

/// Whether a path stays in the folder that it is of: no root, no "..", no empty part, no backslash or NUL.
public func isInside(_ path: String) -> Bool {
    let parts = path.split(separator: "/", omittingEmptySubsequences: false)
    let odd = path.utf8.contains { $0 == 0 || $0 == UInt8(ascii: "\\") }
    return !parts.isEmpty && !odd && parts.allSatisfy { !$0.isEmpty && $0 != "." && $0 != ".." }
}
