"""`tirazh.generate(...)`: continue every prompt of some Parquet files. The same settings as `tirazh generate`."""

from __future__ import annotations

from typing import Any

from tirazh.jobs.progress import JobProgressDisplay
from tirazh.jobs.run import run
from tirazh.jobs.settings import build_spec


def generate(**settings: Any) -> dict[str, Any]:
    """Continue every prompt and return the manifest.

    `generate(input="prompts.parquet", output="completions", max_new_tokens=64)`; the settings are those of
    `tirazh generate --help`, with _ for -. `input` is a path or a list of them.

    Raises model.errors.RequestError (a ValueError) for settings that are wrong, JobError when the work failed.
    """
    return run(build_spec("generate", settings), JobProgressDisplay("quiet"))
