"""The command `tirazh` with the engine of tests/pipeline/fakes.py, which needs no model and can die when told to."""

from __future__ import annotations

from functools import partial

from tirazh.jobs.cli import run
from tirazh.pipeline import build

if __name__ == "__main__":
    build.run_job = partial(build.run_job, engine="module:tests.pipeline.fakes")  # type: ignore[assignment]
    run()
