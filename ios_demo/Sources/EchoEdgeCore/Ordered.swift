/// Values by name in the order of a file. Names are the same where their UTF-8 is: `String` itself takes "é" and "e" with an accent
/// behind it for equal, and they are two texts to a model.
public struct Ordered<Value>: ExpressibleByDictionaryLiteral {
    public private(set) var keys: [String] = []
    public private(set) var values: [Value] = []
    private var places: [[UInt8]: Int] = [:]

    public init() {}

    public init(dictionaryLiteral elements: (String, Value)...) {
        for (key, value) in elements { self[key] = value }
    }

    public var count: Int { keys.count }
    public var isEmpty: Bool { keys.isEmpty }

    /// In order. A name that is there keeps its place; values are not taken out.
    public var entries: Zip2Sequence<[String], [Value]> { zip(keys, values) }

    public func has(_ key: String) -> Bool { places[Array(key.utf8)] != nil }

    public subscript(key: String) -> Value? {
        get { places[Array(key.utf8)].map { values[$0] } }
        set {
            guard let newValue else { return }
            let name = Array(key.utf8)
            if let place = places[name] {
                values[place] = newValue
            } else {
                places[name] = keys.count
                keys.append(key)
                values.append(newValue)
            }
        }
    }

    /// The same names with other values; `each` is given both.
    public func mapped<Other>(_ each: (String, Value) throws -> Other) rethrows -> Ordered<Other> {
        var made = Ordered<Other>()
        for (key, value) in entries { made[key] = try each(key, value) }
        return made
    }
}

extension Ordered: Equatable where Value: Equatable {
    public static func == (one: Ordered, other: Ordered) -> Bool {
        one.count == other.count && one.entries.allSatisfy { key, value in other[key] == value }
    }
}
