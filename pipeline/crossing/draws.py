"""Draws a value for every row by weighted rendezvous hashing.

Row n gives every value v the key u(n, v), a hash that is uniform in (0, 1), and takes the value with the smallest
-log(u) / weight, which is exponentially distributed with the value's weight as rate: v is drawn with the probability
weight(v) / sum of weights (Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir"). The keys of
other values do not change when a value is added, so only the rows that draw the new value change; the order of
the values does not matter.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from tirazh.pipeline.crossing.value_list import ValueList

# A draw looks at every value. From longer lists rows are drawn by one hash and the sums of the weights, and
# most rows change when such a list grows.
MAX_STABLE_VALUES = 4_096
_CHUNK = 1 << 18  # keys at once, 2 MiB
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_UNIT = 2.0**-53


def draw(values: ValueList, *, seed: int, start: int, stop: int) -> NDArray[np.int64]:
    """The index of the value that each of the rows `start` to `stop` (exclusive) draws, shape [R].

    It depends on `seed`, the number of the row, and the name, the values and the weights of the list.
    """
    rows_R = _mix(np.arange(start, stop, dtype=np.uint64) * _GOLDEN)
    if len(values) > MAX_STABLE_VALUES:
        return _draw_by_sums(values, rows_R ^ _key(f"list {seed} {values.name}"))
    keys_V = np.array([_key(f"value {seed} {len(values.name)}:{values.name} {value}") for value in _texts(values)])
    chosen_R = np.empty(len(rows_R), np.int64)
    step = max(1, _CHUNK // len(values))
    for first in range(0, len(rows_R), step):
        chosen_R[first : first + step] = _choose(keys_V, rows_R[first : first + step], values.weights)
    return chosen_R


def _choose(
    keys_V: NDArray[np.uint64], rows_R: NDArray[np.uint64], weights_V: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    hashes_RV = _mix(rows_R[:, None] ^ keys_V[None, :]) >> np.uint64(11)
    chosen_R: NDArray[np.int64]
    if weights_V is None:
        chosen_R = np.argmax(hashes_RV, axis=1)
    else:
        with np.errstate(divide="ignore"):
            times_RV = -np.log(_uniform(hashes_RV)) / weights_V  # infinite for a weight of 0
        chosen_R = np.argmin(times_RV, axis=1)
    return chosen_R


def _draw_by_sums(values: ValueList, hashes_R: NDArray[np.uint64]) -> NDArray[np.int64]:
    places_R = _uniform(_mix(hashes_R) >> np.uint64(11))
    weights_V = np.ones(len(values)) if values.weights is None else values.weights
    sums_V = np.cumsum(weights_V)
    chosen_R: NDArray[np.int64] = np.searchsorted(sums_V, places_R * sums_V[-1], side="right")
    # The product may be rounded up to the last sum, behind which there is no value.
    last = np.flatnonzero(weights_V)[-1]
    chosen_R[chosen_R > last] = last
    return chosen_R


def _uniform(hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in (0, 1) of hashes of 53 bits."""
    return (hashes.astype(np.float64) + 0.5) * _UNIT


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64 bits in which every bit of the result depends on every bit of the number.

    It is the last step of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    """
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _FIRST
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _SECOND
    return numbers ^ (numbers >> np.uint64(31))


def _key(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big"))


def _texts(values: ValueList) -> list[str]:
    return [str(value) for value in values.values.to_pylist()]
