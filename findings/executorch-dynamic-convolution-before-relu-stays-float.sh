#!/usr/bin/env bash
# executorch 1.4.1, XNNPACKQuantizer: of a model quantised dynamically as a whole, convolutions that feed a ReLU stay in float.
#
# Expected: set_global with a configuration of is_dynamic=True gives every convolution 8-bit weights and an input that is rounded as it
# comes, as it does for linear layers, whatever activation follows.
# What happens: a convolution whose result goes straight into a ReLU is passed over, without a word: convolution and ReLU count as one
# pattern, which is not among the dynamic ones, and the pattern of convolutions alone leaves them to it. With SiLU instead both
# convolutions are rounded; of two linear layers with a ReLU between them both are.
#
# Who is hit: a residual decoder or a ResNet, whose convolutions all feed ReLUs, keeps its float weights, size and speed, and looks
# quantised: the export succeeds, and the last convolutions are.
# Versions: torch 2.13.0 (CPU), executorch 1.4.1, torchao 0.18.0, x86-64.
# Output seen:
#   convolution, SiLU, convolution: 2 of 2 rounded
#   convolution, ReLU, convolution: 1 of 2 rounded
#   linear, ReLU, linear: 2 of 2 rounded
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 executorch==1.4.1 torchao==0.18.0 2>/dev/null

cat > "$folder/rounded.py" <<'PY'
import sys

import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e


def rounded(title, layers, x):
    """How many layers are given inputs that were rounded, of how many."""
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True))
    prepared = prepare_pt2e(torch.export.export(nn.Sequential(*layers).eval(), (x,)).module(), quantizer)
    prepared(x)
    calls = [node for node in convert_pt2e(prepared).graph.nodes if node.op == "call_function"]
    of = [node for node in calls if "conv" in str(node.target) or "linear" in str(node.target)]
    found = sum("dequantize_per_tensor" in str(node.args[0].target) for node in of)
    print(f"{title}: {found} of {len(of)} rounded")
    return found, len(of)


def convolutions(between):
    return [nn.Conv2d(4, 8, 3), between, nn.Conv2d(8, 3, 3)], torch.randn(1, 4, 9, 9)


silu = rounded("convolution, SiLU, convolution", *convolutions(nn.SiLU()))
relu = rounded("convolution, ReLU, convolution", *convolutions(nn.ReLU()))
linear = rounded("linear, ReLU, linear", [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)], torch.randn(2, 4))
seen = (silu, relu, linear) == ((2, 2), (1, 2), (2, 2))
print("As described above." if seen else "This has changed.")
sys.exit(not seen)
PY

"$folder/venv/bin/python" "$folder/rounded.py" 2>/dev/null
