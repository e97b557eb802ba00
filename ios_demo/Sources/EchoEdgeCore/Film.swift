/// Planes of a frame in BT.709, limited range: `y` [height, width], `u` and `v` of half the sides.
public struct Yuv {
    public let height: Int, width: Int
    public let y: [UInt8], u: [UInt8], v: [UInt8]

    /// u and v in turn, the second plane of kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange without padding.
    public var uv: [UInt8] {
        [UInt8](unsafeUninitializedCapacity: 2 * u.count) { bytes, made in
            for at in u.indices { (bytes[2 * at], bytes[2 * at + 1]) = (u[at], v[at]) }
            made = 2 * u.count
        }
    }
}

/// Frames on their way into a film; docs/PLAYERS.md defines each step.
public enum Film {
    private static let leastTimeScale = 10_000

    /// A video [t, 3, H, W] from -1 to 1 as frames [H, W, 3]: round((v + 1) · 127.5), halves to even, within 0 … 255.
    public static func frames(_ video: [Float], _ count: Int, height: Int, width: Int) -> [Pixels] {
        let plane = height * width
        precondition(video.count == count * 3 * plane, "numbers and shape")
        return (0..<count).map { frame in
            let bytes = [UInt8](unsafeUninitializedCapacity: 3 * plane) { bytes, made in
                video.withUnsafeBufferPointer { video in
                    for channel in 0..<3 {
                        let from = (frame * 3 + channel) * plane
                        for at in 0..<plane {
                            let value = ((video[from + at] + 1) * 127.5).rounded(.toNearestOrEven)
                            bytes[3 * at + channel] = value > 0 ? UInt8(min(value, 255)) : 0  // NaN is black
                        }
                    }
                }
                made = 3 * plane
            }
            return Pixels(bytes, height: height, width: width, channels: 3)
        }
    }

    /// A frame for a video encoder. Throws `input`: a side is odd.
    public static func yuv(_ pixels: Pixels) throws -> Yuv {
        let (height, width) = (pixels.height, pixels.width)
        if height % 2 != 0 || width % 2 != 0 {
            throw EchoEdgeError.input("A frame of \(height) rows and \(width) columns cannot be encoded; both must be even.")
        }
        var y = [UInt8](repeating: 0, count: height * width)
        var u = [UInt8](repeating: 0, count: height * width / 4)
        var v = u
        pixels.bytes.withUnsafeBufferPointer { bytes in
            func at(_ place: Int) -> Double { Double(bytes[place]) }
            func mean(_ place: Int) -> Double {
                (at(place) + at(place + 3) + at(place + 3 * width) + at(place + 3 * width + 3)) / 4
            }
            for index in y.indices {
                y[index] = level(16 + 219.0 / 255 * luma(at(3 * index), at(3 * index + 1), at(3 * index + 2)))
            }
            for row in 0..<(height / 2) {
                for column in 0..<(width / 2) {
                    let first = 3 * (2 * row * width + 2 * column)  // of four pixels
                    let (red, blue) = (mean(first), mean(first + 2))
                    let luma = luma(red, mean(first + 1), blue)
                    u[row * (width / 2) + column] = level(128 + 224.0 / 255 * (blue - luma) / 1.8556)
                    v[row * (width / 2) + column] = level(128 + 224.0 / 255 * (red - luma) / 1.5748)
                }
            }
        }
        return Yuv(height: height, width: width, y: y, u: u, v: v)
    }

    private static func luma(_ red: Double, _ green: Double, _ blue: Double) -> Double {
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    }

    private static func level(_ value: Double) -> UInt8 { UInt8(value + 0.5) }

    /// Ticks a second of an MP4 track of `fps` frames: doubled until they are fine enough.
    public static func timeScale(_ fps: Int) -> Int {
        var scale = fps
        while scale < leastTimeScale { scale *= 2 }
        return scale
    }

    /// When a frame is shown, in ticks of ``timeScale(_:)``.
    public static func ticks(_ frame: Int, _ fps: Int) -> Int { frame * (timeScale(fps) / fps) }

    /// When a frame is shown, in microseconds, halves rounded up.
    public static func microseconds(_ frame: Int, _ fps: Int) -> Int { (2_000_000 * frame + fps) / (2 * fps) }

    /// Samples of the voice that belong to a frame.
    public static func samples(_ frame: Int, _ fps: Int, _ sampleRate: Int) -> Range<Int> {
        (frame * sampleRate / fps)..<((frame + 1) * sampleRate / fps)
    }

    /// The voice as a film of so many frames has it: within full scale, cut or lengthened with silence.
    public static func voice(_ speech: [Float], frames: Int, fps: Int, sampleRate: Int) -> [Float] {
        (0..<(frames * sampleRate / fps)).map { $0 < speech.count ? min(max(speech[$0], -1), 1) : 0 }
    }
}
