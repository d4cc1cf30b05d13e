"""The file of a fitted head, `_tirazh/head.json`: its numbers, and what it was made of."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from tirazh.errors import InputError, OutputError
from tirazh.pipeline.classification.head.linear import HEAD_POOLING, LinearHead
from tirazh.pipeline.output.names import HEAD, OutputFiles
from tirazh.pipeline.output.seal import read_sealed_json, to_sealed_json
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.spec import ClassifySpec, JobSpec
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import keep_trying

_FORMAT = 1
_LABELS = "labels"
# The settings of a job on which the hidden states of its examples depend.
_IDENTITY = (
    *("template", "text_column", "truncate", "tokenizer", "seq_length", "sparse_mode", "num_attention_heads"),
    *("fix_sparsity_layout", "deepspeed_config"),
)


def sources_of(spec: ClassifySpec, plan: Plan) -> dict[str, Any]:
    """What the head of a job depends on, as JSON values: two jobs with equal ones have the same head."""
    return {
        "model_fingerprint": plan.model_fingerprint,
        "dtype": plan.dtype,
        "examples_sha256": plan.examples_sha256,
        _LABELS: list(spec.labels or ()),
        "pooling": HEAD_POOLING,
        "seed": spec.seed,
        **{name: plan.identity.get(name) for name in _IDENTITY},
    }


def head_to_json(head: LinearHead, sources: Mapping[str, Any]) -> bytes:
    """Serialise a head; equal heads of equal sources give equal bytes."""
    return to_sealed_json(
        {
            "format": _FORMAT,
            "sources": dict(sources),
            "facts": dict(head.facts),
            "shape": list(head.weights_LC.shape),
            "weights": _encode(head.weights_LC),
            "bias": _encode(head.bias_L),
        }
    )


def parse_head(data: bytes, sources: Mapping[str, Any]) -> LinearHead:
    """Parse what `head_to_json` wrote for the same sources. Raises ValueError, with the reason, for anything else."""
    values = read_sealed_json(data)
    try:
        if values["format"] != _FORMAT:
            raise ValueError(f"it has format {values['format']}, not {_FORMAT}")
        stored = values["sources"]
        changed = [name for name in sources if stored.get(name) != sources[name]]
        if changed:
            raise ValueError(f"it is the head of another job: {', '.join(changed)} differ")
        weights_LC = _decode(values["weights"]).reshape(values["shape"])
        return LinearHead(tuple(stored[_LABELS]), weights_LC, _decode(values["bias"]), values["facts"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it lacks {error}") from error


def read_head(output: OutputFiles, sources: Mapping[str, Any]) -> LinearHead | None:
    """Read the head of an output, or return None if there is none. Raises OutputError for one that cannot be used."""
    uri = output.own(HEAD)
    try:
        data = keep_trying(lambda: output.storage.read(uri))
    except InputError:
        return None
    try:
        return parse_head(data, sources)
    except ValueError as error:
        raise OutputError(
            f"{show_uri(uri)} cannot be used: {error}; remove it, and the next run fits the head again"
        ) from error


def head_facts(spec: JobSpec, plan: Plan, output: OutputFiles) -> dict[str, Any]:
    """The figures of the head of an output for its manifest; empty for a job without one."""
    if not isinstance(spec, ClassifySpec) or spec.head is None:
        return {}
    head = read_head(output, sources_of(spec, plan))
    return {} if head is None else {"head": {"pooling": HEAD_POOLING, **head.facts}}


def _encode(values: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f8").tobytes()).decode()


def _decode(text: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.frombuffer(base64.b64decode(text), "<f8").astype(np.float64)
