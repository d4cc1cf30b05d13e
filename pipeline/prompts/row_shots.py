"""Puts before the prompt of a row the examples that are nearest to its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from tirazh.pipeline.prompts.nearest_shots import NearestShots

if TYPE_CHECKING:
    from tirazh.pipeline.prompts.encode import PromptWriter


def with_shots(
    writer: PromptWriter, shots: NearestShots, chosen: Sequence[int], row: Mapping[str, Any], reserved_tokens: int
) -> tuple[PromptWriter, list[int], int]:
    """Return a writer whose prompts begin with the examples `chosen`, the tokens of the row's prompt, and the number
    of examples that were dropped.

    Examples that do not fit together with the row's whole text are dropped, the farthest, which are the first, first.
    Raises RowError.
    """
    most = writer.config.seq_length - reserved_tokens
    left = list(chosen)
    while True:
        own = writer.with_head(shots.head(left)).for_row(row)
        (ids,) = own.encode([own.render(row)])
        if len(ids) <= most or not left:
            return own, ids, len(chosen) - len(left)
        lengths = accumulate(map(len, writer.encode([shots.head([each]) for each in left])))
        # The first examples whose tokens are as many as those that are too many.
        too_many = len(ids) - most
        left = left[1 + sum(length < too_many for length in lengths) :]
