"""The settings of a batch engine: slots, sequence length, vocabulary and the fixed shapes of its
steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """`num_slots` sequences run at once, each with at most `max_length` tokens (prompt and
    completion).

    A prefill step has `prefill_rows` rows, a decode step `decode_rows`. Both fix the shapes of
    matmuls and with them the rounding of results, so they do not depend on `num_slots`. Token ids
    from `num_tokens` on pad the vocabulary and are never produced. `end_token_ids` end a
    completion. `num_prefix_slots` more slots hold prefixes that waiting prompts share (0: no prompts
    share any but the job's). `control_names` are the names of control tokens by id: a stop string that is such a
    name ends a completion at the token, which has no text of its own.
    """

    num_slots: int
    max_length: int
    num_tokens: int
    end_token_ids: tuple[int, ...]
    prefill_rows: int
    decode_rows: int
    num_prefix_slots: int = 0
    control_names: Mapping[int, str] = field(default_factory=dict)
