#if canImport(CoreML)
    import CoreML
    import Dispatch
    import EchoEdgeAppCore
    import EchoEdgeCore
    import Foundation

    /// Runs the packages of a bundle of target coreml on the units that its manifest names. A package is compiled once, the first
    /// time that one of its programs is loaded, and kept by the content of its files.
    public final class CoreMLPrograms: Programs {
        private let bundle: ModelBundle
        private let compiled: CompiledModels
        private let told: (Load) -> Void
        private let units: MLComputeUnits
        private var models: [String: [String: MLModel]] = [:]  // by program and method

        /// `told` hears each load. Throws `engine`: the bundle is for another target; `bundle`: its manifest names unknown units.
        public init(_ bundle: ModelBundle, _ compiled: CompiledModels, told: @escaping (Load) -> Void = { _ in }) throws {
            let target = bundle.manifest.target
            if target != "coreml" {
                throw EchoEdgeError.engine("The bundle is compiled for \(target), not for coreml. Export it with that --target.")
            }
            (self.bundle, self.compiled, self.told) = (bundle, compiled, told)
            switch try ComputeUnits.of(bundle.manifest.backend) {
            case .all: units = .all
            case .gpu: units = .cpuAndGPU
            case .ane: units = .cpuAndNeuralEngine
            case .cpu: units = .cpuOnly
            }
        }

        public func load(_ program: Program) throws {
            if models[program.name] != nil { return }
            var loaded: [String: MLModel] = [:]
            for method in program.methods.keys { loaded[method] = try model(program, method) }
            models[program.name] = loaded
        }

        public func run(_ program: Program, _ method: String, _ inputs: [String: any Tensor]) throws -> [String: any Tensor] {
            try load(program)
            guard let model = models[program.name]?[method], let specs = program.methods[method] else {
                throw EchoEdgeError.engine("\(program.name) has no method '\(method)'.")
            }
            return try autoreleasepool {
                var features: [String: MLFeatureValue] = [:]
                for spec in specs.inputs {
                    guard let tensor = inputs[spec.name], let known = model.modelDescription.inputDescriptionsByName[spec.name]
                    else {
                        throw EchoEdgeError.engine(
                            "\(program.name).\(method) and its package do not agree on \(spec). Export it again.")
                    }
                    features[spec.name] = MLFeatureValue(multiArray: try CoreMLPrograms.handed(spec, tensor, known))
                }
                let made: any MLFeatureProvider
                do {
                    made = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: features))
                } catch {
                    throw EchoEdgeError.engine("\(program.name).\(method) failed in Core ML: \(error.localizedDescription)")
                }
                var found: [String: any Tensor] = [:]
                for spec in specs.outputs {
                    guard let array = made.featureValue(for: Packages.output(spec.name, specs))?.multiArrayValue else {
                        throw EchoEdgeError.engine("\(program.name).\(method) gave no \(spec.name). Export the bundle again.")
                    }
                    found[spec.name] = try Stored.shaped(CoreMLPrograms.taken(spec.name, array), spec)
                }
                return found
            }
        }

        public func free(_ program: Program) { models[program.name] = nil }

        // ---- loading ----

        private func model(_ program: Program, _ method: String) throws -> MLModel {
            let (path, function) = try Packages.package(bundle.manifest, program, method)
            let configuration = MLModelConfiguration()
            configuration.computeUnits = units
            if let function {
                guard #available(iOS 18.0, macOS 15.0, *) else {
                    throw EchoEdgeError.engine(
                        "\(program.name) is a function of a package, which needs iOS 18. Export it with --ios 17.")
                }
                configuration.functionName = function
            }
            let digest = Packages.digest(bundle.manifest, path)
            if let model = try loaded("\(program.name).\(method)", path, digest, configuration) { return model }
            compiled.discard(digest)  // one that an earlier system made, say: it is made anew
            if let model = try loaded("\(program.name).\(method)", path, digest, configuration) { return model }
            throw EchoEdgeError.engine("\(path) cannot be loaded by Core ML. Export the bundle again.")
        }

        /// nil: Core ML does not take a compiled model that was there.
        private func loaded(
            _ name: String, _ path: String, _ digest: String, _ configuration: MLModelConfiguration
        ) throws -> MLModel? {
            let began = DispatchTime.now()
            let (url, isNew) = try compiled.model(digest) { try CoreMLPrograms.compile(bundle.root.appendingPathComponent(path)) }
            let compiledAt = DispatchTime.now()
            let model: MLModel
            do {
                model = try MLModel(contentsOf: url, configuration: configuration)
            } catch {
                if !isNew { return nil }
                throw EchoEdgeError.engine("\(path) cannot be loaded by Core ML: \(error.localizedDescription)")
            }
            let source = isNew ? Load.Source.compiled(CoreMLPrograms.seconds(began, compiledAt)) : .kept
            told(Load(name: name, source: source, seconds: CoreMLPrograms.seconds(compiledAt, DispatchTime.now())))
            return model
        }

        /// Where Core ML puts it, which is a temporary place.
        private static func compile(_ package: URL) throws -> URL {
            let done = DispatchSemaphore(value: 0)
            let outcome = Outcome()
            MLModel.compileModel(at: package) { result in
                outcome.result = result
                done.signal()
            }
            done.wait()
            switch outcome.result {
            case .success(let url)?: return url
            case .failure(let error)?:
                throw EchoEdgeError.engine(
                    "\(package.lastPathComponent) cannot be compiled by Core ML: \(error.localizedDescription)")
            case nil: throw EchoEdgeError.engine("Core ML did not say what became of \(package.lastPathComponent). Try again.")
            }
        }

        private static func seconds(_ began: DispatchTime, _ ended: DispatchTime) -> Double {
            Double(ended.uptimeNanoseconds - began.uptimeNanoseconds) / 1e9
        }

        // ---- tensors ----

        private static func type(_ name: String, _ known: MLMultiArrayDataType) throws -> StoredType {
            switch known {
            case .float16: return .float16
            case .float32: return .float32
            case .int32: return .int32
            default: throw EchoEdgeError.engine("\(name) is of type \(known.rawValue) in its package, which is unknown here.")
            }
        }

        /// The numbers in the package's type and axes; the Neural Engine's layout has a few zeros behind them.
        private static func handed(_ spec: TensorSpec, _ tensor: any Tensor, _ known: MLFeatureDescription) throws -> MLMultiArray {
            guard let constraint = known.multiArrayConstraint else {
                throw EchoEdgeError.engine("\(spec.name) is no array in its package. Export the bundle again.")
            }
            let type = try type(spec.name, constraint.dataType)
            let isFixed = spec.shape.allSatisfy { $0.size != nil }
            let shape = isFixed ? constraint.shape.map(\.intValue) : tensor.shape
            try Packages.padding(spec.name, sizeOf(tensor.shape), shape)
            let bytes = try Stored.bytes(spec.name, tensor, type)
            let array = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: constraint.dataType)
            array.withUnsafeMutableBytes { buffer, strides in
                if let base = buffer.baseAddress { Stored.place(bytes, type, into: base, shape, strides) }
            }
            return array
        }

        /// Rows of an array that a chip wrote may be padded: each axis goes by its own stride.
        private static func taken(_ name: String, _ array: MLMultiArray) throws -> any Tensor {
            let type = try type(name, array.dataType)
            let shape = array.shape.map(\.intValue)
            let strides = array.strides.map(\.intValue)
            return try array.withUnsafeBytes { buffer in
                guard let base = buffer.baseAddress, buffer.count >= type.bytes * Strided.extent(shape, strides) else {
                    throw EchoEdgeError.engine("\(name) came as \(buffer.count) bytes for \(shape). Run it again.")
                }
                return try Stored.tensor(base, type, shape, strides)
            }
        }
    }

    /// Filled by one thread before another one reads it.
    private final class Outcome: @unchecked Sendable {
        var result: Result<URL, any Error>?
    }
#endif
