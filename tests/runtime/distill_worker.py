"""Started alone or by torchrun: the tiny checkpoint's student, and the loss of every step to the last digit."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from echoedge.core.train.distributed import World, join_world, leave_world
from echoedge.runtime.distill.run import distill_checkpoint
from echoedge.tests.core.tiny_checkpoint import playable_sizes
from echoedge.tests.runtime.test_distill_checkpoint import SHORT, asked

base, folder, videos, pack, steps = sys.argv[1:]
world, kept = join_world("cpu"), list[float]()
mean = World.mean


def watched(own: World, value: torch.Tensor) -> float:
    kept.append(mean(own, value))
    return kept[-1]


World.mean = watched  # type: ignore[method-assign]
wanted = asked(Path(folder), Path(videos), Path(pack), training=replace(SHORT, steps=int(steps)))
distill_checkpoint(
    wanted,
    Path(base) / "work",
    Path(base) / "student",
    threads=1,
    world=world,
    sizes=playable_sizes("flash"),
    report=lambda _: None,
)
if world.first:
    (Path(base) / "losses").write_text("\n".join(map(repr, kept)))
leave_world(world)
