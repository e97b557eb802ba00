import Foundation

/// What a player makes of a prompt and of known frames before any program runs.
public enum Inputs {
    private static let hidden: Float = -1e9  // the bias of rows that are not read

    /// The UTF-8 bytes of a prompt as ids [1, textLength] padded with `padId`, cut at a character's end, and how many count.
    public static func byteIds(_ prompt: String, textLength: Int, padId: Int) -> (ids: [Int64], length: Int) {
        let bytes = Array(prompt.utf8)
        var length = min(bytes.count, textLength)
        while length > 0, length < bytes.count, bytes[length] & 0xC0 == 0x80 { length -= 1 }  // inside a character
        return ((0..<textLength).map { Int64($0 < length ? Int(bytes[$0]) : padId) }, length)
    }

    /// A prompt's rows [l, dim] as [1, textRows, dim] and their bias [1, textRows]: equal rows of padding are one, weighed like
    /// all. Throws `config`: the prompt does not fit.
    public static func text(_ rows: Floats, textLength: Int, textRows: Int) throws -> (text: Floats, bias: Floats) {
        let (length, dim) = (rows.shape[0], rows.shape[1])
        let padding = textLength - length
        if padding < 0 || length + (padding > 0 ? 1 : 0) > textRows {
            throw EchoEdgeError.config(
                "A prompt has \(length) tokens; this bundle reads up to \(min(textLength, textRows - 1)). Shorten it.")
        }
        let bias = (0..<textRows).map { row in
            row < length ? 0 : row == length && padding > 0 ? Float(log(Double(padding))) : hidden
        }
        let zeros = [Float](repeating: 0, count: (textRows - length) * dim)
        return (Floats(rows.values + zeros, [1, textRows, dim]), Floats(bias, [1, textRows]))
    }

    /// Rows times a strength, in single precision.
    public static func scaled(_ rows: Floats, _ scale: Double) -> Floats {
        let factor = Float(scale)
        return Floats(rows.values.map { $0 * factor }, rows.shape)
    }

    /// The model's `y` [mask + C, frames, h, w] of a clip whose first frame is known: masks, 1 in latent frame 0, then the latents
    /// [C, k, h, w] of what was encoded, zeros behind.
    public static func known(_ latents: Latents, maskChannels: Int, frames: Int) -> Latents {
        let plane = latents.height * latents.width
        let made = (0..<frames).map { index in
            [Float](repeating: index == 0 ? 1 : 0, count: maskChannels * plane)
                + (index < latents.frames ? latents.frame(index) : [Float](repeating: 0, count: latents.channels * plane))
        }
        return Latents(channels: maskChannels + latents.channels, height: latents.height, width: latents.width, frames: made)
    }
}
