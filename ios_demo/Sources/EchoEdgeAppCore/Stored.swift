import EchoEdgeCore
import Foundation

/// A type of numbers as runtimes store it, as numpy calls it.
public enum StoredType: String, CaseIterable, Sendable {
    case float32, float16, int64, int32, int16, int8, uint8, bool

    /// Throws `engine`: runtimes of phones take no such type.
    public static func of(_ spec: TensorSpec) throws -> StoredType {
        guard let type = StoredType(rawValue: spec.dtype) else {
            let known = allCases.map(\.rawValue).joined(separator: ", ")
            throw EchoEdgeError.engine("\(spec) cannot be handed over; types are \(known). Export the bundle again.")
        }
        return type
    }

    public var bytes: Int {
        switch self {
        case .int64: return 8
        case .float32, .int32: return 4
        case .float16, .int16: return 2
        case .int8, .uint8, .bool: return 1
        }
    }
}

/// Tensors as the bytes that runtimes take and give, in the machine's own order, and back.
public enum Stored {
    /// The numbers of a tensor row by row. Throws `engine`: one of them is beyond the type.
    public static func bytes(_ name: String, _ tensor: any Tensor, _ type: StoredType) throws -> [UInt8] {
        switch type {
        case .float32: return raw(try floats(tensor))
        case .float16: return raw(try floats(tensor).map { Half.bits(Packages.held($0)) })
        case .int64: return raw(try wholes(name, tensor, Int64.self))
        case .int32: return raw(try wholes(name, tensor, Int32.self))
        case .int16: return raw(try wholes(name, tensor, Int16.self))
        case .int8: return raw(try wholes(name, tensor, Int8.self))
        case .uint8: return raw(try wholes(name, tensor, UInt8.self))
        case .bool: return try floats(tensor).map { $0 == 0 ? 0 : 1 }
        }
    }

    /// The tensor that lies in a runtime's memory, each axis by its own stride in elements: whole numbers of 64 bits as ``Longs``,
    /// all others as ``Floats``. Its numbers are copied.
    public static func tensor(
        _ base: UnsafeRawPointer, _ type: StoredType, _ shape: [Int], _ strides: [Int]
    ) throws -> any Tensor {
        if type == .int64 { return try Longs(shape: shape, Strided.gathered(shape, strides) { number(base, $0, Int64.self) }) }
        if type == .float32 && strides == Strided.rowMajor(shape) {
            let values = [Float](unsafeUninitializedCapacity: sizeOf(shape)) { buffer, count in
                count = buffer.count
                UnsafeMutableRawBufferPointer(buffer).copyMemory(from: UnsafeRawBufferPointer(start: base, count: 4 * count))
            }
            return try Floats(shape: shape, values)
        }
        let values: [Float]
        switch type {
        case .float32: values = Strided.gathered(shape, strides) { number(base, $0, Float.self) }
        case .float16: values = Strided.gathered(shape, strides) { Half.float(number(base, $0, UInt16.self)) }
        case .int32: values = Strided.gathered(shape, strides) { Float(number(base, $0, Int32.self)) }
        case .int16: values = Strided.gathered(shape, strides) { Float(number(base, $0, Int16.self)) }
        case .int8: values = Strided.gathered(shape, strides) { Float(number(base, $0, Int8.self)) }
        case .uint8, .bool, .int64: values = Strided.gathered(shape, strides) { Float(number(base, $0, UInt8.self)) }
        }
        return try Floats(shape: shape, values)
    }

    /// Puts numbers that lie row by row into a runtime's memory, each axis by its own stride in elements; zeros behind them where
    /// there are fewer than the shape has.
    public static func place(
        _ bytes: [UInt8], _ type: StoredType, into base: UnsafeMutableRawPointer, _ shape: [Int], _ strides: [Int]
    ) {
        let size = type.bytes
        let step = strides.last ?? 1
        bytes.withUnsafeBytes { bytes in
            Strided.rows(shape, strides) { row, place, count in
                let there = min(count, max(0, bytes.count / size - row))
                let pieces = step == 1 ? [(at: 0, count: there)] : (0..<there).map { (at: $0, count: 1) }
                for piece in pieces where piece.count > 0 {
                    let from = UnsafeRawBufferPointer(rebasing: bytes[((row + piece.at) * size)...].prefix(piece.count * size))
                    base.advanced(by: (place + piece.at * step) * size).copyMemory(from: from.baseAddress!, byteCount: from.count)
                }
                for at in there..<count { memset(base.advanced(by: (place + at * step) * size), 0, size) }
            }
        }
    }

    /// A tensor in the shape of its record, where it has the same numbers in other axes.
    public static func shaped(_ tensor: any Tensor, _ spec: TensorSpec) throws -> any Tensor {
        let shape = spec.shape.compactMap(\.size)
        if shape.count < spec.shape.count || tensor.shape == shape || sizeOf(shape) != sizeOf(tensor.shape) { return tensor }
        if let longs = tensor as? Longs { return try Longs(shape: shape, longs.values) }
        return try Floats(shape: shape, tensor.floats())
    }

    /// The numbers of a tensor as single precision.
    public static func floats(_ tensor: any Tensor) throws -> [Float] {
        if let longs = tensor as? Longs { return longs.values.map(Float.init) }
        if let bytes = tensor as? Bytes { return bytes.values.map(Float.init) }
        return try tensor.floats()
    }

    /// The numbers of a tensor as whole ones. Throws `engine`: one of them is none, or beyond the type.
    public static func wholes<Whole: FixedWidthInteger>(_ name: String, _ tensor: any Tensor, _ type: Whole.Type) throws -> [Whole]
    {
        func one<Number>(_ value: Number, _ whole: Whole?) throws -> Whole {
            guard let whole else {
                throw EchoEdgeError.engine("\(name) holds \(value), which is no \(type), as its program takes.")
            }
            return whole
        }
        if let longs = tensor as? Longs { return try longs.values.map { try one($0, Whole(exactly: $0)) } }
        return try floats(tensor).map { try one($0, Whole(exactly: $0)) }
    }

    private static func raw<Number>(_ numbers: [Number]) -> [UInt8] { numbers.withUnsafeBytes { Array($0) } }

    private static func number<Number>(_ base: UnsafeRawPointer, _ place: Int, _: Number.Type) -> Number {
        base.loadUnaligned(fromByteOffset: place * MemoryLayout<Number>.size, as: Number.self)
    }
}
