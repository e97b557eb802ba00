"""docs/bench.schema.json, the JSON Schema of a benchmark's record, made from the model that writes and reads them.

python docs/schema.py            writes it                         (make figures)
python docs/schema.py --check    fails where file and model differ     (make lint)
"""

from __future__ import annotations

import sys
from pathlib import Path

from echoedge.core.bundle.bench_record import bench_schema

SCHEMA = Path(__file__).resolve().with_name("bench.schema.json")


def check(path: Path = SCHEMA) -> None:
    """Ends with a sentence where the file is not what the model says."""
    if not path.exists() or path.read_text(encoding="utf-8") != bench_schema():
        raise SystemExit(f"docs/{path.name} is not the schema of core/bundle/bench_record.py. Run `make figures`.")


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        check()
    elif sys.argv[1:]:
        raise SystemExit(f"{' '.join(sys.argv[1:])!r} is not known. Give nothing, which writes docs/{SCHEMA.name}, or --check.")
    else:
        SCHEMA.write_text(bench_schema(), encoding="utf-8")
