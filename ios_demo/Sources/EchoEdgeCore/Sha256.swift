import Foundation

#if canImport(CryptoKit)
    import CryptoKit
#endif

/// SHA-256 in hexadecimal digits.
public func sha256Of(_ bytes: [UInt8]) -> String {
    var hash = Hash()
    bytes.withUnsafeBytes { hash.update(bufferPointer: $0) }
    return hexadecimal(hash.finalize())
}

/// SHA-256 of a file in constant memory; nil: it cannot be read.
public func sha256Of(_ file: URL) -> String? {
    guard let opened = fopen(file.path, "rb") else { return nil }
    defer { fclose(opened) }
    var hash = Hash()
    var buffer = [UInt8](repeating: 0, count: 1 << 18)
    while true {
        let count = fread(&buffer, 1, buffer.count, opened)
        if count == 0 { break }
        buffer.withUnsafeBytes { hash.update(bufferPointer: UnsafeRawBufferPointer(rebasing: $0[..<count])) }
    }
    return ferror(opened) == 0 ? hexadecimal(hash.finalize()) : nil
}

private func hexadecimal<Digest: Sequence>(_ digest: Digest) -> String where Digest.Element == UInt8 {
    let digits = Array("0123456789abcdef")
    return String(digest.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] })
}

#if canImport(CryptoKit)
    private typealias Hash = CryptoKit.SHA256
#else
    private typealias Hash = PortableSha256
#endif

/// SHA-256 (FIPS 180-4) where the system has none.
public struct PortableSha256 {
    private static let constants = primes(64).map { fraction(cbrt(Double($0))) }
    private var state = primes(8).map { fraction(Double($0).squareRoot()) }
    private var rest: [UInt8] = []
    private var length: UInt64 = 0

    public init() {}

    public mutating func update(bufferPointer bytes: UnsafeRawBufferPointer) {
        length &+= UInt64(bytes.count)
        var at = 0
        if !rest.isEmpty {
            at = min(64 - rest.count, bytes.count)
            rest.append(contentsOf: bytes[..<at])
            if rest.count < 64 { return }
            let block = rest
            block.withUnsafeBytes { blocks($0, 0, 1) }
            rest.removeAll(keepingCapacity: true)
        }
        let count = (bytes.count - at) / 64
        blocks(bytes, at, count)
        rest.append(contentsOf: bytes[(at + 64 * count)...])
    }

    public mutating func finalize() -> [UInt8] {
        let bits = length &* 8
        var padding = [UInt8](repeating: 0, count: (rest.count < 56 ? 56 : 120) - rest.count)
        padding[0] = 0x80
        for shift in stride(from: 56, through: 0, by: -8) { padding.append(UInt8(truncatingIfNeeded: bits >> UInt64(shift))) }
        padding.withUnsafeBytes { update(bufferPointer: $0) }
        return state.flatMap { word in [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: word >> UInt32($0)) } }
    }

    private mutating func blocks(_ bytes: UnsafeRawBufferPointer, _ begin: Int, _ count: Int) {
        PortableSha256.constants.withUnsafeBufferPointer { constants in
            withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 64) { w in
                for block in 0..<count {
                    for i in 0..<16 {
                        w[i] = UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: begin + 64 * block + 4 * i, as: UInt32.self))
                    }
                    for i in 16..<64 {
                        let s0 = turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ w[i - 15] >> 3
                        let s1 = turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ w[i - 2] >> 10
                        w[i] = w[i - 16] &+ s0 &+ w[i - 7] &+ s1
                    }
                    var (a, b, c, d) = (state[0], state[1], state[2], state[3])
                    var (e, f, g, h) = (state[4], state[5], state[6], state[7])
                    for i in 0..<64 {
                        let s1 = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)
                        let t1 = h &+ s1 &+ (e & f ^ ~e & g) &+ constants[i] &+ w[i]
                        let t2 = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) &+ (a & b ^ a & c ^ b & c)
                        (h, g, f, e, d, c, b, a) = (g, f, e, d &+ t1, c, b, a, t1 &+ t2)
                    }
                    for (place, word) in [a, b, c, d, e, f, g, h].enumerated() { state[place] &+= word }
                }
            }
        }
    }

    private func turned(_ word: UInt32, _ by: UInt32) -> UInt32 { word &>> by | word &<< (32 - by) }

    private static func primes(_ count: Int) -> [Int] {
        Array((2...).lazy.filter { number in !(2..<number).contains { number % $0 == 0 } }.prefix(count))
    }

    /// The first 32 bits behind the point of a root.
    private static func fraction(_ root: Double) -> UInt32 {
        UInt32((root - root.rounded(.down)) * 4_294_967_296)
    }
}
