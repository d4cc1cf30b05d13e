"""The logits behind prompts that are cached as a whole: their completions' first tokens are sampled from them.

Legend: R rows of a step's logits, S sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tirazh.model.engine.scheduler import LogitsReader, StartedCompletion
from tirazh.model.engine.sequences import ActiveSequence
from tirazh.model.engine.sliced_logits import SlicedLogits


class KeptLogits:
    """A row of logits for each cached prefix that is a whole prompt."""

    def __init__(self) -> None:
        self._rows: dict[int, Tensor] = {}  # float32 [1, V], by the id of the prefix

    def keep(self, readers: Sequence[LogitsReader], logits_RV: Tensor | SlicedLogits) -> None:
        """Keep the rows of prefixes that a step has computed: copies, because the step's are overwritten."""
        for reader in readers:
            self._rows[reader.sequence.id] = logits_RV[reader.rows].clone()

    def of(self, started: Sequence[StartedCompletion]) -> Tensor:
        """Return the logits of the sequences' first tokens: float32 [S, V], for the caller alone."""
        return torch.cat([self._rows[each.prefix_id] for each in started])

    def drop_all_but(self, prefixes: Sequence[ActiveSequence]) -> None:
        """Drop the rows of all other prefixes."""
        if self._rows:
            held = {prefix.id for prefix in prefixes}
            self._rows = {id: row_1V for id, row_1V in self._rows.items() if id in held}
