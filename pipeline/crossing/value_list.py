"""The values of one name of `vary`, checked, as an Arrow array with weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tirazh.errors import RequestError
from tirazh.pipeline.crossing.declaration import Value

MAX_VALUES = 1_000_000
# The values of all names are stored in the plan and held by every worker. Longer lists belong in an input.
MAX_TEXT_BYTES = 64 << 20

# Says where a value was read, by its number from 0: "line 3", "value 3".
Place = Callable[[int], str]


@dataclass(frozen=True, eq=False)
class ValueList:
    """The values of one name: an array of type string, int64 or double without nulls and without equal values.

    `weights` are finite and not negative, and one of them is positive; None for equal ones.
    """

    name: str
    values: pa.Array[Any]
    weights: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_text(self) -> bool:
        """Whether the values are texts; otherwise they are numbers."""
        return bool(pa.types.is_string(self.values.type))

    @property
    def nbytes(self) -> int:
        """The size in memory, in bytes."""
        return int(self.values.nbytes)

    @cached_property
    def digest(self) -> str:
        """16 hex digits of a SHA-256 over name, type, values and weights, in their order."""
        content = json.dumps(self.to_json(), ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @cached_property
    def mean_bytes(self) -> float:
        """The mean bytes of a value as a text; weighted, if the values have weights."""
        texts: Any = self.values.cast(pa.string())
        sizes_V = pc.binary_length(texts).to_numpy(zero_copy_only=False).astype(np.float64)
        return float(np.average(sizes_V, weights=self.weights))

    def to_json(self) -> dict[str, Any]:
        """The list as JSON values, for the plan file."""
        weights = None if self.weights is None else self.weights.tolist()
        return {"name": self.name, "values": self.values.to_pylist(), "weights": weights}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> ValueList:
        """Read what `to_json` has returned. Raises RequestError, KeyError or TypeError for anything else."""
        return make_list(stored["name"], stored["values"], stored["weights"])


def make_list(
    name: str, values: Sequence[Any], weights: Sequence[Any] | None = None, *, at: Place | None = None
) -> ValueList:
    """Check the values of a name. All are texts or all are numbers; integers and fractions together become double.

    Raises RequestError for an empty list, a null or another type, equal values, and weights that are not allowed.
    """
    where = f"--vary, {name}"
    place = at or (lambda index: f"value {index + 1}")
    if not values:
        raise RequestError(f"{where}: the list is empty; give at least one value")
    if len(values) > MAX_VALUES:
        raise RequestError(f"{where}: there are more than {MAX_VALUES:,} values; put them into --input instead")
    for index, value in enumerate(values):
        problem = _problem(value)
        if problem:
            raise RequestError(f"{where}: {place(index)} {problem}")
    texts = [index for index, value in enumerate(values) if isinstance(value, str)]
    if texts and len(texts) < len(values):
        number = next(index for index, value in enumerate(values) if not isinstance(value, str))
        raise RequestError(
            f"{where}: {place(texts[0])} is a text and {place(number)} a number ({values[number]}); put all numbers in "
            "quotes to make them texts"
        )
    array = _to_array(values, is_text=bool(texts))
    plain: list[Any] = array.to_pylist()
    _refuse_equal(where, plain, place)
    return ValueList(name, array, None if weights is None else _check_weights(where, values, weights))


def _problem(value: Any) -> str:
    if value is None:
        return "is null; remove it or write a value"
    if isinstance(value, bool):
        return f"is {str(value).lower()}, not a text or a number; put it in quotes"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "contains bytes that are not UTF-8; remove them"
        return "contains a NUL; remove it" if "\0" in value else ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"is {value}, not a finite number"
    if isinstance(value, int):
        return "" if -(1 << 63) <= value < 1 << 63 else "does not fit in 64 bits; put it in quotes"
    return f"is {str(value)[:60]!r}, not a text or a number"


def _to_array(values: Sequence[Value], *, is_text: bool) -> pa.Array[Any]:
    if is_text:
        return pa.array(values, pa.string())
    if all(isinstance(value, int) for value in values):
        return pa.array(values, pa.int64())
    return pa.array([float(value) for value in values], pa.float64())


def _refuse_equal(where: str, values: Sequence[Value], place: Place) -> None:
    first: dict[Value, int] = {}
    for index, value in enumerate(values):
        other = first.setdefault(value, index)
        if other != index:
            shown = repr(value) if len(str(value)) < 60 else f"{str(value)[:60]!r}…"
            raise RequestError(f"{where}: {shown} occurs twice ({place(other)} and {place(index)}); remove one of them")


def _check_weights(where: str, values: Sequence[Value], weights: Sequence[Any]) -> NDArray[np.float64]:
    if len(weights) != len(values):
        raise RequestError(f"{where}: there are {len(values):,} values and {len(weights):,} weights")
    for value, weight in zip(values, weights, strict=True):
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not math.isfinite(weight) or weight < 0:
            raise RequestError(f"{where}: the weight of {value!r} must be a number of at least 0, not {weight!r}")
    numbers_V = np.array([float(weight) for weight in weights])
    if not numbers_V.any():
        raise RequestError(f"{where}: all weights are 0, so no value would be drawn")
    return numbers_V
