import EchoEdgeCore

/// The members of a JSON object, read strictly: one that is missing, unknown, of another kind or out of range is an error that
/// names its place and quotes its value. `failure` makes the error of a sentence.
struct Members {
    private let values: Ordered<Json>
    private let place: String
    private let failure: (String) -> EchoEdgeError

    init(_ value: Json, _ place: String = "", failure: @escaping (String) -> EchoEdgeError) throws {
        guard let members = value.members else {
            throw failure("\(place.isEmpty ? "It" : place) is \(quoted(value)); it must be an object")
        }
        self.values = members
        self.place = place
        self.failure = failure
    }

    func error(_ name: String, _ what: String) -> EchoEdgeError { failure("\(place.isEmpty ? name : "\(place).\(name)") \(what)") }

    func only(_ known: [String]) throws {
        if let other = values.keys.first(where: { !known.contains($0) }) { throw error(other, "is no field that is known here") }
    }

    func value(_ name: String) throws -> Json {
        guard let found = values[name] else { throw error(name, "is missing") }
        return found
    }

    /// nil: it is there and null.
    func told<T>(_ name: String, _ read: (String) throws -> T) throws -> T? { try value(name) == .null ? nil : read(name) }

    /// nil: it is not there.
    func maybe<T>(_ name: String, _ read: (String) throws -> T) throws -> T? { values.has(name) ? try read(name) : nil }

    func text(_ name: String, most: Int = Int.max, least: Int = 0) throws -> String {
        let found = try value(name)
        guard let text = found.text else { throw error(name, "is \(quoted(found)); it must be a text") }
        if text.count < least || text.count > most {
            throw error(name, "is \(quoted(found)); it must have \(least) to \(most) characters")
        }
        return text
    }

    func oneOf(_ name: String, _ good: [String]) throws -> String {
        let found = try text(name)
        if !good.contains(found) { throw error(name, "is '\(cut(found))'. Choose from: \(good.joined(separator: ", "))") }
        return found
    }

    func flag(_ name: String) throws -> Bool {
        let found = try value(name)
        guard case .bool(let flag) = found else { throw error(name, "is \(quoted(found)); it must be true or false") }
        return flag
    }

    func whole(_ name: String, _ range: ClosedRange<Int>) throws -> Int {
        let found = try value(name)
        guard let whole = found.whole, range.contains(whole) else {
            throw error(name, "is \(quoted(found)); it must be a whole number from \(range.lowerBound) to \(range.upperBound)")
        }
        return whole
    }

    /// An unsigned number of 64 bits.
    func seed(_ name: String) throws -> UInt64 {
        let found = try value(name)
        switch found {
        case .whole(let value) where value >= 0: return UInt64(value)
        case .big(let digits): if let value = UInt64(digits) { return value }
        default: break
        }
        throw error(name, "is \(quoted(found)); it must be a whole number from 0 to 2^64-1")
    }

    func number(_ name: String, above: Double? = nil, least: Double = -Double.greatestFiniteMagnitude) throws -> Double {
        let found = try value(name)
        guard let number = found.double, number.isFinite, number >= least, above.map({ number > $0 }) ?? true else {
            let bound = above.map { "above \($0)" } ?? "from \(least)"
            throw error(name, "is \(quoted(found)); it must be a number \(bound)")
        }
        return number
    }

    func texts(_ name: String) throws -> [String] {
        let found = try value(name)
        let texts = found.items?.compactMap(\.text) ?? []
        if found.items?.count != texts.count { throw error(name, "is \(quoted(found)); it must be a list of texts") }
        return texts
    }

    func record(_ name: String) throws -> Members {
        try Members(value(name), place.isEmpty ? name : "\(place).\(name)", failure: failure)
    }
}

/// What is longer than a line of a message is cut.
func cut(_ text: String, _ most: Int = 120) -> String { text.count <= most ? text : text.prefix(most) + "…" }

/// A value for a message.
func quoted(_ value: Json) -> String {
    if let text = value.text { return "'\(cut(text))'" }
    return cut((try? oneLine(value)) ?? "a number that is not finite")
}

/// JSON without a line end in it. Strings hold none: it is escaped there. Throws as `Json.written()`.
func oneLine(_ value: Json) throws -> String {
    try value.written().split(separator: "\n").map { String($0.drop(while: { $0 == " " })) }.joined()
}
