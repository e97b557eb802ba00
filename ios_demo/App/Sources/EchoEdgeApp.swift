import EchoEdgeAppCore
import SwiftUI

/// Opened by hand it is one screen; started with `--bench` it is a benchmark's player.
@main
struct EchoEdgeApp: App {
    private let launch = Launch(Array(CommandLine.arguments.dropFirst()))
    @StateObject private var model = AppModel()

    var body: some Scene {
        WindowGroup {
            if let launch {
                BenchView(launch: launch)
            } else {
                MainView(model: model)
                    .onAppear { model.appear() }
                    .onOpenURL { model.receive($0) }
            }
        }
    }
}
