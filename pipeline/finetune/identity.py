"""What makes two trainings the same: the id of a training, and how two requests differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tirazh.pipeline.settings import describe_changed

# Of the stored request, what determines the trained weights. The counts of rows, sequences and steps follow from it.
_IN_ID = ("identity", "dtype", "seq_length", "packing")


def training_id(request: Mapping[str, Any]) -> str:
    """Return 32 hex digits of the SHA-256 of what determines the trained weights.

    `request` holds `identity` (settings, model fingerprint, input files) and the resolved values
    `dtype`, `seq_length` and `packing`.
    """
    values = {name: request.get(name) for name in _IN_ID}
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def find_differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe how two identities differ; an empty string when they are equal."""
    now = json.loads(json.dumps(now))  # the saved one was JSON, which has lists for tuples
    other = [name for name in sorted({*saved, *now}) if saved.get(name) != now.get(name)]
    if not other:
        return ""
    if "steps_version" in other:
        return "it is of another version of tirazh, whose steps differ"
    if other == ["model_fingerprint"]:
        return "the model has other weights now"
    if "files" in other and not {*other} - {"files", "model_fingerprint"}:
        return "the input files have changed since it started"
    return describe_changed([name for name in other if name not in ("model_fingerprint", "files", "kind")])
