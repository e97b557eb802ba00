/// Half precision as bits, so that it can be had on every machine that Swift runs on.
public enum Half {
    /// The single precision number that sixteen bits are.
    public static func float(_ bits: UInt16) -> Float {
        let sign = UInt32(bits & 0x8000) << 16
        let exponent = UInt32(bits >> 10) & 0x1F
        let fraction = UInt32(bits & 0x3FF)
        switch exponent {
        case 0:  // zero, or fraction · 2^-24, which single precision holds
            return Float(bitPattern: sign | (Float(fraction) * 0x1p-24).bitPattern)
        case 0x1F: return Float(bitPattern: sign | 0x7F80_0000 | fraction << 13)
        default: return Float(bitPattern: sign | (exponent + 112) << 23 | fraction << 13)
        }
    }

    /// To nearest, ties to even; what is too large becomes infinite.
    public static func bits(_ value: Float) -> UInt16 {
        let bits = value.bitPattern
        let sign = UInt16(truncatingIfNeeded: bits >> 16) & 0x8000
        let size = bits & 0x7FFF_FFFF
        if size > 0x7F80_0000 { return sign | 0x7E00 }  // not a number
        if size >= 0x4780_0000 { return sign | 0x7C00 }  // 65,536 and above
        if size < 0x3880_0000 {  // below 2^-14: a multiple of 2^-24
            let steps = (Float(bitPattern: size) * 0x1p24).rounded(.toNearestOrEven)
            return sign | UInt16(steps)
        }
        let rounded = size + 0xFFF + (size >> 13 & 1)
        return sign | UInt16(truncatingIfNeeded: (rounded >> 13) - (112 << 10))
    }
}

/// Copies between numbers that lie row by row and storage in which each axis has a stride of its own, in elements.
public enum Strided {
    /// The strides of storage without gaps, row by row.
    public static func rowMajor(_ shape: [Int]) -> [Int] {
        var strides = [Int](repeating: 1, count: shape.count)
        for axis in stride(from: shape.count - 2, through: 0, by: -1) { strides[axis] = strides[axis + 1] * shape[axis + 1] }
        return strides
    }

    /// Elements that storage has to have for a shape and its strides; 0 for a shape without elements.
    public static func extent(_ shape: [Int], _ strides: [Int]) -> Int {
        if shape.contains(0) { return 0 }
        return zip(shape, strides).reduce(1) { $0 + ($1.0 - 1) * $1.1 }
    }

    /// Calls `body` with each run of the innermost axis: where it begins row by row, where in the storage, and how long it is.
    public static func rows(_ shape: [Int], _ strides: [Int], _ body: (_ row: Int, _ place: Int, _ count: Int) throws -> Void)
        rethrows
    {
        precondition(shape.count == strides.count, "a stride for each axis")
        let count = shape.last ?? 1
        let outer = Array(shape.dropLast())
        if count == 0 || outer.contains(0) { return }
        var index = [Int](repeating: 0, count: outer.count)
        var row = 0
        var place = 0
        while true {
            try body(row, place, count)
            row += count
            var axis = outer.count - 1
            while axis >= 0 {
                index[axis] += 1
                place += strides[axis]
                if index[axis] < outer[axis] { break }
                place -= outer[axis] * strides[axis]
                index[axis] = 0
                axis -= 1
            }
            if axis < 0 { return }
        }
    }

    /// The numbers of a shape row by row, each read by `element` at its place in the storage.
    public static func gathered<T>(_ shape: [Int], _ strides: [Int], _ element: (Int) -> T) -> [T] {
        var found: [T] = []
        found.reserveCapacity(shape.reduce(1, *))
        let step = strides.last ?? 1
        rows(shape, strides) { _, place, count in
            for at in 0..<count { found.append(element(place + at * step)) }
        }
        return found
    }
}
