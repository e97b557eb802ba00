import AVFoundation
import CoreMedia
import CoreVideo
import EchoEdgeAppCore
import EchoEdgeCore
import Foundation

/// Writes a film while its frames are made: H.264 in BT.709, limited range, and AAC. Every frame has its time by the engine's rule.
final class FilmWriter {
    private static let patience = 30.0  // seconds that an encoder may take for one frame
    private let clip: Clip
    private let voice: [Float]
    private let frames: Int
    private let file: URL, beside: URL
    private let writer: AVAssetWriter
    private let video: AVAssetWriterInput, sound: AVAssetWriterInput
    private let adaptor: AVAssetWriterInputPixelBufferAdaptor
    private let format: CMAudioFormatDescription

    /// `voice`: of the whole film; `frames`: how many will come. Throws `resource`: the system has no encoder for it, or no room.
    init(_ file: URL, _ clip: Clip, voice: [Float], frames: Int) throws {
        (self.clip, self.file, self.voice, self.frames) = (clip, file, voice, frames)
        beside = file.deletingPathExtension().appendingPathExtension("partial.mp4")
        try? FileManager.default.removeItem(at: beside)
        do {
            try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
            writer = try AVAssetWriter(outputURL: beside, fileType: .mp4)
        } catch {
            throw EchoEdgeError.resource("The film cannot be written (\(error.localizedDescription)). Free some space.")
        }
        let bits = FilmPlan.videoBits(width: clip.width, height: clip.height, fps: clip.fps)
        video = AVAssetWriterInput(
            mediaType: .video,
            outputSettings: [
                AVVideoCodecKey: AVVideoCodecType.h264, AVVideoWidthKey: clip.width, AVVideoHeightKey: clip.height,
                AVVideoColorPropertiesKey: [
                    AVVideoColorPrimariesKey: AVVideoColorPrimaries_ITU_R_709_2,
                    AVVideoTransferFunctionKey: AVVideoTransferFunction_ITU_R_709_2,
                    AVVideoYCbCrMatrixKey: AVVideoYCbCrMatrix_ITU_R_709_2,
                ],
                AVVideoCompressionPropertiesKey: [
                    AVVideoAverageBitRateKey: bits, AVVideoProfileLevelKey: AVVideoProfileLevelH264HighAutoLevel,
                    AVVideoExpectedSourceFrameRateKey: clip.fps,
                ],
            ])
        video.mediaTimeScale = CMTimeScale(Film.timeScale(clip.fps))
        sound = AVAssetWriterInput(
            mediaType: .audio,
            outputSettings: [
                AVFormatIDKey: kAudioFormatMPEG4AAC, AVSampleRateKey: clip.sampleRate, AVNumberOfChannelsKey: 1,
            ])
        adaptor = AVAssetWriterInputPixelBufferAdaptor(
            assetWriterInput: video,
            sourcePixelBufferAttributes: [
                kCVPixelBufferPixelFormatTypeKey as String: kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange,
                kCVPixelBufferWidthKey as String: clip.width, kCVPixelBufferHeightKey as String: clip.height,
            ])
        format = try FilmWriter.soundFormat(clip.sampleRate)
        for input in [video, sound] {
            input.expectsMediaDataInRealTime = false
            if !writer.canAdd(input) { throw EchoEdgeError.resource("This phone has no encoder for \(clip). Play another shape.") }
            writer.add(input)
        }
        if !writer.startWriting() { throw failure() }
        writer.startSession(atSourceTime: .zero)
    }

    /// Appends a frame and its part of the voice. Throws `resource`.
    func take(_ number: Int, _ frame: Pixels) throws {
        let buffer = try buffer(frame)
        try wait(video)
        if !adaptor.append(buffer, withPresentationTime: time(number)) { throw failure() }
        let samples = Film.samples(number, clip.fps, clip.sampleRate).clamped(to: 0..<voice.count)
        if samples.isEmpty { return }
        let piece = try piece(samples)
        try wait(sound)
        if !sound.append(piece) { throw failure() }
    }

    /// Closes the film; it gets its name when it is whole. Throws `resource`.
    func end() throws {
        video.markAsFinished()
        sound.markAsFinished()
        writer.endSession(atSourceTime: time(frames))  // else the last frame would last as long as the system likes
        let done = DispatchSemaphore(value: 0)
        writer.finishWriting { done.signal() }
        done.wait()
        if writer.status != .completed { throw failure() }
        do {
            try FileManager.default.moveItem(at: beside, to: file)
        } catch {
            throw EchoEdgeError.resource("The film cannot be kept (\(error.localizedDescription)). Free some space.")
        }
    }

