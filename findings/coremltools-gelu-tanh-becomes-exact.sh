#!/usr/bin/env bash
# coremltools 9.0: GELU in its tanh form, exported by torch.export, is converted to the exact form. No error, no warning.
#
# Expected: nn.GELU(approximate="tanh") becomes Core ML's gelu of mode TANH_APPROXIMATION, as it does out of torch.jit.trace.
# What happens: torch.export keeps `approximate` as a keyword of aten.gelu, the converter reads it among the positional arguments
# alone, and what is not there is taken for the exact form. The saved program computes another function, up to 4.7e-4 off.
#
# Who is hit: the feed-forward layers of Wan2.1 and of most diffusion transformers, Gemma, SigLIP: all whose weights were trained with
# the tanh form. Tests at 1e-3 pass, which is how it goes unnoticed; parity in float32 at 1e-5 does not.
# What helps: the formula written out (the converter's own pass fuses it into TANH_APPROXIMATION), or the mode set in the program.
# Versions: coremltools 9.0, torch 2.13.0, numpy 2.4.6, CPython 3.11.
# Output seen:
#   the network:        largest difference from torch's tanh form 0, from the exact form 4.7e-04
#   the saved program:  gelu of mode EXACT
#   written out:        gelu of mode TANH_APPROXIMATION
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check coremltools==9.0 torch==2.13.0 numpy==2.4.6 2>/dev/null

cat > "$folder/gelu.py" <<'PY'
import coremltools as ct
import torch
import torch.nn.functional as F
from torch import nn


class WrittenOut(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3))))


def mode(module, x):
    """Of the one gelu in what the module is converted to, read in the file's own format."""
    exported = torch.export.export(module.eval(), (x,)).run_decompositions({})
    model = ct.convert(exported, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)
    function = model.get_spec().mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    texts = {o.outputs[0].name: o.attributes["val"].immediateValue.tensor.strings.values for o in operations if o.type == "const"}
    (gelu,) = (operation for operation in operations if operation.type == "gelu")
    return texts[gelu.inputs["mode"].arguments[0].name][0]


x = torch.linspace(-4, 4, 8001)
network = nn.GELU(approximate="tanh")
apart = [float((network(x) - F.gelu(x, approximate=form)).abs().max()) for form in ("tanh", "none")]
print(f"the network:        largest difference from torch's tanh form {apart[0]:.0f}, from the exact form {apart[1]:.1e}")
print(f"the saved program:  gelu of mode {mode(network, x)}")
print(f"written out:        gelu of mode {mode(WrittenOut(), x)}")
PY
"$folder/venv/bin/python" "$folder/gelu.py" 2>/dev/null
