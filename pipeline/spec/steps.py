"""The spec of a job of several steps, each of which reads the rows of the one before it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tirazh.errors import RequestError
from tirazh.pipeline.settings import Spec, setting
from tirazh.pipeline.shared_settings import shared_setting
from tirazh.pipeline.spec.filter import FilterSpec
from tirazh.pipeline.spec.job import JobSpec

MAX_STEPS = 64
_LONGEST_NAME = 40
# Settings of the whole job, and the input of a step, which is the step before.
_NOT_OF_A_STEP = ("input", "output", "address", "endpoint_url", "lease_s", "overwrite")


@dataclass(frozen=True, slots=True)
class Accepted:
    """Every cell of a crossing shall have `rows` rows that pass, of at most `max_attempts` times as many attempts."""

    rows: int
    max_attempts: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step. The spec of a step with a model has the input and the output that the step really uses.

    `accepted` is that of the generate step before a filter.
    """

    name: str
    spec: JobSpec | FilterSpec
    accepted: Accepted | None = None


@dataclass(frozen=True, kw_only=True)
class StepsSpec(Spec):
    """Several steps with one output. `output` has the rows of the last step."""

    output: str = shared_setting("output", more=" for the rows of the last step")
    steps: tuple[Step, ...] = setting(
        help="the steps of the job, in order: each has a name, a kind (generate, classify or filter) and settings",
        identity=True,
        structure=True,
    )
    columns: tuple[str, ...] = setting((), "columns of the final output (default: all)", identity=True)
    address: str | None = shared_setting("address")
    endpoint_url: str | None = shared_setting("endpoint_url")
    lease_s: float = shared_setting("lease_s")
    overwrite: bool = shared_setting("overwrite")

    def __post_init__(self) -> None:
        if not self.output:
            raise RequestError("no output directory was given; add a line output: to the job file")
        if not 1 <= len(self.steps) <= MAX_STEPS:
            raise RequestError(f"a job has 1 to {MAX_STEPS} steps, not {len(self.steps)}")
        check_names([step.name for step in self.steps])
        for step in self.steps[:-1]:
            if isinstance(step.spec, FilterSpec) and step.spec.dropped == "inline":
                raise RequestError(
                    f"step {step.name!r}: dropped: inline is possible in the last step only: the steps behind it would "
                    "work on the rows that were dropped"
                )
        if len(set(self.columns)) < len(self.columns):
            raise RequestError("columns: a column is named twice")

    @property
    def kind(self) -> Literal["steps"]:
        return "steps"

    @property
    def model_steps(self) -> list[JobSpec]:
        """The specs of the steps that run a model, in order."""
        return [step.spec for step in self.steps if isinstance(step.spec, JobSpec)]

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON values: a job file with these values is the same job."""
        values = {
            "kind": self.kind,
            "output": self.output,
            "columns": list(self.columns),
            "address": self.address,
            "endpoint_url": self.endpoint_url,
            "lease_s": self.lease_s,
            "overwrite": self.overwrite,
        }
        return values | {"steps": [_step_values(step, is_first=index == 0) for index, step in enumerate(self.steps)]}

    def identity(self) -> dict[str, Any]:
        """The settings that define the final rows, as JSON values."""
        steps = [{"name": step.name, **step.spec.identity()} for step in self.steps]
        for step in steps:
            step.pop("output", None)
            step.pop("max_attempts", None)  # a job may be continued with more attempts
        return {"kind": self.kind, "steps": steps, "columns": list(self.columns)}


def check_names(names: Sequence[str]) -> None:
    """Raise RequestError for a name that cannot begin a column's name, and for one that occurs twice."""
    seen: dict[str, str] = {}
    for name in names:
        if len(name) > _LONGEST_NAME or not re.fullmatch(r"[^\W\d_]\w*", name):
            raise RequestError(
                f"step {name[:80]!r}: a name begins with a letter and has at most {_LONGEST_NAME} letters, digits and _"
            )
        if seen.setdefault(name.lower(), name) != name or names.count(name) > 1:
            raise RequestError(f"two steps have the name {name!r} (case does not count); rename one of them")


def _step_values(step: Step, *, is_first: bool) -> dict[str, Any]:
    left_out = {"kind", *_NOT_OF_A_STEP} - ({"input"} if is_first else set())
    values = {name: value for name, value in step.spec.to_dict().items() if name not in left_out and value is not None}
    return {"name": step.name, "kind": step.spec.kind, **values}
