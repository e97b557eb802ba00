import EchoEdgeCore

/// Pictures as binary PPM (P6, 8 bits): what every program that makes pictures can write, and this one reads without a library.
enum Ppm {
    /// Throws `input`: it is no such file, or is cut off.
    static func parse(_ bytes: [UInt8], name: String) throws -> Pixels {
        let wrong = EchoEdgeError.input(
            "\(name) is not a binary PPM of 8 bits (P6). Convert it, such as with ffmpeg -i PICTURE OUT.ppm.")
        var at = 2
        func number() throws -> Int {
            while at < bytes.count, [0x09, 0x0A, 0x0D, 0x20, UInt8(ascii: "#")].contains(bytes[at]) {
                if bytes[at] == UInt8(ascii: "#") {
                    while at < bytes.count, bytes[at] != 0x0A { at += 1 }
                } else {
                    at += 1
                }
            }
            let begin = at
            while at < bytes.count, (0x30...0x39).contains(bytes[at]) { at += 1 }
            guard let value = Int(String(decoding: bytes[begin..<at], as: UTF8.self)), value > 0 else { throw wrong }
            return value
        }
        if !bytes.starts(with: Array("P6".utf8)) { throw wrong }
        let (width, height, most) = (try number(), try number(), try number())
        let size = sizeOf([height, width, 3])
        if most != 255 || bytes.count <= at || bytes.count - at - 1 != size { throw wrong }
        return try Pixels(height: height, width: width, channels: 3, Array(bytes[(at + 1)...]))
    }
}
