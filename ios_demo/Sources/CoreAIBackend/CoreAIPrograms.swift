#if canImport(CoreAI)
    import CoreAI
    import Dispatch
    import EchoEdgeAppCore
    import EchoEdgeCore
    import Foundation

    /// Runs the `.aimodel`s of a bundle of target coreai. The system specialises each for the phone when it is first loaded, and
    /// keeps that.
    @available(iOS 27.0, macOS 27.0, *)
    public final class CoreAIPrograms: Programs {
        private struct Chain {
            let signature: ChainSignature
            let parts: [InferenceFunction]
        }

        private let root: URL
        private let told: (Load) -> Void
        private var chains: [String: [String: Chain]] = [:]  // by program and method

        /// `told` hears each load. Throws `engine`: the bundle is for another target.
        public init(_ bundle: ModelBundle, told: @escaping (Load) -> Void = { _ in }) throws {
            let target = bundle.manifest.target
            if target != "coreai" {
                throw EchoEdgeError.engine("The bundle is compiled for \(target), not for coreai. Export it with that --target.")
            }
            root = bundle.root
            self.told = told
        }

        public func load(_ program: Program) throws {
            if chains[program.name] != nil { return }
            let folder = root.appendingPathComponent(program.path)
            var loaded: [String: Chain] = [:]
            for method in program.methods.keys {
                let signature = try ChainSignature.read(folder, method)
                let name = "\(program.name).\(method)"
                let parts = try signature.parts.map { try function(name, folder.appendingPathComponent($0)) }
                loaded[method] = Chain(signature: signature, parts: parts)
            }
            chains[program.name] = loaded
        }

        public func run(_ program: Program, _ method: String, _ inputs: [String: any Tensor]) throws -> [String: any Tensor] {
            try load(program)
            guard let chain = chains[program.name]?[method], let specs = program.methods[method] else {
                throw EchoEdgeError.engine("\(program.name) has no method '\(method)'.")
            }
            let signature = chain.signature
            if signature.inputs.count != specs.inputs.count || signature.outputs.count != specs.outputs.count {
                throw EchoEdgeError.engine(
                    "methods.json of \(program.path) is of another \(method) than the manifest. Export it again.")
            }
            var given: [String: any Tensor] = [:]
            for (name, spec) in zip(signature.inputs, specs.inputs) { given[name] = inputs[spec.name] }
            for part in chain.parts {
                let made = try called("\(program.name).\(method)", part, given)
                given.merge(made) { _, new in new }
            }
            var found: [String: any Tensor] = [:]
            for (name, spec) in zip(signature.outputs, specs.outputs) {
                guard let tensor = given[name] else {
                    throw EchoEdgeError.engine("\(program.name).\(method) gave no \(spec.name). Export the bundle again.")
                }
                found[spec.name] = try Stored.shaped(tensor, spec)
            }
            return found
        }

        public func free(_ program: Program) { chains[program.name] = nil }

        private func function(_ name: String, _ model: URL) throws -> InferenceFunction {
            try ChainSignature.requireWhole(model)
            let began = DispatchTime.now()
            do {
                let kept = try AIModelCache.default.model(for: model, options: .default)
                let opened = try kept ?? waited { try await AIModel(contentsOf: model, options: .default) }
                let specialised = DispatchTime.now()
                guard let function = try opened.loadFunction(named: ChainSignature.function) else {
                    throw EchoEdgeError.engine(
                        "\(model.lastPathComponent) has no function '\(ChainSignature.function)'. Export it again.")
                }
                let source: Load.Source = kept == nil ? .compiled(seconds(began, specialised)) : .kept
                told(Load(name: name, source: source, seconds: seconds(specialised, DispatchTime.now())))
                return function
            } catch let error as EchoEdgeError {
                throw error
            } catch {
                throw EchoEdgeError.engine("\(model.lastPathComponent) cannot be loaded by Core AI: \(error.localizedDescription)")
            }
        }

        /// One part of a method on what it takes of the tensors that are there; gives all that it makes.
        private func called(_ name: String, _ function: InferenceFunction, _ given: [String: any Tensor]) throws -> [String:
            any Tensor]
        {
            var arrays: [String: NDArray] = [:]
            for input in function.descriptor.inputNames {
                guard let tensor = given[input], case .ndArray(let known)? = function.descriptor.inputDescriptor(of: input) else {
                    throw EchoEdgeError.engine(
                        "\(name) takes \(input), which is not given, or is no array. Export the bundle again.")
                }
                switch known.scalarType {
                case .float32: arrays[input] = NDArray(scalars: try Stored.floats(tensor), shape: tensor.shape)
                case .int32: arrays[input] = NDArray(scalars: try Stored.wholes(input, tensor, Int32.self), shape: tensor.shape)
                default:
                    throw EchoEdgeError.engine(
                        "\(name) takes \(input) as \(known.scalarType), which no bundle has. Export it again.")
                }
            }
            let inputs = arrays
            do {
                return try waited {
                    var outputs = try await function.run(inputs: inputs)
                    var found: [String: any Tensor] = [:]
                    for output in function.descriptor.outputNames {
                        guard let array = outputs.remove(output)?.ndArray else { continue }
                        found[output] = try CoreAIPrograms.taken(output, array)
                    }
                    return found
                }
            } catch let error as EchoEdgeError {
                throw error
            } catch {
                throw EchoEdgeError.engine("\(name) failed in Core AI: \(error.localizedDescription)")
            }
        }

        private static func taken(_ name: String, _ array: NDArray) throws -> any Tensor {
            if array.interleaveLayout != nil {  // its strides would be those of blocks
                throw EchoEdgeError.engine("\(name) came interleaved, as no bundle is exported. Export it again.")
            }
            let (shape, strides) = (array.shape, array.strides)
            switch array.scalarType {
            case .float32:
                return try array.view(as: Float.self).withUnsafePointer { pointer, _, _ in
                    try Stored.tensor(UnsafeRawPointer(pointer), .float32, shape, strides)
                }
            case .int32:
                return try array.view(as: Int32.self).withUnsafePointer { pointer, _, _ in
                    try Stored.tensor(UnsafeRawPointer(pointer), .int32, shape, strides)
                }
            default: throw EchoEdgeError.engine("\(name) came as \(array.scalarType), which no bundle has. Export it again.")
            }
        }

        /// The player runs programs one after the other on a thread of its own; the library's calls are asynchronous.
        private func waited<T>(_ body: @escaping () async throws -> T) throws -> T {
            let done = DispatchSemaphore(value: 0)
            let box = Box<T>()
            Task.detached {
                do {
                    box.result = .success(try await body())
                } catch {
                    box.result = .failure(error)
                }
                done.signal()
            }
            done.wait()
            guard let result = box.result else { throw EchoEdgeError.engine("Core AI gave no answer. Try again.") }
            return try result.get()
        }

        private func seconds(_ began: DispatchTime, _ ended: DispatchTime) -> Double {
            Double(ended.uptimeNanoseconds - began.uptimeNanoseconds) / 1e9
        }
    }

    /// Filled by one thread before another one reads it.
    private final class Box<T>: @unchecked Sendable {
        var result: Result<T, any Error>?
    }
#endif
