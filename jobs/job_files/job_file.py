"""Job files: YAML files with a `kind` and settings of the same names as the flags."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tirazh.errors import RequestError
from tirazh.jobs.job_files.relative_paths import from_folder
from tirazh.jobs.job_files.steps_file import STEPS, build_steps_spec
from tirazh.jobs.job_files.variables import Variables, make_variables, map_texts, names_in
from tirazh.jobs.settings import FINETUNE, KINDS, build_finetune_spec, build_spec, not_a_choice
from tirazh.jobs.yaml_values.yaml_text import load_yaml, read_text
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.spec import SPECS, JobSpec, StepsSpec, flag_name

# Sections of a job file that are not settings of the job.
AROUND = ("notify", "runtime_env", "track")
VARS = "vars"


@dataclass(frozen=True, kw_only=True)
class JobFile:
    """The content of a job file, not yet checked against its kind.

    `lines` maps each key to its line, from 1. `notify`, `runtime_env` and `track` are those sections as they were
    written: they say what happens around a run, so they are no settings of the job. In `values` the variables are
    replaced and relative paths are absolute. `variables` are those of the file and of `--set`, for flags that use them,
    and `used` the names of those that the file uses or declares.
    """

    path: str
    kind: str | None
    values: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)
    notify: Any = None
    runtime_env: Any = None
    track: Any = None
    variables: Variables = field(default_factory=lambda: make_variables(None))
    used: frozenset[str] = frozenset()

    def place(self, name: str) -> str:
        """Return `"job.yaml line 3: "` for a key of the file, and an empty string for any other setting."""
        return f"{self.path} line {self.lines[name]}: " if name in self.lines else ""


def read_job_file(
    path: str | os.PathLike[str], given: Sequence[str] = (), *, overridden: Collection[str] = ()
) -> JobFile:
    """Read a job file. `given` are values of `--set`; settings in `overridden` are left out, since flags give them.

    Raises RequestError when it is missing, not YAML, not a mapping or of an unknown kind, and for an unknown variable.
    """
    name = os.fspath(path)
    content, lines = load_yaml(read_text(Path(path), what="job file"), name=name)
    if not isinstance(content, Mapping):
        raise RequestError(f"{name} must be a mapping of settings (input: ..., output: ...)")
    kept = {key: value for key, value in content.items() if key not in overridden}
    return job_of(kept, path=name, lines=lines, folder=Path(path).absolute().parent, given=given)


def job_of(
    content: Mapping[Any, Any],
    *,
    path: str = "the job",
    lines: Mapping[str, int] | None = None,
    folder: Path | None = None,
    given: Sequence[str] = (),
) -> JobFile:
    """Return the job of a mapping with the keys of a job file. Raises RequestError for an unknown kind.

    `folder` is the directory that relative paths start from, None for the working directory.
    """
    lines = dict(lines or {})
    values = {str(key): value for key, value in content.items()}
    kind = values.pop("kind", None)
    if kind is None and STEPS in values:
        kind = STEPS
    if kind is not None and kind not in (*KINDS, STEPS):
        place = f"{path} line {lines['kind']}" if lines else path
        raise RequestError(f"{place}: kind {not_a_choice(kind, (*KINDS, STEPS))}")
    around = {name: values.pop(name, None) for name in AROUND}
    section = values.pop(VARS, None)
    used = set(section) if isinstance(section, Mapping) else set()
    job = JobFile(path=path, kind=kind, values=values, lines=lines, **around)
    variables = make_variables(section, given, place=job.place(VARS))

    def resolved(name: str, value: Any, place: str) -> Any:
        return _resolved(name, value, variables, used, folder, place)

    values = _each_setting(values, resolved, job.place)
    return replace(job, values=values, variables=variables, used=frozenset(used))


def spec_from_file(path: str | os.PathLike[str], given: Sequence[str] = ()) -> JobSpec | StepsSpec:
    """Build the spec of a job file over rows: of any kind but finetune. `given` are values of `--set`.

    Raises RequestError.
    """
    job = read_job_file(path, given)
    job.variables.refuse_unused(job.used)
    return spec_of(job)


def any_spec_from_file(path: str | os.PathLike[str], given: Sequence[str] = ()) -> JobSpec | StepsSpec | FinetuneSpec:
    """Build the spec of a job file of any kind, as `spec_from_file` does. Raises RequestError."""
    job = read_job_file(path, given)
    job.variables.refuse_unused(job.used)
    return any_spec_of(job)


def resolve_flags(values: Mapping[str, Any], variables: Variables, used: Collection[str] = ()) -> dict[str, Any]:
    """Replace the variables in the values of flags. `used` are the names that the job file uses.

    Raises RequestError for an unknown variable, and for one of `--set` that neither of them uses.
    """
    names = set(used)
    resolved = {
        name: _resolved(name, value, variables, names, None, f"{flag_name(name)}: ") for name, value in values.items()
    }
    variables.refuse_unused(names)
    return resolved


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


def any_spec_of(job: JobFile) -> JobSpec | StepsSpec | FinetuneSpec:
    """Build the spec of a job file of any kind, finetune included. Raises RequestError."""
    if job.kind == FINETUNE:
        return build_finetune_spec(job.values, place=job.place)
    return spec_of(job)


def _each_setting(
    values: Mapping[str, Any], change: Callable[[str, Any, str], Any], place: Callable[[str], str]
) -> dict[str, Any]:
    """Apply `change` to every setting, also to those of steps, with the place for messages."""
    changed = {name: change(name, value, place(name)) for name, value in values.items() if name != STEPS}
    steps = values.get(STEPS)
    if isinstance(steps, list | tuple):
        steps = [_each_setting(step, change, lambda name: place(STEPS)) if _is_step(step) else step for step in steps]
    return changed | ({STEPS: steps} if STEPS in values else {})


def _is_step(step: Any) -> bool:
    return isinstance(step, Mapping) and all(isinstance(name, str) for name in step)


def _resolved(name: str, value: Any, variables: Variables, used: set[str], folder: Path | None, place: str) -> Any:
    """A setting with its variables replaced and its relative paths taken from `folder`; adds the names to `used`."""

    def replaced(text: str) -> str:
        used.update(names_in(text))
        return variables.replace(text, place=f"{place}{name}: " if folder is not None else place)

    value = map_texts(name, value, replaced)
    return value if folder is None else from_folder(name, value, folder, place=place)
