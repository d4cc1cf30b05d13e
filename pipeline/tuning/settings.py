"""The settings of `tirazh tune`, and the jobs that it can tune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tirazh.errors import RequestError, did_you_mean
from tirazh.pipeline.settings import check_at_least, check_int64
from tirazh.pipeline.spec import ClassifySpec

Metric = Literal["accuracy", "macro_f1", "log_loss"]
METRICS: tuple[Metric, ...] = ("accuracy", "macro_f1", "log_loss")
DEFAULT_TOKENS = 1_000_000
DEFAULT_ROWS = 2_000

# Settings of a job that a trial cannot take into account, and what to do instead.
_NOT_TUNED = {
    "questions": "run it for a job with the labels of one question",
    "head": "a head has no prompts to compare",
    "priors": "leave it out, and add it to the job that is found",
    "target_error": "leave it out, and add it to the job that is found",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneSettings:
    """What `tirazh tune` is asked for. `gold` is the labelled file, `gold_label` its column of labels (default: the
    job's `gold_column`, else `label`). `rows` is the largest number of labelled rows that are used, `token_budget` the
    tokens that the model may read. `search` is what is tried instead of the job's own `search`. The job that is found
    is written to `out`, other files beside it. Raises RequestError for values out of range."""

    gold: str
    out: str
    gold_label: str | None = None
    token_budget: int = DEFAULT_TOKENS
    metric: Metric = "accuracy"
    rows: int = DEFAULT_ROWS
    seed: int = 0
    search: Any = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_at_least("token_budget", self.token_budget, 1)
        check_at_least("rows", self.rows, 1)
        check_int64("seed", self.seed)
        if self.metric not in METRICS:
            hint = did_you_mean(str(self.metric), METRICS)
            raise RequestError(f"--metric must be one of {', '.join(METRICS)}, not {self.metric!r}{hint}")
        if "://" in self.out or not self.out.endswith((".yaml", ".yml")):
            raise RequestError(f"--out must be the path of a .yaml file on this machine, not {self.out!r}")


def check_job(spec: object) -> ClassifySpec:
    """Return the job. Raises RequestError for one that cannot be tuned."""
    if not isinstance(spec, ClassifySpec):
        kind = getattr(spec, "kind", "steps")
        raise RequestError(f"tune needs a job of kind classify, not {kind}")
    for name, advice in _NOT_TUNED.items():
        if getattr(spec, name) is not None:
            raise RequestError(f"tune cannot be used for a job with {name}: {advice}")
    if spec.tensor_parallel > 1 or spec.address is not None:
        name = "address" if spec.address is not None else "tensor_parallel"
        raise RequestError(
            f"tune runs the model in this process, but the job has {name}; remove it on a machine that holds the whole "
            "model, and add it to the job that is found"
        )
    return spec
