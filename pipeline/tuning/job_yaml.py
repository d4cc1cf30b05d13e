"""Writes a job file: a comment, then the settings as YAML that the strict reader of job files reads back unchanged."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

# Texts that no YAML version reads as something else. All others are put in double quotes.
_PLAIN = re.compile(r"[^\W\d_][\w./-]*")
_NOT_TEXTS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


class _Writer(yaml.SafeDumper):
    """Puts every text in double quotes that might be read as another value; writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(writer: _Writer, value: str) -> yaml.ScalarNode:
    is_plain = _PLAIN.fullmatch(value) is not None and value.lower() not in _NOT_TEXTS
    return writer.represent_scalar("tag:yaml.org,2002:str", value, style=None if is_plain else '"')


_Writer.add_representer(str, _text)


def job_text(values: Mapping[str, Any], *, header: Sequence[str] = ()) -> str:
    """Return the text of a job file with these settings, which are JSON values, in their order.

    `header` are the lines of the comment.
    """
    comment = "".join(f"# {_one_line(line)}".rstrip() + "\n" for line in header)
    body: str = yaml.dump(
        dict(values), Dumper=_Writer, allow_unicode=True, sort_keys=False, default_flow_style=False, width=1 << 30
    )
    return comment + body


def _one_line(text: str) -> str:
    """A line of a comment: no line breaks and no characters that YAML does not allow."""
    return "".join(character if character.isprintable() else " " for character in text)
