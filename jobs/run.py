"""Runs one classify or generate job in this process, for the command line and the Python functions."""

from __future__ import annotations

from typing import Any

from tirazh.jobs.progress import JobProgressDisplay
from tirazh.jobs.python_settings import require_docstrings
from tirazh.pipeline.spec import JobSpec


def run(spec: JobSpec, progress: JobProgressDisplay) -> dict[str, Any]:
    """Run the job to its end and return its manifest. Raises TirazhError."""
    require_docstrings()
    from tirazh.pipeline.build import run_job

    with progress:
        return dict(run_job(spec, on_progress=progress.show, tell=progress.say))
