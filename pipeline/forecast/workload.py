"""The tokens that a whole job computes, from a sample of its prompts and what is known about its completions."""

from __future__ import annotations

from dataclasses import dataclass

from tirazh.pipeline.forecast.token_sample import TokenSample
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec


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

    def part(self, share: float) -> Workload:
        """The workload of a share of the rows."""
        counts = (self.sequences, self.prompt_tokens, self.own_tokens, self.completion_tokens)
        sequences, prompts, own, completions = (round(count * share) for count in counts)
        return Workload(
            sequences=sequences,
            prompt_tokens=prompts,
            own_tokens=own,
            completion_tokens=completions,
            longest=self.longest,
            source=self.source,
        )


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
