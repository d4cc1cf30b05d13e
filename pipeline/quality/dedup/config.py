"""What `dedup:` asks for: the columns that are compared, and how similar two texts are that count as duplicates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tirazh.errors import RequestError, did_you_mean
from tirazh.pipeline import schema

if TYPE_CHECKING:
    import pyarrow as pa

# The version of the normalisation, the hash functions and the side files. Signatures of different versions are
# never compared; `minhash.py` says what is frozen.
FORMAT_VERSION = 1
DEFAULT_NEAR = 0.8
# 75 % of the pairs with a similarity of 0.7 share a band, 98 % of those with 0.8 (`minhash.py`).
LEAST_NEAR = 0.7
_KEYS = ("exact", "near", "columns")


@dataclass(frozen=True, kw_only=True, slots=True)
class DedupConfig:
    """What is compared.

    `columns` are output columns. Rows are compared by the texts of all of them together. `near` is the Jaccard
    similarity of the sets of character 12-grams from which two rows are near-duplicates; None compares for
    equality only. `version` is that of the signatures.
    """

    columns: tuple[str, ...]
    near: float | None
    version: int = FORMAT_VERSION


class HasDedup(Protocol):
    """The settings of a spec that `dedup_config` reads."""

    @property
    def dedup(self) -> Any:
        """The value of `dedup:`; None without deduplication."""

    @property
    def prefix(self) -> str:
        """The prefix of the columns that the job adds."""


def check_dedup(value: Any) -> None:
    """Raise RequestError unless `value` is a value of `dedup:` or None. Knows no columns."""
    if value is not None:
        _parse(value)


def dedup_config(spec: HasDedup, columns: pa.Schema) -> DedupConfig | None:
    """The deduplication that a spec asks for; None without one.

    `columns` is the schema of the output. Raises RequestError for a value of `dedup:` that has another form, and
    for a column that the output does not have or that holds no text.
    """
    if spec.dedup is None:
        return None
    near, names = _parse(spec.dedup)
    chosen = names or (spec.prefix + schema.COMPLETION,)
    for name in chosen:
        _check_column(name, columns)
    return DedupConfig(columns=chosen, near=near)


def _parse(value: Any) -> tuple[float | None, tuple[str, ...]]:
    """The similarity (None: exact) and the columns (empty: the default) of a value of `dedup:`."""
    if isinstance(value, str):
        value = {value: True} if value in ("exact", "near") else value
    if not isinstance(value, Mapping):
        close = did_you_mean(value, ("exact", "near")) if isinstance(value, str) else ""
        raise RequestError(f"--dedup must be exact, near, or a mapping such as {{near: 0.8}}, not {value!r}{close}")
    for key in value:
        if key not in _KEYS:
            raise RequestError(
                f"--dedup has no key {key!r}; its keys are {', '.join(_KEYS)}{did_you_mean(str(key), _KEYS)}"
            )
    exact, near = value.get("exact", False), value.get("near", False)
    if not isinstance(exact, bool):
        raise RequestError(f"--dedup: exact must be true or false, not {exact!r}")
    similarity = _similarity(near)
    if exact == (similarity is not None):
        both = "both exact and near" if exact else "neither exact nor near"
        raise RequestError(f"--dedup asks for {both}; give one of them (near also drops exact duplicates)")
    return similarity, _names(value.get("columns"))


def _similarity(near: Any) -> float | None:
    if near is False:
        return None
    if near is True:
        return DEFAULT_NEAR
    if isinstance(near, int | float) and LEAST_NEAR <= near <= 1:
        return float(near)
    raise RequestError(f"--dedup: near must be a similarity from {LEAST_NEAR} to 1, or true, not {near!r}")


def _names(columns: Any) -> tuple[str, ...]:
    if columns is None:
        return ()
    names = [columns] if isinstance(columns, str) else columns
    if not isinstance(names, list | tuple) or not names or not all(name and isinstance(name, str) for name in names):
        raise RequestError(f"--dedup: columns must be names of output columns, not {columns!r}")
    if len(set(names)) < len(names):
        raise RequestError(f"--dedup: columns names a column twice: {', '.join(names)}")
    return tuple(names)


def _check_column(name: str, columns: pa.Schema) -> None:
    """Raise RequestError unless the output has one column of that name and it holds texts, integers or booleans."""
    import pyarrow.types as types

    if name not in columns.names:
        if name.removesuffix(schema.COMPLETION) + schema.COMPLETIONS in columns.names:
            raise RequestError("--dedup compares rows, not lists; use --samples-as rows instead of lists")
        raise RequestError(f"--dedup: the output has no column {name!r}{did_you_mean(name, columns.names)}")
    kind = columns.field(name).type
    plain = kind.value_type if types.is_dictionary(kind) else kind
    readable = (types.is_string, types.is_large_string, types.is_string_view, types.is_integer, types.is_boolean)
    if not any(is_kind(plain) for is_kind in readable):
        raise RequestError(f"--dedup: column {name!r} holds {kind}; only texts, integers and booleans are compared")
