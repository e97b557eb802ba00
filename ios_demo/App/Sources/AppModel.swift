import EchoEdgeAppCore
import EchoEdgeCore
import SwiftUI
import UIKit

/// What the screen shows and what its buttons do. Work is done on a queue of its own, one thing at a time; the screen lives on the
/// main thread, and outlives every rotation.
final class AppModel: ObservableObject {
    @Published private(set) var screen = Screen()
    @Published private(set) var shelf: [URL] = []
    @Published private(set) var portrait: UIImage?
    @Published private(set) var thermal = Phone.thermal
    @Published private(set) var memory = ""
    @Published private(set) var film: URL?
    let player = FramePlayer()

    private let queue = DispatchQueue(label: "ai.echoedge.demo.work", qos: .userInitiated)
    private let phone = Phone()
    private var cancellation = Cancellation()
    private var background = UIBackgroundTaskIdentifier.invalid
    private var microphone: Microphone?
    private var holds = false  // the button that records
    private var bundle: ModelBundle?
    private var photograph: Data?
    private var sound: Sound?
    private var timer: Timer?

    // ---- the screen ----

    func appear() {
        guard timer == nil else { return }
        Bench.sweep(Places.bench)
        queue.async { Places.compiled.prune(keep: nil) }
        look()
        refresh()
        timer = Timer.scheduledTimer(withTimeInterval: 1, repeats: true) { [weak self] _ in self?.look() }
    }

    private func look() {
        thermal = Phone.thermal
        memory = phone.room().words
    }

    func refresh() { shelf = Shelf.bundles(Places.shelves) }

    private func tell(_ event: Event) {
        screen = screen.after(event)
        UIApplication.shared.isIdleTimerDisabled = screen.keepsScreenOn
    }

    private func later(_ event: Event) { DispatchQueue.main.async { self.tell(event) } }

    /// Does something that takes a while, behind the screen. `body` gives the sentence that it ends with.
    private func work(_ work: Work, _ body: @escaping (Cancellation) throws -> Message) {
        guard screen.work == .nothing else { return }
        tell(.began(work))
        let cancellation = Cancellation()
        self.cancellation = cancellation
        background = UIApplication.shared.beginBackgroundTask(withName: "\(work)") { [weak self] in
            cancellation.cancel()  // the system gives no more time
            self?.endBackground()
        }
        queue.async {
            let message: Message
            do {
                message = try body(cancellation)
            } catch {
                let stopped = (error as? EchoEdgeError)?.kind == .cancelled
                message = stopped ? Message(Words.stopped(work)) : Message(Words.problem(error), fault: true)
            }
            DispatchQueue.main.async {
                self.tell(.ended(message.text, fault: message.fault))
                self.refresh()
                self.endBackground()
            }
        }
    }

    private func endBackground() {
        if background == .invalid { return }
        UIApplication.shared.endBackgroundTask(background)
        background = .invalid
    }

    func cancel() {
        tell(.cancel)
        cancellation.cancel()
    }

    // ---- bundles ----

    func openBundle(_ folder: URL) {
        work(.opening) { cancellation in
            let bundle = try ModelBundle.open(folder) { done, total in
                if cancellation.isCancelled { throw EchoEdgeError.cancelled }
                self.later(Self.arrived(folder.lastPathComponent, done, total))
            }
            let opened = try self.opened(bundle)
            DispatchQueue.main.async {
                self.bundle = bundle
                self.tell(.bundleOpened(opened, self.forecast(bundle)))
            }
            return Message("")
        }
    }

    private func opened(_ bundle: ModelBundle) throws -> Opened {
        let clip = bundle.manifest.clips[0]
        let player = try Player(bundle, NoPrograms())
        return Opened(
            name: bundle.root.lastPathComponent, width: clip.width, height: clip.height, fps: clip.fps,
            clipSeconds: Double(clip.frames) / Double(clip.fps), readsText: player.readsText, prompts: player.knownPrompts,
            problem: Backends.problem(bundle))
    }

    private func forecast(_ bundle: ModelBundle?) -> Forecast? {
        guard let bundle, let sound else { return nil }
        return phone.room().forecast(bundle, seconds: Double(sound.length) / Double(sound.rate))
    }

