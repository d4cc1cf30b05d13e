"""What earlier runs of jobs like this one say about it: those of the same output and of outputs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

from tirazh.errors import TirazhError
from tirazh.pipeline.output.ledger import read_manifest
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.spec import GenerateSpec, JobSpec
from tirazh.pipeline.storage.filesystem import join

# Settings that change which rows a job has, or what becomes of it, but not what a row is like or how fast it is.
_OTHER_ROWS = (
    *("input", "output", "limit", "seed", "vary", "rows", "per_cell", "overwrite", "append", "key", "retry_failed"),
    *("allow_empty", "max_error_rate", "gold_column", "lease_s", "part_rows", "start_timeout_s", "rank_timeout_s"),
)
# Outputs of nights have their dates in their names, so the last names are the newest.
_MAX_SIBLINGS, _MAX_RUNS = 14, 5
# Of a run that has not recorded when its first replica served.
_REPLICA_START_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LastRun:
    """A finished run whose rows were of the same kind, or the median of several.

    `completion_tokens` are those of a sequence on average, None for a job without completions. `tokens_per_s` and
    `seconds` are those of its replicas, without the start of Ray. `start_s` of these seconds passed before a replica
    served, and `before_s` more before Ray was there; None where the run has not recorded it. `source` describes it.
    """

    completion_tokens: float | None
    tokens_per_s: float
    seconds: float
    start_s: float | None = None
    before_s: float | None = None
    source: str = "the last run of this output"

    @property
    def work_tokens_per_s(self) -> float:
        """Tokens per second while replicas served."""
        start = self.start_s if self.start_s is not None else min(_REPLICA_START_S, self.seconds / 2)
        return self.tokens_per_s * self.seconds / max(0.1 * self.seconds, self.seconds - start)


def completions_source(last: LastRun | None) -> str:
    """Where the number of tokens of a completion comes from; empty without an earlier run."""
    return "" if last is None else f"completions as in {last.source}"


def find_last_run(plan: Plan, spec: JobSpec, *, siblings: bool = True) -> LastRun | None:
    """The runs in the job's output and, with `siblings`, in the outputs beside it, that had the same model and settings
    except for those that choose the rows. None where there is none.

    The output's own run alone counts, if there is one; of its siblings the median.
    """
    storage, output = plan.job.storage, plan.job.output
    own = _read(OutputFiles(storage, output), plan, spec)
    if own is not None or not siblings:
        return own
    parent, _, name = output.rstrip("/").rpartition("/")
    if not parent or parent.endswith(":/"):
        return None
    names: set[str] = set()
    with suppress(TirazhError):
        names = storage.directories(parent) - {name}
    nearest = sorted(sorted(names), key=lambda other: (_common(other, name), other))[-_MAX_SIBLINGS:]
    runs: list[tuple[str, LastRun]] = []
    for other in reversed(nearest):
        run = _read(OutputFiles(storage, join(parent, other)), plan, spec)
        if run is not None:
            runs.append((other, run))
        if len(runs) == _MAX_RUNS:
            break
    return _median([run for _, run in runs], [other for other, _ in runs]) if runs else None


def _read(output: OutputFiles, plan: Plan, spec: JobSpec) -> LastRun | None:
    try:
        manifest = read_manifest(output)
    except TirazhError:
        return None
    return None if manifest is None else _run_of(manifest, plan, spec)


def _run_of(manifest: Mapping[str, Any], plan: Plan, spec: JobSpec) -> LastRun | None:
    if not _is_alike(manifest, plan, spec):
        return None
    try:
        seconds, rate = float(manifest["seconds"]), float(manifest["tokens_per_s"])
        answered = manifest["rows"] - manifest["errors"]
        samples = spec.samples if isinstance(spec, GenerateSpec) else 1
        # A row of the output has one sample, or the lists of all.
        mean = manifest["completion_tokens"] * plan.rows_per_input_row / (answered * samples) if answered else None
        start = manifest.get("start_s")
        wall = (manifest.get("forecast") or {}).get("wall_s")
        start_s = None if start is None else float(start)
        before_s = None if wall is None else max(0.0, float(wall) - seconds)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if seconds <= 0 or rate <= 0:
        return None
    return LastRun(
        completion_tokens=mean if isinstance(spec, GenerateSpec) else None,
        tokens_per_s=rate,
        seconds=seconds,
        start_s=start_s,
        before_s=before_s,
    )


def _is_alike(manifest: Mapping[str, Any], plan: Plan, spec: JobSpec) -> bool:
    before, now = manifest.get("spec"), spec.to_dict()
    if not isinstance(before, Mapping) or manifest.get("model_fingerprint") != plan.model_fingerprint:
        return False
    return all(before.get(name) == value for name, value in now.items() if name not in _OTHER_ROWS)


def _common(other: str, name: str) -> int:
    """How many characters two names have in common at their beginnings."""
    length = 0
    for one, two in zip(other, name, strict=False):
        if one != two:
            break
        length += 1
    return length


def _median(runs: list[LastRun], names: list[str]) -> LastRun:
    """A run with the median of each figure."""
    means = [run.completion_tokens for run in runs if run.completion_tokens is not None]
    seconds = median(run.seconds for run in runs)
    starts = [run.start_s for run in runs if run.start_s is not None]
    befores = [run.before_s for run in runs if run.before_s is not None]
    start = median(starts) if starts else None
    known = seconds if start is None else max(seconds, start + 0.1)
    rate = median(run.work_tokens_per_s for run in runs)
    working = known - (start if start is not None else min(_REPLICA_START_S, known / 2))
    return LastRun(
        completion_tokens=median(means) if means else None,
        tokens_per_s=rate * max(0.1 * known, working) / known,
        seconds=known,
        start_s=start,
        before_s=median(befores) if befores else None,
        source=f"the run in {names[0]}, beside this output"
        if len(runs) == 1
        else f"{len(runs)} runs in outputs beside this one, such as {names[0]}",
    )
