/// What ``Programs`` take and give: a shape and so many numbers, row by row. An engine may keep its own kind where it computes.
public protocol Tensor {
    var shape: [Int] { get }

    /// One number by its place in the row-major order.
    func number(_ index: Int) -> Double

    /// The numbers as single precision. Throws `engine` where they are of another type.
    func floats() throws -> [Float]
}

extension Tensor {
    public func floats() throws -> [Float] {
        throw EchoEdgeError.engine("A tensor \(type(of: self)) of shape \(shape) does not hold floats.")
    }
}

/// How many numbers a shape has; `Int.max` where that is beyond every memory.
public func sizeOf(_ shape: [Int]) -> Int {
    shape.reduce(1) { product, side in
        let (size, beyond) = product.multipliedReportingOverflow(by: side)
        return beyond ? Int.max : size
    }
}

func requireSize(_ shape: [Int], _ count: Int) throws {
    if sizeOf(shape) != count { throw EchoEdgeError.engine("A tensor of shape \(shape) has \(count) numbers.") }
}

/// float32 numbers of a shape, row by row.
public struct Floats: Tensor {
    public let shape: [Int]
    public let values: [Float]

    /// Throws `engine`: there are more numbers than the shape has, or fewer.
    public init(shape: [Int], _ values: [Float]) throws {
        try requireSize(shape, values.count)
        self.init(values, shape)
    }

    /// Of numbers that the engine made for a shape.
    init(_ values: [Float], _ shape: [Int]) {
        precondition(sizeOf(shape) == values.count, "numbers and shape")
        self.shape = shape
        self.values = values
    }

    public static func zeros(_ shape: [Int]) -> Floats { Floats([Float](repeating: 0, count: sizeOf(shape)), shape) }

    public func floats() -> [Float] { values }
    public func number(_ index: Int) -> Double { Double(values[index]) }
}

/// int64 numbers of a shape, row by row: ids of a text.
public struct Longs: Tensor {
    public let shape: [Int]
    public let values: [Int64]

    public init(shape: [Int], _ values: [Int64]) throws {
        try requireSize(shape, values.count)
        self.shape = shape
        self.values = values
    }

    public func number(_ index: Int) -> Double { Double(values[index]) }
}

/// uint8 numbers of a shape, row by row: recorded frames.
public struct Bytes: Tensor {
    public let shape: [Int]
    public let values: [UInt8]

    public init(shape: [Int], _ values: [UInt8]) throws {
        try requireSize(shape, values.count)
        self.shape = shape
        self.values = values
    }

    public func number(_ index: Int) -> Double { Double(values[index]) }
}

/// Whatever runs a bundle's compiled programs: the one thing that a player needs of a platform. Called from one thread at a time.
///
/// A program's file is `program.path`, which several programs may share; its method M is called `program.prefix` + M there.
public protocol Programs: AnyObject {
    /// Has a program ready to run; what is ready stays so. Throws `engine`: it cannot be loaded; `resource`: too little memory.
    func load(_ program: Program) throws

    /// Runs a method on tensors by name, those that the manifest lists for it, and gives its outputs by name. They stay what they
    /// are when it runs again. Throws `engine`: it fails.
    func run(_ program: Program, _ method: String, _ inputs: [String: any Tensor]) throws -> [String: any Tensor]

    /// Gives back what a program holds; it can be loaded again.
    func free(_ program: Program)
}

extension Program {
    /// The inputs that a method takes of those that are given by name. Throws `engine`: the program has no such method, or an
    /// input is missing or of another shape or type.
    public func take(_ method: String, _ given: [String: any Tensor]) throws -> [String: any Tensor] {
        guard let specs = methods[method] else {
            throw EchoEdgeError.engine("\(name) has no method '\(method)'. It has: \(listed(methods.keys)).")
        }
        var taken: [String: any Tensor] = [:]
        var chosen: [String: Int] = [:]
        for spec in specs.inputs {
            guard let tensor = given[spec.name] else {
                throw EchoEdgeError.engine("\(name).\(method) takes \(spec), which was not given.")
            }
            var fits = spec.shape.count == tensor.shape.count && (spec.dtype == "int64") == (tensor is Longs)
            for (wanted, found) in zip(spec.shape, tensor.shape) {
                switch wanted {
                case .size(let size): fits = fits && size == found
                case .named(let name):
                    fits = fits && chosen[name] ?? found == found
                    chosen[name] = found
                }
            }
            if !fits { throw EchoEdgeError.engine("\(name).\(method) takes \(spec), not \(type(of: tensor)) \(tensor.shape).") }
            taken[spec.name] = tensor
        }
        return taken
    }
}
