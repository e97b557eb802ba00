// Declarations of ExecuTorch 1.4's Swift interface that our backend uses, written from its documentation (Using ExecuTorch on iOS),
// so that Linux can check types. No body does anything: what calls it is never run.
import Foundation

public enum DataType: Int8 { case byte, char, short, int, long, half, float, double, bool, undefined }

public enum ShapeDynamism: UInt8 { case `static`, dynamicBound, dynamicUnbound }

public enum ModuleLoadMode: Int { case file, mmap, mmapUseMlock, mmapUseMlockIgnoreErrors }

// These names are ExecuTorch's too: a file that imports it says Swift.Error and EchoEdgeCore.Tensor.
public struct Error: Swift.Error {}
public protocol Scalar {}
extension Float: Scalar {}
public final class Tensor<T: Scalar> {}

public protocol ValueConvertible {
    func asValue() -> Value
}

public protocol ValueConstructible {
    static func from(_ value: Value) throws -> Self
}

public protocol ValueSequenceConstructible {
    static func from(_ values: [Value]) throws -> Self
}

extension Array: ValueSequenceConstructible where Element: ValueConstructible {
    public static func from(_ values: [Value]) throws -> [Element] { fatalError() }
}

public final class AnyTensor: NSObject, ValueConvertible {
    public var dataType: DataType { fatalError() }
    public var shape: [Int] { fatalError() }
    public var strides: [Int] { fatalError() }
    public var count: Int { fatalError() }

    public convenience init(
        bytes pointer: UnsafeRawPointer, shape: [Int], strides: [Int] = [], dimensionOrder: [Int] = [], dataType: DataType,
        shapeDynamism: ShapeDynamism = .dynamicBound
    ) { fatalError() }

    public func bytes(_ handler: (UnsafeRawPointer, Int, DataType) -> Void) { fatalError() }
    public func asValue() -> Value { fatalError() }
}

public final class Value: NSObject, ValueConvertible, ValueConstructible {
    public var isTensor: Bool { fatalError() }
    public var anyTensor: AnyTensor? { fatalError() }
    public convenience init(_ tensor: AnyTensor) { fatalError() }
    public func asValue() -> Value { self }
    public static func from(_ value: Value) throws -> Self { fatalError() }
}

public final class Module: NSObject {
    public init(filePath: String, dataFilePaths: [String], loadMode: ModuleLoadMode) { fatalError() }
    public convenience init(filePath: String, loadMode: ModuleLoadMode) { fatalError() }
    public func load(_ method: String) throws { fatalError() }
    public func isLoaded(_ method: String) -> Bool { fatalError() }
    public func unload(_ method: String) -> Bool { fatalError() }
    public func execute(_ method: String, _ inputs: [ValueConvertible]) throws -> [Value] { fatalError() }
    public func execute<Output: ValueSequenceConstructible>(
        _ method: String, _ inputs: [ValueConvertible]
    ) throws -> Output { fatalError() }
}

// Of Apple's Objective-C overlay.
public func autoreleasepool<Result>(invoking body: () throws -> Result) rethrows -> Result { try body() }
