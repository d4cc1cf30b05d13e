"""Renders a comparison as a section of the report. Every value is escaped; the numbers are those of `compare`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from tirazh.pipeline.drift.label_shares import READINGS
from tirazh.pipeline.drift.verdict import number, p_text, percent

_MOST_LABELS = 50
_NO_LABEL = "(no label)"
_ARROWS = {"up": "▲", "down": "▼", "same": "=", None: ""}


def render_comparison(values: Mapping[str, Any]) -> Markup:
    """Render the section of a comparison, with its styles. It needs no other part of the page."""
    return Markup(
        _template().render(
            together=values["together"],
            verdict=values["verdict"],
            differences=values["differences"],
            notes=values["notes"],
            level=percent(values["level"]),
            figures=[figure_cells(each) for each in values["figures"]],
            questions=[_question(name, each) for name, each in values["questions"].items()],
            changed=[_changed(each) for each in values["changed_rows"]],
            outputs=_outputs([values["output"], *values["baselines"]]),
        )
    )


def figure_cells(figure: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one figure: title, value, baseline, arrow and difference, range of the baselines, p-value and
    meaning."""
    text = _text_of(figure["unit"])
    title = f"{figure['question']}: {figure['title'].lower()}" if figure["question"] else figure["title"]
    low, high = figure["lowest"], figure["highest"]
    spread = "" if low is None or len(figure["of_baselines"]) < 2 else f"{text(low)} – {text(high)}"
    value = _shown(figure["value"], text)
    if figure["interval"]:
        value += f" ({text(figure['interval'][0])} – {text(figure['interval'][1])})"
    return (
        title,
        value,
        _shown(figure["baseline"], text),
        _difference(figure, text),
        spread,
        "" if figure["p_value"] is None else p_text(figure["p_value"]).removeprefix("p = ").removeprefix("p "),
        "" if figure["finding"] == "not tested" else figure["meaning"],
    )


