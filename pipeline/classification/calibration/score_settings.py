"""What determines the scores of labels: a calibration is valid for other rows only while all of it is the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tirazh.pipeline.classification.labels import parse_labels
from tirazh.pipeline.classification.questions import parse_questions
from tirazh.pipeline.settings import flag_name

# Settings in the identity of a job that do not change the scores of a row: which rows there are, where they are
# written, and what is done with the scores. All others change them, also settings that later versions add.
_NOT_OF_SCORES = frozenset(
    (
        *("kind", "input", "output", "text_column", "prefix", "limit", "shape", "top", "gold_column", "max_error_rate"),
        *("abstain_below", "target_error", "multi_label", "none_label", "priors", "relabelled"),
        # Their content is compared, not where it is.
        *("model", "examples"),
        # Compared by parts of their own.
        *("labels", "questions", "calibrate"),
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSettings:
    """Everything that determines the scores of one question's labels, beside the row. All values are JSON values.

    `base` is the calibration without labelled rows that the scores had: "contextual", or None. `model` and `examples`
    are the fingerprint of the weights and the SHA-256 of the few-shot examples. `labels` has for each label its name,
    the words, the aliases and the description. `suffix` is that of a question. `settings` are the others, by name,
    without those that have their default.
    """

    base: str | None
    model: str
    examples: str | None
    labels: tuple[tuple[Any, ...], ...]
    suffix: str
    settings: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the labels."""
        return tuple(label[0] for label in self.labels)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {
            "base": self.base,
            "model": self.model,
            "examples": self.examples,
            "label_words": [[*label[:2], list(label[2]), label[3]] for label in self.labels],
            "suffix": self.suffix,
            "settings": dict(self.settings),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ScoreSettings:
        """Parse what `to_json` returned. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(
            base=values["base"],
            model=values["model"],
            examples=values["examples"],
            labels=tuple(
                (name, words, tuple(aliases), description)
                for name, words, aliases, description in values["label_words"]
            ),
            suffix=values["suffix"],
            settings=dict(values["settings"]),
        )


def score_fingerprint(
    identity: Mapping[str, Any],
    *,
    model_fingerprint: str,
    examples_sha256: str | None,
    question: str | None = None,
    base: str | None = None,
) -> ScoreSettings:
    """Return what determines the scores in a job with this identity, which is that of a plan.

    `question` is the name of one of several questions. `base` is the calibration without labelled rows.
    """
    if question is None:
        labels, suffix = parse_labels(identity.get("labels") or {}), ""
    else:
        asked = {each.name: each for each in parse_questions(identity["questions"], abstain_below=0.0)}
        labels, suffix = asked[question].labels, asked[question].suffix
    return ScoreSettings(
        base=base,
        model=model_fingerprint,
        examples=examples_sha256,
        labels=tuple((label.name, label.words, label.aliases, label.description) for label in labels),
        suffix=suffix,
        settings={
            name: value
            for name, value in sorted(identity.items())
            if name not in _NOT_OF_SCORES and value is not None and not (name == "permutations" and value == 1)
        },
    )


def score_difference(made: ScoreSettings, job: ScoreSettings) -> str | None:
    """Describe the first difference between the scores a calibration was made on and those of a job, as the end of a
    sentence about the calibration; None if there is none. `base` is not compared."""
    if made.names != job.names:
        return _label_difference(made.names, job.names)
    for ours, theirs in zip(made.labels, job.labels, strict=True):
        if ours != theirs:
            return f"was made with other words of the label {ours[0]!r}"
    if made.model != job.model:
        return "was made with another model"
    if made.examples != job.examples:
        return f"was made {_with(made.examples, 'few-shot examples', 'other ' if job.examples else '')}"
    if made.suffix != job.suffix:
        return f"was made with the suffix {made.suffix!r}"
    for name in sorted({*made.settings, *job.settings}):
        value, other = made.settings.get(name), job.settings.get(name)
        if value != other:
            return f"was made {_setting(name, value)}, not {_setting(name, other)}"
    return None


def _label_difference(made: tuple[str, ...], job: tuple[str, ...]) -> str:
    if len(made) != len(job):
        return f"has {len(made)} labels, but the job has {len(job)}"
    ours, theirs = next((ours, theirs) for ours, theirs in zip(made, job, strict=True) if ours != theirs)
    if sorted(made) == sorted(job):
        return f"has the labels in another order ({', '.join(made)})"
    return f"has the label {ours!r} where the job has {theirs!r}"


def _with(value: Any, what: str, other: str) -> str:
    return f"with {other}{what}" if value is not None else f"without {what}"


def _setting(name: str, value: Any) -> str:
    if value is None:
        return f"without {flag_name(name)}"
    shown = f" {value}" if isinstance(value, str | int | float) and len(str(value)) <= 40 else ""
    return f"with {'this ' if not shown else ''}{flag_name(name)}{shown}"
