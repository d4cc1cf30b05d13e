"""Checksums inside the files that describe an output, so that any change of them is found.

A JSON file ends with the SHA-256 of its other values, and the report ends with a comment that has the
SHA-256 of the page. They find damage and edits by hand; they are no signature.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

_FIELD = "content_sha256"
_COMMENT = re.compile(rb"<!-- plan ([0-9a-f]*), sha256 ([0-9a-f]{64}) -->")


def to_sealed_json(values: Mapping[str, Any]) -> bytes:
    """Serialise `values` with the checksum as the last value. Equal values give equal bytes."""
    content = {name: value for name, value in values.items() if name != _FIELD}
    return _dump(content | {_FIELD: hashlib.sha256(_dump(content)).hexdigest()})


def read_sealed_json(data: bytes) -> dict[str, Any]:
    """Parse what `to_sealed_json` wrote; the result has no checksum. Raises ValueError, with the reason."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(values, dict) or _FIELD not in values:
        raise ValueError("it has no checksum")
    try:
        is_same = to_sealed_json(values) == data
    except (ValueError, RecursionError):  # text that cannot be encoded, nesting that is too deep
        is_same = False
    if not is_same:
        raise ValueError("its checksum does not match its content")
    del values[_FIELD]
    return values


def seal_page(page: str, plan_id: str) -> str:
    """Append the comment with the plan id and the checksum to an HTML page."""
    return f"{page}<!-- plan {plan_id}, sha256 {hashlib.sha256(page.encode()).hexdigest()} -->"


def check_page(data: bytes, plan_id: str) -> None:
    """Raise ValueError, with the reason, unless `data` is an unchanged page of this plan."""
    start = data.rfind(b"<!--")
    match = _COMMENT.fullmatch(data[start:]) if start >= 0 else None
    if match is None or hashlib.sha256(data[:start]).hexdigest().encode() != match[2]:
        raise ValueError("its checksum does not match its content")
    if match[1] != plan_id.encode():
        raise ValueError("it is that of another job")


def _dump(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, indent=1).encode()
