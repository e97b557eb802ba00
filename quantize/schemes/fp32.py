"""Weights as they are, in float32."""

from __future__ import annotations

from .base import Scheme

FP32 = Scheme(grid=lambda *_: None, bytes=lambda outputs, inputs, *_: 4 * outputs * inputs)
