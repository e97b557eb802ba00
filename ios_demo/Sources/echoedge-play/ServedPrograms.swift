#if os(macOS) || os(Linux)
    import EchoEdgeCore
    import Foundation

    /// Programs in a child process that holds a runtime, spoken to over its standard input and output (docs/PLAYERS.md, "A
    /// process that runs programs"). What it says on its error stream goes to ours.
    final class ServedPrograms: Programs {
        private static let magic = Array("EEP1".utf8)

        private let process = Process()
        private let requests = Pipe(), answers = Pipe()
        private let ended = DispatchSemaphore(value: 0)
        private var calls = 0
        private var greeted = false

        /// `command` starts the process, such as `echoedge serve-programs BUNDLE`. Throws `engine`: it cannot be started.
        init(_ command: [String]) throws {
            signal(SIGPIPE, SIG_IGN)  // a process that has gone is told by what cannot be written
            process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
            process.arguments = command
            process.standardInput = requests
            process.standardOutput = answers
            let ended = ended
            process.terminationHandler = { _ in ended.signal() }
            do {
                try process.run()
            } catch {
                throw EchoEdgeError.engine("The process that runs programs cannot be started (\(error.localizedDescription)).")
            }
        }

        /// Waits until the process has said that its bundle is open. Throws what it says is wrong.
        func greet() throws {
            if greeted { return }
            greeted = true
            _ = try answer()
        }

        func load(_ program: Program) throws { _ = try ask("load", ["program": .text(program.name)], [:]) }

        func run(_ program: Program, _ method: String, _ inputs: [String: any Tensor]) throws -> [String: any Tensor] {
            try ask("run", ["program": .text(program.name), "method": .text(method)], inputs)
        }

        func free(_ program: Program) { _ = try? ask("free", ["program": .text(program.name)], [:]) }

        /// Ends the process.
        func close() {
            try? requests.fileHandleForWriting.close()
            if ended.wait(timeout: .now() + 10) == .timedOut { process.terminate() }
        }

        private func ask(_ what: String, _ fields: Ordered<Json>, _ tensors: [String: any Tensor]) throws -> [String: any Tensor] {
            try greet()
            calls += 1
            var header: Ordered<Json> = ["do": .text(what), "id": .whole(calls)]
            for (name, value) in fields.entries { header[name] = value }
            var body: [UInt8] = []
            header["tensors"] = .list(
                try tensors.map { name, tensor in
                    let dtype = try append(tensor, to: &body)
                    return ["name": .text(name), "dtype": .text(dtype), "shape": .list(tensor.shape.map(Json.whole))]
                })
            let text = Array(try Json.object(header).written().utf8)
            let message = ServedPrograms.magic + bytes(UInt32(text.count)) + bytes(UInt64(body.count)) + text
            if !send(message) || !send(body) {
                throw EchoEdgeError.engine("The process that runs programs has ended: \(what) cannot be asked of it.")
            }
            let (said, made) = try answer()
            if said["id"] != .whole(calls) {
                throw EchoEdgeError.engine("The process that runs programs gave another answer than that to request \(calls).")
            }
            return made
        }

        private func append(_ tensor: any Tensor, to body: inout [UInt8]) throws -> String {
            switch tensor {
            case let longs as Longs:
                longs.values.withUnsafeBytes { body.append(contentsOf: $0) }
                return "int64"
            case let small as Bytes:
                body.append(contentsOf: small.values)
                return "uint8"
            default:
                try tensor.floats().withUnsafeBytes { body.append(contentsOf: $0) }
                return "float32"
            }
        }

        private func bytes<Integer: FixedWidthInteger>(_ number: Integer) -> [UInt8] {
            withUnsafeBytes(of: number.littleEndian) { Array($0) }
        }

        private func send(_ bytes: [UInt8]) -> Bool {
            bytes.withUnsafeBytes { bytes in
                var sent = 0
                while sent < bytes.count {
                    let count = write(requests.fileHandleForWriting.fileDescriptor, bytes.baseAddress! + sent, bytes.count - sent)
                    if count <= 0 { return false }
                    sent += count
                }
                return true
            }
        }

        private func receive(_ count: Int) throws -> [UInt8] {
            try [UInt8](unsafeUninitializedCapacity: count) { bytes, made in
                while made < count {
                    let more = read(answers.fileHandleForReading.fileDescriptor, bytes.baseAddress! + made, count - made)
                    if more <= 0 {
                        throw EchoEdgeError.engine(
                            "The process that runs programs has ended without an answer; what it said stands above.")
                    }
                    made += more
                }
            }
        }

        private func answer() throws -> (Json, [String: any Tensor]) {
            func number<Integer: FixedWidthInteger>(_ bytes: ArraySlice<UInt8>) -> Integer {
                bytes.reversed().reduce(0) { $0 << 8 | Integer($1) }
            }
            let beginning = try receive(16)
            if !beginning.starts(with: ServedPrograms.magic) {
                throw EchoEdgeError.engine("The process that runs programs does not speak as docs/PLAYERS.md says.")
            }
            let sizes: (header: UInt64, body: UInt64) = (number(beginning[4..<8]), number(beginning[8..<16]))
            if sizes.header > 1 << 20 || sizes.body > UInt64(Int32.max) {
                throw EchoEdgeError.engine("The process that runs programs sends more than docs/PLAYERS.md allows.")
            }
            let header = try Json.parse(receive(Int(sizes.header)))
            let body = try receive(Int(sizes.body))
            if header["ok"] != .bool(true) {
                throw EchoEdgeError.engine(
                    header["error"]?["message"]?.text ?? "The process that runs programs does not say why it failed.")
            }
            var made: [String: any Tensor] = [:]
            var at = 0
            for stated in header["tensors"]?.items ?? [] {
                let shape = (stated["shape"]?.items ?? []).compactMap(\.whole)
                let count = sizeOf(shape)
                let dtype = stated["dtype"]?.text ?? "no type"
                let widths = ["float32": 4, "int64": 8, "uint8": 1]
                guard let width = widths[dtype] else {
                    throw EchoEdgeError.engine("A program gave \(dtype); this player takes float32, int64 and uint8.")
                }
                if count > (body.count - at) / width { throw EchoEdgeError.engine("An answer is shorter than its tensors.") }
                let part = body[at..<(at + width * count)]
                switch dtype {
                case "float32": made[stated["name"]?.text ?? ""] = try Floats(shape: shape, littleFloats(body, at, count))
                case "uint8": made[stated["name"]?.text ?? ""] = try Bytes(shape: shape, Array(part))
                default:
                    let values = (0..<count).map { Int64(bitPattern: number(body[(at + 8 * $0)..<(at + 8 * $0 + 8)])) }
                    made[stated["name"]?.text ?? ""] = try Longs(shape: shape, values)
                }
                at += width * count
            }
            return (header, made)
        }
    }
#endif
