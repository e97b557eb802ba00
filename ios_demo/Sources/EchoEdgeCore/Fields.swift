/// The fields of a record in a file, read strictly: a field that is missing, unknown, of another type or out of range is an error
/// that names its place and quotes its value. `place`: where the record stands, "" at the top; `failure` makes the error of a
/// sentence.
public struct Fields {
    public static let positive = Double.leastNonzeroMagnitude...Double.greatestFiniteMagnitude
    public static let fromZero = 0...Double.greatestFiniteMagnitude

    let values: Ordered<Json>
    private let place: String
    private let failure: (String) -> EchoEdgeError

    public init(_ place: String, _ value: Json, _ failure: @escaping (String) -> EchoEdgeError) throws {
        self.place = place
        self.failure = failure
        guard let members = value.members else {
            throw failure("\(place.isEmpty ? "It" : place) is \(value.told); it must be an object")
        }
        values = members
    }

    public func error(_ name: String?, _ what: String) -> EchoEdgeError {
        let parts = [place, name ?? ""].filter { !$0.isEmpty }
        return failure("\(parts.isEmpty ? "It" : parts.joined(separator: ".")) \(what)")
    }

    /// Refuses fields that are not among `known`.
    @discardableResult
    public func only(_ known: String...) throws -> Fields { try only(known) }

    @discardableResult
    public func only(_ known: [String]) throws -> Fields {
        if let other = values.keys.first(where: { !known.contains($0) }) {
            throw error(short(other), "is no field that is known here")
        }
        return self
    }

    func has(_ name: String) -> Bool { values[name] ?? .null != .null }

    /// What `read` makes of a field, nil where there is none or it is null.
    func maybe<T>(_ name: String, _ read: (String) throws -> T) rethrows -> T? { has(name) ? try read(name) : nil }

    /// What `read` makes of a field, nil where there is none.
    public func ifThere<T>(_ name: String, _ read: (String) throws -> T) rethrows -> T? { values.has(name) ? try read(name) : nil }

    /// What `read` makes of a field that must be there, nil where it is null.
    @discardableResult
    public func orNull<T>(_ name: String, _ read: (String) throws -> T) throws -> T? {
        try value(name) == .null ? nil : read(name)
    }

    func value(_ name: String) throws -> Json {
        guard let found = values[name] else { throw error(name, "is missing") }
        return found
    }

    private func mustBe(_ kind: String, _ name: String, _ value: Json) -> EchoEdgeError {
        error(name, "is \(value.told); it must be \(kind)")
    }

    public func text(_ name: String, _ lengths: ClosedRange<Int> = 0...Int.max) throws -> String {
        let found = try value(name)
        guard let text = found.text else { throw mustBe("a text", name, found) }
        if !lengths.contains(text.unicodeScalars.count) {
            throw error(name, "is \(found.told); it must have \(lengths.lowerBound) to \(lengths.upperBound) characters")
        }
        return text
    }

    /// A text of a kind, which `kind` names and `fits` knows.
    func text(_ name: String, _ kind: String, _ fits: (String) -> Bool) throws -> String {
        let found = try text(name)
        if !fits(found) { throw mustBe(kind, name, .text(found)) }
        return found
    }

    public func oneOf(_ name: String, _ good: String...) throws -> String { try oneOf(name, good) }

    public func oneOf(_ name: String, _ good: [String]) throws -> String {
        let found = try text(name)
        if !good.contains(found) { throw error(name, "is \(Json.text(found).told). Choose from: \(listed(good))") }
        return found
    }

    func sha256(_ name: String) throws -> String {
        try text(name, "64 digits 0-9 and a-f") { $0.utf8.count == 64 && $0.utf8.allSatisfy(isHexadecimal) }
    }

    public func flag(_ name: String) throws -> Bool { try flag(name, value(name)) }

    func flag(_ name: String, _ value: Json) throws -> Bool {
        guard case .bool(let found) = value else { throw mustBe("true or false", name, value) }
        return found
    }

    public func whole(_ name: String, _ range: ClosedRange<Int> = 0...Int.max) throws -> Int { try whole(name, value(name), range) }

    func whole(_ name: String, _ value: Json, _ range: ClosedRange<Int>) throws -> Int {
        guard let found = value.whole else { throw mustBe("a whole number", name, value) }
        if !range.contains(found) { throw error(name, "is \(found); it must be from \(range.lowerBound) to \(range.upperBound)") }
        return found
    }

    /// An unsigned number of 64 bits.
    public func seed(_ name: String) throws -> UInt64 {
        let found = try value(name)
        switch found {
        case .whole(let value) where value >= 0: return UInt64(value)
        case .big(let digits): if let value = UInt64(digits) { return value }
        default: break
        }
        throw mustBe("a whole number from 0 to 2^64-1", name, found)
    }

    public func number(_ name: String, _ range: ClosedRange<Double>) throws -> Double { try number(name, value(name), range) }

    func number(_ name: String, _ value: Json, _ range: ClosedRange<Double>) throws -> Double {
        guard let found = value.double else { throw mustBe("a number", name, value) }
        if !range.contains(found) {
            let bounds = range == Fields.positive ? "above 0" : "from \(range.lowerBound) to \(range.upperBound)"
            throw error(name, "is \(found); it must be \(bounds)")
        }
        return found
    }

    /// What `row` makes of each entry of a list; it is given the entry's place.
    func rows<T>(_ name: String, _ row: (String, Json) throws -> T) throws -> [T] { try rows(name, value(name), row) }

    func rows<T>(_ name: String, _ value: Json, _ row: (String, Json) throws -> T) throws -> [T] {
        guard let found = value.items else { throw mustBe("a list", name, value) }
        return try found.enumerated().map { try row("\(name).\($0.offset)", $0.element) }
    }

    func numbers(_ name: String, _ range: ClosedRange<Double>) throws -> [Double] { try numbers(name, value(name), range) }

    func numbers(_ name: String, _ value: Json, _ range: ClosedRange<Double>) throws -> [Double] {
        try rows(name, value) { try number($0, $1, range) }
    }

    public func record(_ name: String) throws -> Fields { try at(name, value(name)) }

    public func texts(_ name: String) throws -> [String] {
        try rows(name) { place, value in
            guard let text = value.text else { throw mustBe("a text", place, value) }
            return text
        }
    }

    func records(_ name: String) throws -> [Fields] { try rows(name, at) }

    /// The fields of a field, by their names in the order of the file.
    func named(_ name: String) throws -> Ordered<Json> {
        let found = try value(name)
        guard let members = found.members else { throw mustBe("an object", name, found) }
        return members
    }

    func recordsByName(_ name: String) throws -> Ordered<Fields> { try named(name).mapped { try at("\(name).\($0)", $1) } }

    func at(_ name: String, _ value: Json) throws -> Fields {
        try Fields(place.isEmpty ? name : "\(place).\(name)", value, failure)
    }
}

/// A digit 0-9 or a-f.
func isHexadecimal(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte)
}
