"""A stored output embedding (lm_head) beside a config.json that says it is tied to the input embedding.

transformers 5 uses a stored `lm_head` that differs from the embedding, whatever `tie_word_embeddings` says,
and so do we: a fine-tune that trained its head is such a directory. A copy of the embedding is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tirazh.model.checkpoints.tensors import LazyTensor, StoredTensor, same_values, whole
from tirazh.model.config import ModelConfig

HEAD = "lm_head.weight"


def with_stored_head(
    config: ModelConfig, stored: Mapping[str, StoredTensor], embedding: str, place: str
) -> tuple[ModelConfig, tuple[str, ...]]:
    """Return the config with the truth about its head, and a notice when that is not what it said.

    `embedding` is the stored name of the token embedding. Both tensors are read, some MiB at a time, when
    both are stored although the config ties them.
    """
    if not config.tie_word_embeddings or HEAD not in stored or embedding not in stored:
        return config, ()
    if not differs(whole([stored[embedding]]), whole([stored[HEAD]])):
        return config, ()
    line = f"{place} holds an {HEAD} of its own, which is used, although its config.json ties it to the embedding"
    return replace(config, tie_word_embeddings=False), (line,)


def differs(embedding: LazyTensor, head: LazyTensor) -> bool:
    """Return whether a stored head is not a copy of the embedding."""
    return not same_values(embedding, head)
