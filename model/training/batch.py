"""Microbatches as tensors, and the loss of a model on them.

One module's forward does everything that training needs of a model, so that DeepSpeed's hooks,
which gather sharded weights, see every layer that is used.

Legend: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tirazh.model.attention.token_layouts import PackedDocuments, TokenLayout
from tirazh.model.training.batch_order import Indices
from tirazh.model.training.cross_entropy import summed_cross_entropy
from tirazh.model.training.sequence_store import Roles, SequenceStore, Tokens


@dataclass(frozen=True, slots=True)
class Microbatch:
    """A batch of one forward and backward pass.

    Without a `layout`, each row is a text: `input_ids`, int64 [B, T], are padded on the right with
    token 0, which causal attention hides from every token before it. With one there is a single row,
    the texts one behind another, and the layout keeps their attention apart. `targets`, int64 [B, T],
    are the next tokens. `weights`, float32 [B, T], are the loss weights of the targets, 0 in the padding.
    """

    input_ids: Tensor
    targets: Tensor
    weights: Tensor
    layout: PackedDocuments | None = None

    def to(self, device: str) -> Microbatch:
        layout = None if self.layout is None else self.layout.to(device)
        return Microbatch(self.input_ids.to(device), self.targets.to(device), self.weights.to(device), layout)


def read_microbatch(store: SequenceStore, indices: Sequence[int], role_weights: Sequence[float]) -> Microbatch:
    """Build the tensors of some of the store's sequences."""
    texts = [text for index in indices for text in store.texts(index)]
    return build_microbatch(texts, role_weights, packed=store.is_packed)


def total_weight(store: SequenceStore, indices: Sequence[int] | Indices, role_weights: Sequence[float]) -> float:
    """Return the loss weight of all targets of some sequences, which every worker computes from the data alone."""
    roles = [roles[1:] for index in indices for _, roles in store.texts(int(index))]
    counts = np.bincount(np.concatenate(roles), minlength=len(role_weights))
    return float(sum(weight * int(count) for weight, count in zip(role_weights, counts, strict=True)))


def build_microbatch(
    texts: Sequence[tuple[Tokens, Roles]], role_weights: Sequence[float], *, packed: bool = False
) -> Microbatch:
    """Build the tensors of some texts, `packed` into a single row or a row each.

    Without a text of at least two tokens, which has a token to predict, it is one token of weight 0.
    """
    if packed:
        texts = [text for text in texts if len(text[0]) > 1]
    lengths = [len(tokens) - 1 for tokens, _ in texts]
    is_packed = packed and bool(lengths)
    shape = (1, sum(lengths)) if is_packed else (max(1, len(texts)), max([1, *lengths]))
    input_ids, targets = (torch.zeros(shape, dtype=torch.int64) for _ in range(2))
    weights = torch.zeros(shape)
    by_role = torch.tensor(role_weights, dtype=torch.float32)
    row = first = 0
    for tokens, roles in texts:
        ids = torch.from_numpy(tokens.astype("int64"))
        end = first + len(ids) - 1
        input_ids[row, first:end], targets[row, first:end] = ids[:-1], ids[1:]
        weights[row, first:end] = by_role[torch.from_numpy(roles[1:].astype("int64"))]
        row, first = (0, end) if is_packed else (row + 1, 0)
    return Microbatch(input_ids, targets, weights, PackedDocuments(lengths) if is_packed else None)


class TrainedModel(nn.Module):
    """A causal language model for training: takes a microbatch, returns the weighted sum of its losses."""

    def __init__(self, language_model: Any, *, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.language_model = language_model
        if activation_checkpointing:
            for layer in self.base.model.layers:
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)

    @property
    def base(self) -> Any:
        """The model without peft's wrapper."""
        get_base = getattr(self.language_model, "get_base_model", None)
        return self.language_model if get_base is None else get_base()

    def forward(
        self,
        input_ids: Tensor,
        targets: Tensor | None = None,
        weights: Tensor | None = None,
        *,
        layout: TokenLayout | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Return the sum of the weighted losses, a float32 scalar.

        `layout`: what the rows hold where they are not whole texts. With `at`, int64 [2, N] (rows and
        columns of N tokens), return the next-token logits there instead, float32 [N, V]. Logits are
        computed only where they are needed: those of long prompts would take most of the memory.
        """
        apart = {} if layout is None else {"layout": layout, "position_ids": layout.positions}
        hidden = self.base.model(input_ids, **apart).last_hidden_state
        if at is not None:
            logits: Tensor = self.base.lm_head(hidden[at[0], at[1]]).float()
            return logits
        assert targets is not None
        assert weights is not None
        # Only the rows with a weight go through the lm_head, whose logits take most of the memory.
        is_trained = weights > 0
        if not bool(is_trained.any()):  # an empty microbatch: every parameter still needs a gradient
            is_trained = is_trained.clone()
            is_trained[:, 0] = True
        logits = self.base.lm_head(hidden[is_trained])
        return summed_cross_entropy(logits, targets[is_trained], weights[is_trained])
