"""The figures of an output and of its baselines, their differences, and what each difference means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tirazh.pipeline.drift.counts import OutputCounts, mean_of, pooled
from tirazh.pipeline.drift.estimate import estimate
from tirazh.pipeline.drift.gold import GoldFigures, pooled_gold

Unit = Literal["count", "share", "number", "seconds"]
# What a difference means; `MEANINGS` has the words.
Finding = Literal["changed", "in range", "small", "chance", "few rows", "not tested"]
MEANINGS: dict[str, str] = {
    "changed": "changed",
    "in range": "as among the baselines",
    "small": "too small to matter",
    "chance": "by chance",
    "few rows": "too few rows to tell",
    "not tested": "not tested",
}
# The names of the figures in their order on the page: (title, unit).
FIGURES: dict[str, tuple[str, Unit]] = {
    "rows": ("Rows", "count"),
    "errors": ("Rows with an error", "share"),
    "abstained": ("Rows without a label", "share"),
    "confidence": ("Mean confidence", "number"),
    "estimated_accuracy": ("Estimated accuracy of the labels", "share"),
    "accuracy": ("Accuracy against gold labels", "share"),
    "macro_f1": ("Macro-F1 against gold labels", "number"),
    "length": ("Tokens of a prompt", "number"),
    "completion_length": ("Tokens of a completion", "number"),
    "cut": ("Completions cut at max_new_tokens", "share"),
    "distinct_2": ("Distinct word pairs (distinct-2)", "number"),
    "bits_per_character": ("Bits per character", "number"),
    "seconds": ("Seconds", "seconds"),
    "tokens_per_s": ("Tokens per second", "number"),
}
# Those that belong to a question.
OF_QUESTIONS = ("abstained", "confidence", "estimated_accuracy", "accuracy", "macro_f1")
# Those of a whole output: a baseline of several outputs has their mean.
OF_OUTPUTS = ("rows", "seconds", "tokens_per_s", "distinct_2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One output, or several together: its counts, its gold figures by question, and facts about its last run."""

    counts: OutputCounts
    gold: Mapping[str, GoldFigures] = field(default_factory=dict)
    facts: Mapping[str, float | None] = field(default_factory=dict)

    def values(self) -> dict[tuple[str, str], float | None]:
        """The values of all figures that there are, by (name, question)."""
        counts, answers = self.counts, self.counts.answers
        found: dict[tuple[str, str], float | None] = {(name, ""): self.facts.get(name) for name in OF_OUTPUTS}
        found["errors", ""] = counts.errors / counts.rows if counts.rows else None
        found["length", ""] = mean_of(counts.lengths)
        found["completion_length", ""] = mean_of(counts.completions)
        found["cut", ""] = counts.reasons["length"] / counts.reasons.total() if counts.reasons else None
        found["bits_per_character", ""] = counts.bits_moments.mean
        for question, each in answers.items():
            found["abstained", question] = each.abstained / each.rows if each.rows else None
            found["confidence", question] = each.confidence.mean
            estimated = estimate(each.answered)
            found["estimated_accuracy", question] = estimated[0] if estimated else None
        for question, gold in self.gold.items():
            found["accuracy", question], found["macro_f1", question] = gold.accuracy, gold.macro_f1
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One figure: its `value`, that of all baselines together, and that of each of them; None where it is not known.

    `p_value` is corrected for the number of tests; None if there was none. `distance` is that of Kolmogorov and
    Smirnov, where distributions are compared. `interval` is a 95 % interval of the value.
    """

    name: str
    question: str
    value: float | None
    baseline: float | None = None
    of_baselines: tuple[float | None, ...] = ()
    p_value: float | None = None
    distance: float | None = None
    interval: tuple[float, float] | None = None
    finding: Finding = "not tested"

    @property
    def difference(self) -> float | None:
        """The value minus that of the baseline."""
        return None if self.value is None or self.baseline is None else self.value - self.baseline

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        title, unit = FIGURES[self.name]
        known = [value for value in self.of_baselines if value is not None]
        difference = self.difference
        direction = None if difference is None else "up" if difference > 0 else "down" if difference < 0 else "same"
        return {
            "name": self.name,
            "question": self.question,
            "title": title,
            "unit": unit,
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
            "baseline": self.baseline,
            "of_baselines": list(self.of_baselines),
            "lowest": min(known, default=None),
            "highest": max(known, default=None),
            "difference": difference,
            "relative": difference / self.baseline if difference is not None and self.baseline else None,
            "direction": direction,
            "distance": self.distance,
            "p_value": self.p_value,
            "finding": self.finding,
            "meaning": MEANINGS[self.finding],
        }


def together(outputs: Sequence[Measured]) -> Measured:
    """Several outputs as one baseline: their rows together, and the means of what belongs to a whole output."""
    questions = dict.fromkeys(question for each in outputs for question in each.gold)
    gold = {name: pooled_gold([each.gold[name] for each in outputs if name in each.gold]) for name in questions}
    facts = {}
    for name in OF_OUTPUTS:
        known = [value for each in outputs if (value := each.facts.get(name)) is not None]
        facts[name] = sum(known) / len(known) if known else None
    return Measured(
        counts=pooled(each.counts for each in outputs),
        gold={name: each for name, each in gold.items() if each is not None},
        facts=facts,
    )
