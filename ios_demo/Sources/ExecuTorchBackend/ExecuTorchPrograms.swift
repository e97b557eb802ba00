#if canImport(ExecuTorch)
    import Dispatch
    import EchoEdgeAppCore
    import EchoEdgeCore
    import ExecuTorch
    import Foundation

    /// Runs the .pte files of a bundle of target executorch. Files are mapped, not read; those that several programs share are
    /// opened once, and closed when the last of them is freed.
    public final class ExecuTorchPrograms: Programs {
        private let root: URL
        private let told: (Load) -> Void
        private var modules: [String: Module] = [:]
        private var users: [String: Set<String>] = [:]  // programs that are loaded, by their file

        /// `told` hears each load. Throws `engine`: the bundle is for another target.
        public init(_ bundle: ModelBundle, told: @escaping (Load) -> Void = { _ in }) throws {
            let target = bundle.manifest.target
            if target != "executorch" {
                throw EchoEdgeError.engine(
                    "The bundle is compiled for \(target), not for executorch. Export it with that --target.")
            }
            root = bundle.root
            self.told = told
        }

        public func load(_ program: Program) throws {
            if users[program.path]?.contains(program.name) == true { return }
            let module = modules[program.path] ?? open(program)
            let began = DispatchTime.now()
            for method in program.methods.keys {
                do {
                    try module.load(program.prefix + method)
                } catch {
                    throw failure(program, method, "cannot be loaded", error)
                }
            }
            modules[program.path] = module
            users[program.path, default: []].insert(program.name)
            told(Load(name: program.name, source: .mapped, seconds: seconds(since: began)))
        }

        public func run(
            _ program: Program, _ method: String, _ inputs: [String: any EchoEdgeCore.Tensor]
        ) throws -> [String: any EchoEdgeCore.Tensor] {
            try load(program)
            guard let module = modules[program.path], let specs = program.methods[method] else {
                throw EchoEdgeError.engine("\(program.name) has no method '\(method)'.")
            }
            let given = try specs.inputs.map { spec -> Value in
                guard let tensor = inputs[spec.name] else { throw EchoEdgeError.engine("\(program.name).\(method) takes \(spec).") }
                return Value(try ExecuTorchPrograms.handed(spec, tensor))
            }
            return try autoreleasepool {
                let made: [Value]
                do {
                    made = try module.execute(program.prefix + method, given)
                } catch {
                    throw failure(program, method, "failed", error)
                }
                if made.count != specs.outputs.count {
                    throw EchoEdgeError.engine("\(program.name).\(method) gave \(made.count) outputs, not \(specs.outputs.count).")
                }
                var found: [String: any EchoEdgeCore.Tensor] = [:]
                for (spec, value) in zip(specs.outputs, made) { found[spec.name] = try ExecuTorchPrograms.taken(spec, value) }
                return found
            }
        }

        public func free(_ program: Program) {
            guard users[program.path]?.remove(program.name) != nil else { return }
            for method in program.methods.keys { _ = modules[program.path]?.unload(program.prefix + method) }
            if users[program.path]?.isEmpty == true {
                users[program.path] = nil
                modules[program.path] = nil
            }
        }

        private func open(_ program: Program) -> Module {
            let path = root.appendingPathComponent(program.path).path
            guard let data = program.data else { return Module(filePath: path, loadMode: .mmap) }
            return Module(filePath: path, dataFilePaths: [root.appendingPathComponent(data).path], loadMode: .mmap)
        }

        private func failure(_ program: Program, _ method: String, _ what: String, _ error: any Swift.Error) -> EchoEdgeError {
            let code = (error as NSError).code
            return .engine(
                "\(program.name).\(method) \(what) in ExecuTorch (\(error.localizedDescription), code \(code)). The app must "
                    + "have the backend that the bundle is lowered to; else copy or export the bundle again.")
        }

        private func seconds(since began: DispatchTime) -> Double {
            Double(DispatchTime.now().uptimeNanoseconds - began.uptimeNanoseconds) / 1e9
        }

        /// The tensor of a program's own type; its bytes are copied.
        private static func handed(_ spec: TensorSpec, _ tensor: any EchoEdgeCore.Tensor) throws -> AnyTensor {
            let type = try StoredType.of(spec)
            let bytes = try Stored.bytes(spec.name, tensor, type)
            return bytes.withUnsafeBytes { buffer in
                let nothing = UnsafeRawPointer(bitPattern: 1)
                return AnyTensor(bytes: buffer.baseAddress ?? nothing!, shape: tensor.shape, dataType: dataType(type))
            }
        }

        /// What lies in the runtime's planned memory is the next run's, too: it is copied.
        private static func taken(_ spec: TensorSpec, _ value: Value) throws -> any EchoEdgeCore.Tensor {
            guard let tensor = value.anyTensor, let type = StoredType.allCases.first(where: { dataType($0) == tensor.dataType })
            else {
                throw EchoEdgeError.engine(
                    "A program gave no tensor for \(spec), or one of an unknown type. Export the bundle again.")
            }
            let (shape, strides) = (tensor.shape, tensor.strides)
            var found: Result<any EchoEdgeCore.Tensor, any Swift.Error>?
            tensor.bytes { pointer, _, _ in found = Result { try Stored.tensor(pointer, type, shape, strides) } }
            guard let found else { throw EchoEdgeError.engine("A program gave an empty \(spec). Export the bundle again.") }
            return try Stored.shaped(found.get(), spec)
        }

        private static func dataType(_ type: StoredType) -> DataType {
            switch type {
            case .float32: return .float
            case .float16: return .half
            case .int64: return .long
            case .int32: return .int
            case .int16: return .short
            case .int8: return .char
            case .uint8: return .byte
            case .bool: return .bool
            }
        }
    }
#endif
