"""Benchmarks on devices: phones by adb and devicectl, boards by ssh, this machine; docs/DEVICE_BENCH.md."""
