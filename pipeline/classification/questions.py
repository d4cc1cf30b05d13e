"""The questions of a job: what is asked about every row's text, and the names of the columns of the answers.

A plain job asks one question without a name. With `questions` the row's text is read once; behind it each question
has a suffix, the end of its prompt, and labels of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tirazh.errors import RequestError, did_you_mean
from tirazh.pipeline import schema
from tirazh.pipeline.classification.label_checks import check_labels
from tirazh.pipeline.classification.labels import Label, parse_labels
from tirazh.pipeline.settings import check_fraction

_KEYS = ("labels", "suffix", "abstain_below", "none_label", "gold_column")
MAX_QUESTIONS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question about a row. `name` and `suffix` are empty for the question of a plain job.

    The prompt of a question is the job's rendered template, then `suffix`, then a label's words after one space.
    `none_label` is the label that means "none of the others".
    """

    name: str
    labels: tuple[Label, ...]
    suffix: str = ""
    abstain_below: float = 0.0
    none_label: str | None = None
    gold_column: str | None = None

    def column(self, name: str) -> str:
        """The name of a column of the answers, without the job's prefix: `confidence` is `topic_confidence` for the
        question `topic`; its label is the column `topic`."""
        if not self.name:
            return name
        return self.name if name in (schema.LABEL, schema.CHOICE) else f"{self.name}_{name}"


def parse_questions(value: Any, *, abstain_below: float) -> tuple[Question, ...]:
    """Return the questions of the setting `questions`; `abstain_below` is the threshold of those without one of
    their own. Raises RequestError for a value that cannot be used."""
    if not isinstance(value, Mapping) or not value:
        raise RequestError(
            "--questions must be a mapping {name: {labels: ..., suffix: ...}} with at least one question"
        )
    if len(value) > MAX_QUESTIONS:
        raise RequestError(f"--questions has {len(value)} questions; at most {MAX_QUESTIONS} are allowed")
    return tuple(_parse(str(name), question, abstain_below) for name, question in value.items())


def _parse(name: str, value: Any, abstain_below: float) -> Question:
    flag = f"--questions {name}"
    if not name.isidentifier():
        raise RequestError(f"{flag}: the name must consist of letters, digits and _; it becomes a column")
    if not isinstance(value, Mapping):
        raise RequestError(f"{flag} must be a mapping with labels and a suffix, not {value!r}")
    for key in value:
        if key not in _KEYS:
            raise RequestError(
                f"{flag} has the key {key!r}{did_you_mean(str(key), _KEYS)}; it may have {', '.join(_KEYS)}"
            )
    labels = value.get("labels")
    if isinstance(labels, str):
        labels = [part.strip() for part in labels.split(",") if part.strip()]
    if isinstance(labels, list):
        labels = {str(label): None for label in labels}
    if not isinstance(labels, Mapping):
        raise RequestError(f"{flag} needs labels: a list, or a mapping {{label: words}}")
    check_labels(labels, flag=f"{flag} labels")
    suffix = value.get("suffix", "")
    if not isinstance(suffix, str) or not suffix.strip():
        raise RequestError(f"{flag} needs a suffix: the end of its prompt, such as '\\nTopic:'")
    question = Question(
        name=name,
        labels=parse_labels(labels, flag=f"{flag} labels"),
        suffix=suffix.rstrip(),
        abstain_below=_number(flag, "abstain_below", value.get("abstain_below", abstain_below)),
        none_label=_text(flag, "none_label", value.get("none_label")),
        gold_column=_text(flag, "gold_column", value.get("gold_column")),
    )
    check_none_label(question, flag=flag)
    return question


def check_none_label(question: Question, *, flag: str = "--none-label") -> None:
    """Raise RequestError if the question's none label is none of its labels."""
    names = [label.name for label in question.labels]
    if question.none_label is not None and question.none_label not in names:
        hint = did_you_mean(question.none_label, names)
        raise RequestError(f"{flag}: none_label {question.none_label!r} is none of the labels {', '.join(names)}{hint}")


def _number(flag: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(f"{flag}: {key} must be a number, not {value!r}")
    check_fraction(key, float(value))
    return float(value)


def _text(flag: str, key: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise RequestError(f"{flag}: {key} must be a text, not {value!r}")
    return value
