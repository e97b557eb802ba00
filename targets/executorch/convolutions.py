"""Convolutions of int8 weights in the form that XNNPACK makes one operator of: their inputs rounded to 8 bits as they come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...quantize.convolutions import Convolution
from ...quantize.grid import Rounded
from ..lean import swapped

LOW, HIGH = -128, 127
SMALLEST_STEP = torch.finfo(torch.float32).eps  # of an input's 8 bits, where the input is zero throughout


class DynamicConvolution(nn.Module):
    """x [N, in, H, W] -> [N, out, H', W']: x in 256 steps between its least and its largest value, codes [out, in, k, k] (of a
    transposed convolution [in, out, k, k]) with a scale for each output channel. XNNPACK gives each of the N pictures steps of its
    own, which are no coarser."""

    codes: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, conv: Convolution, rounded: Rounded) -> None:
        super().__init__()
        self.transposed = isinstance(conv, nn.ConvTranspose2d)
        shape = conv.weight.shape
        out, channels = (shape[1], shape[0]) if self.transposed else (shape[0], shape[1])
        codes = rounded.codes.view(out, channels, *shape[2:])
        self.register_buffer("codes", (codes.transpose(0, 1) if self.transposed else codes).contiguous())
        self.register_buffer("scale", rounded.scale.flatten())
        self.register_buffer("zero", torch.zeros(out, dtype=torch.int8))
        self.bias = conv.bias
        self.options: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
        if self.transposed:
            self.options["output_padding"] = conv.output_padding

    def forward(self, x: Tensor) -> Tensor:
        import torch.ao.quantization.fx._decomposed  # noqa: F401  these operators

        ops = torch.ops.quantized_decomposed
        step, zero = ops.choose_qparams.tensor(x, LOW, HIGH, SMALLEST_STEP, torch.int8)
        codes = ops.quantize_per_tensor.tensor(x, step, zero, LOW, HIGH, torch.int8)
        x = ops.dequantize_per_tensor.tensor(codes, step, zero, LOW, HIGH, torch.int8)
        axis = 1 if self.transposed else 0
        weight = ops.dequantize_per_channel(self.codes, self.scale, self.zero, axis, LOW, HIGH, torch.int8)
        return (F.conv_transpose2d if self.transposed else F.conv2d)(x, weight, self.bias, **self.options)


@contextmanager
def inputs_turned() -> Iterator[None]:
    """Within it XNNPACK's compiler turns a rounded input to channels last where it is rounded.

    It looks for the tensor to turn by going back from the rounding, and does not stop there: it goes on to the first input of all,
    which is another tensor, and of five dimensions in a video decoder. Here what is rounded is turned before.
    """
    from executorch.backends.xnnpack._passes.channels_last_tagged_reshape_pass import ChannelsLastTaggedReshapePass as Turning
    from executorch.backends.xnnpack.utils.quant_utils import is_dequant, is_dynamic_qdq

    turn = Turning.input_to_nhwc

    def input_to_nhwc(self: Any, graph_module: Any, input_node: Any, target_node: Any) -> None:
        if is_dequant(input_node) and is_dynamic_qdq(input_node):
            rounding = input_node.args[0]
            turn(self, graph_module, rounding.args[0], rounding)
            steps = rounding.args[1].args[0]
            # They read it turned as well: a turned tensor that rounding alone reads would be the program's result.
            steps.replace_input_with(steps.args[0], rounding.args[0])
        turn(self, graph_module, input_node, target_node)

    with swapped() as swap:
        swap(Turning, "input_to_nhwc", input_to_nhwc)
        yield
