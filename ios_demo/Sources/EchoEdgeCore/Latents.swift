/// Latents [channels, frames, height, width], row by row.
public struct Latents {
    public let channels: Int, frames: Int, height: Int, width: Int
    public private(set) var values: [Float]

    private var plane: Int { height * width }

    public init(channels: Int, frames: Int, height: Int, width: Int, _ values: [Float]) {
        precondition(values.count == channels * frames * height * width, "numbers and shape")
        (self.channels, self.frames, self.height, self.width, self.values) = (channels, frames, height, width, values)
    }

    public init(channels: Int, frames: Int, height: Int, width: Int) {
        let zeros = [Float](repeating: 0, count: channels * frames * height * width)
        self.init(channels: channels, frames: frames, height: height, width: width, zeros)
    }

    /// Of latent frames [channels, height, width], in order.
    public init(channels: Int, height: Int, width: Int, frames: [[Float]]) {
        self.init(channels: channels, frames: frames.count, height: height, width: width)
        for (index, frame) in frames.enumerated() { set(index, frame) }
    }

    /// Of a tensor [1, C, F, h, w]. Throws `engine`: it is of another shape, or does not hold floats.
    public init(_ tensor: any Tensor) throws {
        let shape = tensor.shape
        let values = try tensor.floats()
        if shape.count != 5 || shape[0] != 1 || values.count != sizeOf(shape) {
            throw EchoEdgeError.engine("A program gave latents of shape \(shape), not [1, C, F, h, w]. Export the bundle again.")
        }
        self.init(channels: shape[1], frames: shape[2], height: shape[3], width: shape[4], values)
    }

    /// A copy of one latent frame, [channels, height, width].
    public func frame(_ index: Int) -> [Float] {
        var copy: [Float] = []
        copy.reserveCapacity(channels * plane)
        for channel in 0..<channels { copy.append(contentsOf: values[at(channel, index)..<(at(channel, index) + plane)]) }
        return copy
    }

    /// Puts a latent frame [channels, height, width] in its place.
    public mutating func set(_ index: Int, _ frame: [Float]) {
        for channel in 0..<channels {
            let place = at(channel, index)
            values.replaceSubrange(place..<(place + plane), with: frame[(channel * plane)..<((channel + 1) * plane)])
        }
    }

    /// The same shape with other numbers.
    public func with(_ values: [Float]) -> Latents {
        Latents(channels: channels, frames: frames, height: height, width: width, values)
    }

    /// With a batch axis, as programs take them.
    public var tensor: Floats { Floats(values, [1, channels, frames, height, width]) }

    private func at(_ channel: Int, _ frame: Int) -> Int { (channel * frames + frame) * plane }
}