def label_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one label: name, rows and share, baseline's share, difference, estimated precision of both, p-value
    and meaning."""
    arrow = _ARROWS["up" if row["difference"] > 0 else "down" if row["difference"] < 0 else "same"]
    precision = [_shown(row[name], percent) for name in ("estimated_precision", "baseline_estimated_precision")]
    return (
        row["label"] or _NO_LABEL,
        f"{percent(row['share'])} ({row['rows']:,})",
        f"{percent(row['baseline_share'])} ({row['baseline_rows']:,})",
        f"{arrow} {_signed(row['difference'], _points)}",
        " / ".join(each or "–" for each in precision) if row["label"] else "",
        "" if row["p_value"] is None else p_text(row["p_value"]).removeprefix("p = ").removeprefix("p "),
        "" if row["finding"] == "not tested" else row["meaning"],
    )


def psi_sentence(labels: Mapping[str, Any]) -> str:
    """What the population stability index says about the labels."""
    raw, expected, index = labels["psi"], labels["expected_psi"], labels["corrected_psi"]
    reading = READINGS[labels["reading"]]
    said = (
        f"Population stability index (PSI) of the labels: {index:.3f} ({reading}). It is {raw:.3f}, "
        f"of which {expected:.3f} is expected from so many rows without any change."
    )
    if not labels["is_tested"]:
        return f"{said} The shares are not tested."
    return f"{said} All shares together: {p_text(labels['p_value'])} ({labels['test']} test)."


def estimate_sentences(values: Mapping[str, Any]) -> Iterator[str]:
    """What the estimate of the accuracy says, on what it rests, and how far it is from the gold labels."""
    if values["difference"] is None:
        return
    low, high = values["interval"]
    yield (
        f"By the confidences the accuracy of the labels differs by {_signed(values['difference'], _points)} "
        f"(95 % interval {_signed(low, _points)} to {_signed(high, _points)}) from that of the baselines."
    )
    known = "were calibrated on labelled rows" if values["is_calibrated"] else "were not calibrated on labelled rows"
    yield f"This holds only as far as the confidences are calibrated; those of this job {known}."
    for name, which in (("gold", "this output"), ("baseline_gold", "the baselines")):
        gap = values[name]
        if gap is not None:
            beyond = "more than chance, so do not rely on the estimate" if gap["is_beyond_chance"] else "within chance"
            yield (
                f"On {gap['rows']:,} gold rows of {which} the estimate is {percent(gap['estimated'])} and the accuracy "
                f"{percent(gap['measured'])}: a gap of {_signed(gap['gap'], _points)} ({beyond})."
            )


def _question(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    rows = values["labels"]["labels"]
    bins, others = values["confidence"]["bins"], values["confidence"]["baseline_bins"]
    return {
        "name": name,
        "labels": [label_cells(row) for row in rows[:_MOST_LABELS]],
        "more_labels": max(0, len(rows) - _MOST_LABELS),
        "psi": psi_sentence(values["labels"]) if rows else "",
        "estimates": list(estimate_sentences(values["estimated_accuracy"])),
        "bins": list(_bins(bins, others)),
    }


def _bins(bins: Sequence[int], others: Sequence[int]) -> Iterator[tuple[str, str, float, str, float]]:
    """(range, share, width, share of the baselines, width) of the confidences, from the first bin with rows."""
    totals = sum(bins), sum(others)
    if not totals[0] or not totals[1]:
        return
    shares = [(first / totals[0], second / totals[1]) for first, second in zip(bins, others, strict=True)]
    most = max(max(pair) for pair in shares)
    first = next(index for index, pair in enumerate(shares) if any(pair))
    for index in range(first, len(shares)):
        here, there = shares[index]
        name = f"{index / len(shares):.2f}–{(index + 1) / len(shares):.2f}"
        yield name, percent(here), round(100 * here / most, 1), percent(there), round(100 * there / most, 1)


def _changed(values: Mapping[str, Any]) -> dict[str, Any]:
    about = f"{values['question']}: " if values["question"] else ""
    return {
        "sentence": f"{about}{values['changed']:,} of the {values['shared_rows']:,} rows that {values['baseline']} "
        f"has, too, have another label ({percent(values['share'])}). A row is the same if its "
        f"{', '.join(values['by'])} is.",
        "transitions": [
            (each["before"] or _NO_LABEL, each["after"] or _NO_LABEL, f"{each['rows']:,}")
            for each in values["transitions"]
        ],
        "examples": [
            (each["before"] or _NO_LABEL, each["after"] or _NO_LABEL, list(each["columns"].items()))
            for each in values["examples"]
        ],
    }


def _outputs(outputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The table of the outputs: heads, and a row for each; columns without any value are left out."""
    questions = list(dict.fromkeys(name for each in outputs for name in each["questions"]))
    rows = [
        [each["name"], (each["date"] or "")[:16].replace("T", " "), *_output_cells(each, questions)] for each in outputs
    ]
    heads = ["", "date", "rows", "errors"]
    for name in questions:
        heads += [f"{name}: {head}" if name else head for head in ("no label", "confidence", "accuracy")]
    heads += ["prompt tokens", "completion tokens", "bits per character", "seconds"]
    kept = [index for index in range(len(heads)) if index < 2 or any(row[index] for row in rows)]
    return {"heads": [heads[index] for index in kept], "rows": [[row[index] for index in kept] for row in rows]}


def _output_cells(output: Mapping[str, Any], questions: Sequence[str]) -> Iterator[str]:
    yield f"{output['rows']:,}"
    yield _shown(output["errors"], percent)
    for name in questions:
        values = output["questions"].get(name, {})
        yield _shown(values.get("abstained"), percent)
        yield _shown(values.get("confidence"), number)
        yield _shown(values.get("accuracy"), percent)
    for name in ("length", "completion_length", "bits_per_character", "seconds"):
        yield _shown(output[name], number)


def _difference(figure: Mapping[str, Any], text: Any) -> str:
    if figure["difference"] is None:
        return ""
    relative = figure["relative"]
    is_share = figure["unit"] == "share"
    text = _points if is_share else text
    share = "" if is_share or relative is None or not figure["difference"] else f" ({_signed(relative, percent)})"
    return f"{_ARROWS[figure['direction']]} {_signed(figure['difference'], text)}{share}"


def _points(share: float) -> str:
    """A difference of shares in percentage points."""
    return percent(share).replace("%", "pp")


def _signed(value: float, text: Any) -> str:
    shown = text(abs(value))
    return f"{'−' if value < 0 else '+' if value > 0 else ''}{shown}"


def _shown(value: float | None, text: Any) -> str:
    return "" if value is None else str(text(value))


def _text_of(unit: str) -> Any:
    return percent if unit == "share" else number


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string((files(__package__) / "section.html.jinja").read_text(encoding="utf-8"))
