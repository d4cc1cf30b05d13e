"""The text of a preview: for each row its place, its prompt and what the job adds to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tirazh.pipeline.schema import LABEL, PROBABILITY, PROMPT

MAX_PROMPT, MAX_TEXT = 400, 2_000  # characters that are shown
_MAX_LABELS = 4
_INDENT = "  "


def preview_text(preview: Mapping[str, Any]) -> str:
    """Return the rows of `preview_job` as text for a terminal."""
    return "\n\n".join(_row_text(made, preview) for made in preview["rows"])


def shorten(text: str, most: int) -> str:
    """Leave out the middle of a text that is longer than `most` characters."""
    if len(text) <= most:
        return text
    head, tail = text[: most // 2], text[len(text) - most // 2 :]
    return f"{head} … ({len(text) - most:,} characters) … {tail}"


def _row_text(made: Mapping[str, Any], preview: Mapping[str, Any]) -> str:
    cell = ", ".join(f"{name}: {value}" for name, value in (made.get("cell") or {}).items())
    lines = [_printable(f"row {made['row']:,} of {preview['input_rows']:,}, {cell or made['input']}")]
    # A row without a prompt has an error, which is among its columns.
    fields: list[tuple[str, Any]] = []
    if made[PROMPT] is not None:
        fields.append((PROMPT, shorten(made[PROMPT], MAX_PROMPT)))
    for output in made["output"]:
        fields += [(name, output[name]) for name in preview["added_columns"] if output[name] is not None]
    width = max((len(name) for name, _ in fields), default=0)
    for name, value in fields:
        first, *rest = _value_text(value).split("\n")
        lines.append(f"{_INDENT}{name:<{width}}  {first}".rstrip())
        lines += [f"{_INDENT}{'':<{width}}  {line}".rstrip() for line in rest]
    return "\n".join(lines)


def _value_text(value: Any) -> str:
    if isinstance(value, float):
        text = f"{value:.3g}"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        text = _list_text(value)
    else:
        text = str(value)
    return _printable(shorten(text, MAX_TEXT))


def _printable(text: str) -> str:
    """The text without control characters of a terminal."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)


def _list_text(values: Sequence[Any]) -> str:
    if not values:
        return "(none)"
    if all(isinstance(value, Mapping) and {LABEL, PROBABILITY} <= set(value) for value in values):
        ordered = sorted(values, key=lambda value: -value[PROBABILITY])
        more = f", and {len(ordered) - _MAX_LABELS} more" if len(ordered) > _MAX_LABELS else ""
        return ", ".join(f"{value[LABEL]} {value[PROBABILITY]:.2f}" for value in ordered[:_MAX_LABELS]) + more
    if any(isinstance(value, str) and "\n" in value for value in values):
        return "\n".join(f"{number}. {value}" for number, value in enumerate(values))
    return ", ".join(map(str, values))
