"""What is sent to the cluster with a job: the package `tirazh`, as it is installed here, `job.yaml`, and what it needs.

No credentials and none of the user's files are sent.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tirazh.jobs.cluster.needs import job_needs
from tirazh.jobs.cluster.start import JOB_FILE, NEEDS_FILE
from tirazh.pipeline.crossing.load import send_small_lists
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.spec import EMBEDDED_MODEL, FilterSpec, GenerateSpec, JobSpec, Step, StepsSpec
from tirazh.pipeline.storage.filesystem import Storage

PACKAGE = Path(__file__).parent.parent.parent
# What can be submitted.
AnySpec = JobSpec | StepsSpec | FinetuneSpec
_Job = TypeVar("_Job", bound=JobSpec | FinetuneSpec)
_PATH_FIELDS = ("output", "model", "tokenizer", "deepspeed_config", "examples", "work_dir", "from_checkpoint")
_PATH_LISTS = ("input", "eval_input", "label_input")


def with_absolute_paths(spec: AnySpec) -> AnySpec:
    """Return the spec with absolute local paths, which mean the same file on a shared disk of the cluster.

    Short lists of `vary` in local files become part of the spec.
    """
    if isinstance(spec, StepsSpec):
        steps = tuple(Step(step.name, _step_with_absolute_paths(step.spec)) for step in spec.steps)
        return replace(spec, output=_absolute(spec.output), steps=steps)
    return _job_with_absolute_paths(spec)


def _step_with_absolute_paths(spec: JobSpec | FilterSpec) -> JobSpec | FilterSpec:
    if isinstance(spec, JobSpec):
        return _job_with_absolute_paths(spec)
    return replace(spec, against=tuple(map(_absolute, spec.against)))


def _job_with_absolute_paths(spec: _Job) -> _Job:
    lists = {name: getattr(spec, name) for name in _PATH_LISTS if hasattr(spec, name)}
    changes: dict[str, Any] = {name: tuple(map(_absolute, paths)) for name, paths in lists.items()}
    if isinstance(spec, GenerateSpec) and spec.vary is not None:
        changes["vary"] = send_small_lists(spec.vary, Storage(spec.endpoint_url))
    for name in _PATH_FIELDS:
        value = getattr(spec, name, None)
        if value is not None and value != EMBEDDED_MODEL:
            changes[name] = _absolute(value)
    return replace(spec, **changes)


def job_text(spec: AnySpec) -> dict[str, Any]:
    """Return the settings that have a value, without `address`: the receiving cluster runs the job."""
    settings = {name: value for name, value in spec.to_dict().items() if value is not None}
    settings.pop("address", None)
    return settings


def write_working_dir(spec: AnySpec, directory: Path) -> None:
    """Write the package, job.yaml and needs.json to `directory`.

    The embedded weights are included only if the job uses them.
    """
    ignored = ["__pycache__", "*.pyc", ".*"]
    specs = spec.model_steps if isinstance(spec, StepsSpec) else [spec]
    if all(each.model != EMBEDDED_MODEL for each in specs):
        ignored.append("embedded")
    # In a source tree the folders of the package are symbolic links: copytree follows them and
    # copies the files.
    shutil.copytree(PACKAGE, directory / PACKAGE.name, ignore=shutil.ignore_patterns(*ignored))
    text = yaml.safe_dump(job_text(spec), allow_unicode=True, sort_keys=False)
    (directory / JOB_FILE).write_text(text, encoding="utf-8")
    (directory / NEEDS_FILE).write_text(needs_text(spec), encoding="utf-8")


def needs_text(spec: AnySpec) -> str:
    """Return the JSON of `job_needs`."""
    return json.dumps(job_needs(spec), sort_keys=True)


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())
