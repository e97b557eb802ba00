/// Noise from a counter-based generator, the same bits in every language: Philox4x32-10 (Salmon et al., SC 2011) and the method
/// of Box and Muller on doubles, with operations alone that IEEE 754 rounds exactly. The platform's own log and cos would differ,
/// and so would a product and a sum that are one operation: Swift fuses none by itself.
public enum Normals {
    private static let ln2 = 0.6931471805599453
    private static let cosine = (0...9).map { coefficient(18 - 2 * $0) }  // 1/18! down to 1/0!
    private static let sine = (0...8).map { coefficient(17 - 2 * $0) }

    private static func coefficient(_ order: Int) -> Double {
        (order / 2 % 2 == 1 ? -1 : 1) / Double((1...max(1, order)).reduce(1, *))
    }

    /// A seed that somebody types. Throws `config`: it is no whole number from 0 to 2^64-1.
    public static func seed(_ text: String) throws -> UInt64 {
        let trimmed = String(text.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
        if !trimmed.isEmpty, trimmed.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let seed = UInt64(trimmed) { return seed }
        throw EchoEdgeError.config("The seed is \(short(text)); it must be a whole number from 0 to 2^64-1.")
    }

    /// Four words of a counter and a key of two.
    public static func philox(_ counter: SIMD4<UInt32>, key: (UInt32, UInt32)) -> SIMD4<UInt32> {
        var c = counter
        var (k0, k1) = key
        for _ in 0..<10 {
            let p0 = c[0].multipliedFullWidth(by: 0xD251_1F53)
            let p1 = c[2].multipliedFullWidth(by: 0xCD9E_8D57)
            c = SIMD4(p1.high ^ c[1] ^ k0, p1.low, p0.high ^ c[3] ^ k1, p0.low)
            k0 = k0 &+ 0x9E37_79B9
            k1 = k1 &+ 0xBB67_AE85
        }
        return c
    }

    /// A word as a number in (0, 1).
    public static func uniform(_ word: UInt32) -> Double { (Double(word) + 0.5) / 4_294_967_296 }

    /// ln x of a normal x > 0, relative error below 4e-16.
    public static func ln(_ x: Double) -> Double {
        var power = Double(x.exponent + 1)
        var m = x.significand / 2  // in [0.5, 1)
        if m < 0.7071067811865476 {
            m *= 2
            power -= 1
        }
        let s = (m - 1) / (m + 1)
        let square = s * s
        var series = 1.0 / 21
        for odd in stride(from: 19, through: 1, by: -2) { series = series * square + 1 / Double(odd) }
        return power * ln2 + 2 * s * series
    }

    /// cos 2πu and sin 2πu of u in [0, 1), absolute error below 4e-16.
    public static func cosSinTurns(_ u: Double) -> (cosine: Double, sine: Double) {
        let quarter = (4 * u + 0.5).rounded(.down)
        let y = (4 * u - quarter) * 1.5707963267948966
        let square = y * y
        let c = cosine.dropFirst().reduce(cosine[0]) { $0 * square + $1 }
        let s = sine.dropFirst().reduce(sine[0]) { $0 * square + $1 } * y
        switch Int(quarter) % 4 {
        case 0: return (c, s)
        case 1: return (-s, c)
        case 2: return (-c, -s)
        default: return (s, -c)
        }
    }

    /// Four normal numbers, before they are rounded to single precision, of a block's four words.
    public static func normals(_ words: SIMD4<UInt32>) -> SIMD4<Double> {
        var made = SIMD4<Double>()
        for half in [0, 2] {
            let radius = (-2 * ln(uniform(words[half]))).squareRoot()
            let turn = cosSinTurns(uniform(words[half + 1]))
            made[half] = radius * turn.cosine
            made[half + 1] = radius * turn.sine
        }
        return made
    }

    /// Standard normal latents whose frame f is latent frame `firstFrame` + f of the endless clip of a seed. Throws `config`: a
    /// size is below 1, or beyond the generator's 2^32 blocks or frames.
    public static func noise(
        seed: UInt64, channels: Int, frames: Int, height: Int, width: Int, firstFrame: Int = 0
    ) throws -> Latents {
        let shape = [channels, frames, height, width]
        let within = firstFrame >= 0 && firstFrame < 1 << 32 && frames < 1 << 32 && firstFrame + frames < 1 << 32
        if shape.contains(where: { $0 < 1 }) || !within || sizeOf(shape) > Int(Int32.max) {
            throw EchoEdgeError.config("Noise of shape \(shape) from latent frame \(firstFrame) cannot be made.")
        }
        let key = (UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32))
        let size = channels * height * width
        let made = (0..<frames).map { index in
            var frame = [Float](repeating: 0, count: size)
            for block in 0..<((size + 3) / 4) {
                let four = normals(philox(SIMD4(UInt32(block), UInt32(firstFrame + index), 0, 0), key: key))
                for k in 0..<min(4, size - 4 * block) { frame[4 * block + k] = Float(four[k]) }
            }
            return frame
        }
        return Latents(channels: channels, height: height, width: width, frames: made)
    }
}
