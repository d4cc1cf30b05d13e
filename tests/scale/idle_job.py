"""Runs one job with an engine that does nothing: `python -m tests.scale.idle_job KIND SPEC`, SPEC as JSON text."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY
from tests.scale.processes import Peaks, watching


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished job: seconds from the start of the command to its end, manifest, and peak memory of its processes."""

    seconds: float
    manifest: dict[str, Any]
    peaks: Peaks

    @property
    def rows_per_s(self) -> float:
        """Rows per second without the start of Ray and of the replica."""
        return float(self.manifest["rows"] / self.manifest["seconds"])


def run_idle(spec: dict[str, Any], *, kind: str = "classify") -> Run:
    """Run the job to its end and sample its processes. Raises RuntimeError when it fails."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.scale.idle_job", kind, json.dumps(spec)], cwd=REPOSITORY, stderr=subprocess.PIPE
    )
    with watching(process.pid) as peaks:
        _, stderr = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the idle job failed: {stderr.decode(errors='replace')[-2_000:]}")
    manifest = json.loads((Path(spec["output"]) / "_tirazh/manifest.json").read_text())
    return Run(seconds=time.monotonic() - started, manifest=manifest, peaks=peaks)


def main(kind: str, settings: str) -> None:
    from tirazh.jobs.settings import build_spec
    from tirazh.pipeline.build import run_job

    run_job(build_spec(kind, json.loads(settings)), engine="echo")


if __name__ == "__main__":
    main(*sys.argv[1:])
