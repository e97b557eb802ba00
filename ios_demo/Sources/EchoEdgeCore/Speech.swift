import Foundation

/// Speech as programs hear it: one channel, at the bundle's rate, without a constant, at -23 LUFS, within full scale.
/// docs/PLAYERS.md defines each step; sums are in double.
public enum Speech {
    private static let targetLufs = -23.0
    private static let silentLufs = -70.0
    private static let silentPeak: Float = 1e-3  // -60 dBFS
    private static let constant = 1e-3  // of full scale
    private static let cancelling = -0.5  // correlation of two channels below which their sum is no voice
    private static let lagSeconds = 0.01
    private static let judged = 1 << 21  // samples in which channels are compared
    private static let longestSeconds = 3600
    private static let cutoff = 0.97
    private static let taps = 32.0
    private static let sharpness = 9.0

    /// All of it. `name`: how messages call the recording. Throws `input`: it is longer than an hour, shorter than a video frame,
    /// silent, or has samples that are not finite.
    public static func of(_ sound: Sound, sampleRate: Int, fps: Int, name: String = "The recording") throws -> [Float] {
        if sound.length > longestSeconds * sound.rate {
            throw EchoEdgeError.input("\(name) lasts longer than \(longestSeconds / 60) minutes. Cut it into shorter recordings.")
        }
        if !sound.samples.allSatisfy(\.isFinite) {
            throw EchoEdgeError.input("\(name) has samples that are not finite numbers. Export it again.")
        }
        let wave = level(resampled(mono(sound), from: sound.rate, to: sampleRate))
        if wave.count * fps < sampleRate {
            let (length, frame) = (Double(wave.count) / Double(sampleRate), 1 / Double(fps))
            throw EchoEdgeError.input("\(name) lasts \(length) s, less than one video frame (\(frame) s). Record more.")
        }
        let peak = wave.reduce(0) { max($0, abs($1)) }
        if peak < silentPeak || Loudness.of(wave, sampleRate) ?? -.infinity < silentLufs {
            throw EchoEdgeError.input(
                "\(name) is silent (its peak is \(peak) of full scale). Give a recording with audible speech.")
        }
        return normalised(wave, sampleRate).map { min(max($0, -1), 1) }
    }

    /// One of many channels by ITU-R BS.775, without LFE; of two that cancel each other the louder one alone.
    public static func mono(_ sound: Sound) -> [Float] {
        let n = sound.channels
        var weights = [Float](repeating: Float(1 / Double(n)), count: n)
        if n == 2 {
            weights = cancelling(sound).map { $0 == 0 ? [1, 0] : [0, 1] } ?? [0.5, 0.5]
        } else if n > 1, sound.places.contains(where: { [0x1, 0x2, 0x4].contains($0) }) {
            weights = sound.places.map(coefficient)
        }
        return sound.samples.withUnsafeBufferPointer { samples in
            (0..<sound.length).map { at in
                var sum = samples[at * n] * weights[0]
                for channel in 1..<max(n, 1) { sum += samples[at * n + channel] * weights[channel] }
                return sum
            }
        }
    }

    /// Of a speaker's bit: front left and right 0x1 and 0x2, centre 0x4, LFE 0x8; what stands around counts less.
    private static func coefficient(_ place: UInt32) -> Float {
        switch place {
        case 0x1, 0x2: return 0.5
        case 0x4: return Float(0.5.squareRoot())
        case 0x8: return 0
        default: return Float(0.125.squareRoot())
        }
    }

