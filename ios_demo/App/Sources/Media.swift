import AVFoundation
import CoreGraphics
import EchoEdgeAppCore
import EchoEdgeCore
import Foundation
import ImageIO
import UIKit

/// Photographs and sounds, decoded by the system.
enum Media {
    private static let piece: AVAudioFrameCount = 1 << 16

    /// A photograph as it is seen, no larger than a clip needs. Throws `input`: it is none.
    static func picture(_ data: Data, _ clip: Clip) throws -> Pixels {
        guard let source = CGImageSourceCreateWithData(data as CFData, nil),
            let facts = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any],
            let width = facts[kCGImagePropertyPixelWidth] as? Int, let height = facts[kCGImagePropertyPixelHeight] as? Int
        else { throw EchoEdgeError.input("This file is no picture that the phone can read. Choose another one.") }
        let turned = (facts[kCGImagePropertyOrientation] as? Int ?? 1) > 4  // its rows are columns
        let longest = Drawn.longestSide(
            width: turned ? height : width, height: turned ? width : height, clipWidth: clip.width, clipHeight: clip.height)
        let options: [CFString: Any] = [
            kCGImageSourceCreateThumbnailFromImageAlways: true, kCGImageSourceCreateThumbnailWithTransform: true,
            kCGImageSourceThumbnailMaxPixelSize: longest,
        ]
        guard let image = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary) else {
            throw EchoEdgeError.input("This picture is damaged. Choose another one.")
        }
        return try pixels(image)
    }

    private static func pixels(_ image: CGImage) throws -> Pixels {
        let (width, height) = (image.width, image.height)
        let rowBytes = 4 * width
        var bytes = [UInt8](repeating: 0, count: rowBytes * height)
        let drawn = bytes.withUnsafeMutableBytes { buffer -> Bool in
            guard let space = CGColorSpace(name: CGColorSpace.sRGB),
                let context = CGContext(
                    data: buffer.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: rowBytes,
                    space: space,
                    bitmapInfo: CGImageAlphaInfo.premultipliedLast.rawValue)
            else { return false }
            context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
            return true
        }
        if !drawn { throw EchoEdgeError.input("This picture of \(width) × \(height) cannot be drawn. Choose another one.") }
        return try Drawn.pixels(bytes, width: width, height: height, rowBytes: rowBytes)
    }

    /// A frame for the screen, as JPEG; nil: the system cannot make one.
    static func jpeg(_ pixels: Pixels) -> Data? {
        guard let provider = CGDataProvider(data: Data(pixels.bytes) as CFData), let space = CGColorSpace(name: CGColorSpace.sRGB),
            let image = CGImage(
                width: pixels.width, height: pixels.height, bitsPerComponent: 8, bitsPerPixel: 24, bytesPerRow: 3 * pixels.width,
                space: space, bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.none.rawValue), provider: provider, decode: nil,
                shouldInterpolate: true, intent: .defaultIntent)
        else { return nil }
        return UIImage(cgImage: image).jpegData(compressionQuality: 0.9)
    }

    /// A file of sound, decoded. WAV files are read by the engine itself, whose numbers are those of every platform; those that it
    /// does not know by the system. Throws `input`.
    static func sound(_ file: URL) throws -> Sound {
        let name = file.lastPathComponent
        if file.pathExtension.lowercased() == "wav", let bytes = try? [UInt8](Data(contentsOf: file)),
            let sound = try? Wav.parse(bytes, name: name)
        {
            return sound
        }
        do {
            let opened = try AVAudioFile(forReading: file)  // its processing format is floats, each channel by itself
            var captured = CapturedSound()
            try captured.format(channels: Int(opened.processingFormat.channelCount), rate: opened.processingFormat.sampleRate)
            while opened.framePosition < opened.length {
                guard let buffer = AVAudioPCMBuffer(pcmFormat: opened.processingFormat, frameCapacity: piece) else {
                    throw EchoEdgeError.resource("There is no memory for \(name). Choose a shorter recording.")
                }
                try opened.read(into: buffer)
                if buffer.frameLength == 0 { break }
                try captured.append(buffer)
            }
            return try captured.sound()
        } catch let error as EchoEdgeError {
            throw error
        } catch {
            throw EchoEdgeError.input(
                "\(name) is no sound that the phone can read (\(error.localizedDescription)). Choose another one.")
        }
    }
}

extension CapturedSound {
    /// A buffer of floats, each channel by itself.
    mutating func append(_ buffer: AVAudioPCMBuffer) throws {
        guard let data = buffer.floatChannelData else {
            throw EchoEdgeError.input("The recording comes in a form that is no floats. Choose another one.")
        }
        let count = Int(buffer.frameLength)
        if buffer.format.isInterleaved {
            try interleaved(UnsafeBufferPointer(start: data[0], count: count * Int(buffer.format.channelCount)))
        } else {
            try apart((0..<Int(buffer.format.channelCount)).map { UnsafeBufferPointer(start: data[$0], count: count) })
        }
    }
}

/// The microphone, while a button is held.
final class Microphone {
    private let engine = AVAudioEngine()
    private let lock = NSLock()
    private var captured = CapturedSound(longest: 600)
    private var problem: (any Error)?

    /// Asks the user; `answer` is called on the main thread.
    static func ask(_ answer: @escaping (Bool) -> Void) {
        AVAudioApplication.requestRecordPermission { allowed in DispatchQueue.main.async { answer(allowed) } }
    }

    /// Throws `input`: there is no microphone, or it is used by somebody else.
    func begin() throws {
        do {
            let session = AVAudioSession.sharedInstance()
            try session.setCategory(.playAndRecord, mode: .measurement, options: [.defaultToSpeaker])
            try session.setActive(true)
            let format = engine.inputNode.outputFormat(forBus: 0)
            try captured.format(channels: Int(format.channelCount), rate: format.sampleRate)
            engine.inputNode.installTap(onBus: 0, bufferSize: 4096, format: format) { [weak self] buffer, _ in self?.take(buffer) }
            engine.prepare()
            try engine.start()
        } catch {
            engine.inputNode.removeTap(onBus: 0)
            throw EchoEdgeError.input(
                "The microphone cannot be used (\(error.localizedDescription)). Close other apps that record.")
        }
    }

    private func take(_ buffer: AVAudioPCMBuffer) {
        lock.lock()
        defer { lock.unlock() }
        if problem != nil { return }
        do { try captured.append(buffer) } catch { problem = error }
    }

    /// What was recorded. Throws `input`: nothing was, or too much.
    func end() throws -> Sound {
        engine.inputNode.removeTap(onBus: 0)
        engine.stop()
        try? AVAudioSession.sharedInstance().setActive(false, options: .notifyOthersOnDeactivation)
        lock.lock()
        defer { lock.unlock() }
        if let problem { throw problem }
        return try captured.sound()
    }
}
