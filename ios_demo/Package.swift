// swift-tools-version: 5.9
import PackageDescription

// No package from outside. What adapts a runtime (Core ML, ExecuTorch, Core AI) is a target of its own beside these and knows the
// core; the core knows none of them.
let package = Package(
    name: "EchoEdge",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [
        .library(name: "EchoEdgeCore", targets: ["EchoEdgeCore"]),
        .library(name: "EchoEdgeAppCore", targets: ["EchoEdgeAppCore"]),
        .executable(name: "echoedge-play", targets: ["echoedge-play"]),
    ],
    targets: [
        .target(name: "EchoEdgeCore"),
        .target(name: "EchoEdgeAppCore", dependencies: ["EchoEdgeCore"]),
        .target(name: "CoreAIBackend", dependencies: ["EchoEdgeCore", "EchoEdgeAppCore"]),
        .target(name: "CoreMLBackend", dependencies: ["EchoEdgeCore", "EchoEdgeAppCore"]),
        .target(name: "ExecuTorchBackend", dependencies: ["EchoEdgeCore", "EchoEdgeAppCore"]),
        .executableTarget(name: "echoedge-play", dependencies: ["EchoEdgeCore"]),
        .testTarget(name: "EchoEdgeAppCoreTests", dependencies: ["EchoEdgeCore", "EchoEdgeAppCore"]),
        .testTarget(name: "EchoEdgeCoreTests", dependencies: ["EchoEdgeCore"]),
    ]
)
