"""Writes what a search found: the job file, its few-shot examples and calibration, and the table of trials."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import OutputError, RequestError
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.tuning.job_yaml import job_text
from tirazh.pipeline.tuning.settings import TuneSettings

# The settings that a search decides.
TUNED = ("template", "examples", "shots", "shot_tokens", "shot_selection", "permutations", "scoring", "calibrate")


@dataclass(frozen=True, slots=True)
class TuneFiles:
    """The files of a search, beside each other: `job` is `--out`. The paths are absolute, so that the job
    file, which names the others, can be run from any directory."""

    job: Path

    @classmethod
    def of(cls, settings: TuneSettings, job_file: str | None) -> TuneFiles:
        """The files. Raises OutputError if one of them is there and may not be overwritten."""
        files = cls(Path(settings.out).absolute())
        if job_file is not None and files.job == Path(job_file).absolute():
            raise RequestError(f"--out {settings.out} is the job file itself; name another file")
        if not files.job.parent.is_dir():
            raise OutputError(f"the directory of --out {settings.out} does not exist")
        known = [path for path in (files.job, files.table, files.examples, files.calibration) if path.exists()]
        if known and not settings.overwrite:
            raise OutputError(f"{known[0]} exists; name another --out, or add --overwrite")
        return files

    @property
    def table(self) -> Path:
        """The table of trials."""
        return self.job.with_suffix(".tune.json")

    @property
    def examples(self) -> Path:
        """The few-shot examples."""
        return self.job.with_suffix(".examples.parquet")

    @property
    def calibration(self) -> Path:
        """The fitted calibration."""
        return self.job.with_suffix(".calibration.json")

    def write_examples(self, table: pa.Table) -> None:
        """Write the examples."""
        pq.write_table(table, self.examples)

    def write_calibration(self, content: bytes) -> None:
        """Write the fitted calibration."""
        self.calibration.write_bytes(content)

    def write_table(self, facts: Mapping[str, Any]) -> None:
        """Write the table of trials."""
        self.table.write_text(json.dumps(facts, ensure_ascii=False, indent=2, default=str) + "\n", encoding="utf-8")

    def write_job(self, values: Mapping[str, Any], header: Sequence[str]) -> None:
        """Write the job file."""
        self.job.write_text(job_text(values, header=header), encoding="utf-8")


def job_values(given: Mapping[str, Any], spec: ClassifySpec, found: ClassifySpec) -> dict[str, Any]:
    """The settings of the job file: those of `given`, with what `found` has otherwise than `spec`, the job as it was
    given. Labels are written out, as their file may be named relative to another directory."""
    values = {"kind": "classify", **{name: value for name, value in given.items() if name != "search"}}
    values |= {"labels": dict(found.labels or {})}
    for name in TUNED:
        value, before = getattr(found, name), getattr(spec, name)
        if value == before:
            continue
        if value == type(found).__dataclass_fields__[name].default:
            values.pop(name, None)
        else:
            values[name] = value
    return values
