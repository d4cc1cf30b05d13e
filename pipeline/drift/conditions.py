"""The conditions of --fail-on: `labels>0.1, accuracy<-0.05, rows±50%`.

A condition is a name, `>`, `<` or `±`, and a number. A number with a sign, and one after `±`, is a difference to the
baselines, with a percent sign relative to their value; a number without a sign is the value itself, or an index that
compares (`labels`, `drift`, `changed`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tirazh.errors import RequestError, did_you_mean
from tirazh.pipeline.drift.figures import FIGURES, OF_QUESTIONS
from tirazh.pipeline.drift.label_shares import READINGS
from tirazh.pipeline.drift.verdict import number, percent

# Names that exist only with baselines, and what they are in a sentence.
COMPARING = {
    "labels": "the PSI of the labels, corrected for the number of rows",
    "drift": "the number of changes beyond chance",
    "changed": "the share of the same rows with another label",
}
NAMES = (*COMPARING, *FIGURES)
_OF_QUESTIONS = (*OF_QUESTIONS, "labels", "changed")
_CONDITION = re.compile(
    r"\s*(?:(?P<question>[^\s.<>±,]+)\.)?(?P<name>[^\W\d][\w-]*)\s*"
    r"(?:(?P<op>>|<|±|\+-|\+/-)\s*(?P<sign>[+-]?)(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<percent>%?))?\s*"
)
_HOW = "write NAME>VALUE, NAME<VALUE or NAME±VALUE, as in labels>0.1,accuracy<-0.05,rows±50%"


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One condition: its `text`, the figure, the comparison (">", "<" or "±") with `number`, whether that is a
    difference to the baselines, and whether it is relative to their value. `question` is "" for any question."""

    text: str
    name: str
    question: str = ""
    op: str = ">"
    number: float = 0.0
    is_difference: bool = False
    is_relative: bool = False

    @property
    def compares(self) -> bool:
        """Whether it needs a baseline."""
        return self.is_difference or self.name in COMPARING


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Whether a condition holds. `sentence` says with which values; `problem` why it cannot be evaluated."""

    condition: Condition
    holds: bool
    sentence: str
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"condition": self.condition.text, "holds": self.holds, "sentence": self.sentence}


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """Parse the value of --fail-on. Raises RequestError, with the condition that cannot be read."""
    conditions = tuple(_parse(each.strip()) for each in text.replace("−", "-").split(",") if each.strip())
    if not conditions:
        raise RequestError(f"--fail-on has no condition; {_HOW}")
    return conditions


def check_baselines(conditions: Sequence[Condition], against: Sequence[str]) -> None:
    """Raise RequestError for a condition that needs a baseline, if there is none."""
    for each in conditions if not against else ():
        if each.compares:
            raise RequestError(f"--fail-on {each.text} compares with other outputs; give --against")


def evaluate(conditions: Sequence[Condition], values: Mapping[str, Any]) -> list[Outcome]:
    """Evaluate conditions on the JSON values of a comparison, or of an output alone.

    A condition about a question holds if it holds for any question. One about too few rows does not hold. Raises
    RequestError, with the reason, if the values have no such figure.
    """
    outcomes = [_evaluated(each, values) for each in conditions]
    problems = [f"{each.condition.text}: {each.problem}" for each in outcomes if each.problem is not None]
    if problems:
        held = [each.condition.text for each in outcomes if each.holds]
        more = f"; these conditions hold: {', '.join(held)}" if held else ""
        raise RequestError(f"--fail-on cannot be evaluated: {'; '.join(problems)}{more}")
    return outcomes


def _parse(text: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise RequestError(f"--fail-on: {text!r} is no condition; {_HOW}")
    name = match["name"].replace("-", "_")
    if name not in NAMES:
        hint = did_you_mean(name, NAMES) or f"; the names are {', '.join(NAMES)}"
        raise RequestError(f"--fail-on: there is no figure {match['name']!r}{hint}")
    if match["question"] and name not in _OF_QUESTIONS:
        raise RequestError(f"--fail-on: {name} does not belong to a question; write {name} alone")
    if match["op"] is None:
        if name != "drift":
            raise RequestError(f"--fail-on: {text!r} has no value; {_HOW}")
        return Condition(text=text, name=name)
    is_share = bool(match["percent"])
    value = float(match["number"]) / (100 if is_share else 1) * (-1 if match["sign"] == "-" else 1)
    op = match["op"] if match["op"] in "<>" else "±"
    is_difference = op == "±" or bool(match["sign"])
    _check(text, name, op, match)
    is_relative = is_share and is_difference
    return Condition(
        text=text,
        name=name,
        question=match["question"] or "",
        op=op,
        number=value,
        is_difference=is_difference,
        is_relative=is_relative,
    )


def _check(text: str, name: str, op: str, match: re.Match[str]) -> None:
    """Raise RequestError for a number that means nothing."""
    if op == "±" and match["sign"]:
        raise RequestError(f"--fail-on: {text!r} has two signs; write {name}±{match['number']}{match['percent']}")
    is_difference = op == "±" or bool(match["sign"])
    if name in COMPARING and is_difference:
        raise RequestError(f"--fail-on: {name} is a comparison already; write {name}>{match['number']}")
    is_share = name == "changed" or (name in FIGURES and FIGURES[name][1] == "share")
    if match["percent"] and not is_difference and not is_share:
        wanted = f"{name}±{match['number']}%, {name}>+{match['number']}% or {name}<-{match['number']}%"
        raise RequestError(f"--fail-on: {text!r} is a percentage of nothing; for a change write {wanted}")


def _evaluated(condition: Condition, values: Mapping[str, Any]) -> Outcome:
    found = list(_values(condition, values))
    if not found and not values["output"]["rows"]:
        return Outcome(condition=condition, holds=False, sentence=f"{condition.name} has no rows")
    if not found:
        return Outcome(condition=condition, holds=False, sentence="", problem=_why_missing(condition, values))
    held = [(question, value, text) for question, value, text in found if _holds(condition, value)]
    question, _, text = (held or found)[0]
    name = f"{question}.{condition.name}" if question else condition.name
    return Outcome(condition=condition, holds=bool(held), sentence=f"{name} {text}")


def _holds(condition: Condition, value: float) -> bool:
    if math.isnan(value):
        return False
    if condition.op == "±":
        return abs(value) > condition.number
    return value > condition.number if condition.op == ">" else value < condition.number


def _values(condition: Condition, values: Mapping[str, Any]) -> Iterator[tuple[str, float, str]]:
    """(question, value, what is said about it) for every question that the condition is about; NaN for too few rows."""
    if condition.name == "drift":
        changes = values["changes"]
        named = f" ({', '.join(changes)})" if changes else ""
        yield "", float(len(changes)), f"is {len(changes)}{named}"
    elif condition.name == "labels":
        yield from _of_labels(condition, values)
    elif condition.name == "changed":
        for each in values["changed_rows"]:
            if condition.question in ("", each["question"]):
                said = (
                    f"is {percent(each['share'])} of the {each['shared_rows']:,} rows that {each['baseline']} has, too"
                )
                yield each["question"], each["share"], said
    else:
        for figure in values["figures"]:
            if figure["name"] == condition.name and condition.question in ("", figure["question"]):
                yield from _of_figure(condition, figure)


def _of_labels(condition: Condition, values: Mapping[str, Any]) -> Iterator[tuple[str, float, str]]:
    for question, each in values["questions"].items():
        labels = each["labels"]
        if condition.question not in ("", question):
            continue
        if labels["finding"] == "few rows":
            yield question, math.nan, "has too few rows"
        elif labels["is_tested"]:
            yield question, labels["corrected_psi"], f"is {labels['corrected_psi']:.3g} ({READINGS[labels['reading']]})"


def _of_figure(condition: Condition, figure: Mapping[str, Any]) -> Iterator[tuple[str, float, str]]:
    text = percent if figure["unit"] == "share" else number
    value, baseline = figure["value"], figure["baseline"]
    if value is None or (condition.is_difference and baseline is None):
        return
    said = f"is {text(value)}"
    if not condition.is_difference:
        yield figure["question"], value, said
        return
    difference = value - baseline
    said += f" instead of {text(baseline)}"
    if condition.is_relative:
        # Anything is infinitely more than nothing.
        difference = difference / baseline if baseline else math.copysign(math.inf, difference) if difference else 0.0
    yield figure["question"], difference, said


def _why_missing(condition: Condition, values: Mapping[str, Any]) -> str:
    name = condition.name
    if condition.question and condition.question not in (known := _questions_of(values)):
        hint = did_you_mean(condition.question, known)
        return f"the job has no question {condition.question!r}{hint}"
    where = "the output and its baselines" if condition.compares else "the output"
    if name in ("accuracy", "macro_f1"):
        return (
            f"it needs gold labels in {where}; name a --gold-column, or run "
            "`tirazh evaluate OUTPUT --gold FILE --key COLUMN` first"
        )
    if name == "labels":
        return "no baseline has the same labels" if values["output"]["questions"] else "the output has no labels"
    return "no row of the output is in a baseline" if name == "changed" else f"{where} have no such figure"


def _questions_of(values: Mapping[str, Any]) -> list[str]:
    return [name for name in values["output"]["questions"] if name]
