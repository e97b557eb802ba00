"""The interpreter with the file's weights and float32 for all else, as an engine."""

from __future__ import annotations

from functools import partial

from .engine import open_built as open_built
from .engine import open_bundle as _open_bundle

open_bundle = partial(_open_bundle, precision="fp32")
