import EchoEdgeAppCore
import SwiftUI
import UIKit

/// A benchmark's player: it shows one line that does not change, so that nothing is drawn that costs time, and ends the app.
struct BenchView: View {
    let launch: Launch

    var body: some View {
        Text(say("bench.running")).padding().onAppear(perform: begin)
    }

    private func begin() {
        UIApplication.shared.isIdleTimerDisabled = true
        UIDevice.current.isBatteryMonitoringEnabled = true
        let launch = launch
        let worker = Thread {
            if launch.action == .clean && !launch.keep { Places.tidy() }  // before the last status: it ends the app
            Bench(Places.bench, Phone()).obey(launch)
            fflush(stdout)
            exit(0)
        }
        worker.stackSize = 8 << 20
        worker.qualityOfService = .userInitiated
        worker.start()
    }
}
