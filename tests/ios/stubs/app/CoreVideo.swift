// What the app uses of Core Video. Its names are texts of Core Foundation there, which `as String` makes Swift's.
public typealias CFString = String

public let kCVPixelBufferPixelFormatTypeKey: CFString = ""
public let kCVPixelBufferWidthKey: CFString = ""
public let kCVPixelBufferHeightKey: CFString = ""
public let kCVImageBufferYCbCrMatrixKey: CFString = ""
public let kCVImageBufferYCbCrMatrix_ITU_R_709_2: CFString = ""
public let kCVImageBufferColorPrimariesKey: CFString = ""
public let kCVImageBufferColorPrimaries_ITU_R_709_2: CFString = ""
public let kCVImageBufferTransferFunctionKey: CFString = ""
public let kCVImageBufferTransferFunction_ITU_R_709_2: CFString = ""
public let kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange: UInt32 = 0

public final class CVPixelBuffer {}
public final class CVPixelBufferPool {}
public enum CVAttachmentMode { case shouldNotPropagate, shouldPropagate }

public struct CVPixelBufferLockFlags: OptionSet {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

@discardableResult public func CVPixelBufferPoolCreatePixelBuffer(
    _ allocator: AnyObject?, _ pool: CVPixelBufferPool, _ buffer: UnsafeMutablePointer<CVPixelBuffer?>
) -> Int32 { fatalError() }
@discardableResult public func CVPixelBufferLockBaseAddress(_ buffer: CVPixelBuffer, _ flags: CVPixelBufferLockFlags) -> Int32 {
    fatalError()
}
@discardableResult public func CVPixelBufferUnlockBaseAddress(_ buffer: CVPixelBuffer, _ flags: CVPixelBufferLockFlags) -> Int32 {
    fatalError()
}
public func CVPixelBufferGetBaseAddressOfPlane(_ buffer: CVPixelBuffer, _ plane: Int) -> UnsafeMutableRawPointer? { fatalError() }
public func CVPixelBufferGetBytesPerRowOfPlane(_ buffer: CVPixelBuffer, _ plane: Int) -> Int { fatalError() }
public func CVBufferSetAttachment(_ buffer: CVPixelBuffer, _ key: CFString, _ value: Any, _ mode: CVAttachmentMode) {}
