"""The first words of a page: how a job ended, in one sentence, and what somebody should look at.

"Good" means that nothing of what `_reasons` looks for was found. `MEANING` says on the page what that is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tirazh.pipeline.report.answers import (
    LOW_ACCURACY,
    MANY_ABSTAINED,
    MANY_UNCERTAIN,
    SAME_LABEL,
    UNCERTAIN,
    answer_reasons,
    answers_of,
)
from tirazh.pipeline.report.text_figures import TextFigures
from tirazh.pipeline.report.words import clip, counted, percent_text, share_text

State = Literal["good", "look", "failed", "unfinished"]
STATES = {"good": "Good", "look": "Look here", "failed": "Failed", "unfinished": "Not finished"}
# Shares from which a reason is given.
MANY_ERRORS = 0.01
_MANY_CUT = 0.05
_MANY_REPEATED = 0.02
_LESS_DISTINCT = 0.2
_MANY_DROPPED = 0.9
_MIN_TEXTS = 100
_MOST_REASONS = 20
_LONGEST_REASON = 500
MEANING = (
    f"A finished output is good unless at least {percent_text(MANY_ERRORS)} of its rows have an error, "
    f"{percent_text(MANY_ABSTAINED)} have no label, "
    f"{percent_text(MANY_UNCERTAIN)} have a confidence below {UNCERTAIN}, "
    f"or {percent_text(SAME_LABEL)} have the same label; the accuracy on gold rows is below "
    f"{percent_text(LOW_ACCURACY)}; {percent_text(_MANY_CUT)} of the completions were cut; more than "
    f"{percent_text(_MANY_DROPPED)} of the rows were dropped; or sampled completions repeat each other."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """`headline` says how many rows there are and how good they are, `reasons` what to look at."""

    state: State
    headline: str
    reasons: tuple[str, ...] = ()

    @property
    def state_text(self) -> str:
        """The state in words."""
        return STATES[self.state]


def verdict_of(manifest: Mapping[str, Any], figures: TextFigures | None, more: Sequence[str] = ()) -> Verdict:
    """The verdict on a finished output. `more` are reasons that others have found, such as a difference to other
    runs."""
    reasons = tuple(clip(each, _LONGEST_REASON) for each in [*_reasons(manifest, figures), *more][:_MOST_REASONS])
    return Verdict(state="look" if reasons else "good", headline=headline_of(manifest), reasons=reasons)


def headline_of(manifest: Mapping[str, Any]) -> str:
    """The first sentence: rows, and accuracy where there are gold labels."""
    rows, errors = int(manifest["rows"]), int(manifest["errors"])
    asked = answers_of(manifest)
    kind = manifest.get("kind")
    if len(asked) == 1:
        (facts,) = asked.values()
        return " ".join([_labelled(facts, rows, errors), *_accuracy(facts)])
    if asked:
        return f"{_all_of(rows - errors, rows)} answered, with {counted(len(asked), 'question')} each{_errors(errors)}."
    if "kept" in manifest and manifest.get("drop_reasons") is not None:
        return _kept(manifest)
    made = {
        "generate": "have a completion",
        "score": "have a score",
        "embed": "have an embedding",
    }.get(str(kind), "are written")
    good = rows if made == "are written" else rows - errors
    return (
        f"{_all_of(good, rows, verb='')} {made if rows != 1 else made.replace('have', 'has').replace('are', 'is')}"
        + (f"{_errors(errors)}.")
    )


def _labelled(facts: Mapping[str, Any], rows: int, errors: int) -> str:
    abstained = int(facts.get("abstained") or 0)
    left = [f"{abstained:,} abstained"] if abstained else []
    left += [f"{errors:,} {'has an error' if errors == 1 else 'have errors'}"] if errors else []
    return f"{_all_of(rows - errors - abstained, rows)} labelled{'; ' if left else ''}{', '.join(left)}."


def _accuracy(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts.get("accuracy") is not None:
        yield f"Accuracy on {counted(facts['gold_rows'], 'gold row')}: {percent_text(facts['accuracy'])}."


def _kept(manifest: Mapping[str, Any]) -> str:
    kept = int(manifest.get("kept") or 0)
    judged = kept + int(manifest.get("dropped_rows") or 0)
    judged = max(judged, int(manifest.get("input_rows") or 0) if "dropped_rows" in manifest else int(manifest["rows"]))
    return f"{_all_of(kept, judged)} kept{f'; {judged - kept:,} were dropped' if judged > kept else ''}."


def _all_of(count: int, rows: int, *, verb: str = "are") -> str:
    """ "All 60 rows are" or "348 of 350 rows are"."""
    verb = {1: "is"}.get(rows, "are") if verb else ""
    if count == rows:
        text = f"All {rows:,} rows" if rows != 1 else "The only row"
    else:
        text = f"{count:,} of {counted(rows, 'row')}"
    return f"{text} {verb}".rstrip()


def _errors(errors: int) -> str:
    return f"; {errors:,} {'has an error' if errors == 1 else 'have errors'}" if errors else ""


def _reasons(manifest: Mapping[str, Any], figures: TextFigures | None) -> Iterator[str]:
    rows, errors = int(manifest["rows"]), int(manifest["errors"])
    if not rows:
        yield "The output has no rows."
    if errors and errors >= MANY_ERRORS * rows:
        kinds = manifest.get("error_kinds") or {}
        most = f"; the most frequent: {next(iter(kinds))}" if kinds else ""
        yield f"{share_text(errors, rows)} of the rows have an error{most}."
    yield from cut_sentences(manifest)
    if figures is not None:
        yield from text_sentences(figures)
    kept, judged = manifest.get("kept"), manifest.get("input_rows") if "dropped_rows" in manifest else rows
    if isinstance(kept, int) and judged and judged - kept > _MANY_DROPPED * judged:
        yield f"{share_text(judged - kept, judged)} of the rows were dropped by the filters."
    for name, facts in answers_of(manifest).items():
        yield from answer_reasons(facts, rows, name=name)


def cut_sentences(manifest: Mapping[str, Any]) -> list[str]:
    """A sentence about completions that were cut, if they are many."""
    reasons = manifest.get("finish_reasons") or {}
    cut, total = reasons.get("length", 0), sum(reasons.values())
    if not total or cut < _MANY_CUT * total:
        return []
    most = manifest["spec"].get("max_new_tokens")
    at = f" at {most} tokens (max_new_tokens)" if most else ""
    return [f"{share_text(cut, total)} of the completions were cut{at}."]


def text_sentences(figures: TextFigures) -> list[str]:
    """Sentences about completions that are no JSON, or that repeat each other."""
    said = []
    if figures.looks_like_json and figures.json_valid < figures.json_texts:
        said.append(
            f"{figures.json_valid:,} of the {figures.json_texts:,} sampled completions that begin like JSON are JSON. "
            "Set schema to make all of them valid."
        )
    if figures.repeated > _MANY_REPEATED * figures.texts:
        said.append(f"Of {figures.texts:,} sampled completions {figures.distinct:,} are distinct.")
    if figures.distinct_2 is not None and figures.distinct_2 < _LESS_DISTINCT and figures.texts >= _MIN_TEXTS:
        said.append(f"The texts repeat their words: distinct-2 is {figures.distinct_2:.2f}.")
    return said
