"""`tirazh.tune`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, Literal

from tirazh.jobs.api.results import Result
from tirazh.jobs.job_files.job_file import job_of, read_job_file
from tirazh.jobs.tuning.command import tune_file
from tirazh.pipeline.tuning.settings import DEFAULT_ROWS, DEFAULT_TOKENS


class Tuning(Result):
    """What a search found; the same values are in the table of trials beside the job file."""

    __slots__ = ()
    _shown = ("metric", "winner", "tokens")

    @property
    def job(self) -> str:
        """The path of the job file that was written."""
        return str(self["files"]["job"])

    @property
    def winner(self) -> dict[str, Any]:
        """The settings of the best trial, its metric on the search rows, and its interval."""
        return dict(self["winner"])

    @property
    def held_out(self) -> dict[str, Any]:
        """The figures on held-out rows: of the `winner`, of the job as it was given (`baseline`), and their
        `comparison`."""
        return dict(self["held_out"])

    @property
    def trials(self) -> list[dict[str, Any]]:
        """All trials, the best first."""
        return [dict(trial) for trial in self["trials"]]


def tune(  # noqa: PLR0913 - one argument for each setting
    job: str | os.PathLike[str] | Mapping[str, Any],
    *,
    gold: str | os.PathLike[str],
    out: str | os.PathLike[str],
    gold_label: str | None = None,
    token_budget: int = DEFAULT_TOKENS,
    metric: Literal["accuracy", "macro_f1", "log_loss"] = "accuracy",
    rows: int = DEFAULT_ROWS,
    seed: int = 0,
    search: Any = None,
    overwrite: bool = False,
    progress: Literal["quiet", "lines"] = "quiet",
) -> Tuning:
    """Find the template, few-shot examples, scoring and calibration of a classify job that are best on labelled rows.

    Runs the model in this process and writes the job that is best, with the files that it needs beside it.

        tuned = tirazh.tune("job.yaml", gold="labelled.parquet", out="best.yaml")
        tirazh.run(tuned.job)

    Args:
        job: path of a job file of kind classify, or its content.
        gold: Parquet, JSONL or CSV file with the columns of the prompts and a column of labels.
        out: path of the job file to write.
        gold_label: the column of labels; by default the job's `gold_column`, else `label`.
        token_budget: the most tokens that the model may read.
        metric: what is compared.
        rows: the most labelled rows that are used.
        seed: random seed of the split into examples, search rows and held-out rows.
        search: what is tried: lists of `template`, `shots`, `shot_selection`, `scoring` and `calibrate`.
        overwrite: replace files of an earlier search.
        progress: "lines" prints what is being done to stderr.

    Returns:
        The winner, the figures on held-out rows, and all trials.

    Raises:
        RequestError: the job or the labelled file cannot be used, or the budget is too small. Nothing was written.
    """
    read = job_of(job) if isinstance(job, Mapping) else read_job_file(job)
    given = {
        "gold": gold,
        "out": out,
        "gold_label": gold_label,
        "token_budget": token_budget,
        "metric": metric,
        "rows": rows,
        "seed": seed,
        "search": search,
        "overwrite": overwrite,
    }
    tell = None if progress == "quiet" else lambda text: print(text, file=sys.stderr, flush=True)
    return Tuning(tune_file(read, given, tell=tell))
