"""ExecuTorch: programs of the reference to .pte files, and the runtime that executes them."""
