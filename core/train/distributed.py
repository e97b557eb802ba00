"""One process or many: the same training on one CPU, on one GPU, or started by `torchrun`, its parameters sharded by FSDP2.

Every process draws the same global batch from the seed and the step and computes its own rows of it, so the gradients, averaged
over processes, are those of one process. Checkpoints hold whole tensors in the layout of a single process: a run resumes with any
number of processes. All processes have to see the same working folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ..errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

PATIENCE = timedelta(days=2)  # the others wait while the first process draws clips and trains the autoencoder

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among `size` processes, and the device that it computes on; by default the only one, on the CPU."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """This process's rows of a global batch.

        Raises:
            ConfigError: the batch does not divide into equal parts, so that averaging gradients would weigh samples unevenly.
        """
        if batch % self.size:
            raise ConfigError(f"A batch of {batch} does not divide among {self.size} processes. Make it a multiple of {self.size}.")
        share = batch // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def wait(self) -> None:
        """Returns once every process is here."""
        if self.size > 1:
            torch.distributed.barrier()

    def first_then_others(self, prepare: Callable[[], T]) -> T:
        """Runs `prepare`, which leaves its result on disk, in the first process; then in the others, which find it there."""
        if self.first:
            result = prepare()
            self.wait()
            return result
        self.wait()
        return prepare()

    def mean(self, value: Tensor) -> float:
        """The mean over processes of a scalar on this process's device."""
        value = value.detach().clone()
        if self.size > 1:
            torch.distributed.all_reduce(value)
        return float(value) / self.size

    def mesh(self) -> DeviceMesh:
        from torch.distributed.device_mesh import init_device_mesh

        return init_device_mesh(self.device.type, (self.size,))


def join_world(device: str = "cpu") -> World:
    """The world that torchrun's environment describes, its process group started; a single process where there is none.

    `device` is cpu or cuda; with cuda each process takes the GPU of its local rank.

    Raises:
        ConfigError: another device, or CUDA without a GPU.
    """
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"The device is {device!r}; choose cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("This machine has no CUDA GPU that PyTorch can use. Choose the device cpu.")
    rank, size, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    place = torch.device(device, local) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(place)
    if size > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    return World(rank, size, place)


_ENVIRONMENT = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


def leave_world(world: World) -> None:
    """Ends the process group, if there is one."""
    if world.size > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


M = TypeVar("M", bound=nn.Module)


def spread(model: M, world: World) -> M:
    """The model on the world's device, its parameters sharded among the processes: each block, each cross-attention (whose keys and
    values are computed ahead of the blocks), and the rest together. `model.dit` is the transformer."""
    model.to(world.device)
    if world.size == 1:
        return model
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = world.mesh()
    for block in model.dit.blocks:  # type: ignore[union-attr]
        fully_shard(block.cross_attn, mesh=mesh)  # type: ignore[union-attr]
        register_fsdp_forward_method(block.cross_attn, "keys_values")  # type: ignore[union-attr]
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def whole_model(model: nn.Module) -> dict[str, Any]:
    """The tensors of a model that may be sharded, whole and on the CPU; empty in all processes but the first. Every process has to
    call it."""
    return get_model_state_dict(model, options=_GATHERED)


def whole_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer | Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """As `whole_model`, of the state of the model's optimiser, or of several that share its parameters, by their names."""
    return get_optimizer_state_dict(model, optimiser, options=_GATHERED)


def load_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Loads whole tensors, the same in every process, into a model that may be sharded.

    Raises:
        ConfigError: a tensor is missing, or one is not the model's. (Where one is missing, the library's own strict loading of
            whole tensors keeps what the model has; torch 2.13.)
    """
    if odd := sorted(model.state_dict().keys() ^ state.keys()):
        verb = "is" if len(odd) == 1 else "are"
        raise ConfigError(f"These weights are not this model's: {', '.join(odd[:4])} {verb} in one alone.")
    set_model_state_dict(model, dict(state), options=_WHOLE)


def load_optimiser(
    model: nn.Module, optimiser: torch.optim.Optimizer | Sequence[torch.optim.Optimizer], state: Mapping[str, Any]
) -> None:
    """As `load_model`, of what `whole_optimiser` gave."""
    set_optimizer_state_dict(model, optimiser, dict(state), options=_WHOLE)


_WHOLE = StateDictOptions(full_state_dict=True)
_GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)
