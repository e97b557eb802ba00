"""`echoedge export` of the released model: options to a request, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .options import parse_bytes, parse_clip, parse_names, parse_shapes

if TYPE_CHECKING:
    from ..core.bundle import Manifest
    from ..runtime.export.jobs import Progress


def export_checkpoint(
    out: Path,
    folder: Path,
    model: str,
    target: str,
    weights: str,
    size: str,
    frames: int,
    steps: int | None,
    also: Sequence[str],
    decoders: str,
    layout: str,
    backend: str,
    prompts: Path | None,
    text_rows: int,
    memory: str | None,
    way: str,
    products: str,
    context: float,
    jobs: int,
    force: bool,
    progress: Progress,
    warn: Callable[[str], None],
) -> Manifest:
    """Compiles a checkpoint. Raises as `export_released`; also ConfigError and InputError for the options."""
    from ..core.model.architecture import Architecture
    from ..core.weights.checkpoints import Checkpoint
    from ..runtime.export.pipeline import export_bundle
    from ..runtime.export.request import checkpoint_request
    from ..runtime.play.prompts import read_prompts
    from ..runtime.play.setting import PACK

    width = Architecture(Checkpoint.open(folder, model).config()).transformer.text_dim
    pack = read_prompts(prompts, width) if prompts else {}
    request = checkpoint_request(
        folder, model, weights, target=target,
        options={"layout": layout, "backend": backend, "way": way, "products": products},
        clips=(parse_clip(size, frames), *parse_shapes(also, "--also")), steps=steps,
        decoders=parse_names(decoders, "--decoders"), prompts=pack, text_rows=text_rows, context_seconds=context,
    )  # fmt: skip
    budget = parse_bytes(memory, "--memory") if memory is not None else None
    if not pack:
        warn(f"The bundle will have no text encoder and no prompts: it plays with --prompts PACK alone. Make one with: {PACK}.")
    return export_bundle(request, out, jobs=jobs, budget=budget, force=force, progress=progress, warn=warn)
