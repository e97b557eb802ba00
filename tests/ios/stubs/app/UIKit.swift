// What the app uses of UIKit outside its views.
@_exported import Foundation

public final class UIImage {
    public init?(data: Data) { return nil }
}

public struct UIBackgroundTaskIdentifier: Equatable {
    public static let invalid = UIBackgroundTaskIdentifier()
}

public final class UIApplication {
    public static var shared: UIApplication { fatalError() }
    public var isIdleTimerDisabled = false
    public func beginBackgroundTask(
        withName taskName: String?, expirationHandler handler: (() -> Void)? = nil
    ) -> UIBackgroundTaskIdentifier { fatalError() }
    public func endBackgroundTask(_ identifier: UIBackgroundTaskIdentifier) {}
}

public final class UIDevice {
    public enum BatteryState { case unknown, unplugged, charging, full }

    public static var current: UIDevice { fatalError() }
    public var isBatteryMonitoringEnabled = false
    public var batteryLevel: Float { fatalError() }
    public var batteryState: BatteryState { fatalError() }
}
