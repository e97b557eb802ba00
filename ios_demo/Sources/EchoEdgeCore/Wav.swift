/// A recording: `samples` of all channels side by side (interleaved), full scale is 1, at `rate` Hz. `places`: a speaker's bit of
/// WAVE_FORMAT_EXTENSIBLE for each channel, 0 where it is not known.
public struct Sound {
    private static let usual: [Int: UInt32] = [1: 0x4, 2: 0x3, 3: 0x7, 4: 0x33, 5: 0x37, 6: 0x3F, 7: 0x70F, 8: 0x63F]

    public let samples: [Float]
    public let channels: Int, rate: Int
    let places: [UInt32]

    /// `mask`: a bit for each channel's speaker; other masks mean the usual ones of so many channels.
    public init(_ samples: [Float], channels: Int, rate: Int, mask: UInt32 = 0) {
        self.samples = samples
        self.channels = channels
        self.rate = rate
        let bits = mask.nonzeroBitCount == channels ? mask : Sound.usual[channels] ?? 0
        let found = (0..<18).map { UInt32(1) << $0 }.filter { bits & $0 != 0 }
        places = found.count == channels ? found : [UInt32](repeating: 0, count: channels)
    }

    /// Samples of each channel.
    public var length: Int { samples.count / channels }
}

/// WAV files: PCM of 8, 16, 24 and 32 bits, floats of 32 and 64, also as WAVE_FORMAT_EXTENSIBLE.
public enum Wav {
    /// Reads a file's bytes. A data chunk that is longer than the file ends with it; an incomplete last frame is left out. Throws
    /// `input`: it is no WAV of a known kind, or holds no sound. `name`: how messages call it.
    public static func parse(_ bytes: [UInt8], name: String = "The recording") throws -> Sound {
        func tag(_ at: Int) -> String { String(decoding: bytes[at..<(at + 4)], as: UTF8.self) }
        if bytes.count < 12 || tag(0) != "RIFF" || tag(8) != "WAVE" {
            throw EchoEdgeError.input("\(name) is not a WAV file. Save it as WAV, or give a recording that this device decodes.")
        }
        var format: Format?
        var at = 12
        while at + 8 <= bytes.count {
            let size = Int(little(bytes, at + 4) as UInt32)
            let body = at + 8
            switch tag(at) {
            case "fmt ": format = try Format(bytes, body, size, name)
            case "data":
                guard let format else {
                    throw EchoEdgeError.input("\(name) is damaged: its sound comes before its format. Export it again.")
                }
                return try format.sound(bytes, body, min(size, bytes.count - body), name)
            default: break
            }
            at = body + size + size % 2
        }
        throw nothing(name)
    }

    private static func nothing(_ name: String) -> EchoEdgeError {
        .input("\(name) has no sound in it. Copy it again, or export the recording again.")
    }

    private struct Format {
        private enum Kind: UInt16 {
            case pcm = 1
            case float = 3
        }

        private let kind: Kind
        private let channels: Int, rate: Int, bits: Int
        private let mask: UInt32

        init(_ bytes: [UInt8], _ at: Int, _ size: Int, _ name: String) throws {
            if size < 16 || at + size > bytes.count {
                throw EchoEdgeError.input("\(name) is damaged: its format is cut off. Copy it again.")
            }
            let stated: UInt16 = little(bytes, at)
            let extended = stated == 0xFFFE && size >= 26
            let number = extended ? little(bytes, at + 24) : stated
            mask = extended ? little(bytes, at + 20) : 0
            channels = Int(little(bytes, at + 2) as UInt16)
            rate = Int(little(bytes, at + 4) as Int32)
            bits = Int(little(bytes, at + 14) as UInt16)
            guard let kind = Kind(rawValue: number), (kind == .pcm ? [8, 16, 24, 32] : [32, 64]).contains(bits) else {
                throw EchoEdgeError.input("\(name) has sound of kind \(number) with \(bits) bits. Save it as PCM of 16 bits.")
            }
            self.kind = kind
            if !(1...64).contains(channels) || rate < 1 {
                throw EchoEdgeError.input("\(name) has \(channels) channels at \(rate) Hz. Export the recording again.")
            }
        }

        func sound(_ bytes: [UInt8], _ at: Int, _ size: Int, _ name: String) throws -> Sound {
            let width = bits / 8
            let count = size / (width * channels) * channels
            if count == 0 { throw nothing(name) }
            let samples = (0..<count).map { sample(bytes, at + $0 * width) }
            return Sound(samples, channels: channels, rate: rate, mask: mask)
        }

        private func sample(_ bytes: [UInt8], _ at: Int) -> Float {
            switch (kind, bits) {
            case (.float, 32): return Float(bitPattern: little(bytes, at))
            case (.float, _): return Float(Double(bitPattern: little(bytes, at)))
            case (.pcm, 8): return (Float(bytes[at]) - 128) / 128
            case (.pcm, 16): return Float(little(bytes, at) as Int16) / 32768
            case (.pcm, 24):
                let whole = Int32(Int8(bitPattern: bytes[at + 2])) << 16 | Int32(little(bytes, at) as UInt16)
                return Float(whole) / 8_388_608
            default: return Float(Double(little(bytes, at) as Int32) / 2_147_483_648)
            }
        }
    }
}
