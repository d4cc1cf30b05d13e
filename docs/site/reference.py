"""The reference, made from the code at each build: settings by kind, the help of every command, the Python names."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from typing import Any

import tirazh
from tirazh.jobs.cli import build_parser
from tirazh.jobs.settings import KINDS, Setting, settings_of
from tirazh.pipeline.spec import flag_name

_WIDTH = 100  # columns of a help page
_SECTIONS = re.compile(r"^(Args|Returns|Raises|Yields):$", re.MULTILINE)


def pages() -> dict[str, str]:
    """Return the Markdown of every page of the reference by its place in the site."""
    return {
        **{f"reference/settings-{kind}.md": settings_page(kind) for kind in KINDS},
        "reference/commands.md": commands_page(),
        "reference/python.md": python_page(),
    }


def settings_page(kind: str) -> str:
    """Return the table of all settings of a kind, by their group in `--help`."""
    title = (
        f"# Settings of `{kind}`\n\nMade from the code. A setting with • is part of the job's identity: with another "
    )
    lines = [title + "value it is another job, with another output. The others may change when a job is resumed.\n"]
    settings = settings_of(kind)
    for group in dict.fromkeys(setting.group for setting in settings.values()):
        lines += [
            f"\n## {group.capitalize()}\n",
            "| setting | flag | type | default | | meaning |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_row(setting) for setting in settings.values() if setting.group == group]
    return "\n".join(lines) + "\n"


def _row(setting: Setting) -> str:
    kind = " or ".join(f"`{choice}`" for choice in setting.choices) or setting.type
    cells = (f"`{setting.name}`", f"`{flag_name(setting.name)}`", kind, _default(setting))
    return f"| {' | '.join(cells)} | {'•' if setting.is_identity else ''} | {_cell(setting.help)} |"


def _default(setting: Setting) -> str:
    if setting.is_required:
        return "required" if setting.required_unless is None else f"required, except with `{setting.required_unless}`"
    if setting.default is None or setting.default in ((), "", {}):
        return "none"
    value = str(setting.default).lower() if isinstance(setting.default, bool) else str(setting.default)
    return f"`{_cell(value)}`"


def _cell(text: str) -> str:
    """Escape a text for a table of Markdown."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("{", "&#123;")


def commands_page() -> str:
    """Return the help page of every command."""
    os.environ["COLUMNS"] = str(_WIDTH)
    parser, by_name = build_parser()
    lines = ["# Commands\n", "Made from the code: what `tirazh --help` and `tirazh COMMAND --help` print.\n"]
    for name, each in {"tirazh": parser, **by_name}.items():
        text = each.format_help()
        lines += [f"## {name}\n", "```text", text.rstrip(), "```\n"]
    return "\n".join(lines)


def python_page() -> str:
    """Return the signature and the docstring of every public name of `tirazh`."""
    tour = "A tour of them is in the [Python API](../python-api.md)."
    lines = ["# Python names\n", f"Made from the code: the public names of `tirazh`. {tour}\n"]
    for name in sorted(tirazh.__all__, key=str.lower):
        value = getattr(tirazh, name)
        if callable(value):
            lines += [f"## {name}\n", "```python", _signature(name, value), "```\n", _docstring(value), ""]
    return "\n".join(lines)


def _signature(name: str, value: Any) -> str:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return f"tirazh.{name}"
    parameters = [parameter for parameter in signature.parameters if parameter not in ("args", "kwargs")]
    if isinstance(value, type) and (issubclass(value, (Exception, Mapping)) or not parameters):
        return f"class tirazh.{name}"
    word = "class " if isinstance(value, type) else ""
    # Annotations that are texts are shown without their quotes.
    shown = [re.sub(r": '([^']*)'", r": \1", str(each)) for each in signature.parameters.values()]
    separator = ",\n    " if sum(map(len, shown)) > _WIDTH else ", "
    inner = separator.join(shown)
    if separator != ", ":
        inner = f"\n    {inner},\n"
    returns = (
        "" if signature.return_annotation is inspect.Signature.empty else f" -> {_name(signature.return_annotation)}"
    )
    return f"{word}tirazh.{name}({inner}){returns}"


def _name(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _docstring(value: Any) -> str:
    """Return a docstring as Markdown: sections become bold, code by indentation stays code."""
    text = inspect.getdoc(value) or ""
    text = _SECTIONS.sub(r"\n**\1**\n", text)
    return text.replace("<", "&lt;")
