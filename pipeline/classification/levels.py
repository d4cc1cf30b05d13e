"""The levels above the labels of a hierarchy: `sport` of `sport/football` and `sport/hockey`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tirazh.pipeline.label_levels import levels_above


@dataclass(frozen=True, slots=True)
class Levels:
    """The levels above L labels, as `names`.

    `above` has for each depth, from the top, the index in `names` of the level that a label belongs to, -1 for a label
    that is not below a level of this depth: int64 [L] each.
    """

    names: tuple[str, ...]
    above: tuple[NDArray[np.int64], ...]

    @classmethod
    def of(cls, labels: Sequence[str]) -> Levels | None:
        """The levels above labels, by their names; None if no label has one."""
        index: dict[str, int] = {}
        known = levels_above(labels)
        paths = [known[label] for label in labels]
        depth = max(map(len, paths), default=0)
        above = np.full((depth, len(labels)), -1, np.int64)
        for label, path in enumerate(paths):
            for place, name in enumerate(path):
                above[place, label] = index.setdefault(name, len(index))
        return cls(tuple(index), tuple(above)) if index else None

    @property
    def nearest_first(self) -> Iterator[NDArray[np.int64]]:
        """`above`, from the bottom."""
        return reversed(self.above)
