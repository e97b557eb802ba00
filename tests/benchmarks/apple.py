"""nano as Core ML packages: each form's bytes, agreement in both readings of half precision, and lip-sync on held-out clips.

    python tests/benchmarks/apple.py [--weights fp32 int8 pal6 int4 pal4] [--clips 8] [--keep FOLDER]
                                     --record records/coreml-nano.json

Runs `echoedge export --target coreml` and `echoedge verify --engine mil` and `mil-fp32` for each of `--weights`; a bundle that lies
in `--keep` already is not made again. Minutes a form, most of it the clips.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

from echoedge import api
from echoedge.core.versions import library_versions
from echoedge.docs.figures import Row, write_figures
from echoedge.runtime.bench.clip import device_name


def measured(weights: str, folder: Path, clips: int) -> Row:
    bundle = folder / f"nano-{weights}.echoedge"
    if not bundle.exists():
        api.export(bundle, target="coreml", weights=weights)
    verdict = api.verify(bundle, engine="mil", clips=clips)
    single = api.verify(bundle, engine="mil-fp32")
    rows, plain = ({row.name: row.measured.psnr_db or 0.0 for row in each.rows} for each in (verdict, single))
    programs = [name for name in rows if name not in ("latents", "frames")]
    assert verdict.lipsync.reference is not None and verdict.lipsync.measured is not None
    return {
        "weights": "fp16" if weights == "fp32" else weights,
        "bundle_mb": round(sum(program.artifact.bytes for program in api.inspect(bundle).manifest.programs.values()) / 1e6, 2),
        "programs_db": round(min(rows[name] for name in programs), 1),
        "step_db": round(rows["denoise"], 1),
        "latents_db": round(rows["latents"], 1),
        "frames_db": round(rows["frames"], 1),
        "single_db": round(min(plain[name] for name in programs), 1),
        "lipsync": round(verdict.lipsync.measured, 4),
        "reference": round(verdict.lipsync.reference, 4),
        "share": round(verdict.lipsync.measured / verdict.lipsync.reference, 4),
        "passed": "yes" if verdict.passed else "no",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["fp32", "int8", "pal6", "int4", "pal4"])
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the figures there, after each form")
    asked, rows = parser.parse_args(), list[Row]()
    with tempfile.TemporaryDirectory() as folder:
        for weights in asked.weights:
            rows.append(measured(weights, asked.keep or Path(folder), asked.clips))
            print(rows[-1], flush=True)
            if asked.record:
                keep(asked.record, asked.clips, rows)


def keep(path: Path, clips: int, rows: list[Row]) -> None:
    versions = library_versions()
    write_figures(
        path, command=shlex.join(["python", *sys.argv[:1]]),
        source=f"the same command with `--record {path}`, which writes this file.", hardware=device_name(),
        versions={name: versions[name] for name in ("torch", "coremltools")},
        conditions=(
            "iOS 18; every package interpreted, results rounded to half precision, and in float32 beside it; lip-sync the mean of "
            f"{clips} held-out portraits and voices, against the torch reference on the same ones."
        ),
        figures={"forms": rows},
    )  # fmt: skip


if __name__ == "__main__":
    main()
