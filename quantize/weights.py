"""Weight quantisation of a portable program, layer by layer, free of how a target stores the result.

1. rules      which linear layers of the program get what
2. moments    where the rounding looks at data: second moments of the layers' inputs on calibration samples
3. round      one layer at a time; its full-precision weight goes as the rounded one comes, in the form that `store` gives it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ConfigError
from .grid import Grid, Palette, Palettised, Rounded
from .recipes import Rule, WeightRecipe
from .roundings import NEEDS_SAMPLES, rounded
from .roundings.gptq import parts_of
from .schemes import SCHEMES

RELIEF_BYTES = 256 << 20
Store = Callable[[Rounded | Palettised, Grid | Palette], Tensor]  # rounded weights -> the parameter that a target's compiler takes
MOMENT_BYTES = 256 << 20  # second moments that are held at once; layers beyond wait for another pass over the samples


@contextmanager
def _watching(layers: Mapping[str, nn.Module], see: Any) -> Iterator[None]:
    """Calls `see(name, input)` whenever one of `layers` runs."""
    handles = [layer.register_forward_hook(lambda _, args, __, name=name: see(name, args[0])) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}


def executed_layers(module: nn.Module, inputs: Sequence[Tensor], layers: Mapping[str, nn.Module] | None = None) -> set[str]:
    """Names of those of `layers`, its linear ones by default, that `module` runs on inputs of these shapes: a program holds the
    whole model and uses a part of it. Nothing is computed for that."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    names: dict[str, None] = {}
    watching = _watching(linear_layers(module) if layers is None else layers, lambda name, _: names.setdefault(name))
    with watching, torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        module(*(torch.empty(x.shape, dtype=x.dtype) for x in inputs))
    return set(names)


def grid_of(layer: nn.Linear, rule: Rule) -> Grid | Palette | None:
    """What a layer's weights are rounded to; None where it stays as it is."""
    return SCHEMES[rule.weights].grid(layer.out_features, layer.in_features, rule.group, rule.rows)


@torch.no_grad()
def input_moments(module: nn.Module, layers: Mapping[str, nn.Linear], samples: Sequence[Sequence[Any]]) -> dict[str, list[Tensor]]:
    """Mean of x xᵀ over the rows x that each layer is given on `samples`, float32 [width, width] for each of its `parts_of`; layers
    that do not run are absent."""
    found: dict[str, list[Tensor]] = {}
    rows: Counter[str] = Counter()
    parts = {name: parts_of(layer.in_features) for name, layer in layers.items()}

    def see(name: str, x: Tensor) -> None:
        flat = x.detach().reshape(-1, x.shape[-1]).float()
        if name not in found:
            found[name] = [torch.zeros(part.stop - part.start, part.stop - part.start) for part in parts[name]]
        for part, moments in zip(parts[name], found[name], strict=True):
            moments.addmm_(flat[:, part].T, flat[:, part])
        rows[name] += len(flat)

    with _watching(layers, see):
        for sample in samples:
            module(*sample)
    return {name: [part.div_(rows[name]) for part in moments] for name, moments in found.items()}


def quantise_layer(layer: nn.Linear, rule: Rule, store: Store, moments: Sequence[Tensor] = ()) -> Grid | Palette | None:
    """Replaces the weight of one layer, which is left to whoever holds it, as `rule` says. Returns what it was rounded to."""
    grid = grid_of(layer, rule)
    if grid is not None:
        found = rounded(layer.weight.detach().float(), grid, rule.rounding, moments)
        layer.weight = nn.Parameter(store(found, grid), requires_grad=False)
    return grid


def _batches(layers: Mapping[str, nn.Linear]) -> Iterator[dict[str, nn.Linear]]:
    """Layers in their order, as many at once as `MOMENT_BYTES` allow, one at least."""
    batch: dict[str, nn.Linear] = {}
    held = 0
    for name, layer in layers.items():
        size = sum(4 * (part.stop - part.start) ** 2 for part in parts_of(layer.in_features))
        if batch and held + size > MOMENT_BYTES:
            yield batch
            batch, held = {}, 0
        batch[name] = layer
        held += size
    if batch:
        yield batch


def quantise(
    module: nn.Module,
    program: str,
    recipe: WeightRecipe,
    inputs: Sequence[Tensor] | None = None,
    *,
    store: Store,
    prefix: str = "",
    samples: Sequence[Sequence[Any]] = (),
    relieve: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Quantises the linear layers of `module` in place as `recipe` says. Returns how many layers got which weights.

    With `inputs` only the layers that the module runs on them are quantised and counted. `prefix` stands before each layer's name
    when rules are looked up, where `module` is a part of the program (`dit.blocks.7.`). `samples`: calls of `module`, each a
    sequence of arguments, for roundings that look at data; layers that no sample reaches are rounded as if their inputs were
    independent. `store` makes a layer's parameter of its rounded weights. `relieve` is called whenever weights of `RELIEF_BYTES`
    have been read, for a caller who maps them from a file.

    Raises:
        ConfigError: a rule's rounding needs samples and there are none.
    """
    counts: Counter[str] = Counter()
    used = None if inputs is None else executed_layers(module, inputs)
    data_free: dict[str, nn.Linear] = {}
    fitted: dict[str, nn.Linear] = {}
    rules: dict[str, Rule] = {}
    for name, layer in linear_layers(module).items():
        if used is not None and name not in used:
            continue
        rule = recipe.rule_for(program, prefix + name)
        if rule is None or grid_of(layer, rule) is None:
            counts["fp32"] += 1
            continue
        rules[name] = rule
        (fitted if rule.rounding in NEEDS_SAMPLES else data_free)[name] = layer
    if fitted and not samples:
        name = next(iter(fitted))
        raise ConfigError(
            f"The recipe {recipe.name!r} rounds {prefix}{name} of {program} with {rules[name].rounding}, which needs "
            "calibration samples, and there are none. Give samples, or set rounding to searched."
        )

    read = 0

    def finish(name: str, layer: nn.Linear, moments: Sequence[Tensor] = ()) -> None:
        nonlocal read
        read += layer.weight.nbytes
        grid = quantise_layer(layer, rules[name], store, moments)
        assert grid is not None  # else it is not among the rules
        counts[grid.name] += 1
        if read > RELIEF_BYTES:
            relieve()
            read = 0

    for batch in _batches(fitted):
        moments = input_moments(module, batch, samples)
        for name, layer in batch.items():
            seen = moments.pop(name, None) or [torch.eye(part.stop - part.start) for part in parts_of(layer.in_features)]
            finish(name, layer, seen)
    for name, layer in data_free.items():
        finish(name, layer)
    return dict(counts)
