"""The VAE's causal 3D convolution as 2D ones, frames in pairs."""

from __future__ import annotations

from torch import Tensor, nn

from ...core.model.vae import CausalConv3d
from .tensors import conv2d_of, frames_of, joined


class PortableConv3d(nn.Module):
    """A causal 3D convolution as 2D ones, two frames at a time.

    With kernels g0, g1, g2 for the frames d0 … d3 the two new frames are y0 = g0·d0 + g1·d1 + g2·d2 and y1 = g0·d1 + g1·d2 + g2·d3:
    six convolutions. Four give the same sums (Winograd's F(2, 3), in time), with four kernels, of which the last one is also what a
    clip's first frame takes:

        m0 = g0·(d0-d2)   m1 = (g0+g1+g2)/2·(d1+d2)   m2 = (g0-g1+g2)/2·(d2-d1)   m3 = g2·(d1-d3)
        y0 = m0+m1+m2     y1 = m1-m2-m3

    A frame that is alone takes three, a clip's first one, whose past is zero, only g2.
    """

    def __init__(self, conv: CausalConv3d) -> None:
        super().__init__()
        self.taps, self.frame_stride = conv.taps, conv.frame_stride
        kernels = [conv.weight.detach()[:, :, tap].contiguous() for tap in range(conv.taps)]
        self.newest = conv2d_of(kernels[-1], conv.bias, conv.padding)
        self.older = nn.ModuleList(conv2d_of(kernel, None, conv.padding) for kernel in kernels[:-1])
        self.in_pairs = conv.taps == 3 and conv.frame_stride == 1
        if self.in_pairs:
            outer = kernels[0] + kernels[2]
            self.sum = conv2d_of((outer + kernels[1]) / 2, conv.bias, conv.padding)
            self.difference = conv2d_of((outer - kernels[1]) / 2, None, conv.padding)
            self.newest_alone = conv2d_of(kernels[2], None, conv.padding)

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        b, t, c, h, w = x.shape
        if self.taps == 1 or (past is None and t == 1 and self.frame_stride == 1):
            return self.newest(x.reshape(b * t, c, h, w)).view(b, t, -1, h, w)
        frames = frames_of(x)
        if self.frame_stride == 1:
            before = [x.new_zeros(b, c, h, w)] * (self.taps - 1) if past is None else frames_of(past)
            frames = before + frames
        count = (len(frames) - self.taps) // self.frame_stride + 1
        paired = count // 2 * 2 if self.in_pairs else 0
        results = [y for index in range(0, paired, 2) for y in self._two(*frames[index : index + 4])]
        results += [self._one(frames, index) for index in range(paired, count)]
        return joined([y.view(b, 1, *y.shape[1:]) for y in results], 1)

    def _one(self, frames: list[Tensor], index: int) -> Tensor:
        start = index * self.frame_stride
        *older, newest = frames[start : start + self.taps]
        y = self.newest(newest)
        for conv, frame in zip(self.older, older, strict=True):
            y = y + conv(frame)
        return y

    def _two(self, d0: Tensor, d1: Tensor, d2: Tensor, d3: Tensor) -> tuple[Tensor, Tensor]:
        m0, m1 = self.older[0](d0 - d2), self.sum(d1 + d2)
        m2, m3 = self.difference(d2 - d1), self.newest_alone(d1 - d3)
        return m0 + m1 + m2, m1 - m2 - m3

    step = CausalConv3d.step