    /// A folder that the system hands over: where it lies in the app's own already, it is opened there.
    func receive(_ folder: URL) {
        let own = folder.resolvingSymlinksInPath().path.hasPrefix(Places.documents.resolvingSymlinksInPath().path)
        if own { openBundle(folder) } else { copyBundle(folder) }
    }

    /// A folder that was picked in Files.
    func copyBundle(_ folder: URL) {
        work(.copying) { cancellation in
            let granted = folder.startAccessingSecurityScopedResource()
            defer { if granted { folder.stopAccessingSecurityScopedResource() } }
            let arrival = try self.arrival(Arrival.name(of: folder.lastPathComponent), cancellation)
            let place = try Import.copy(folder, arrival)
            DispatchQueue.main.async { self.close(place) }
            return Message("\(arrival.name) is here.")
        }
    }

    func fetchBundle(_ address: String) {
        work(.fetching) { cancellation in
            let arrival = try self.arrival(Fetch.name(address), cancellation)
            let downloader = Downloader()
            defer { downloader.close() }
            let place = try Fetch(arrival, downloader).fetch(address)
            DispatchQueue.main.async { self.close(place) }
            return Message("\(arrival.name) is here.")
        }
    }

    private func arrival(_ name: String, _ cancellation: Cancellation) throws -> Arrival {
        try Places.make(Places.bundles)
        return try Arrival(
            Places.bundles, name, freeBytes: Phone.freeBytes, told: { self.later(Self.arrived(name, $0, $1)) },
            cancelled: { cancellation.isCancelled })
    }

    private static func arrived(_ name: String, _ done: Int, _ total: Int) -> Event {
        let (text, share) = Words.arriving(name, done, total)
        return .told(text, share: share)
    }

    /// Removes a bundle, and what was compiled of packages that no other one has.
    func removeBundle(_ folder: URL) {
        guard screen.canChooseBundle else { return }
        close(folder)
        Shelf.remove(folder)
        refresh()
        queue.async { Places.tidy() }
    }

    /// A bundle whose files are gone, or others by now, is not open any more. One folder may have several paths.
    private func close(_ folder: URL) {
        guard bundle?.root.resolvingSymlinksInPath().path == folder.resolvingSymlinksInPath().path else { return }
        bundle = nil
        tell(.bundleGone)
    }

    // ---- portrait and voice ----

    func choose(photograph data: Data?) {
        guard screen.canChoosePortrait, let data, let image = UIImage(data: data) else { return }
        photograph = data
        portrait = image
        player.hide()
        tell(.portrait(true))
    }

    func choose(sound file: URL) {
        work(.reading) { _ in
            let granted = file.startAccessingSecurityScopedResource()
            defer { if granted { file.stopAccessingSecurityScopedResource() } }
            let sound = try Media.sound(file)
            DispatchQueue.main.async { self.take(sound) }
            return Message("")
        }
    }

    private func take(_ sound: Sound) {
        self.sound = sound
        tell(.sound(Double(sound.length) / Double(sound.rate), forecast(bundle)))
    }

    func beginRecording() {
        guard screen.work == .nothing, microphone == nil else { return }
        holds = true
        Microphone.ask { allowed in
            guard self.holds, self.screen.work == .nothing else { return }  // whoever was asked first has let go meanwhile
            self.player.stop()  // or it would be recorded, too
            self.tell(.began(.recording))
            do {
                if !allowed { throw EchoEdgeError.input("The app may not use the microphone. Allow it in Settings, EchoEdge.") }
                let microphone = Microphone()
                try microphone.begin()
                self.microphone = microphone
                self.tell(.told(Words.begin(.recording), share: nil))
            } catch {
                self.tell(.ended(Words.problem(error), fault: true))
            }
        }
    }

    func endRecording() {
        holds = false
        guard let microphone else { return }
        self.microphone = nil
        do {
            let sound = try microphone.end()
            tell(.ended("", fault: false))
            take(sound)
        } catch {
            tell(.ended(Words.problem(error), fault: true))
        }
    }

    func write(prompt: String) { tell(.prompt(prompt)) }

    // ---- playing ----

    func play() {
        guard screen.canPlay, let bundle, let photograph, let sound else { return }
        let prompt = screen.playedPrompt
        film = nil
        work(.playing) { cancellation in try self.played(bundle, photograph, sound, prompt, cancellation) }
    }

