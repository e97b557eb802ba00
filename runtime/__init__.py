"""Playing bundles: engines, the player, parity and benchmarks."""
