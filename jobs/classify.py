"""`tirazh.classify(...)`: label every row of some Parquet files. The same settings as `tirazh classify`."""

from __future__ import annotations

from typing import Any

from tirazh.jobs.progress import JobProgressDisplay
from tirazh.jobs.run import run
from tirazh.jobs.settings import build_spec


def classify(**settings: Any) -> dict[str, Any]:
    """Label every row and return the manifest.

    `classify(input="news/*.parquet", output="labelled", labels=["economics", "sport"])`; the settings are those of
    `tirazh classify --help`, with _ for -. `labels` may be a list, a mapping {label: words the model continues
    with}, a comma list or the path of a YAML file; `input` a path or a list of them.

    Raises model.errors.RequestError (a ValueError) for settings that are wrong, JobError when the work failed.
    """
    return run(build_spec("classify", settings), JobProgressDisplay("quiet"))