    private func played(
        _ bundle: ModelBundle, _ photograph: Data, _ sound: Sound, _ prompt: String, _ cancellation: Cancellation
    ) throws -> Message {
        let clip = bundle.manifest.clips[0]
        let mode = try phone.room().mode(bundle, seconds: Double(sound.length) / Double(sound.rate))
        let programs = try Backends.programs(bundle) { self.later(.loaded(Words.loaded($0))) }
        let plan = try bundle.plan()
        let player = try Player(
            bundle, programs, frugal: mode == .oneByOne,
            progress: { stage, done, total in
                let (text, share) = Words.progress(stage, done, total, plan)
                self.later(.told(text, share: share))
            }, cancelled: { cancellation.isCancelled })
        defer { player.free() }
        let picture = try Pictures.portrait(Media.picture(photograph, clip), height: clip.height, width: clip.width)
        let speech = try Speech.of(sound, sampleRate: clip.sampleRate, fps: clip.fps)
        let (frames, _) = try Playing.length(speech.count, clip, temporalStride: bundle.manifest.playing.temporalStride)
        let voice = Film.voice(speech, frames: frames, fps: clip.fps, sampleRate: clip.sampleRate)
        let file = Places.films.appendingPathComponent(FilmPlan.name(bundle.root.lastPathComponent))
        let writer = try FilmWriter(file, clip, voice: voice, frames: frames)
        DispatchQueue.main.async { self.player.begin(clip, frames: frames, voice: voice) }
        let began = phone.now()
        do {
            let played = try player.play(picture, speech, prompt: prompt) { number, frame in
                let image = try pooled {
                    try writer.take(number, frame)
                    return Media.jpeg(frame)
                }
                DispatchQueue.main.async {
                    if let image { self.player.take(image) }
                    if number == 0 { self.tell(.firstFrame) }
                }
            }
            let seconds = phone.now() - began
            try writer.end()
            let figures = Words.figures(
                played, seconds: seconds, fps: clip.fps, mode: mode, memory: phone.room().words, thermal: Phone.thermal)
            DispatchQueue.main.async {
                self.film = file
                self.tell(.film(figures))
            }
        } catch {
            writer.discard()
            DispatchQueue.main.async { self.player.stop() }
            throw error
        }
        tidy()
        return Message("")
    }

    private func tidy() {
        let keys: [URLResourceKey] = [.contentModificationDateKey]
        let found = (try? FileManager.default.contentsOfDirectory(at: Places.films, includingPropertiesForKeys: keys)) ?? []
        let films = found.map { ($0, (try? $0.resourceValues(forKeys: Set(keys)))?.contentModificationDate ?? .distantPast) }
        for film in FilmPlan.tooMany(films.map { (url: $0.0, made: $0.1) }) { try? FileManager.default.removeItem(at: film) }
    }

    // ---- proofs ----

    func verify() {
        guard screen.canVerify, let bundle else { return }
        work(.verifying) { cancellation in
            let cancelled = { cancellation.isCancelled }
            let clip = bundle.manifest.clips[0]
            _ = try self.phone.room().mode(bundle, seconds: Double(clip.frames) / Double(clip.fps))
            let own = try Backends.programs(bundle) { self.later(.loaded(Words.loaded($0))) }
            let programs = CancellablePrograms(own, cancelled: cancelled)
            let player = try Player(bundle, programs, cancelled: cancelled)
            var rows: [VerifyRow] = []
            try Golden(bundle).verify(programs, player) { verdict in
                rows.append(Words.row(verdict))
                self.later(.told("\(verdict.name) is compared.", share: nil))
                self.later(.verified(rows))
            }
            return Words.verdict(rows)
        }
    }
}

/// Of a player that is only asked what it knows.
private final class NoPrograms: Programs {
    func load(_ program: Program) throws { throw EchoEdgeError.engine("\(program.name) is not to be run here.") }

    func run(_ program: Program, _ method: String, _ inputs: [String: any Tensor]) throws -> [String: any Tensor] {
        throw EchoEdgeError.engine("\(program.name) is not to be run here.")
    }

    func free(_ program: Program) {}
}
