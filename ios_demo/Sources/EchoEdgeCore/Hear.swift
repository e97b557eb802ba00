/// One call of the audio program: it reads video frames `start` to `end` - 1, of which `first` to `last` - 1 are kept.
public struct Reading: Equatable, Sendable {
    public let start: Int, end: Int, first: Int, last: Int
}

/// What one reading gives the audio program: `waveform` [samples]; where the model asks for them `moments` and `present`.
public struct Heard {
    public let reading: Reading
    public let waveform: [Float]
    public let moments: Floats?
    public let present: [Float]?
}

/// Hearing: a voice of any length through an audio encoder that reads so many samples at once, as docs/BUNDLE.md tells under
/// Listen.
public enum Hear {
    private static let leastVariance = 1e-7

    /// The calls that hear so many video frames, `reach` of them at once. Throws `bundle`: nothing would be left of a reading
    /// between its contexts.
    public static func readings(_ frames: Int, reach: Int, _ hearing: Hearing) throws -> [Reading] {
        let behind = max(hearing.contextFrames, hearing.tailFrames)
        if reach <= hearing.contextFrames + behind {
            throw EchoEdgeError.bundle(
                "The audio encoder reads \(reach) frames at once, \(hearing.contextFrames) of them as context on either side: "
                    + "nothing is left to keep. Export the bundle again.")
        }
        let total = frames + hearing.tailFrames
        var found: [Reading] = []
        var first = 0
        while first < frames {
            let start = max(0, min(first - hearing.contextFrames, total - reach))
            let end = start + reach
            let last = end >= total ? frames : min(frames, end - behind)
            found.append(Reading(start: start, end: end, first: first, last: last))
            first = last
        }
        return found
    }

    /// What the audio program is given, reading by reading, of a speech of which so many video frames are heard.
    public static func readings(
        _ speech: [Float], _ frames: Int, samplesPerFrame: Int, samples: Int, _ hearing: Hearing
    ) throws -> [Heard] {
        let (reach, more) = (samples / samplesPerFrame, samples % samplesPerFrame)
        let total = frames + hearing.tailFrames
        let own = (min(frames, (speech.count + samplesPerFrame - 1) / samplesPerFrame) + hearing.tailFrames) * samplesPerFrame
        let voice = part(speech, 0, frames * samplesPerFrame + more)
        var sound = part(voice, 0, total * samplesPerFrame + more)
        var moments: Floats?
        if let window = hearing.window {
            sound = normalised(sound, own)
            moments = try self.moments(Array(sound.prefix(own)), length: window.length, stride: window.stride)
        }
        return try readings(frames, reach: reach, hearing).map { reading in
            let there = hearing.window.map { _ in
                present(min(total, reading.end) - reading.start, reach: reach, rowsPerFrame: hearing.rowsPerFrame)
            }
            let waveform = part(sound, reading.start * samplesPerFrame, samples)
            return Heard(reading: reading, waveform: waveform, moments: moments, present: there)
        }
    }

    /// So many samples from a place on, zeros behind the end.
    private static func part(_ sound: [Float], _ start: Int, _ samples: Int) -> [Float] {
        let there = sound.dropFirst(start).prefix(samples)
        return there + [Float](repeating: 0, count: samples - there.count)
    }

    /// Shifted and scaled so that the first `own` samples have zero mean and unit variance, in double.
    public static func normalised(_ sound: [Float], _ own: Int) -> [Float] {
        let heard = sound.prefix(own)
        let count = Double(heard.count)
        let mean = heard.reduce(0.0) { $0 + Double($1) } / count
        let variance = heard.reduce(0.0) { $0 + (Double($1) - mean) * (Double($1) - mean) } / count
        let deviation = (variance + leastVariance).squareRoot()
        return sound.map { Float((Double($0) - mean) / deviation) }
    }