    /// Throws it away.
    func discard() {
        if writer.status == .writing { writer.cancelWriting() }
        try? FileManager.default.removeItem(at: beside)
    }

    private func time(_ number: Int) -> CMTime {
        CMTime(value: CMTimeValue(Film.ticks(number, clip.fps)), timescale: CMTimeScale(Film.timeScale(clip.fps)))
    }

    private func failure() -> EchoEdgeError {
        .resource("The film cannot be written (\(writer.error?.localizedDescription ?? "no reason was told")). Free some space.")
    }

    private func wait(_ input: AVAssetWriterInput) throws {
        let began = ProcessInfo.processInfo.systemUptime
        while !input.isReadyForMoreMediaData {
            if writer.status != .writing || ProcessInfo.processInfo.systemUptime - began > FilmWriter.patience { throw failure() }
            Thread.sleep(forTimeInterval: 0.005)
        }
    }

    private func buffer(_ frame: Pixels) throws -> CVPixelBuffer {
        var made: CVPixelBuffer?
        if let pool = adaptor.pixelBufferPool { CVPixelBufferPoolCreatePixelBuffer(nil, pool, &made) }
        guard let buffer = made else { throw failure() }
        let yuv = try Film.yuv(frame)
        CVPixelBufferLockBaseAddress(buffer, [])
        defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
        fill(buffer, 0, yuv.y, rowBytes: clip.width)
        fill(buffer, 1, yuv.uv, rowBytes: clip.width)
        for (key, value) in [
            (kCVImageBufferYCbCrMatrixKey, kCVImageBufferYCbCrMatrix_ITU_R_709_2),
            (kCVImageBufferColorPrimariesKey, kCVImageBufferColorPrimaries_ITU_R_709_2),
            (kCVImageBufferTransferFunctionKey, kCVImageBufferTransferFunction_ITU_R_709_2),
        ] { CVBufferSetAttachment(buffer, key, value, .shouldPropagate) }
        return buffer
    }

    private func fill(_ buffer: CVPixelBuffer, _ plane: Int, _ bytes: [UInt8], rowBytes: Int) {
        guard let base = CVPixelBufferGetBaseAddressOfPlane(buffer, plane) else { return }
        let stride = CVPixelBufferGetBytesPerRowOfPlane(buffer, plane)
        bytes.withUnsafeBytes { bytes in
            for row in 0..<(bytes.count / rowBytes) {
                let line = UnsafeRawBufferPointer(rebasing: bytes[(row * rowBytes)..<((row + 1) * rowBytes)])
                UnsafeMutableRawBufferPointer(start: base + row * stride, count: rowBytes).copyMemory(from: line)
            }
        }
    }

    private static func soundFormat(_ rate: Int) throws -> CMAudioFormatDescription {
        var basic = AudioStreamBasicDescription(
            mSampleRate: Double(rate), mFormatID: kAudioFormatLinearPCM,
            mFormatFlags: kAudioFormatFlagIsSignedInteger | kAudioFormatFlagIsPacked, mBytesPerPacket: 2, mFramesPerPacket: 1,
            mBytesPerFrame: 2, mChannelsPerFrame: 1, mBitsPerChannel: 16, mReserved: 0)
        var made: CMAudioFormatDescription?
        CMAudioFormatDescriptionCreate(
            allocator: nil, asbd: &basic, layoutSize: 0, layout: nil, magicCookieSize: 0, magicCookie: nil, extensions: nil,
            formatDescriptionOut: &made)
        guard let made else { throw EchoEdgeError.resource("This phone encodes no sound of \(rate) Hz. Play another bundle.") }
        return made
    }

    private func piece(_ samples: Range<Int>) throws -> CMSampleBuffer {
        let bytes = FilmPlan.pcm(voice[samples])
        var block: CMBlockBuffer?
        CMBlockBufferCreateWithMemoryBlock(
            allocator: nil, memoryBlock: nil, blockLength: bytes.count, blockAllocator: nil, customBlockSource: nil,
            offsetToData: 0,
            dataLength: bytes.count, flags: kCMBlockBufferAssureMemoryNowFlag, blockBufferOut: &block)
        guard let block else { throw failure() }
        CMBlockBufferReplaceDataBytes(with: bytes, blockBuffer: block, offsetIntoDestination: 0, dataLength: bytes.count)
        var made: CMSampleBuffer?
        CMAudioSampleBufferCreateReadyWithPacketDescriptions(
            allocator: nil, dataBuffer: block, formatDescription: format, sampleCount: samples.count,
            presentationTimeStamp: CMTime(value: CMTimeValue(samples.lowerBound), timescale: CMTimeScale(clip.sampleRate)),
            packetDescriptions: nil, sampleBufferOut: &made)
        guard let made else { throw failure() }
        return made
    }
}
