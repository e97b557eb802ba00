"""What docs/ holds of the code: JSON Schemas of the records that other languages write, and the table of a device's faults.

python docs/schema.py            writes them                         (make figures)
python docs/schema.py --check    fails where file and code differ     (make lint)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from echoedge.core.bundle.bench_record import bench_schema
from echoedge.core.bundle.device_job import job_schema
from echoedge.runtime.bench.devices.faults import table

DOCS = Path(__file__).resolve().parent
SCHEMA, JOBS, FAULTS = DOCS / "bench.schema.json", DOCS / "device_job.schema.json", DOCS / "DEVICE_BENCH.md"
BEGIN, END = "<!-- faults: made by docs/schema.py -->\n", "<!-- end of faults -->\n"


def faults_page() -> str:
    """docs/DEVICE_BENCH.md with its table of faults as the code has it."""
    before, _, rest = FAULTS.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


MADE: dict[Path, tuple[Callable[[], str], str]] = {
    SCHEMA: (bench_schema, "the schema of core/bundle/bench_record.py"),
    JOBS: (job_schema, "the schema of core/bundle/device_job.py"),
    FAULTS: (faults_page, "what runtime/bench/devices/faults.py says"),
}


def check(path: Path = SCHEMA, of: Path | None = None) -> None:
    """Ends with a sentence where the file is not what the code says; `of`: which file it stands for, itself by default."""
    made, words = MADE[of or (path if path in MADE else SCHEMA)]
    if not path.exists() or path.read_text(encoding="utf-8") != made():
        raise SystemExit(f"docs/{path.name} is not {words}. Run `make figures`.")


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        for _path in MADE:
            check(_path)
    elif sys.argv[1:]:
        raise SystemExit(f"{' '.join(sys.argv[1:])!r} is not known. Give nothing, which writes {len(MADE)} files, or --check.")
    else:
        for _path, (_made, _) in MADE.items():
            _path.write_text(_made(), encoding="utf-8")