    /// Mean and covariance of the windows of `length` samples, one every `stride`: [1, length + 1, length]. Row 0 is the mean, the
    /// others are the columns of the covariance's lower triangular factor. Throws `input`: the sound is shorter than a window.
    public static func moments(_ sound: [Float], length: Int, stride: Int) throws -> Floats {
        if sound.count < length {
            throw EchoEdgeError.input("The speech has \(sound.count) samples; the audio encoder hears \(length) at once.")
        }
        let count = (sound.count - length) / stride + 1
        var mean = [Double](repeating: 0, count: length)
        var matrix = [Double](repeating: 0, count: length * length)
        sound.withUnsafeBufferPointer { sound in
            for window in 0..<count {
                let at = window * stride
                for i in 0..<length {
                    let value = Double(sound[at + i])
                    mean[i] += value
                    for j in 0...i { matrix[i * length + j] += value * Double(sound[at + j]) }
                }
            }
        }
        for i in 0..<length { mean[i] /= Double(count) }
        for i in 0..<length {
            for j in 0...i { matrix[i * length + j] = matrix[i * length + j] / Double(count) - mean[i] * mean[j] }
        }
        let factor = lowerFactor(matrix, length)
        var made = mean.map { Float($0) }
        for column in 0..<length {
            for row in 0..<length { made.append(Float(factor[row * length + column])) }
        }
        return Floats(made, [1, length + 1, length])
    }

    /// Cholesky's factor of a symmetric matrix that may be singular, of its lower triangle: a column without a pivot stays zero.
    private static func lowerFactor(_ matrix: [Double], _ size: Int) -> [Double] {
        var factor = [Double](repeating: 0, count: size * size)
        let least = 1e-13 * (0..<size).reduce(0) { max($0, matrix[$1 * size + $1]) }
        for column in 0..<size {
            let rest = (column..<size).map { row -> Double in
                var sum = 0.0
                for k in 0..<column { sum += factor[row * size + k] * factor[column * size + k] }
                return matrix[row * size + column] - sum
            }
            if rest[0] > least {
                let root = rest[0].squareRoot()
                for row in column..<size { factor[row * size + column] = rest[row - column] / root }
            }
        }
        return factor
    }

    /// Which rows of a reading of `reach` frames are there when the sound fills so many of them, 1 or 0.
    public static func present(_ frames: Int, reach: Int, rowsPerFrame: Int) -> [Float] {
        let less = rowsPerFrame - 1
        return (0..<(rowsPerFrame * reach - less)).map { $0 < rowsPerFrame * frames - less ? 1 : 0 }
    }

    /// What a branch hears of a clip's `features` [rows, …] in a window of `length` video frames from row `first` on, as programs
    /// take it: rows [1, N, …], `shift` video frames late, or zeros where it does not listen; and which of them are there, [1,
    /// N].
    public static func voice(
        _ features: Floats, _ hearing: Hearing, first: Int, length: Int, listens: Bool, shift: Int
    ) -> (rows: Floats, present: Floats) {
        let count = rows(hearing, length)
        let heard = min(features.shape[0] - first, count)
        let size = sizeOf(Array(features.shape.dropFirst()))
        let late = shift * hearing.rowsPerFrame % heard
        var made: [Float] = []
        made.reserveCapacity(count * size)
        for row in 0..<(listens ? heard : 0) {
            let from = first + (row - late + heard) % heard
            made.append(contentsOf: features.values[(from * size)..<((from + 1) * size)])
        }
        made.append(contentsOf: [Float](repeating: 0, count: count * size - made.count))
        let present = (0..<count).map { Float($0 < heard ? 1 : 0) }
        return (Floats(made, [1, count] + features.shape.dropFirst()), Floats(present, [1, count]))
    }

    /// Rows of features that a window of so many video frames takes, with those beyond its last one.
    static func rows(_ hearing: Hearing, _ videoFrames: Int) -> Int { hearing.rowsPerFrame * (videoFrames + hearing.beyondFrames) }

    /// Features [T, …] with their neighbours, clamped at the ends: [T, 2·radius + 1, …]; as they are where the radius is 0.
    public static func neighbourhoods(_ features: Floats, _ radius: Int) -> Floats {
        if radius == 0 { return features }
        let rows = features.shape[0]
        let size = features.values.count / rows
        var made: [Float] = []
        made.reserveCapacity(features.values.count * (2 * radius + 1))
        for row in 0..<rows {
            for near in (row - radius)...(row + radius) {
                let from = min(max(near, 0), rows - 1) * size
                made.append(contentsOf: features.values[from..<(from + size)])
            }
        }
        return Floats(made, [rows, 2 * radius + 1] + features.shape.dropFirst())
    }
}
