"""ONNX: programs of the reference as graphs that serve clips of every shape, for ONNX Runtime."""
