"""One process or many: the same training on one CPU, on one GPU, or started by `torchrun`, its parameters sharded by FSDP2.

Every process draws the same global batch from the seed and the step and computes its own rows of it, so the gradients, averaged
over processes, are those of one process. Checkpoints hold whole tensors in the layout of a single process: a run resumes with any
number of processes. All processes have to see the same working folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

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


def local(tensor: Tensor) -> Tensor:
    """This process's part of a parameter, sharing its memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


@torch.no_grad()
def copy_parameters(source: nn.Module, target: nn.Module, share: float = 1.0) -> None:
    """Moves each parameter of `target` the `share` of the way to that of `source`, which is sharded alike."""
    for new, kept in zip(source.parameters(), target.parameters(), strict=True):
        if share == 1.0:
            local(kept).copy_(local(new))
        else:
            local(kept).lerp_(local(new), share)


def whole(value: Any, world: World) -> Any:
    """Nested dicts and lists with every sharded tensor gathered and moved to the CPU; only the first process keeps them, the others
    get None for tensors. Every process has to call it."""
    if isinstance(value, Tensor):
        gathered = value.full_tensor() if hasattr(value, "full_tensor") else value  # type: ignore[operator]
        return gathered.detach().to("cpu", copy=world.size > 1) if world.first else None
    if isinstance(value, Mapping):
        return {key: whole(item, world) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(whole(item, world) for item in value)
    return value


def _part(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same in every process, sharded as `like` is."""
    if not hasattr(like, "device_mesh") or value.shape != like.shape:
        return value.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)  # type: ignore[attr-defined]


@torch.no_grad()
def load_whole(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads whole tensors into a model that may be sharded, strictly."""
    own = model.state_dict()
    model.load_state_dict({name: _part(value, own[name]) if name in own else value for name, value in state.items()})


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads an optimiser's `state_dict` of whole tensors for parameters that may be sharded."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    moments = {
        index: {
            name: _part(value, parameters[index]) if isinstance(value, Tensor) and value.dim() else value
            for name, value in entry.items()
        }
        for index, entry in state["state"].items()
    }
    optimiser.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
