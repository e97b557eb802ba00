"""nano as Core ML packages: each form's bytes, agreement in both readings of half precision, and lip-sync on held-out clips.

    python tests/benchmarks/apple.py [--weights fp32 int8 pal6 int4 pal4] [--clips 8] [--keep FOLDER]
                                     --record records/coreml-nano.json
    python tests/benchmarks/apple.py --headroom [--keep FOLDER] --record records/coreml-headroom.json

Runs `echoedge export --target coreml` and `echoedge verify --engine mil` and `mil-fp32` for each of `--weights`; a bundle that lies
in `--keep` already is not made again. Minutes a form, most of it the clips. With `--headroom` the bundle of unrounded weights is
asked how large its numbers become, on its recorded calls and on the same times eight.
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

STRESS = 8.0


def bundle_of(weights: str, folder: Path) -> Path:
    bundle = folder / f"nano-{weights}.echoedge"
    if not bundle.exists():
        api.export(bundle, target="coreml", weights=weights)
    return bundle


def measured(weights: str, folder: Path, clips: int) -> Row:
    bundle = bundle_of(weights, folder)
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


def rooms(bundle: Path) -> list[Row]:
    """How large numbers become in each method, and when it is given `STRESS` times as much."""
    calm, stressed = api.headrooms(bundle), api.headrooms(bundle, stress=STRESS)
    return [
        {
            "program": each.program if each.method == "forward" else f"{each.program}.{each.method}",
            "largest": float(f"{each.largest:.4g}"),
            "times": round(each.times, 1),
            "of": each.of,
            "stressed": float(f"{more.largest:.4g}"),
            "overflows": more.overflows or "nothing",
        }
        for each, more in zip(calm, stressed, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["fp32", "int8", "pal6", "int4", "pal4"])
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the figures there, after each form")
    parser.add_argument("--headroom", action="store_true")
    asked, rows = parser.parse_args(), list[Row]()
    with tempfile.TemporaryDirectory() as folder:
        if asked.headroom:
            found = rooms(bundle_of("fp32", asked.keep or Path(folder)))
            print(*found, sep="\n")
            if asked.record:
                conditions = f"iOS 18, weights of half precision; every recorded call, and the same given {STRESS:g} times as much."
                keep(asked.record, conditions, {"methods": found})
            return
        for weights in asked.weights:
            rows.append(measured(weights, asked.keep or Path(folder), asked.clips))
            print(rows[-1], flush=True)
            if asked.record:
                conditions = (
                    "iOS 18; every package interpreted, results rounded to half precision, and in float32 beside it; lip-sync the "
                    f"mean of {asked.clips} held-out portraits and voices, against the torch reference on the same ones."
                )
                keep(asked.record, conditions, {"forms": rows})


def keep(path: Path, conditions: str, figures: dict[str, list[Row]]) -> None:
    versions = library_versions()
    write_figures(
        path, command=shlex.join(["python", *sys.argv[:1], *(["--headroom"] if "methods" in figures else [])]),
        source=f"the same command with `--record {path}`, which writes this file.", hardware=device_name(),
        versions={name: versions[name] for name in ("torch", "coremltools")}, conditions=conditions, figures=figures,
    )  # fmt: skip


if __name__ == "__main__":
    main()
