import Darwin
import EchoEdgeAppCore
import EchoEdgeCore
import Foundation
import UIKit
import os

/// What this phone tells of itself.
final class Phone: BenchPhone {
    private static let runtime = "ExecuTorchVersion"  // of Info.plist: the release that project.yml pins

    var app: String { "EchoEdge \(Phone.version)" }
    var threads: Int { ProcessInfo.processInfo.activeProcessorCount }

    func device(_ bundle: ModelBundle) -> Device {
        let process = ProcessInfo.processInfo
        return Device(
            place: "phone", kind: Bench.kind(bundle.manifest), name: Phone.system("hw.machine"),
            cores: process.activeProcessorCount,
            memoryBytes: Int(process.physicalMemory), os: "iOS \(Phone.osVersion)", osBuild: Phone.system("kern.osversion"))
    }

    func versions(_ bundle: ModelBundle) -> Ordered<String> {
        var found: Ordered<String> = ["app": Phone.version]
        switch bundle.manifest.target {
        case "executorch": found["executorch"] = Phone.info(Phone.runtime)
        default: found[bundle.manifest.target] = "iOS \(Phone.osVersion)"  // the runtime is the system's
        }
        return found
    }

    func programs(_ bundle: ModelBundle) throws -> any Programs { try Backends.programs(bundle) { _ in } }

    func room() -> Room {
        let total = Int(ProcessInfo.processInfo.physicalMemory)
        #if targetEnvironment(simulator)
            let available = total  // a simulator has no limit and tells 0
        #else
            let available = os_proc_available_memory()
        #endif
        return Room(available: available, used: Phone.memory().now, total: total)
    }

    func state() -> DeviceState {
        let (battery, charge) = Phone.battery()
        return DeviceState(
            thermal: Phone.thermal, batteryPercent: battery < 0 ? nil : (Double(battery) * 1000).rounded() / 10,
            charging: charge == .unknown ? nil : charge == .charging || charge == .full)
    }

    func peakBytes() -> Int { Phone.memory().peak }

    func cpuSeconds() -> Double? {
        var time = timespec()
        guard clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) == 0 else { return nil }
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    func freeBytes(_ folder: URL) -> Int { Phone.freeBytes(folder) }

    func say(_ line: String) {
        print(line)
        fflush(stdout)
    }

    func sleep(_ seconds: Double) { Thread.sleep(forTimeInterval: seconds) }
    func now() -> Double { ProcessInfo.processInfo.systemUptime }

    static var thermal: Thermal? { Thermal(state: ProcessInfo.processInfo.thermalState.rawValue) }
    static var version: String { info("CFBundleShortVersionString") }

    /// Of the disk that holds a folder, which need not be there yet.
    static func freeBytes(_ folder: URL) -> Int {
        let place = URL(fileURLWithPath: Places.documents.path)  // one that is kept would keep what it told before, too
        let values = try? place.resourceValues(forKeys: [.volumeAvailableCapacityForImportantUsageKey])
        return Int(values?.volumeAvailableCapacityForImportantUsage ?? 0)
    }

    /// The app's memory as the system counts it against its limit (`phys_footprint`): now, and at its peak.
    private static func memory() -> (now: Int, peak: Int) {
        var info = task_vm_info_data_t()
        var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<integer_t>.size)
        let status = withUnsafeMutablePointer(to: &info) { pointer in
            pointer.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
                task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
            }
        }
        return status == KERN_SUCCESS ? (Int(info.phys_footprint), Int(info.ledger_phys_footprint_peak)) : (0, 0)
    }

    /// UIKit is asked on its own thread.
    private static func battery() -> (level: Float, state: UIDevice.BatteryState) {
        let ask = { () -> (Float, UIDevice.BatteryState) in
            UIDevice.current.isBatteryMonitoringEnabled = true
            return (UIDevice.current.batteryLevel, UIDevice.current.batteryState)
        }
        return Thread.isMainThread ? ask() : DispatchQueue.main.sync(execute: ask)
    }

    private static var osVersion: String {
        let version = ProcessInfo.processInfo.operatingSystemVersion
        return "\(version.majorVersion).\(version.minorVersion).\(version.patchVersion)"
    }

    private static func info(_ key: String) -> String { Bundle.main.object(forInfoDictionaryKey: key) as? String ?? "unknown" }

    private static func system(_ name: String) -> String {
        var size = 0
        sysctlbyname(name, nil, &size, nil, 0)
        var text = [CChar](repeating: 0, count: max(size, 1))
        sysctlbyname(name, &text, &size, nil, 0)
        return String(cString: text)
    }
}
