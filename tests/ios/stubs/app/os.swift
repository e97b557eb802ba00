// What the app uses of os.
public func os_proc_available_memory() -> Int { fatalError() }
