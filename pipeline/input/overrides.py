"""Per-row sampling parameters: input columns named like a parameter override the job's value for their row."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pyarrow as pa

from tirazh.errors import RequestError, RowError
from tirazh.model.requests import SamplingParams
from tirazh.pipeline import schema

SEED = "seed"


def override_rows(table: pa.Table, names: Sequence[str]) -> list[dict[str, Any]]:
    """The values that each row sets, without nulls (and without NaN, which pandas writes for a null)."""
    if not names:
        return [{} for _ in range(table.num_rows)]
    rows = table.select(list(names)).to_pylist()
    return [{name: value for name, value in row.items() if not _is_missing(value)} for row in rows]


def check_override(values: Mapping[str, Any], sampling: SamplingParams, *, seq_length: int) -> None:
    """Raise RowError if a row's values are invalid."""
    if SEED in values:
        _convert(SEED, values[SEED])
    chosen = row_sampling(values, sampling)
    if chosen.max_new_tokens >= seq_length:
        raise RowError(f"max_new_tokens {chosen.max_new_tokens} leaves no space for a prompt in {seq_length} tokens")


def row_sampling(values: Mapping[str, Any], sampling: SamplingParams) -> SamplingParams:
    """Return the job's sampling parameters with the row's values. Raises RowError."""
    own = tuple(sorted((name, _convert(name, value)) for name, value in values.items() if name != SEED))
    return _with_values(sampling, own) if own else sampling


def row_seed(values: Mapping[str, Any], *, job_seed: int, content: str, repetition: int) -> int:
    """The 63-bit seed of a row: its own seed, or else from the job's seed, the row's content and its
    repetition (`repetitions.py`). Neither depends on the file that the row is in.
    """
    # A row's own seed does not depend on the job's seed or on its content, so the row can be reproduced alone.
    if SEED in values:
        own = int(_convert(SEED, values[SEED]))
        return own if 0 <= own < 1 << 63 else hash_63(f"row {own}")
    return hash_63(f"job {job_seed} {repetition} {content}")


def sample_seed(seed: int, sample: int) -> int:
    """The 63-bit seed of one sample of a row; that of sample 0 is the row's, so that a sample can be made alone."""
    return seed if sample == 0 else hash_63(f"sample {seed} {sample}")


def hash_63(text: str) -> int:
    """Hash a text to 63 bits, the same on every machine.

    The result fits in an int64 of Arrow and torch.
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


# Most jobs have few distinct combinations of values, and building SamplingParams checks them all.
@lru_cache(maxsize=1024)
def _with_values(sampling: SamplingParams, own: tuple[tuple[str, Any], ...]) -> SamplingParams:
    try:
        return replace(sampling, **dict(own))
    except RequestError as error:
        raise RowError(str(error)) from None


def _convert(name: str, value: Any) -> int | float:
    if schema.OVERRIDES[name] is float:
        return float(value)
    if not math.isfinite(value) or value != int(value):
        raise RowError(f"{name} must be an integer, not {value}")
    return int(value)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))
