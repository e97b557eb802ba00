import EchoEdgeCore
import Foundation

/// What a microphone or a decoder hands over, piece by piece, as one sound. Pieces are floats of full scale 1.
public struct CapturedSound {
    private let longest: Double
    private var values: [Float] = []
    private var channels = 0, rate = 0

    /// `longest`: seconds; more is refused, so that memory holds it.
    public init(longest: Double = 3600) { self.longest = longest }

    public var seconds: Double { channels == 0 ? 0 : Double(values.count / channels) / Double(rate) }

    /// The format of the next pieces; it may be said again, but not another one. Throws `input`.
    public mutating func format(channels: Int, rate: Double) throws {
        guard channels > 0, rate >= 1, rate <= 1_000_000 else {
            throw EchoEdgeError.input("The recording has \(channels) channels at \(rate) Hz. Choose another one.")
        }
        let whole = Int(rate.rounded())
        if !values.isEmpty && (channels != self.channels || whole != self.rate) {
            throw EchoEdgeError.input(
                "The recording changes from \(self.channels) channels at \(self.rate) Hz to \(channels) at \(whole). Record "
                    + "it again."
            )
        }
        (self.channels, self.rate) = (channels, whole)
    }

    /// `samples` of all channels side by side (interleaved). Throws `input`.
    public mutating func interleaved(_ samples: UnsafeBufferPointer<Float>) throws {
        try reserve(samples.count)
        values.append(contentsOf: samples)
    }

    /// A piece with each channel by itself, as AVAudioPCMBuffer has them, so many samples of each. Throws `input`.
    public mutating func apart(_ planes: [UnsafeBufferPointer<Float>]) throws {
        let count = planes.map(\.count).min() ?? 0
        if planes.count != channels {
            throw EchoEdgeError.input("The recording has \(planes.count) channels where \(channels) were told. Record it again.")
        }
        try reserve(count * planes.count)
        for index in 0..<count { for plane in planes { values.append(plane[index]) } }
    }

    private func reserve(_ more: Int) throws {
        if channels == 0 {
            throw EchoEdgeError.input("The recording gives sound before it says of which kind. Choose another one.")
        }
        if Double(values.count + more) > longest * Double(rate * channels) {
            throw EchoEdgeError.input("The recording lasts longer than \(Int(longest / 60)) minutes. Cut it into shorter ones.")
        }
    }

    /// All of it. Throws `input`: nothing came.
    public func sound() throws -> Sound {
        let whole = channels > 0 ? values.count - values.count % channels : 0
        if whole == 0 { throw EchoEdgeError.input("The recording has no sound in it. Record or choose another one.") }
        return Sound(Array(values.prefix(whole)), channels: channels, rate: rate)
    }
}

/// A WAV file of one channel of 16 bits.
public enum WavBytes {
    /// Of samples as bytes, little-endian.
    public static func of(_ pcm: [UInt8], rate: Int) -> [UInt8] {
        func little(_ value: Int, _ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
        let format = little(1, 2) + little(1, 2) + little(rate, 4) + little(2 * rate, 4) + little(2, 2) + little(16, 2)
        let head = Array("RIFF".utf8) + little(36 + pcm.count, 4) + Array("WAVEfmt ".utf8) + little(16, 4) + format
        return head + Array("data".utf8) + little(pcm.count, 4) + pcm
    }
}

/// A picture as a decoder draws it, four bytes a pixel with alpha multiplied in.
public enum Drawn {
    /// The pixels [height, width, 3] of a bitmap whose rows begin every `rowBytes`, over the grey that portraits are matted with.
    /// Throws `input`: there are fewer bytes than that.
    public static func pixels(_ bytes: [UInt8], width: Int, height: Int, rowBytes: Int) throws -> Pixels {
        guard width > 0, height > 0, rowBytes >= 4 * width, bytes.count >= rowBytes * (height - 1) + 4 * width else {
            throw EchoEdgeError.input("A picture of \(width) × \(height) has \(bytes.count) bytes. Choose another one.")
        }
        var made: [UInt8] = []
        made.reserveCapacity(4 * width * height)
        for row in 0..<height {
            for column in 0..<width {
                let at = row * rowBytes + 4 * column
                let alpha = Int(bytes[at + 3])
                for channel in 0..<3 {  // what was multiplied in is divided out: the matte wants it so
                    let value = Int(bytes[at + channel])
                    made.append(alpha == 0 ? 0 : UInt8(min(255, (value * 255 + alpha / 2) / alpha)))
                }
                made.append(bytes[at + 3])
            }
        }
        return Pictures.matte(try Pixels(height: height, width: width, channels: 4, made))
    }

    /// The longest side to decode a photograph at: never larger than needed, so that a camera's picture fits into memory.
    public static func longestSide(width: Int, height: Int, clipWidth: Int, clipHeight: Int) -> Int {
        let scale = min(Double(width) / Double(2 * clipWidth), Double(height) / Double(2 * clipHeight))
        return scale <= 1 ? max(width, height) : Int((Double(max(width, height)) / scale).rounded(.up))
    }
}
