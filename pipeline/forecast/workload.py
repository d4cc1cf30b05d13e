"""The tokens that a whole job computes, from a sample of its prompts and what is known about its completions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tirazh.pipeline.forecast.token_sample import TokenSample
from tirazh.pipeline.output.ledger import read_manifest
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec

# Settings that change which rows a job has, or how it runs, but not what a row is like.
_OTHER_ROWS = ("input", "output", "limit", "seed", "vary", "rows", "per_cell", "overwrite")


@dataclass(frozen=True, kw_only=True, slots=True)
class LastRun:
    """A finished run of the same output whose rows were of the same kind (`find_last_run`).

    `completion_tokens` are those of a sequence on average, None for a job without completions. `tokens_per_s` and
    `seconds` are those of its replicas, without the start of Ray.
    """

    completion_tokens: float | None
    tokens_per_s: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """The tokens of all sequences of a job; a row has one sequence for each of its samples.

    `prompt_tokens` are whole prompts, `own_tokens` of them those behind the shared prefix, which alone are computed
    for every sequence. `longest` is the most tokens that one sequence adds to the cache, as far as the sample shows.
    `source` is a sentence about where the figures come from.
    """

    sequences: int
    prompt_tokens: int
    own_tokens: int
    completion_tokens: int
    longest: int
    source: str

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens, as the counters of the replicas count them."""
        return self.prompt_tokens + self.completion_tokens


def job_workload(
    plan: Plan, spec: JobSpec, sample: TokenSample, completion_tokens: float | None = None, *, source: str = ""
) -> Workload:
    """Extrapolate `sample` to all rows. `completion_tokens` of a sequence on average, if they were measured, which
    `source` then describes; else each has --max-new-tokens.
    """
    samples = spec.samples if isinstance(spec, GenerateSpec) else 1
    if isinstance(spec, ClassifySpec):
        samples = spec.permutations  # each order of the examples is a sequence
    most = spec.max_new_tokens if isinstance(spec, GenerateSpec) else 0
    sequences = plan.rows * samples
    answered = sequences * (1 - sample.failed)
    mean = most if completion_tokens is None else min(completion_tokens, most)
    how = source if completion_tokens is not None else f"completions of at most {most:,} tokens"
    measured = f"prompts measured on {sample.rows:,} of {plan.rows:,} rows"
    return Workload(
        sequences=sequences,
        prompt_tokens=round(sequences * sample.prompt_tokens),
        own_tokens=round(sequences * (sample.prompt_tokens - sample.shared_tokens)),
        completion_tokens=round(answered * mean),
        longest=min(sample.longest_own + most, plan.seq_length),
        source=f"{measured}, {how}" if most else measured,
    )


def find_last_run(plan: Plan, spec: JobSpec) -> LastRun | None:
    """The last finished run in the job's output, if it had the same model and settings, except for those that choose
    the rows. None where there is none.
    """
    manifest = read_manifest(OutputFiles(plan.job.storage, plan.job.output))
    if manifest is None or not _is_alike(manifest, plan, spec):
        return None
    try:
        seconds, rate = float(manifest["seconds"]), float(manifest["tokens_per_s"])
        answered = manifest["rows"] - manifest["errors"]
        samples = spec.samples if isinstance(spec, GenerateSpec) else 1
        # A row of the output has one sample, or the lists of all.
        mean = manifest["completion_tokens"] * plan.rows_per_input_row / (answered * samples) if answered else None
    except (KeyError, TypeError, ValueError):
        return None
    if seconds <= 0 or rate <= 0:
        return None
    return LastRun(
        completion_tokens=mean if isinstance(spec, GenerateSpec) else None, tokens_per_s=rate, seconds=seconds
    )


def _is_alike(manifest: Mapping[str, Any], plan: Plan, spec: JobSpec) -> bool:
    before, now = manifest.get("spec"), spec.to_dict()
    if not isinstance(before, Mapping) or manifest.get("model_fingerprint") != plan.model_fingerprint:
        return False
    return all(before.get(name) == value for name, value in now.items() if name not in _OTHER_ROWS)
