import EchoEdgeAppCore
import EchoEdgeCore

/// The runtimes that this build of the app has.
enum Backends {
    /// What runs a bundle's programs. Throws `engine`: this app or this phone has no runtime for it.
    static func programs(_ bundle: ModelBundle, told: @escaping (Load) -> Void) throws -> any Programs {
        let target = bundle.manifest.target
        switch target {
        #if canImport(ExecuTorch)
            case "executorch": return try ExecuTorchPrograms(bundle, told: told)
        #endif
        #if canImport(CoreML)
            case "coreml": return try CoreMLPrograms(bundle, Places.compiled, told: told)
        #endif
        #if canImport(CoreAI)
            case "coreai":
                guard #available(iOS 27.0, *) else {
                    throw EchoEdgeError.engine(
                        "Bundles of target coreai need iOS 27. Export it with --target coreml or executorch.")
                }
                return try CoreAIPrograms(bundle, told: told)
        #endif
        default:
            throw EchoEdgeError.engine("The bundle is compiled for \(target), which this app does not run. It runs: \(known).")
        }
    }

    /// Why a bundle cannot be run here; nil: it can.
    static func problem(_ bundle: ModelBundle) -> String? {
        do {
            _ = try programs(bundle) { _ in }
            return nil
        } catch {
            return Words.problem(error)
        }
    }

    private static var known: String {
        var found: [String] = []
        #if canImport(ExecuTorch)
            found.append("executorch")
        #endif
        #if canImport(CoreML)
            found.append("coreml")
        #endif
        #if canImport(CoreAI)
            found.append("coreai")
        #endif
        return found.joined(separator: ", ")
    }
}
