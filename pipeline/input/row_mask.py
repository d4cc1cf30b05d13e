"""A set of rows of a file or of a part, as one bit for each row."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RowMask:
    """Some of `rows` rows: `count` of them. `bits` has one bit for each row, the first row in the highest bit."""

    rows: int
    count: int
    bits: bytes

    @classmethod
    def of(cls, chosen_N: NDArray[np.bool_]) -> RowMask:
        """The mask of the rows where `chosen_N`, shape [rows], is True."""
        return cls(len(chosen_N), int(chosen_N.sum()), np.packbits(chosen_N).tobytes())

    def array(self) -> NDArray[np.bool_]:
        """Whether each row is in the mask, shape [rows]."""
        return np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.rows).astype(np.bool_)

    def slice(self, start: int, stop: int) -> RowMask | None:
        """The mask of the rows from `start` to `stop` (exclusive); None if none of them is in it."""
        chosen = self.array()[start:stop]
        return RowMask.of(chosen) if chosen.any() else None

    def others(self) -> NDArray[np.int64]:
        """The numbers of the rows that are not in the mask, in order."""
        return np.flatnonzero(~self.array())

    def to_json(self) -> list[Any]:
        """The mask as JSON values."""
        return [self.rows, base64.b64encode(zlib.compress(self.bits)).decode()]

    @classmethod
    def from_json(cls, values: Any) -> RowMask:
        """Parse what `to_json` returned. Raises ValueError or TypeError for anything else."""
        rows, text = values
        size = -(-int(rows) // 8)
        try:
            bits = zlib.decompressobj().decompress(base64.b64decode(text), size + 1)
        except zlib.error as error:
            raise ValueError(f"a set of rows is damaged ({error})") from error
        if len(bits) != size:
            raise ValueError("a set of rows has another length")
        return cls.of(cls(int(rows), 0, bits).array())
