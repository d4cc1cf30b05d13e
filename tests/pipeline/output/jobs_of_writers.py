"""The jobs of the two-writer tests: one job, two others, and the first after its input has changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.without_ray import run_without_ray, with_scores
from tirazh.pipeline import build
from tirazh.pipeline.build import run_job
from tirazh.pipeline.input import changes as input_changes
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.write import WriteStep
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.prompts.encode import PromptStep
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.filesystem import Storage

TEXTS = {"old": list("abcd"), "new": ["NEW a", "NEW b", "c", "d"]}


@dataclass(frozen=True)
class Job:
    """A job of two parts of two rows, planned once for all schedules."""

    spec: ClassifySpec
    plan: Any
    prompts: Any
    texts: list[str]
    tables: list[pa.Table]

    def run(self) -> Any:
        return run_job(self.spec)


@dataclass(frozen=True)
class Jobs:
    """The jobs that write to `output`."""

    output: OutputFiles
    by_name: dict[str, Job]

    def __getitem__(self, name: str) -> Job:
        return self.by_name[name]


def make_jobs(directory: str, storage: Storage, folder: Path, model_dir: Path, patch: pytest.MonkeyPatch) -> Jobs:
    """`x` and `y`: two sets of labels. `x changed`: the job x after its input file changed."""
    spec = ClassifySpec(
        input=(str(folder / "in"),),
        output=directory,
        model=str(model_dir),
        labels={"x": "x", "yy": "yy"},
        dtype="float32",
        part_rows=2,
        overwrite=True,
        endpoint_url=storage.endpoint_url,
    )
    other = replace(spec, labels={"good": "good", "bad": "bad"})
    third = replace(spec, labels={"one": "one", "two": "two"})
    (folder / "in").mkdir(exist_ok=True)
    made: dict[str, Job] = {}
    for name, (job_spec, texts) in {
        "x": (spec, "old"),
        "y": (other, "old"),
        "z": (third, "old"),
        "x changed": (replace(spec, max_error_rate=0.5), "new"),
    }.items():
        pq.write_table(pa.table({"text": TEXTS[texts]}), folder / "in/a.parquet")
        plan = plan_job(job_spec)
        prompts = build.set_up_prompts(job_spec, plan)
        step = PromptStep(prompts.config)
        tables = [with_scores(step(read_part(part, storage, plan.schema))) for part in plan.parts]
        made[name] = Job(job_spec, plan, prompts, TEXTS[texts], tables)
    # Every job was planned with a version of the file of its own. A run may continue the stored plan of another.
    by_version = {job.plan.files[0].file.version: job for job in made.values()}
    by_spec = {id(job.spec): job for job in made.values()}
    run_without_ray(patch)
    # Every version of the input file can still be read, so that each run finds the one that it has planned.
    patch.setattr(
        input_changes,
        "read_rows",
        lambda part, storage, columns: _rows(by_version[part.file.version].texts, part.start, part.stop),
    )

    def make(self: JobRun, parts: list[Any]) -> dict[str, Any]:
        write = WriteStep(self.write_config())
        for part in parts:
            write(by_version[part.file.version].tables[part.index])
        return {}

    patch.setattr(JobRun, "make", make)
    patch.setattr(build, "plan_job", lambda job_spec, crossing=None: by_spec[id(job_spec)].plan)
    patch.setattr(build, "set_up_prompts", lambda job_spec, plan: by_spec[id(job_spec)].prompts)
    return Jobs(OutputFiles(storage, directory), made)


def _rows(texts: list[str], start: int, stop: int) -> pa.Table:
    return pa.table({"text": texts[start:stop]})
