#!/usr/bin/env bash
# onnxruntime 1.31.1, CPU: ONNX's Attention gives zeros for a query whose keys are all masked with the lowest float32.
#
# Expected: the mask is added to the scores, and softmax follows. Where every key of a query bears the same mask value, however low,
# the weights are equal and the result is the mean of the values; that is what ONNX's own reference evaluator computes from the same
# file, and what PyTorch's scaled_dot_product_attention does.
# What happens: with the lowest float32, which is what exporters and libraries write for "hidden" (numpy.finfo(float32).min), such a
# query comes out as zeros; with -1e9 it comes out as the mean. Other rows agree with the reference to 1e-7 either way. Opset 23 and 24.
#
# Who is hit: padded queries and windows without any context (a frame whose sound has not begun): they go on as zeros on one
# runtime and as the mean of padding on another, and the two are compared.
# Versions: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6.
# Output seen:
#   opset 23, lowest float32: to the mean of the values 0.7046 (reference 0.0000), largest value 0.0000
#   opset 23, -1e9: to the mean of the values 0.0000 (reference 0.0000), largest value 0.7046
#   opset 24, lowest float32: to the mean of the values 0.7046 (reference 0.0000), largest value 0.0000
#   opset 24, -1e9: to the mean of the values 0.0000 (reference 0.0000), largest value 0.7046
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6 2>/dev/null

cat > "$folder/hidden.py" <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

heads, queries, keys, width, hidden = 2, 4, 6, 8, 1
rng = np.random.default_rng(0)
query, key, value = (rng.standard_normal((1, heads, n, width)).astype(np.float32) for n in (queries, keys, keys))
mean = value[0].mean(1)
seen = True
for opset in (23, 24):
    for title, low in (("lowest float32", np.finfo(np.float32).min), ("-1e9", np.float32(-1e9))):
        mask = np.zeros((1, heads, queries, keys), np.float32)
        mask[:, :, hidden] = low
        arrays = {"q": query, "k": key, "v": value, "mask": mask}
        graph = helper.make_graph(
            [helper.make_node("Attention", list(arrays), ["y"])],
            "attention",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in arrays.items()],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, query.shape)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)
        onnx.checker.check_model(model)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found, reference = session.run(None, arrays)[0][0], ReferenceEvaluator(model).run(None, arrays)[0][0]
        off, reference_off = (float(np.abs(one[:, hidden] - mean).max()) for one in (found, reference))
        largest = float(np.abs(found[:, hidden]).max())
        print(
            f"opset {opset}, {title}: to the mean of the values {off:.4f} (reference {reference_off:.4f}), largest value {largest:.4f}"
        )
        others = np.delete(found - reference, hidden, axis=1)
        seen &= reference_off < 1e-6 and float(np.abs(others).max()) < 1e-6
        seen &= largest == 0.0 if title == "lowest float32" else off < 1e-6
print("As described above." if seen else "This has changed.")
sys.exit(not seen)
PY

ORT_DISABLE_TELEMETRY=1 "$folder/venv/bin/python" "$folder/hidden.py"
