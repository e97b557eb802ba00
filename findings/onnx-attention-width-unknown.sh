#!/usr/bin/env bash
# onnx 1.23.2 and ONNX Runtime 1.31.1: an Attention (opset 23, inputs of rank 3) whose values have a width that inference does not
# know is inferred to give a width of zero, and what follows it does not load.
#
# Expected: an unknown width stays unknown, as the operator's document has it, and the session opens: sizes are known when it runs.
# What happens: the output of Attention is inferred as [?, ?, 0], so that adding anything of a known width to it fails with
# "Incompatible dimensions", in ONNX Runtime and in onnx's own strict inference; onnx.checker has nothing against the file.
#
# Who is hit: graphs with free dimensions whose intermediate shapes were removed or never written, which ONNX allows.
# What helps: the width of the values written into the graph (value_info), the other sizes left open.
# Versions: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6, CPython 3.11.
# Output seen:
#   width unknown: [ONNXRuntimeError] : 1 : FAIL : Node () Op (Add) [ShapeInferenceError] Incompatible dimensions
#   width written down: runs, [1, 3, 8]
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export ORT_DISABLE_TELEMETRY=1
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6 2>/dev/null

cat > "$folder/width.py" <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper


def model(told):
    """q + Attention(q, k, v), v reshaped to sizes that are computed; `told`: whether its width is written down."""
    nodes = [
        helper.make_node("Shape", ["flat"], ["count"]),
        helper.make_node("Concat", ["one", "count", "width"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["wide", "sizes"], ["v"]),
        helper.make_node("Attention", ["q", "q", "v"], ["y"], q_num_heads=2, kv_num_heads=2),
        helper.make_node("Add", ["q", "y"], ["z"]),
    ]
    inputs = [
        helper.make_tensor_value_info("q", TensorProto.FLOAT, [1, "n", 8]),
        helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["m"]),
        helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("width", TensorProto.INT64, [1]),
    ]
    constants = [helper.make_tensor("one", TensorProto.INT64, [1], [1])]
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, "n", 8])], constants,
        value_info=[helper.make_tensor_value_info("v", TensorProto.FLOAT, [None, None, 8])] if told else [],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    onnx.checker.check_model(made)
    return made.SerializeToString()


for told in (False, True):
    name = "width written down" if told else "width unknown"
    try:
        session = onnxruntime.InferenceSession(model(told))
        q = np.random.default_rng(0).normal(size=(1, 3, 8)).astype(np.float32)
        (found,) = session.run(
            None, {"q": q, "wide": q.ravel(), "flat": np.zeros(3, np.float32), "width": np.array([8])}
        )
        print(f"{name}: runs, {list(found.shape)}")
    except Exception as error:
        print(f"{name}: {str(error).splitlines()[0].rpartition('failed:')[2]}")
PY
"$folder/venv/bin/python" "$folder/width.py"