    /// The louder of two channels whose sum would cancel, also with some milliseconds between them; else nil.
    private static func cancelling(_ sound: Sound) -> Int? {
        var power = [0.0, 0.0]
        for (i, sample) in sound.samples.enumerated() { power[i % 2] += Double(sample) * Double(sample) }
        if power.contains(where: { $0 <= 0 }) { return nil }
        let heard = min(sound.length, judged)
        let left = (0..<heard).map { Double(sound.samples[2 * $0]) }
        let right = (0..<heard).map { Double(sound.samples[2 * $0 + 1]) }
        let most = Int(lagSeconds * Double(sound.rate))
        let nearest = (-most...most).map { product(left, right, $0) }.max { abs($0) < abs($1) } ?? 0
        let scale = (product(left, left, 0) * product(right, right, 0)).squareRoot()
        return nearest / (scale > 0 ? scale : 1) < cancelling ? (power[1] > power[0] ? 1 : 0) : nil
    }

    private static func product(_ one: [Double], _ other: [Double], _ lag: Int) -> Double {
        one.withUnsafeBufferPointer { one in
            other.withUnsafeBufferPointer { other in
                var sum = 0.0
                let first = max(0, -lag)
                for i in first..<max(first, min(one.count, one.count - lag)) { sum += one[i + lag] * other[i] }
                return sum
            }
        }
    }

    /// From one rate to another, by a windowed sinc (Kaiser's window); as it is where they are equal.
    public static func resampled(_ wave: [Float], from: Int, to: Int) -> [Float] {
        if from == to || wave.isEmpty { return wave }
        let gain = min(1, cutoff * Double(to) / Double(from))
        var taps = Int((self.taps / gain).rounded(.up))
        taps += taps % 2
        let centre = (taps - 1) / 2
        let divisor = greatest(from, to)
        let n = wave.count
        var kernels = [[Double]](repeating: [], count: to / divisor)
        return wave.withUnsafeBufferPointer { wave in
            (0..<((n * to + from - 1) / from)).map { j in
                let first = j * from / to - centre
                let remainder = j * from % to
                if kernels[remainder / divisor].isEmpty {
                    kernels[remainder / divisor] = kernel(Double(remainder) / Double(to), gain, taps, centre)
                }
                return kernels[remainder / divisor].withUnsafeBufferPointer { kernel in
                    var sum = 0.0
                    if first >= 0 && first + taps <= n {
                        for t in 0..<taps { sum += kernel[t] * Double(wave[first + t]) }
                    } else {
                        for t in 0..<taps { sum += kernel[t] * Double(wave[mirrored(first + t, n)]) }
                    }
                    return Float(sum)
                }
            }
        }
    }

    private static func kernel(_ fraction: Double, _ gain: Double, _ taps: Int, _ centre: Int) -> [Double] {
        let kernel = (0..<taps).map { t in
            let distance = Double(t - centre) - fraction
            let across = 2 * distance / Double(taps)
            return sinc(distance * gain) * bessel(sharpness * max(0, 1 - across * across).squareRoot())
        }
        let total = kernel.reduce(0, +)
        return kernel.map { $0 / total }
    }

    private static func sinc(_ u: Double) -> Double { u == 0 ? 1 : sin(.pi * u) / (.pi * u) }

    /// The modified Bessel function I₀ by its series.
    private static func bessel(_ x: Double) -> Double {
        var sum = 1.0
        var term = 1.0
        var k = 1.0
        while term > 1e-17 * sum {
            term *= (x / (2 * k)) * (x / (2 * k))
            sum += term
            k += 1
        }
        return sum
    }

    /// x[-k] = x[k] in front, x[n - 1 + k] = x[n - k] behind.
    private static func mirrored(_ index: Int, _ n: Int) -> Int {
        var at = index
        while at < 0 || at >= n { at = at < 0 ? -at : 2 * n - 1 - at }
        return at
    }

    private static func greatest(_ a: Int, _ b: Int) -> Int { b == 0 ? a : greatest(b, a % b) }

    /// Without a constant offset, which nobody hears and every level counts.
    public static func level(_ wave: [Float]) -> [Float] {
        let offset = wave.isEmpty ? 0 : wave.reduce(0.0) { $0 + Double($1) } / Double(wave.count)
        return abs(offset) > constant ? wave.map { $0 - Float(offset) } : wave
    }

