"""Started by torchrun: trains the tiny model as one of several processes, once per folder, steps and "keep" or "recompute"."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from tiny_training import CLIP, CONFIG, WHOLE_METHOD, tiny_cache, tiny_pool

from echoedge.core.train.distributed import join_world, leave_world
from echoedge.core.train.train_dit import train_dit

world = join_world("cpu")


def prepare() -> int:
    """What processes do one after the other: the first finds no file, the second the first's."""
    order = Path(sys.argv[1]).with_name("order")
    found = order.read_text() if order.exists() else ""
    order.write_text(f"{found}{world.rank} ")
    return world.rank


if world.first_then_others(prepare) != world.rank:
    raise SystemExit("Each process gets its own result.")
for folder, steps, activations in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3], strict=True):
    training = replace(WHOLE_METHOD, steps=int(steps), recompute=activations == "recompute")
    train_dit(CONFIG, tiny_cache(), tiny_pool(), Path(folder), training, CLIP, report_every=1, save_every=1, world=world)
leave_world(world)
