"""runtime/engines/mil/ops/gathering.py beside numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from echoedge.core.errors import EngineError

from .programs import caught, check, drawn, saved

X = drawn(4, 5, 3)
I, J = np.array([[3, 0], [1, 2]], np.int32), np.array([[0, 4], [3, 1], [2, 2], [1, 0]], np.int32)
ALONG = np.random.default_rng(0).integers(0, 5, (4, 2, 3)).astype(np.int32)
ROWS, UPDATES = np.array([2, 0], np.int32), drawn(2, 5, 3, seed=5)
INPUTS = {"x": X, "i": I, "j": J, "along": ALONG, "rows": ROWS, "u": UPDATES, "few": drawn(4, 2, 3, seed=6), "pair": drawn(2, 2, 3)}
OPS = {
    "gather": lambda x, i: mb.gather(x=x, indices=i, axis=0),
    "gather_middle": lambda x, i: mb.gather(x=x, indices=i, axis=1),
    "gather_batched": lambda x, j: mb.gather(x=x, indices=j, axis=1, batch_dims=1),
    "gather_along": lambda x, along: mb.gather_along_axis(x=x, indices=along, axis=1),
    "gather_nd": lambda x, i: mb.gather_nd(x=x, indices=i),
    "gather_nd_batched": lambda x, j: mb.gather_nd(x=x, indices=mb.expand_dims(x=j, axes=[2]), batch_dims=1),
    "scatter": lambda x, rows, u: mb.scatter(data=x, indices=rows, updates=u, axis=0, mode="add"),
    "scatter_update": lambda x, rows, u: mb.scatter(data=x, indices=rows, updates=u, axis=0, mode="update"),
    "scatter_along": lambda x, along, few: mb.scatter_along_axis(data=x, indices=along, updates=few, axis=1, mode="sub"),
    "scatter_nd": lambda x, i, pair: mb.scatter_nd(
        data=x,
        indices=mb.expand_dims(x=i, axes=[2]),
        updates=mb.tile(x=mb.expand_dims(x=pair, axes=[2]), reps=[1, 1, 5, 1]),
        mode="max",
    ),
    "scatter_pairs": lambda x, i, pair: mb.scatter_nd(
        data=x, indices=i, updates=mb.squeeze(x=mb.slice_by_size(x=pair, begin=[0, 0, 0], size=[2, 1, 3]), axes=[1]), mode="add"
    ),
}


def of_numpy() -> dict[str, np.ndarray]:
    added, updated, along, most, pairs = (X.copy() for _ in range(5))
    np.add.at(added, ROWS, UPDATES)
    updated[ROWS] = UPDATES
    for n, k, m in np.ndindex(ALONG.shape):
        along[n, ALONG[n, k, m], m] -= INPUTS["few"][n, k, m]
    for a, b in np.ndindex(I.shape):
        most[I[a, b]] = np.maximum(most[I[a, b]], INPUTS["pair"][a, b])
    np.add.at(pairs, tuple(I.T), INPUTS["pair"][:, 0])
    return {
        "gather": X[I],
        "gather_middle": X[:, I],
        "gather_batched": np.stack([X[n, J[n]] for n in range(4)]),
        "gather_along": np.take_along_axis(X, ALONG, 1),
        "gather_nd": X[tuple(I.T)],
        "gather_nd_batched": np.stack([X[n, J[n]] for n in range(4)]),
        "scatter": added,
        "scatter_update": updated,
        "scatter_along": along,
        "scatter_nd": most,
        "scatter_pairs": pairs,
    }


@pytest.mark.parametrize("target", [16, 18])
def test_they_are_those_of_numpy(tmp_path: Path, target: int) -> None:
    check(tmp_path, OPS, INPUTS, of_numpy(), target=target)


def test_an_index_from_the_end_is_one_until_ios_16(tmp_path: Path) -> None:
    inputs = {"x": X, "i": np.array([-1, 1], np.int32)}
    ops = {"gather": lambda x, i: mb.gather(x=x, indices=i, axis=0)}
    check(tmp_path, ops, inputs, {"gather": X[[-1, 1]]}, target=16, bar=0)
    with pytest.raises(EngineError, match=r"gather 'gather' in function 'main' cannot be run: index -1 is outside 0 … 3\."):
        saved(tmp_path, ops, inputs, 17, name="later").run(inputs)


def test_places_of_what_is_not_zero(tmp_path: Path) -> None:
    x = np.array([[0, 2], [3, 0]], np.int32)
    assert saved(tmp_path, {"places": lambda x: mb.non_zero(x=x)}, {"x": x}).run({"x": x})["places"].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    "wrong",
    [
        {
            "gather_batched": lambda x, j: mb.gather_along_axis(
                x=x, indices=mb.tile(x=mb.expand_dims(x=mb.reverse(x=j, axes=[1]), axes=[2]), reps=[1, 1, 3]), axis=1
            )
        },
        {"scatter": lambda x, rows, u: mb.scatter(data=x, indices=rows, updates=u, axis=0, mode="sub")},
        {"gather_nd": lambda x, i: mb.gather_nd(x=x, indices=mb.transpose(x=i, perm=[1, 0]))},
    ],
)
def test_a_wrong_one_is_named(tmp_path: Path, wrong: dict) -> None:
    caught(tmp_path, OPS, wrong, INPUTS, of_numpy())
