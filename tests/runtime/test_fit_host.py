"""The host's rates: what is timed, how the rest goes by it, and a product that is really compiled and timed."""

from __future__ import annotations

import math

import pytest

from echoedge.core.errors import ConfigError
from echoedge.runtime.fit import host
from echoedge.runtime.fit.counting import Counted, Product
from echoedge.runtime.fit.host import HostRates, Key, chained, chosen, host_device, keys_of, measure_rates, part_of
from echoedge.runtime.fit.workload import Workload, workload

FAST: Key = ("linear", "int8", 8, (100, 100, 100))
SLOW: Key = ("linear", "int8", 8, (10, 10, 10))
PLAIN: Key = ("activations", "fp32", 0, (1, 10, 10, 10))
RATES = HostRates({FAST: 1e-6, SLOW: 1e-6, PLAIN: 4e-6}, moving=1e9, painting=4e9, copying=2e9, call=1e-5, packing=1e9, threads=2)


@pytest.fixture(scope="module")
def nano() -> Workload:
    return workload("nano", "int8")


def product(kind: str, *shape: int) -> Product:
    return Product(kind, "a", shape, 2 * math.prod(shape), 0)  # type: ignore[arg-type]


def test_what_was_timed_takes_what_it_took_and_the_rest_goes_by_the_nearest() -> None:
    assert RATES.product(product("linear", 100, 100, 100), "int8", 8) == 1e-6
    assert RATES.product(product("linear", 100, 100, 50), "int8", 8) == pytest.approx(0.5e-6)  # by the large one
    assert RATES.product(product("linear", 10, 10, 20), "int8", 8) == pytest.approx(2e-6)  # by the small one
    assert RATES.product(product("linear", 10, 10, 10), "fp32", 32) == pytest.approx(4e-6)  # of its type, for want of its kind
    assert RATES.moved(Counted((), 10**6, 1, 2 * 10**6), False) == pytest.approx(1e-5 + 1e-3 + 1e-3)
    assert RATES.moved(Counted((), 10**6, 1, 2 * 10**6), True) == pytest.approx(1e-5 + 0.25e-3 + 1e-3)
    assert RATES.loading(1, 10**9) == 1
    assert RATES.best("int8") == pytest.approx(2e6 / 1e-6)


def test_what_takes_most_is_timed(nano: Workload) -> None:
    every, picked = keys_of(nano), chosen(nano)
    assert len(picked) <= host.MOST_PRODUCTS + len({key[:2] for key in every})
    assert {key[:2] for key in picked} == {key[:2] for key in every}
    share = sum(every[key][0] for key in picked) / sum(flops for flops, _ in every.values())
    assert share > 0.75
    few = chosen(nano, most=2)
    assert len(few) < len(picked)
    assert few[:2] == list(every)[:2]


@pytest.mark.parametrize("index", range(0, 12, 3))
def test_a_part_multiplies_what_its_key_says(nano: Workload, index: int) -> None:
    """The product that is timed has as many FLOPs as the one that is counted."""
    from torch.utils.flop_counter import FlopCounterMode

    key, (_, counted) = list(keys_of(nano).items())[index]
    part = part_of(key)
    with FlopCounterMode(display=False) as torchs:
        part.module(*part.inputs)
    one = counted.computed if key[0] == "streamed" else counted.computed // counted.operators
    assert torchs.get_total_flops() == chained(key) * one == chained(key) * host._flops(key)


def test_this_machine_is_measured(nano: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two products and what is around them, really compiled and timed: rates of a computer, and memory of a process."""
    monkeypatch.setattr(host, "MOST_PRODUCTS", 1)
    monkeypatch.setattr(host, "chosen", lambda work: [key for key in chosen(work, 1) if key[0] != "convolution"][:2])
    monkeypatch.setattr(host, "PACKED", (256, 256))
    told: list[tuple[str, int, int]] = []
    rates = measure_rates(nano, rounds=2, progress=lambda *step: told.append(step))
    assert told[0][0] == "compile"
    assert told[-1] == ("rounds", 3, 3)
    assert all(0 < seconds < 60 for seconds in rates.taken.values())
    assert rates.cpu is not None
    assert rates.cpu.taken.keys() == rates.taken.keys()
    assert min(rates.moving, rates.painting) > 1e6
    assert 1e5 < rates.packing < 1e12
    device = host_device(rates)
    assert 100e6 < device.process_bytes.value < 3e9
    assert {rate.kind for rate in device.rates.values()} == {"measured"}
    with pytest.raises(ConfigError, match="rounds"):
        measure_rates(nano, rounds=0)
