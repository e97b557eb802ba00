import EchoEdgeCore

/// What the app is doing, one thing at a time.
public enum Work: CaseIterable, Sendable { case nothing, opening, copying, fetching, recording, reading, playing, verifying }

/// A bundle as the screen needs it. `readsText`: any prompt can be played; otherwise `prompts` are those that can. `problem`: why
/// this phone cannot play it.
public struct Opened: Equatable, Sendable {
    public let name: String
    public let width: Int, height: Int, fps: Int
    public let clipSeconds: Double
    public let readsText: Bool
    public let prompts: [String]
    public let problem: String?

    public init(
        name: String, width: Int, height: Int, fps: Int, clipSeconds: Double, readsText: Bool, prompts: [String],
        problem: String? = nil
    ) {
        (self.name, self.width, self.height, self.fps) = (name, width, height, fps)
        (self.clipSeconds, self.readsText, self.prompts, self.problem) = (clipSeconds, readsText, prompts, problem)
    }
}

/// What the line for messages shows, and whether it is a fault.
public struct Message: Equatable, Sendable {
    public let text: String
    public let fault: Bool

    public init(_ text: String, fault: Bool = false) { (self.text, self.fault) = (text, fault) }
}

/// A name and its value, as the table of figures shows them.
public struct Figure: Equatable, Sendable {
    public let name: String, value: String

    public init(_ name: String, _ value: String) { (self.name, self.value) = (name, value) }
}

/// What happens to the screen.
public enum Event: Sendable {
    /// Something began that takes a while.
    case began(Work)
    /// How far it is: a sentence, and a share from 0 to 1 where there is one.
    case told(String, share: Double?)
    /// The user wants it to end.
    case cancel
    /// It ended; a sentence for the user, "" for none.
    case ended(String, fault: Bool)
    case bundleOpened(Opened, Forecast?)
    case bundleGone
    /// A photograph is there, or none any more.
    case portrait(Bool)
    /// A sound of so many seconds is there; nil: none any more.
    case sound(Double?, Forecast?)
    case prompt(String)
    /// The first frame of a clip exists.
    case firstFrame
    /// A film is whole and can be shared.
    case film([Figure])
    case verified([VerifyRow])
    /// A program was loaded; a sentence that tells a first load from a second one.
    case loaded(String)
}

/// The app's one screen, without its views: what is there, what goes on, and which buttons may be pressed. Events make one of
/// another; what does not fit changes nothing.
public struct Screen: Equatable, Sendable {
    public private(set) var work = Work.nothing
    public private(set) var cancelling = false
    public private(set) var bundle: Opened?
    public private(set) var portrait = false
    public private(set) var soundSeconds: Double?
    public private(set) var prompt = ""
    public private(set) var forecast: Forecast?
    public private(set) var progress = ""
    public private(set) var share: Double?
    public private(set) var firstFrame = false
    public private(set) var film = false
    public private(set) var figures: [Figure] = []
    public private(set) var verified: [VerifyRow] = []
    public private(set) var loads: [String] = []
    public private(set) var message: Message?

    public init() {}

    private var idle: Bool { work == .nothing }

    public var canChooseBundle: Bool { idle }
    public var canChoosePortrait: Bool { idle }
    public var canChooseSound: Bool { idle }

    /// Holding the button begins a recording, letting it go ends it.
    public var canRecord: Bool { idle || work == .recording }

    /// Only where the bundle takes prompts; of one that knows a single text there is nothing to write.
    public var showsPrompt: Bool { bundle.map { $0.readsText || $0.prompts.count > 1 } ?? false }

    public var canPlay: Bool { idle && whyNot == nil }
    public var canVerify: Bool { idle && bundle != nil && bundle?.problem == nil }
    public var canCancel: Bool { !idle && ![.recording, .reading].contains(work) && !cancelling }
    public var canShare: Bool { idle && film }
    /// A screen that locks would put the app into the background, where it is given half a minute.
    public var keepsScreenOn: Bool { !idle }

    /// What a user has to do before a clip can be played; nil: nothing.
    public var whyNot: String? {
        guard let bundle else { return "Choose a bundle." }
        if let problem = bundle.problem { return problem }
        if !portrait { return "Choose or take a photograph." }
        if soundSeconds == nil { return "Record or choose a voice." }
        if let forecast, !forecast.fits { return forecast.sentence }
        if !bundle.readsText && showsPrompt && !bundle.prompts.contains(prompt) {
            return "The bundle knows these prompts: \(bundle.prompts.joined(separator: ", "))."
        }
        return nil
    }

    /// The text that a clip is played with.
    public var playedPrompt: String {
        guard let bundle, !showsPrompt else { return prompt }
        return bundle.prompts.count == 1 ? bundle.prompts[0] : ""
    }

    /// The line under the buttons: what goes on, else what was said last, else what to do.
    public var line: String {
        if cancelling && [.playing, .verifying].contains(work) { return "Stopping: the program that runs is still finished." }
        if cancelling { return "Stopping …" }
        if !idle { return progress }
        if let message { return message.text }
        return whyNot ?? forecast?.sentence ?? ""
    }

    /// The screen after something happened.
    public func after(_ event: Event) -> Screen {
        var next = self
        switch event {
        case .began(let work): if idle && work != .nothing { next.begin(work) }
        case .told(let text, let share): if !idle { (next.progress, next.share) = (text, share) }
        case .cancel: if canCancel { next.cancelling = true }
        case .ended(let text, let fault):
            (next.work, next.cancelling, next.progress, next.share) = (.nothing, false, "", nil)
            next.message = text.isEmpty ? nil : Message(text, fault: fault)
        case .bundleOpened(let bundle, let forecast): next.open(bundle, forecast)
        case .bundleGone: (next.bundle, next.forecast, next.verified, next.loads) = (nil, nil, [], [])
        case .portrait(let there): next.portrait = there
        case .sound(let seconds, let forecast): (next.soundSeconds, next.forecast) = (seconds, forecast)
        case .prompt(let text): if idle { next.prompt = text }
        case .firstFrame: if work == .playing { next.firstFrame = true }
        case .film(let figures): if work == .playing { (next.film, next.figures) = (true, figures) }
        case .verified(let rows): if work == .verifying { next.verified = rows }
        case .loaded(let text): if !idle { next.loads.append(text) }
        }
        return next
    }

    private mutating func begin(_ work: Work) {
        (self.work, cancelling, progress, share, message) = (work, false, Words.begin(work), nil, nil)
        if work == .playing { (firstFrame, film, figures, loads) = (false, false, [], []) }
        if work == .verifying { (verified, loads) = ([], []) }
    }

    private mutating func open(_ bundle: Opened, _ forecast: Forecast?) {
        (self.bundle, self.forecast, verified, loads) = (bundle, forecast, [], [])
        (film, firstFrame, figures) = (false, false, [])
        if !bundle.readsText && !bundle.prompts.contains(prompt) { prompt = bundle.prompts.first ?? "" }
    }
}
