"""Jobs of an export in this process, one after the other: for tests that are about what the jobs do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from echoedge.runtime.export.jobs import Done, Job, JobRunner, record_path


class Inline(JobRunner):
    """Writes every record down as the real one does, and reads it back; goes on behind what is written."""

    def run(self, jobs: Sequence[Job], request: Any, progress: Any) -> dict[str, Done]:
        self._check_order(jobs)
        results: dict[str, Done] = {}
        stages = {job.stage: [other.name for other in jobs if other.stage == job.stage] for job in jobs}

        def tell() -> None:
            for stage, names in stages.items():
                progress(stage, sum(name in results for name in names), len(names))

        tell()
        while len(results) < len(jobs):
            job = next(j for j in jobs if j.name not in results and all(before.name in results for before in j.after))
            if self.finished(job) is None:
                result = job.work(request, self.folder, *(results[before.name].result for before in job.after))
                record = {"result": result.model_dump(mode="json"), "seconds": 0.0, "cpu_seconds": 0.0, "peak_bytes": 0}
                record_path(self.folder, job.name).write_text(json.dumps(record))
            done = self.finished(job)
            assert done is not None
            results[job.name] = done
            tell()
        return results


class Kept(Inline):
    """Its folder stays when the bundle is there."""

    def remove(self) -> None:
        pass
