#!/usr/bin/env bash
# onnxruntime 1.31.1, CPU: a graph whose weights alone are int8 multiplies activations that were rounded to int8 as well.
#
# Expected: DequantizeLinear with block_size in front of a MatMul gives float weights, and the product is one of floats: where the
# weights are exact multiples of their scales, as here, it is right to float32's rounding, 130 dB.
# What happens: the default session fuses both into MatMulNBits and writes accuracy_level 4 into it, which rounds every row's blocks of
# activations to int8. With a few large channels, as transformers have, 38 dB are left. Nothing in the file asks for it, nothing is
# logged, and the session option that keeps floats has to be known: session.qdq_matmulnbits_accuracy_level = 0.
#
# Who is hit: whoever judges a weight-only quantiser by ONNX Runtime's output: the loss is the runtime's, not the weights'.
# Versions: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6, x86-64 with AVX2.
# Output seen:
#   default session: 38.2 dB, MatMulNBits with accuracy_level 4
#   accuracy level 0 asked for: 132.2 dB, MatMulNBits with accuracy_level 0
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6 2>/dev/null

cat > "$folder/product.py" <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

rows, inner, columns, block = 64, 512, 256, 32
rng = np.random.default_rng(0)
weights = rng.integers(-127, 128, (inner, columns)).astype(np.int8)
scales = rng.uniform(0.005, 0.02, (inner // block, columns)).astype(np.float32)
activations = rng.standard_normal((rows, inner)).astype(np.float32)
activations[:, ::64] *= 30
graph = helper.make_graph(
    [
        helper.make_node("DequantizeLinear", ["weights", "scales"], ["floats"], axis=0, block_size=block),
        helper.make_node("MatMul", ["x", "floats"], ["y"]),
    ],
    "product",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, inner])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])],
    [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(scales, "scales")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
onnx.checker.check_model(model)
truth = activations.astype(np.float64) @ (weights * np.repeat(scales, block, 0).astype(np.float64))


def played(title, **settings):
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, f"{sys.argv[1]}/optimised.onnx"
    for name, value in settings.items():
        options.add_session_config_entry(f"session.{name}", value)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    error = session.run(None, {"x": activations})[0] - truth
    db = 10 * np.log10((truth**2).mean() / (error**2).mean())
    (node,) = onnx.load(options.optimized_model_filepath).graph.node
    level = next(attribute.i for attribute in node.attribute if attribute.name == "accuracy_level")
    print(f"{title}: {db:.1f} dB, {node.op_type} with accuracy_level {level}")
    return db, level


rounded = played("default session")
kept = played("accuracy level 0 asked for", qdq_matmulnbits_accuracy_level="0")
seen = rounded[0] < 45 and rounded[1] == 4 and kept[0] > 120 and kept[1] == 0
print("As described above." if seen else "This has changed.")
sys.exit(not seen)
PY

ORT_DISABLE_TELEMETRY=1 "$folder/venv/bin/python" "$folder/product.py" "$folder"
