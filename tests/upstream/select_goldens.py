"""Copies a selection of recorded cases into the repository: python tests/upstream/select_goldens.py SOURCE [TARGET]

Of every kind at least one case, the cheapest in bytes with its weights, where weights that are there already cost nothing, and one
without an error where there is one; besides those that tests name. Whatever else the target holds is removed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

if __package__:
    from .goldens import SMALL_SET, Golden, cases
else:
    from goldens import SMALL_SET, Golden, cases

MAX_BYTES = 8_000_000
NAMED = (  # by tests of behaviour, and to have every form of a kind: solvers and their types, windows and slices, masks, sizes
    "audio_split_preview", "audio_windows_flash",
    "dit_flash_b_F2H6W4B3", "dit_flash_b_riflex_k3", "dit_preview_b_F4H4W4B1", "dit_preview_b_riflex_k3",
    "dynamic_guidance", "mask_condition", "resize_mask", "rope_tables", "sample_size", "video_length",
    "pipe_flash_cfgskip", "pipe_flash_teacache",
    "pipe_preview_dpmpp_double", "pipe_preview_longvideo_a", "pipe_preview_neg", "pipe_preview_plain",
    "sched_dpmpp_shift5", "sched_dpmpp_shift5_bf16", "sched_dpmpp_shift5_double",
    "sched_euler_shift1", "sched_euler_shift5", "sched_euler_shift5_bf16",
    "sched_unipc_shift5", "sched_unipc_shift5_bf16", "sched_unipc_shift5_double",
    "teacache_flash_thr0.1_skip5", "teacache_flash_thr1.7_skip2_poly1",
    "teacache_preview_thr1_skip1_poly1", "teacache_preview_thr2.9_skip3_poly2",
    "vae_decode_T2h3w2", "vae_encode_T5H24W16",
)  # fmt: skip


def selection(found: Iterable[Golden], named: Iterable[str]) -> list[Golden]:
    """The named cases, and the cheapest of each kind that is then still missing, dear kinds first so that the others share their
    weights.

    Raises:
        ValueError: a named case or a file of a case is not there.
    """
    by_name = {case.name: case for case in found}
    if unknown := sorted(set(named) - by_name.keys()):
        raise ValueError(f"There is no case {', '.join(unknown)}.")
    if missing := [str(path) for case in by_name.values() for path in case.missing()]:
        raise ValueError(f"The set lacks {', '.join(missing)}.")
    chosen = [by_name[name] for name in named]
    wanted = {case.kind for case in by_name.values()}
    while left := wanted - {case.kind for case in chosen}:
        have = {path for case in chosen for path in case.files}
        costs = {case.name: sum(path.stat().st_size for path in set(case.files) - have) for case in by_name.values()}
        cheapest = [
            min(
                (case for case in by_name.values() if case.kind == kind),
                key=lambda case: (case.error is not None, costs[case.name], case.name),
            )
            for kind in left
        ]
        chosen.append(max(cheapest, key=lambda case: (costs[case.name], case.name)))
    return sorted(chosen, key=lambda case: case.name)


def copy(chosen: Iterable[Golden], target: Path) -> int:
    """Makes `target` hold the files of these cases and no others -> bytes.

    Raises:
        ValueError: they have more than MAX_BYTES; nothing is changed then.
    """
    files = {path.name: path for case in chosen for path in case.files}
    size = sum(path.stat().st_size for path in files.values())
    if size > MAX_BYTES:
        raise ValueError(f"The selection has {size:,} bytes; at most {MAX_BYTES:,} may be committed. Name fewer cases.")
    target.mkdir(parents=True, exist_ok=True)
    for path in target.iterdir():
        if path.name not in files:
            path.unlink()
    for name, path in files.items():
        shutil.copyfile(path, target / name)
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="a folder of recorded cases")
    parser.add_argument("target", type=Path, nargs="?", default=SMALL_SET, help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        chosen = selection(cases(arguments.source.resolve()), NAMED)
        size = copy(chosen, arguments.target)
    except ValueError as error:
        sys.exit(str(error))
    print(f"{len(chosen)} cases of {len({case.kind for case in chosen})} kinds, {size:,} bytes, in {arguments.target}")


if __name__ == "__main__":
    main()
