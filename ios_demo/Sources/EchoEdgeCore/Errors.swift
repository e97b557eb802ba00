import Foundation

/// Every error that a user can cause and mend. The message quotes the bad value and says what to do next.
public struct EchoEdgeError: LocalizedError, CustomStringConvertible, Equatable, Sendable {
    public enum Kind: String, Sendable {
        /// A clip, plan or option has a value that cannot work.
        case config
        /// A picture, a sound or a prompt cannot be used.
        case input
        /// A bundle is missing, incomplete, altered or of an unknown format.
        case bundle
        /// Programs cannot be run here, or were called with other tensors than they take.
        case engine
        /// Too little memory or disk for what was asked.
        case resource
        /// Whoever asked for a clip does not want it any more; nothing of it is kept.
        case cancelled
    }

    public let kind: Kind
    public let message: String

    public init(_ kind: Kind, _ message: String) {
        self.kind = kind
        self.message = message
    }

    public var description: String { message }
    public var errorDescription: String? { message }

    public static func config(_ message: String) -> EchoEdgeError { EchoEdgeError(.config, message) }
    public static func input(_ message: String) -> EchoEdgeError { EchoEdgeError(.input, message) }
    public static func bundle(_ message: String) -> EchoEdgeError { EchoEdgeError(.bundle, message) }
    public static func engine(_ message: String) -> EchoEdgeError { EchoEdgeError(.engine, message) }
    public static func resource(_ message: String) -> EchoEdgeError { EchoEdgeError(.resource, message) }
    public static let cancelled = EchoEdgeError(.cancelled, "The clip was cancelled. Start it again when you like.")
}

/// A text for messages: what is longer than 120 characters is cut.
public func short(_ text: String, _ most: Int = 120) -> String { text.count <= most ? text : text.prefix(most) + "…" }

/// Values for messages, with a comma between them.
func listed<Values: Sequence>(_ values: Values) -> String { values.map { "\($0)" }.joined(separator: ", ") }
