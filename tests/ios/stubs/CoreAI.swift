// Declarations of Core AI (systems 27) that our backend uses, written from Apple's documentation, so that Linux can check types. No
// body does anything: what calls it is never run. `Span` stands for the standard library's, which this compiler may not have yet.
import Foundation

public struct Span<Element> {
    public var count: Int { fatalError() }
    public subscript(place: Int) -> Element { fatalError() }
}

public struct NDArray: Sendable {
    public enum ScalarType: Sendable { case float32, float16, bfloat16, int32, int8, uint8, bool }

    public struct View<Element: BitwiseCopyable> {
        public func withUnsafePointer<R, E: Error>(
            _ body: (UnsafePointer<Element>, Span<Int>, Span<Int>) throws(E) -> R
        ) throws(E) -> R { fatalError() }
    }

    public struct InterleaveLayout: Sendable {}

    public init<Scalar: BitwiseCopyable>(scalars: some Sequence<Scalar>, shape: [Int]) { fatalError() }
    public var shape: [Int] { fatalError() }
    public var strides: [Int] { fatalError() }
    public var interleaveLayout: InterleaveLayout? { fatalError() }
    public var scalarType: ScalarType { fatalError() }
    public func view<T: BitwiseCopyable>(as type: T.Type = T.self) -> View<T> { fatalError() }
}

public struct NDArrayDescriptor: Sendable {
    public var shape: [Int] { fatalError() }
    public var scalarType: NDArray.ScalarType { fatalError() }
}

public struct ImageDescriptor: Sendable {}

public struct InferenceValue {
    public enum Descriptor: Sendable {
        case ndArray(NDArrayDescriptor)
        case image(ImageDescriptor)
    }

    public var ndArray: NDArray? { fatalError() }
}

public struct InferenceFunctionDescriptor: Sendable {
    public var inputNames: [String] { fatalError() }
    public var outputNames: [String] { fatalError() }
    public func inputDescriptor(of name: String) -> InferenceValue.Descriptor? { fatalError() }
}

@available(iOS 27.0, macOS 27.0, *)
public struct InferenceFunction: Sendable {
    public struct MutableViews {
        public init() {}
    }

    public struct Outputs {
        public mutating func remove(_ name: String) -> InferenceValue? { fatalError() }
    }

    public let descriptor: InferenceFunctionDescriptor

    public func run(
        inputs: [String: NDArray], states: consuming MutableViews = MutableViews(),
        outputViews: consuming MutableViews = MutableViews()
    ) async throws -> Outputs { fatalError() }
}

public struct SpecializationOptions: Sendable {
    public static let `default` = SpecializationOptions()
    public static let cpuOnly = SpecializationOptions()
}

@available(iOS 27.0, macOS 27.0, *)
public struct AIModel: Sendable {
    public init(contentsOf modelURL: URL, options: SpecializationOptions = .default) async throws { fatalError() }
    public func loadFunction(named functionName: String) throws -> InferenceFunction? { fatalError() }
}

@available(iOS 27.0, macOS 27.0, *)
public final class AIModelCache: Sendable {
    public static let `default` = AIModelCache()
    public func model(for modelURL: URL, options: SpecializationOptions) throws -> AIModel? { fatalError() }
}
