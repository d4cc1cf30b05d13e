"""Job files: YAML files with a `kind` and settings of the same names as the flags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tirazh.errors import RequestError
from tirazh.jobs.job_files.steps_file import STEPS, build_steps_spec
from tirazh.jobs.settings import FINETUNE, KINDS, build_spec, not_a_choice
from tirazh.jobs.yaml_values.yaml_text import load_yaml, read_text
from tirazh.pipeline.crossing.declaration import parse_file
from tirazh.pipeline.spec import SPECS, JobSpec, StepsSpec

# Sections of a job file that are not settings of the job.
AROUND = ("notify", "runtime_env", "track")


@dataclass(frozen=True, kw_only=True)
class JobFile:
    """The content of a job file, not yet checked against its kind.

    `lines` maps each key to its line, from 1. `notify`, `runtime_env` and `track` are those sections as they were
    written: they say what happens around a run, so they are no settings of the job.
    """

    path: str
    kind: str | None
    values: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)
    notify: Any = None
    runtime_env: Any = None
    track: Any = None

    def place(self, name: str) -> str:
        """Return `"job.yaml line 3: "` for a key of the file, and an empty string for any other setting."""
        return f"{self.path} line {self.lines[name]}: " if name in self.lines else ""


def read_job_file(path: str | os.PathLike[str]) -> JobFile:
    """Read a job file.

    Raises RequestError when it is missing, not YAML, not a mapping or of an unknown kind.
    """
    name = os.fspath(path)
    content, lines = load_yaml(read_text(Path(path), what="job file"), name=name)
    if not isinstance(content, Mapping):
        raise RequestError(f"{name} must be a mapping of settings (input: ..., output: ...)")
    return job_of(content, path=name, lines=lines)


def job_of(content: Mapping[Any, Any], *, path: str = "the job", lines: Mapping[str, int] | None = None) -> JobFile:
    """Return the job of a mapping with the keys of a job file. Raises RequestError for an unknown kind."""
    lines = dict(lines or {})
    values = {str(key): value for key, value in content.items()}
    kind = values.pop("kind", None)
    if kind is None and STEPS in values:
        kind = STEPS
    if kind is not None and kind not in (*KINDS, STEPS):
        place = f"{path} line {lines['kind']}" if lines else path
        raise RequestError(f"{place}: kind {not_a_choice(kind, (*KINDS, STEPS))}")
    around = {name: values.pop(name, None) for name in AROUND}
    return JobFile(path=path, kind=kind, values=_with_files_beside(values, Path(path)), lines=lines, **around)


def spec_from_file(path: str | os.PathLike[str]) -> JobSpec | StepsSpec:
    """Build the spec of a job file over rows: of any kind but finetune. Raises RequestError."""
    return spec_of(read_job_file(path))


def spec_of(job: JobFile, given: dict[str, Any] | None = None) -> JobSpec | StepsSpec:
    """Build the spec of a job file that was read; `given` are settings that override those of the file."""
    given = {} if given is None else given

    def place(name: str) -> str:
        return "" if name in given else job.place(name)

    if job.kind is None:
        raise RequestError(f"{job.path} has no kind; add a line such as kind: generate ({', '.join((*SPECS, STEPS))})")
    if job.kind == FINETUNE:
        raise RequestError(f"{job.path} is a job of kind finetune; run `tirazh finetune --config {job.path}`")
    if job.kind == STEPS:
        return build_steps_spec(job.values | given, place=place)
    return build_spec(job.kind, job.values | given, place=place)


def _with_files_beside(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Find a labels file, and lists of `vary`, that exist beside the job file but not in the current directory."""
    found = dict(values)
    steps = values.get(STEPS)
    if isinstance(steps, list):
        found[STEPS] = [_with_files_beside(dict(step), path) if isinstance(step, Mapping) else step for step in steps]
    for name in ("labels", "vary"):
        if isinstance(values.get(name), str):
            found[name] = _beside(values[name], path)
    if isinstance(values.get("vary"), Mapping):
        found["vary"] = {name: _list_beside(value, path) for name, value in values["vary"].items()}
    return found


def _list_beside(value: Any, path: Path) -> Any:
    """A value of `vary` with its file found: `FILE`, `FILE#COLUMN` or `{values: FILE, …}`."""
    if isinstance(value, Mapping) and isinstance(value.get("values"), str):
        return {**value, "values": _list_beside(value["values"], path)}
    file = parse_file(value) if isinstance(value, str) else None
    if file is None:
        return value
    column = value[len(file.uri) :]
    return _beside(file.uri, path) + column


def _beside(name: str, path: Path) -> str:
    # os.path.exists returns False for a comma-separated list that is too long for a file name;
    # Path.exists raises.
    beside = path.parent / name
    return str(beside) if not os.path.exists(name) and os.path.isfile(beside) else name
