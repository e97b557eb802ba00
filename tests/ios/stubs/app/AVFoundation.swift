// What the app's writer of films uses of AVFoundation.
@_exported import CoreMedia
@_exported import CoreVideo
@_exported import Foundation

public let AVVideoCodecKey = ""
public let AVVideoWidthKey = ""
public let AVVideoHeightKey = ""
public let AVVideoColorPropertiesKey = ""
public let AVVideoColorPrimariesKey = ""
public let AVVideoColorPrimaries_ITU_R_709_2 = ""
public let AVVideoTransferFunctionKey = ""
public let AVVideoTransferFunction_ITU_R_709_2 = ""
public let AVVideoYCbCrMatrixKey = ""
public let AVVideoYCbCrMatrix_ITU_R_709_2 = ""
public let AVVideoCompressionPropertiesKey = ""
public let AVVideoAverageBitRateKey = ""
public let AVVideoProfileLevelKey = ""
public let AVVideoProfileLevelH264HighAutoLevel = ""
public let AVVideoExpectedSourceFrameRateKey = ""
public let AVFormatIDKey = ""
public let AVSampleRateKey = ""
public let AVNumberOfChannelsKey = ""

public struct AVFileType {
    public static let mp4 = AVFileType()
}

public struct AVMediaType {
    public static let video = AVMediaType()
    public static let audio = AVMediaType()
}

public struct AVVideoCodecType {
    public static let h264 = AVVideoCodecType()
}

public final class AVAssetWriterInput {
    public init(mediaType: AVMediaType, outputSettings: [String: Any]?) {}
    public var mediaTimeScale: CMTimeScale = 0
    public var expectsMediaDataInRealTime = false
    public var isReadyForMoreMediaData: Bool { fatalError() }
    public func append(_ sampleBuffer: CMSampleBuffer) -> Bool { fatalError() }
    public func markAsFinished() {}
}

public final class AVAssetWriter {
    public enum Status: Int { case unknown, writing, completed, failed, cancelled }

    public init(outputURL: URL, fileType: AVFileType) throws {}
    public var status: Status { fatalError() }
    public var error: (any Error)? { fatalError() }
    public func canAdd(_ input: AVAssetWriterInput) -> Bool { fatalError() }
    public func add(_ input: AVAssetWriterInput) {}
    public func startWriting() -> Bool { fatalError() }
    public func startSession(atSourceTime startTime: CMTime) {}
    public func endSession(atSourceTime endTime: CMTime) {}
    public func finishWriting(completionHandler handler: @escaping () -> Void) {}
    public func cancelWriting() {}
}

public final class AVAssetWriterInputPixelBufferAdaptor {
    public init(assetWriterInput input: AVAssetWriterInput, sourcePixelBufferAttributes: [String: Any]?) {}
    public var pixelBufferPool: CVPixelBufferPool? { fatalError() }
    public func append(_ pixelBuffer: CVPixelBuffer, withPresentationTime presentationTime: CMTime) -> Bool { fatalError() }
}
