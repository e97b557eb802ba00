import Foundation

/// A picture: bytes [height, width, channels], row by row.
public struct Pixels {
    public let height: Int, width: Int, channels: Int
    public let bytes: [UInt8]

    /// Throws `input`: there are more bytes than the shape has, or fewer.
    public init(height: Int, width: Int, channels: Int, _ bytes: [UInt8]) throws {
        if height < 1 || width < 1 || channels < 1 || bytes.count != sizeOf([height, width, channels]) {
            throw EchoEdgeError.input("A picture [\(height), \(width), \(channels)] has \(bytes.count) bytes. Decode it again.")
        }
        self.init(bytes, height: height, width: width, channels: channels)
    }

    /// Of bytes that the engine made for a shape.
    init(_ bytes: [UInt8], height: Int, width: Int, channels: Int) {
        (self.height, self.width, self.channels, self.bytes) = (height, width, channels, bytes)
    }
}

/// A rectangle of a picture, in its pixels, rows from the top.
public struct Part: Equatable, Sendable {
    public var top: Double, left: Double, height: Double, width: Double

    public init(top: Double, left: Double, height: Double, width: Double) {
        (self.top, self.left, self.height, self.width) = (top, left, height, width)
    }
}

/// A square of a picture: a face that was found, or rows that the user wants kept.
public struct Square: Equatable, Sendable {
    public let top: Double, left: Double, size: Double

    public init(top: Double, left: Double, size: Double) { (self.top, self.left, self.size) = (top, left, size) }
}

/// A picture as a portrait of a clip's size; docs/PLAYERS.md defines each step.
public enum Pictures {
    private static let unseen = 0.05  // share of a side that sizes in multiples of 16 leave over
    private static let topShare = 0.1
    private static let faceHeight = 0.45
    private static let smallestCrop = 16.0

    /// Turned and mirrored as an orientation of EXIF says, 1 to 8; as it is of any other.
    public static func oriented(_ pixels: Pixels, _ orientation: Int) -> Pixels {
        if !(2...8).contains(orientation) { return pixels }
        let turned = orientation >= 5  // rows become columns
        let (height, width) = turned ? (pixels.width, pixels.height) : (pixels.height, pixels.width)
        let down = [3, 4, 7, 8].contains(orientation)
        let across = [2, 3, 6, 7].contains(orientation)
        let n = pixels.channels
        var made: [UInt8] = []
        made.reserveCapacity(pixels.bytes.count)
        for row in 0..<height {
            for column in 0..<width {
                let y = down ? height - 1 - row : row
                let x = across ? width - 1 - column : column
                let from = (turned ? x * pixels.width + y : y * pixels.width + x) * n
                for channel in 0..<n { made.append(pixels.bytes[from + channel]) }
            }
        }
        return Pixels(made, height: height, width: width, channels: n)
    }

    /// Red, green, blue and alpha over mid grey, which is the model's zero.
    public static func matte(_ pixels: Pixels) -> Pixels {
        let made = (0..<(pixels.height * pixels.width * 3)).map { place in
            let at = place / 3 * 4
            let alpha = Int(pixels.bytes[at + 3])
            let t = Int(pixels.bytes[at + place % 3]) * alpha + 128 * (255 - alpha) + 128
            return UInt8(((t >> 8) + t) >> 8)
        }
        return Pixels(made, height: pixels.height, width: pixels.width, channels: 3)
    }

    /// The part that a clip of `height` × `width` keeps of a picture: the crop's rows, or the largest rectangle of the clip's
    /// aspect, moved so that it holds the face, or what stands above the middle. Throws `input`: the crop is below 16 pixels or
    /// reaches beyond the picture.
    public static func part(
        imageHeight: Int, imageWidth: Int, height: Int, width: Int, crop: Square? = nil, face: Square? = nil
    ) throws -> Part {
        let (rows, columns) = (Double(imageHeight), Double(imageWidth))
        if let crop {
            let wide = crop.size * (Double(width) / Double(height))
            let within = crop.top + crop.size <= rows && crop.left + wide <= columns + 0.5
            if !(min(crop.top, crop.left) >= 0 && crop.size >= smallestCrop && within) {
                throw EchoEdgeError.input(
                    "The crop [\(crop.top), \(crop.left), \(crop.size)] is below 16 pixels, or not within a picture of "
                        + "\(imageHeight) rows and \(imageWidth) columns. Choose another.")
            }
            return Part(top: crop.top, left: crop.left, height: crop.size, width: min(wide, columns - crop.left))
        }
        let scale = min(columns / Double(width), rows / Double(height))
        let left = (columns - Double(width) * scale) / 2
        let top = (rows - Double(height) * scale) / 2
        var part = Part(
            top: top, left: left, height: min(Double(height) * scale, rows - top), width: min(Double(width) * scale, columns - left)
        )
        if min(part.height / rows, part.width / columns) >= 1 - unseen { return part }
        let down = rows - part.height
        let across = columns - part.width
        part.top = topShare * down
        if let face {
            part.top = min(max(0, face.top + face.size / 2 - faceHeight * part.height), down)
            part.left = min(max(0, face.left + face.size / 2 - part.width / 2), across)
        }
        return part
    }

