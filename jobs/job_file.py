"""Job files: a YAML file with `kind:` and the same names as the flags, read into a checked spec."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tirazh.errors import RequestError
from tirazh.jobs.settings import FINETUNE, KINDS, build_spec, not_a_choice
from tirazh.jobs.yaml_text import load_yaml, read_text
from tirazh.pipeline.spec import SPECS, JobSpec


@dataclass(frozen=True, kw_only=True)
class JobFile:
    """What a job file says, not yet checked against its kind. `lines` tells where each key stands."""

    path: str
    kind: str | None
    values: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)

    def place(self, name: str) -> str:
        """`"job.yaml line 3: "` for a key of the file, nothing for a setting that came from elsewhere."""
        return f"{self.path} line {self.lines[name]}: " if name in self.lines else ""


def read_job_file(path: str | os.PathLike[str]) -> JobFile:
    """Read a job file. Raises RequestError where it is missing, no YAML, no mapping, or of an unknown kind."""
    name = os.fspath(path)
    content, lines = load_yaml(read_text(Path(path), what="job file"), name=name)
    if not isinstance(content, Mapping):
        raise RequestError(f"{name} must be a mapping of settings (input: ..., output: ...)")
    values = {str(key): value for key, value in content.items()}
    kind = values.pop("kind", None)
    if kind is not None and kind not in tuple(KINDS):
        raise RequestError(f"{name} line {lines['kind']}: kind {not_a_choice(kind, tuple(KINDS))}")
    return JobFile(path=name, kind=kind, values=_with_labels_beside(values, Path(path)), lines=lines)


def spec_from_file(path: str | os.PathLike[str]) -> JobSpec:
    """The spec that a complete job file describes. Raises RequestError."""
    job = read_job_file(path)
    if job.kind is None:
        raise RequestError(f"{job.path} does not say its kind; add a line kind: {' or kind: '.join(SPECS)}")
    if job.kind == FINETUNE:
        raise RequestError(f"{job.path} is a training; run `tirazh finetune --config {job.path}`")
    return build_spec(job.kind, job.values, place=job.place)


def _with_labels_beside(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """A labels file is looked for here, like every path, and then beside the job file."""
    labels = values.get("labels")
    # os.path, not Path: a long comma list is no name that a file could have, which Path.exists takes as a failure.
    if isinstance(labels, str) and not os.path.exists(labels) and os.path.isfile(path.parent / labels):
        return values | {"labels": str(path.parent / labels)}
    return values
