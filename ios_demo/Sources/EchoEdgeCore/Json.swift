import Foundation

/// A JSON value. Whole numbers are exact: those beyond 64 bits with a sign stay digits. All others are doubles; single precision
/// is the double narrowed, never the text read as a float.
public enum Json: Equatable {
    case null
    case bool(Bool)
    case whole(Int)
    case big(String)
    case number(Double)
    case text(String)
    case list([Json])
    case object(Ordered<Json>)

    /// Reads UTF-8. Throws `bundle`: it is no JSON, has a key twice, a number that is not finite, or more than 200 levels.
    public static func parse(_ utf8: [UInt8]) throws -> Json {
        if String(bytes: utf8, encoding: .utf8) == nil { throw EchoEdgeError.bundle("This is not JSON: it is not UTF-8.") }
        return try utf8.withUnsafeBufferPointer { text in
            var parser = Parser(text)
            return try parser.document()
        }
    }

    public static func parse(_ text: String) throws -> Json { try parse(Array(text.utf8)) }

    /// A member of an object; nil: this is none, or has none of that name.
    public subscript(name: String) -> Json? { members?[name] }

    public var members: Ordered<Json>? {
        if case .object(let members) = self { return members }
        return nil
    }

    public var items: [Json]? {
        if case .list(let items) = self { return items }
        return nil
    }

    public var text: String? {
        if case .text(let text) = self { return text }
        return nil
    }

    public var whole: Int? {
        if case .whole(let value) = self { return value }
        return nil
    }

    /// A number of any kind.
    public var double: Double? {
        switch self {
        case .whole(let value): return Double(value)
        case .big(let digits): return Double(digits)
        case .number(let value): return value
        default: return nil
        }
    }
}

// ---- reading ----

private struct Parser {
    private static let deepest = 200
    private let text: UnsafeBufferPointer<UInt8>
    private var at = 0

    init(_ text: UnsafeBufferPointer<UInt8>) { self.text = text }

    mutating func document() throws -> Json {
        let value = try value(0)
        space()
        if at < text.count { throw failure("there is more behind its end") }
        return value
    }

    private func failure(_ why: String) -> EchoEdgeError { .bundle("This is not JSON: \(why) (at byte \(at)).") }

    private mutating func space() {
        while at < text.count, [0x20, 0x09, 0x0A, 0x0D].contains(text[at]) { at += 1 }
    }

    private func peek() throws -> UInt8 {
        if at >= text.count { throw failure("it is cut off") }
        return text[at]
    }

    private mutating func take(_ expected: StaticString) throws {
        let end = min(text.count, at + expected.utf8CodeUnitCount)
        let found = text[at..<end]
        if !found.elementsEqual(UnsafeBufferPointer(start: expected.utf8Start, count: expected.utf8CodeUnitCount)) {
            throw failure("\(String(decoding: found, as: UTF8.self)) stands where \(expected) is expected")
        }
        at = end
    }

    private mutating func value(_ depth: Int) throws -> Json {
        if depth > Parser.deepest { throw failure("it has more than \(Parser.deepest) levels") }
        space()
        switch try peek() {
        case UInt8(ascii: "{"): return .object(try object(depth))
        case UInt8(ascii: "["): return .list(try list(depth))
        case UInt8(ascii: "\""): return .text(try string())
        case UInt8(ascii: "t"):
            try take("true")
            return .bool(true)
        case UInt8(ascii: "f"):
            try take("false")
            return .bool(false)
        case UInt8(ascii: "n"):
            try take("null")
            return .null
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return try number()
        case let other: throw failure("'\(Character(Unicode.Scalar(other)))' begins no value")
        }
    }

    private mutating func object(_ depth: Int) throws -> Ordered<Json> {
        var found = Ordered<Json>()
        try members(UInt8(ascii: "}")) { parser in
            if try parser.peek() != UInt8(ascii: "\"") { throw parser.failure("a key is no string") }
            let key = try parser.string()
            parser.space()
            try parser.take(":")
            if found.has(key) { throw parser.failure("the key \"\(short(key))\" occurs twice") }
            found[key] = try parser.value(depth + 1)
        }
        return found
    }

    private mutating func list(_ depth: Int) throws -> [Json] {
        var found: [Json] = []
        try members(UInt8(ascii: "]")) { parser in found.append(try parser.value(depth + 1)) }
        return found
    }

    private mutating func members(_ end: UInt8, _ member: (inout Parser) throws -> Void) throws {
        at += 1
        space()
        if try peek() == end {
            at += 1
            return
        }
        while true {
            space()
            try member(&self)
            space()
            if try peek() == end { break }
            try take(",")
        }
        at += 1
    }

    private mutating func string() throws -> String {
        var made: [UInt8] = []
        at += 1
        while true {
            let next = try peek()
            at += 1
            switch next {
            case UInt8(ascii: "\""): return String(decoding: made, as: UTF8.self)
            case UInt8(ascii: "\\"): made.append(contentsOf: try escaped())
            case 0..<0x20: throw failure("a string holds a control character")
            default: made.append(next)
            }
        }
    }

    private mutating func escaped() throws -> [UInt8] {
        let kind = try peek()
        at += 1
        switch kind {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return [kind]
        case UInt8(ascii: "b"): return [0x08]
        case UInt8(ascii: "f"): return [0x0C]
        case UInt8(ascii: "n"): return [0x0A]
        case UInt8(ascii: "r"): return [0x0D]
        case UInt8(ascii: "t"): return [0x09]
        case UInt8(ascii: "u"): break
        default: throw failure("\\\(Character(Unicode.Scalar(kind))) is no escape")
        }
        var units = [try unit()]
        if UTF16.isLeadSurrogate(units[0]), at + 1 < text.count, text[at] == UInt8(ascii: "\\"), text[at + 1] == UInt8(ascii: "u") {
            at += 2
            units.append(try unit())
        }
        guard let made = String(validating: units) else { throw failure("\\u\(String(units[0], radix: 16)) is half a character") }
        return Array(made.utf8)
    }

