#!/usr/bin/env bash
# coremltools 9.0: of a network that is in half precision throughout, division, padding and a product with a number come out in float32,
# and with them everything behind. No error, no warning; weights that are reached by then are converted to float32 too.
#
# Expected: with compute_precision=FLOAT32, which leaves types as the network has them, `model.half()` stays a program of float16: a
# product with 0.5, x / y of two half tensors and F.pad do in PyTorch.
# What happens: the converter makes the number a float32 constant and promotes the tensor to it, divides after casting both to
# float32, and pads with a float32 zero, which makes the padded tensor float32. Weights of the next layer follow.
#
# Who is hit: who converts a large model in half precision so that it fits: its weights take twice the memory while it is converted,
# and the program computes in float32, which the Neural Engine does not, unless the float16 pass converts all of it back.
# What helps: numbers as tensors (buffers) of half precision; division and padding through operators registered for the converter.
# Versions: coremltools 9.0, torch 2.13.0, numpy 2.4.6, CPython 3.11.
# Output seen:
#   x + y         torch float16, converted float16
#   x * 0.5       torch float16, converted float32
#   x / y         torch float16, converted float32
#   F.pad(x)      torch float16, converted float32
#   linear(x / y) torch float16, converted float32, its weights float32
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check coremltools==9.0 torch==2.13.0 numpy==2.4.6 2>/dev/null

cat > "$folder/half.py" <<'PY'
import coremltools as ct
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Does(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what, self.layer = what, nn.Linear(8, 8)

    def forward(self, x, y):
        return self.what(x, y, self.layer)


def converted(module, x, y):
    """Types, as the converter's own program has them, of the result and of the layer's weights where there is one."""
    exported = torch.export.export(module, (x, y)).run_decompositions({})
    inputs = [ct.TensorType(name=name, shape=x.shape, dtype=np.float16) for name in ("x", "y")]
    program = ct.convert(
        exported, inputs=inputs, convert_to="milinternal", minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
    )
    operations = list(program.functions["main"].operations)
    made = [each.outputs[0] for each in operations if each.op_type not in ("const", "cast")]
    weights = [each.weight for each in operations if each.op_type == "linear"]
    kind = {"fp16": "float16", "fp32": "float32"}
    told = [kind[ct.converters.mil.mil.types.builtin_to_string(each.dtype)] for each in (made[-1], *weights)]
    return f"converted {told[0]}" + (f", its weights {told[1]}" if weights else "")


cases = {
    "x + y": lambda x, y, _: x + y,
    "x * 0.5": lambda x, y, _: x * 0.5,
    "x / y": lambda x, y, _: x / y,
    "F.pad(x)": lambda x, y, _: F.pad(x, (0, 1)),
    "linear(x / y)": lambda x, y, layer: layer(x / y),
}
for name, what in cases.items():
    module, x, y = Does(what).eval().half(), torch.rand(2, 8).half(), torch.rand(2, 8).half() + 1
    told = str(module(x, y).dtype).removeprefix("torch.")
    print(f"{name:13} torch {told}, {converted(module, x, y)}")
PY
"$folder/venv/bin/python" "$folder/half.py" 2>/dev/null | tee "$folder/seen"
sed -n 's/^#   //p' "$0" | diff - "$folder/seen"  # fails where another version does something else
