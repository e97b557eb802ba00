// What the app uses of Core Media and Core Audio's types.
public typealias CMTimeValue = Int64
public typealias CMTimeScale = Int32
public typealias OSStatus = Int32
public typealias CMBlockBufferFlags = UInt32

public struct CMTime {
    public static let zero = CMTime(value: 0, timescale: 1)
    public init(value: CMTimeValue, timescale: CMTimeScale) {}
}

public final class CFAllocator {}
public final class CMAudioFormatDescription {}
public final class CMBlockBuffer {}
public final class CMSampleBuffer {}
public struct AudioStreamPacketDescription {}

public struct AudioStreamBasicDescription {
    public init(
        mSampleRate: Double, mFormatID: UInt32, mFormatFlags: UInt32, mBytesPerPacket: UInt32, mFramesPerPacket: UInt32,
        mBytesPerFrame: UInt32, mChannelsPerFrame: UInt32, mBitsPerChannel: UInt32, mReserved: UInt32
    ) {}
}

public let kAudioFormatLinearPCM: UInt32 = 0
public let kAudioFormatMPEG4AAC: UInt32 = 0
public let kAudioFormatFlagIsSignedInteger: UInt32 = 0
public let kAudioFormatFlagIsPacked: UInt32 = 0
public let kCMBlockBufferAssureMemoryNowFlag: CMBlockBufferFlags = 0

@discardableResult public func CMAudioFormatDescriptionCreate(
    allocator: CFAllocator?, asbd: UnsafePointer<AudioStreamBasicDescription>, layoutSize: Int, layout: UnsafeRawPointer?,
    magicCookieSize: Int, magicCookie: UnsafeRawPointer?, extensions: AnyObject?,
    formatDescriptionOut: UnsafeMutablePointer<CMAudioFormatDescription?>
) -> OSStatus { fatalError() }

@discardableResult public func CMBlockBufferCreateWithMemoryBlock(
    allocator: CFAllocator?, memoryBlock: UnsafeMutableRawPointer?, blockLength: Int, blockAllocator: CFAllocator?,
    customBlockSource: UnsafeRawPointer?, offsetToData: Int, dataLength: Int, flags: CMBlockBufferFlags,
    blockBufferOut: UnsafeMutablePointer<CMBlockBuffer?>
) -> OSStatus { fatalError() }

@discardableResult public func CMBlockBufferReplaceDataBytes(
    with sourceBytes: UnsafeRawPointer, blockBuffer destinationBuffer: CMBlockBuffer, offsetIntoDestination: Int, dataLength: Int
) -> OSStatus { fatalError() }

@discardableResult public func CMAudioSampleBufferCreateReadyWithPacketDescriptions(
    allocator: CFAllocator?, dataBuffer: CMBlockBuffer, formatDescription: CMAudioFormatDescription, sampleCount: Int,
    presentationTimeStamp: CMTime, packetDescriptions: UnsafePointer<AudioStreamPacketDescription>?,
    sampleBufferOut: UnsafeMutablePointer<CMSampleBuffer?>
) -> OSStatus { fatalError() }