    /// A part of a picture as `height` × `width` pixels, by Lanczos's filter in 8 bits: across, then down.
    public static func resized(_ pixels: Pixels, _ part: Part, height: Int, width: Int) -> Pixels {
        let left = Float(part.left)
        let right = Float(min(part.left + part.width, Double(pixels.width)))
        let top = Float(part.top)
        let bottom = Float(min(part.top + part.height, Double(pixels.height)))
        return resized(pixels, box: (left, top, right, bottom), height: height, width: width)
    }

    /// As above, of a box in pixels.
    public static func resized(
        _ pixels: Pixels, box: (left: Float, top: Float, right: Float, bottom: Float), height: Int, width: Int
    ) -> Pixels {
        let across = Kernel(pixels.width, box.left, box.right, width)
        let down = Kernel(pixels.height, box.top, box.bottom, height)
        let n = pixels.channels
        var made = pixels
        if let across {
            let rows = down?.reach ?? 0..<pixels.height
            let bytes = [UInt8](unsafeUninitializedCapacity: pixels.height * width * n) { into, count in
                into.initialize(repeating: 0)
                pixels.bytes.withUnsafeBufferPointer { bytes in
                    for row in rows {
                        for column in 0..<width {
                            let from = (row * pixels.width + across.first[column]) * n
                            for channel in 0..<n {
                                into[(row * width + column) * n + channel] = weighed(
                                    bytes, from + channel, n, across.weights[column])
                            }
                        }
                    }
                }
                count = pixels.height * width * n
            }
            made = Pixels(bytes, height: pixels.height, width: width, channels: n)
        }
        if let down {
            let line = width * n
            let bytes = [UInt8](unsafeUninitializedCapacity: height * line) { into, count in
                made.bytes.withUnsafeBufferPointer { bytes in
                    for row in 0..<height {
                        for at in 0..<line {
                            into[row * line + at] = weighed(bytes, down.first[row] * line + at, line, down.weights[row])
                        }
                    }
                }
                count = height * line
            }
            made = Pixels(bytes, height: height, width: width, channels: n)
        }
        return made
    }

    private static func weighed(_ bytes: UnsafeBufferPointer<UInt8>, _ from: Int, _ step: Int, _ weights: [Int32]) -> UInt8 {
        var sum: Int32 = 1 << (Kernel.bits - 1)
        for k in 0..<weights.count { sum &+= Int32(bytes[from + k * step]) &* weights[k] }
        return UInt8(clamping: sum >> Kernel.bits)
    }

    /// Of one axis: for each pixel that comes out the first that goes in, and the weights of those from there on.
    private struct Kernel {
        static let bits: Int32 = 22  // behind the point of a weight
        private static let lobes = 3.0

        private(set) var first: [Int] = []
        private(set) var weights: [[Int32]] = []

        /// What the axis reads.
        var reach: Range<Int> { (first.first ?? 0)..<((first.last ?? 0) + (weights.last?.count ?? 0)) }

        /// nil where nothing changes.
        init?(_ size: Int, _ begin: Float, _ end: Float, _ outputs: Int) {
            if outputs == size && begin == 0 && end == Float(size) { return nil }
            let scale = Double(end - begin) / Double(outputs)
            let wide = max(scale, 1)
            let support = Kernel.lobes * wide
            for j in 0..<outputs {
                let centre = Double(begin) + (Double(j) + 0.5) * scale
                let from = max(0, Int(centre - support + 0.5))
                let to = min(size, Int(centre + support + 0.5))
                let shares = (from..<to).map { Kernel.lanczos((Double($0) - centre + 0.5) * (1 / wide)) }
                let total = shares.reduce(0, +)
                first.append(from)
                weights.append(
                    shares.map { share in
                        let part = total != 0 ? share / total : share
                        return Int32(part * Double(1 << Kernel.bits) + (part < 0 ? -0.5 : 0.5))
                    })
            }
        }

        private static func lanczos(_ x: Double) -> Double { x >= -lobes && x < lobes ? sinc(x) * sinc(x / lobes) : 0 }

        private static func sinc(_ x: Double) -> Double { x == 0 ? 1 : sin(x * .pi) / (x * .pi) }
    }

    /// Bytes [H, W, 3] as [3, H, W] from -1 to 1, each operation in single precision.
    public static func signed(_ pixels: Pixels) -> Floats {
        let plane = pixels.height * pixels.width
        var values: [Float] = []
        values.reserveCapacity(3 * plane)
        for channel in 0..<3 {
            for at in 0..<plane { values.append(Float(pixels.bytes[3 * at + channel]) / 255 * 2 - 1) }
        }
        return Floats(values, [3, pixels.height, pixels.width])
    }

    /// A decoded picture [H, W, 3] as the portrait of a clip, [3, height, width]. Throws as
    /// ``part(imageHeight:imageWidth:height:width:crop:face:)``.
    public static func portrait(
        _ pixels: Pixels, height: Int, width: Int, crop: Square? = nil, face: Square? = nil
    ) throws -> Floats {
        let part = try part(
            imageHeight: pixels.height, imageWidth: pixels.width, height: height, width: width, crop: crop, face: face)
        return signed(resized(pixels, part, height: height, width: width))
    }
}
