import AVFoundation
import EchoEdgeAppCore
import EchoEdgeCore
import SwiftUI
import UIKit

/// Shows a film while its frames are still made: the first frame at once, then picture and voice together as soon as they will not
/// have to wait. Used on the main thread.
final class FramePlayer: NSObject, ObservableObject {
    @Published private(set) var image: CGImage?
    private var frames: [Data] = []  // JPEG: a film of raw frames would not fit into memory
    private var playback: Playback?
    private var voice: AVAudioPlayer?
    private var link: CADisplayLink?
    private var shown = -1
    private var waits = false

    /// A clip of so many frames comes, with its voice as samples at the clip's rate.
    func begin(_ clip: Clip, frames total: Int, voice samples: [Float]) {
        stop()
        image = nil
        frames = []
        playback = Playback(fps: clip.fps, total: total)
        let bytes = WavBytes.of(FilmPlan.pcm(samples[...]), rate: clip.sampleRate)
        voice = try? AVAudioPlayer(data: Data(bytes), fileTypeHint: AVFileType.wav.rawValue)
        follow()
    }

    /// A frame as JPEG.
    func take(_ frame: Data) {
        frames.append(frame)
        playback?.frame(now)
        if frames.count == 1 { image = UIImage(data: frame)?.cgImage }
    }

    /// Plays what is there from its beginning.
    func again() {
        guard var replay = playback, let clip = voice, link == nil, !frames.isEmpty else { return }
        replay.rewind()
        playback = replay
        clip.currentTime = 0
        follow()
    }

    /// Another photograph is to be seen.
    func hide() {
        stop()
        image = nil
    }

    private func follow() {
        let session = AVAudioSession.sharedInstance()  // a recording leaves it in a mode of its own
        try? session.setCategory(.playback, mode: .moviePlayback)
        try? session.setActive(true)
        let link = CADisplayLink(target: self, selector: #selector(tick))
        link.add(to: .main, forMode: .common)
        self.link = link
    }

    func stop() {
        link?.invalidate()
        link = nil
        voice?.stop()
        (shown, waits) = (-1, false)
    }

    private var now: Double { ProcessInfo.processInfo.systemUptime }

    @objc private func tick() {
        guard var playback else { return }
        if playback.mayBegin(now) {
            playback.begin(now)
            voice?.play()
        }
        let heldBefore = playback.held
        if let number = playback.shown(now), number != shown, number < frames.count {
            image = UIImage(data: frames[number])?.cgImage
            shown = number
        }
        if playback.held > heldBefore {
            voice?.pause()  // the picture waits for its next frame, and so does the voice
            waits = true
        } else if waits {
            voice?.play()
            waits = false
        }
        self.playback = playback
        if playback.ended(now) { stop() }
    }
}
