"""The sentences that a comparison begins with: what changed, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator

from tirazh.pipeline.drift.baselines import Baselines
from tirazh.pipeline.drift.changed_rows import shown_text
from tirazh.pipeline.drift.figures import FIGURES, Figure
from tirazh.pipeline.drift.findings import FEW_ROWS, MANY_BASELINES, Findings
from tirazh.pipeline.drift.label_shares import ABSTAINED, LabelRow, LabelShares

_NAMED_LABELS = 3
_LONGEST_LABEL = 60
# A number of rows is said if it differs from the mean of the baselines by more than this share of it.
_OTHER_ROWS = 0.5
# (more, less) of the figures; a distribution may also change without its mean.
_WORDS = {
    "errors": ("More rows with an error", "Fewer rows with an error"),
    "abstained": ("More rows without a label", "Fewer rows without a label"),
    "confidence": ("Higher confidence", "Lower confidence"),
    "accuracy": ("Higher accuracy", "Lower accuracy"),
    "length": ("Longer texts", "Shorter texts"),
    "completion_length": ("Longer completions", "Shorter completions"),
    "cut": ("More completions cut at max_new_tokens", "Fewer completions cut at max_new_tokens"),
    "bits_per_character": ("More bits per character", "Fewer bits per character"),
}
_OF_TOKENS = ("length", "completion_length")


def verdict(found: Findings, compared: Baselines) -> list[str]:
    """The verdict, the most important sentence first."""
    rows, others = _rows_of(found)
    if not rows or not others:
        which = compared.output.name if not rows else compared.together
        has = "have" if rows and len(compared.baselines) > 1 else "has"
        return [f"Nothing can be compared: {which} {has} no rows."]
    tested = [each for each in found.figures if each.p_value is not None]
    if not tested and not any(each.p_value is not None for each in found.labels.values()):
        few = min(rows, others)
        return [
            f"Nothing can be told: {few:,} rows are too few to tell a change from chance (it takes {FEW_ROWS}).",
            *_rows_sentence(found, compared),
        ]
    said = [*_changes(found, compared.together), *_rows_sentence(found, compared)]
    usual = [_name_of(each) for each in found.figures if each.finding == "in range"]
    usual += [_of(name, "label shares") for name, each in found.labels.items() if each.finding == "in range"]
    against = "" if list(changes(found)) else f" against {compared.together}"
    limits = f", or more than the baselines differ among themselves ({', '.join(usual)})" if usual else ""
    said.append(f"Nothing {'' if against else 'else '}changed beyond chance{against}{limits}.")
    return said


def changes(found: Findings) -> Iterator[str]:
    """The names of what changed: figures, and `labels`; those of a question after its name and a dot."""
    for question, each in found.labels.items():
        if each.finding == "changed" and _changed_labels(each):
            yield f"{question}.labels" if question else "labels"
    for figure in found.figures:
        if figure.finding == "changed":
            yield f"{figure.question}.{figure.name}" if figure.question else figure.name


def p_text(p_value: float) -> str:
    """A p-value with two digits, "p < 0.0001" for a smaller one."""
    if p_value < 0.0001:
        return "p < 0.0001"
    return f"p = {p_value:.4f}" if p_value < 0.001 else f"p = {p_value:.2g}"


def percent(share: float) -> str:
    """A share as a percentage of about two digits."""
    value = 100 * share
    if value and abs(value) < 0.1:
        return f"{value:.2g} %"
    text = f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}"
    return f"{text.removesuffix('.0')} %"


def number(value: float) -> str:
    """A number with about three digits."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.3f}" if 0 < size < 1 else f"{value:.3g}"


def _changes(found: Findings, than: str) -> Iterator[str]:
    """A sentence for every change; the first one names the baselines."""
    about = f" than in {than}"
    for question, labels in found.labels.items():
        if labels.finding != "changed":
            continue
        for row in (changed := _changed_labels(labels))[:_NAMED_LABELS]:
            yield f"{_of(question, _label_clause(row, about))}."
            about = ""
        if len(changed) > _NAMED_LABELS:
            yield f"{_of(question, f'the shares of {len(changed) - _NAMED_LABELS:,} more labels changed')}."
    for figure in found.figures:
        if figure.finding == "changed":
            yield f"{_of(figure.question, _figure_clause(figure, about))}."
            about = ""


def _changed_labels(labels: LabelShares) -> list[LabelRow]:
    """The labels that changed, the largest difference first; the one that differs most, if only all together have.

    Rows that abstained are not among them: they have a figure of their own.
    """
    named = sorted((row for row in labels.rows if row.label != ABSTAINED), key=lambda row: -abs(row.difference))
    if any(row.finding == "changed" for row in labels.rows):
        return [row for row in named if row.finding == "changed"]
    return named[:1]


def _label_clause(row: LabelRow, about: str) -> str:
    word = "More" if row.difference > 0 else "Less"
    label = " ".join(shown_text(row.label, _LONGEST_LABEL).split())
    chance = "" if row.p_value is None else f" ({p_text(row.p_value)})"
    return f"{word} {label}{about}: {_instead(percent(row.share), percent(row.baseline_share))}{chance}"


def _figure_clause(figure: Figure, about: str) -> str:
    assert figure.value is not None
    assert figure.baseline is not None
    assert figure.p_value is not None
    text = percent if FIGURES[figure.name][1] == "share" else number
    here, there = text(figure.value), text(figure.baseline)
    word = _WORDS[figure.name][0 if figure.value >= figure.baseline else 1]
    chance = f"({p_text(figure.p_value)})"
    if here == there:
        what = {"length": "Other lengths of texts", "completion_length": "Other lengths of completions"}
        word = what.get(figure.name, f"Another distribution of {_name_of(figure)}")
        return f"{word}{about}, with the same mean of {here} {chance}"
    unit = " tokens on average" if figure.name in _OF_TOKENS else ""
    mean = "on average " if figure.name in ("confidence", "bits_per_character") else ""
    return f"{word}{about}: {mean}{_instead(f'{here}{unit}', there)} {chance}"


def _rows_sentence(found: Findings, compared: Baselines) -> Iterator[str]:
    """There is no test of a number of rows, so a large difference is only said."""
    rows = next(each for each in found.figures if each.name == "rows")
    if not rows.baseline or rows.value is None or abs(rows.value - rows.baseline) <= _OTHER_ROWS * rows.baseline:
        return
    known = [value for value in rows.of_baselines if value is not None]
    if len(known) >= MANY_BASELINES and min(known) <= rows.value <= max(known):
        return
    word = "More" if rows.value > rows.baseline else "Fewer"
    mean = " on average" if len(compared.baselines) > 1 else ""
    yield f"{word} rows than in {compared.together}: {_instead(f'{rows.value:,.0f}', f'{rows.baseline:,.0f}')}{mean}."


def _rows_of(found: Findings) -> tuple[int, int]:
    rows = next(each for each in found.figures if each.name == "rows")
    return int(rows.value or 0), int(sum(value or 0 for value in rows.of_baselines))


def _instead(here: str, there: str) -> str:
    return f"{here} instead of {there}"


def _name_of(figure: Figure) -> str:
    title = FIGURES[figure.name][0]
    return _of(figure.question, title[0].lower() + title[1:])


def _of(question: str, text: str) -> str:
    return f"{question}: {text[0].lower() + text[1:]}" if question else text
