"""Core AI: programs of the reference as `.aimodel` folders, for iOS and macOS 27 and for Apple's runtime on Linux."""