    private mutating func unit() throws -> UInt16 {
        let digits = text[at..<min(text.count, at + 4)]
        var value: UInt16 = 0
        for digit in digits {
            guard let number = Character(Unicode.Scalar(digit)).hexDigitValue else { break }
            value = value << 4 | UInt16(number)
        }
        if digits.count < 4 || !digits.allSatisfy({ Character(Unicode.Scalar($0)).isHexDigit }) {
            throw failure("\\u\(String(decoding: digits, as: UTF8.self)) is no character")
        }
        at += 4
        return value
    }

    private mutating func number() throws -> Json {
        let begin = at
        if text[at] == UInt8(ascii: "-") { at += 1 }
        if at < text.count, text[at] == UInt8(ascii: "0") { at += 1 } else { try digits() }
        let whole = at
        if at < text.count, text[at] == UInt8(ascii: ".") {
            at += 1
            try digits()
        }
        if at < text.count, text[at] | 0x20 == UInt8(ascii: "e") {
            at += 1
            if at < text.count, [UInt8(ascii: "+"), UInt8(ascii: "-")].contains(text[at]) { at += 1 }
            try digits()
        }
        let found = String(decoding: text[begin..<at], as: UTF8.self)
        if at == whole { return Int(found).map(Json.whole) ?? .big(found) }
        guard let value = Double(found), value.isFinite else { throw failure("\(short(found)) is not a finite number") }
        return .number(value)
    }

    private mutating func digits() throws {
        let begin = at
        while at < text.count, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(text[at]) { at += 1 }
        if at == begin { throw failure("a number is not complete") }
    }
}

extension String {
    /// Of UTF-16, nil where a surrogate stands alone.
    fileprivate init?(validating units: [UInt16]) {
        var decoder = UTF16()
        var rest = units.makeIterator()
        var scalars = String.UnicodeScalarView()
        while true {
            switch decoder.decode(&rest) {
            case .scalarValue(let scalar): scalars.append(scalar)
            case .emptyInput:
                self = String(scalars)
                return
            case .error: return nil
            }
        }
    }
}

// ---- writing ----

extension Json: ExpressibleByStringLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral, ExpressibleByBooleanLiteral,
    ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral, ExpressibleByNilLiteral
{
    public init(stringLiteral value: String) { self = .text(value) }
    public init(arrayLiteral elements: Json...) { self = .list(elements) }
    public init(booleanLiteral value: Bool) { self = .bool(value) }
    public init(integerLiteral value: Int) { self = .whole(value) }
    public init(floatLiteral value: Double) { self = .number(value) }
    public init(nilLiteral: ()) { self = .null }

    public init(dictionaryLiteral elements: (String, Json)...) {
        var members = Ordered<Json>()
        for (key, value) in elements { members[key] = value }
        self = .object(members)
    }

    /// null where there is no value.
    public static func maybe(_ value: Double?) -> Json { value.map(Json.number) ?? .null }
    public static func maybe(_ value: Int?) -> Json { value.map(Json.whole) ?? .null }
    public static func maybe(_ value: String?) -> Json { value.map(Json.text) ?? .null }

    /// As text with one space of indentation for each level. Throws `config`: a number is not finite.
    public func written() throws -> String {
        var text = ""
        try write(into: &text, 0)
        return text + "\n"
    }

    private func write(into text: inout String, _ depth: Int) throws {
        switch self {
        case .null: text += "null"
        case .bool(let value): text += value ? "true" : "false"
        case .whole(let value): text += String(value)
        case .big(let digits): text += digits
        case .number(let value):
            if !value.isFinite { throw EchoEdgeError.config("\(value) has no form in JSON. Leave it out, or write null.") }
            text += "\(value)"
        case .text(let value): Json.quote(value, into: &text)
        case .list(let values):
            text += "["
            for (index, value) in values.enumerated() {
                text += (index > 0 ? ",\n" : "\n") + String(repeating: " ", count: depth + 1)
                try value.write(into: &text, depth + 1)
            }
            text += values.isEmpty ? "]" : "\n" + String(repeating: " ", count: depth) + "]"
        case .object(let members):
            text += "{"
            for (index, (key, value)) in members.entries.enumerated() {
                text += (index > 0 ? ",\n" : "\n") + String(repeating: " ", count: depth + 1)
                Json.quote(key, into: &text)
                text += ": "
                try value.write(into: &text, depth + 1)
            }
            text += members.isEmpty ? "}" : "\n" + String(repeating: " ", count: depth) + "}"
        }
    }

    private static func quote(_ value: String, into text: inout String) {
        text += "\""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\"", "\\": text += "\\\(scalar)"
            case "\u{0}"..<" ":
                let digits = String(scalar.value, radix: 16)
                text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: text.unicodeScalars.append(scalar)
            }
        }
        text += "\""
    }

    /// In one line, for messages.
    var told: String {
        switch self {
        case .text(let text): return short("'\(text)'")
        case .list(let values): return short("[" + values.map(\.told).joined(separator: ", ") + "]")
        case .object(let members): return short("{" + members.entries.map { "\($0): \($1.told)" }.joined(separator: ", ") + "}")
        default: return short(((try? written()) ?? "a number that is not finite").trimmingCharacters(in: .newlines))
        }
    }
}