    /// At -23 LUFS; a loudness beyond ±100 LUFS is left alone.
    public static func normalised(_ wave: [Float], _ sampleRate: Int) -> [Float] {
        guard let measured = Loudness.of(wave, sampleRate), abs(measured) <= 100 else { return wave }
        let gain = Float(pow(10, (targetLufs - measured) / 20))
        return wave.map { $0 * gain }
    }
}

/// Integrated loudness of one channel, ITU-R BS.1770.
public enum Loudness {
    private static let blockSeconds = 0.4
    private static let absoluteGate = -70.0
    private static let relativeGate = -10.0
    private static let offset = -0.691

    /// In LUFS, nil for silence. A sound shorter than a block of 0.4 s is repeated until it fills one.
    public static func of(_ wave: [Float], _ sampleRate: Int) -> Double? {
        if wave.isEmpty { return nil }
        let rate = Double(sampleRate)
        let block = blockSeconds * rate
        let size = max(Int(block.rounded(.up)), wave.count)
        let shelved = highShelf(gainDb: 4, q: 0.5.squareRoot(), frequency: 1500 / rate).filtered(
            (0..<size).map { Double(wave[$0 % wave.count]) })
        let weighted = highPass(q: 0.5, frequency: 38 / rate).filtered(shelved)
        let count = Int(((Double(size) / rate - blockSeconds) / (blockSeconds / 4)).rounded(.toNearestOrEven)) + 1
        let powers = (0..<count).map { k in
            let begin = Int(blockSeconds * Double(k) * 0.25 * rate)
            let end = min(size, Int(blockSeconds * (Double(k) * 0.25 + 1) * rate))
            return weighted[begin..<max(begin, end)].reduce(0) { $0 + $1 * $1 } / block
        }
        guard let heard = mean(powers.filter { lufs($0) >= absoluteGate }) else { return nil }
        let gate = lufs(heard) + relativeGate
        return mean(powers.filter { lufs($0) > gate && lufs($0) > absoluteGate }).map(lufs)
    }

    private static func mean(_ powers: [Double]) -> Double? { powers.isEmpty ? nil : powers.reduce(0, +) / Double(powers.count) }

    private static func lufs(_ power: Double) -> Double { offset + 10 * log10(power) }

    /// A filter of two poles and two zeros; `frequency` in cycles a sample.
    private struct Biquad {
        let b: (Double, Double, Double), a: (Double, Double, Double)

        func filtered(_ x: [Double]) -> [Double] {
            let (b0, b1, b2) = (b.0 / a.0, b.1 / a.0, b.2 / a.0)
            let (a1, a2) = (a.1 / a.0, a.2 / a.0)
            var (first, second) = (0.0, 0.0)
            return x.map { sample in
                let y = b0 * sample + first
                first = b1 * sample - a1 * y + second
                second = b2 * sample - a2 * y
                return y
            }
        }
    }

    private static func highShelf(gainDb: Double, q: Double, frequency: Double) -> Biquad {
        let a = pow(10, gainDb / 40)
        let w = 2 * .pi * frequency
        let c = cos(w)
        let width = 2 * a.squareRoot() * sin(w) / (2 * q)
        return Biquad(
            b: (a * (a + 1 + (a - 1) * c + width), -2 * a * (a - 1 + (a + 1) * c), a * (a + 1 + (a - 1) * c - width)),
            a: (a + 1 - (a - 1) * c + width, 2 * (a - 1 - (a + 1) * c), a + 1 - (a - 1) * c - width))
    }

    private static func highPass(q: Double, frequency: Double) -> Biquad {
        let w = 2 * .pi * frequency
        let c = cos(w)
        let alpha = sin(w) / (2 * q)
        return Biquad(b: ((1 + c) / 2, -(1 + c), (1 + c) / 2), a: (1 + alpha, -2 * c, 1 - alpha))
    }
}
