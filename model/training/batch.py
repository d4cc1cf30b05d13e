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

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from tirazh.model.training.sequence_store import Roles, Tokens


@dataclass(frozen=True, slots=True)
class Microbatch:
    """A batch of one forward and backward pass.

    `input_ids`, int64 [B, T], are padded on the right with token 0, which causal attention hides
    from every token before it. `targets`, int64 [B, T], are the next tokens. `weights`, float32 [B,
    T], are the loss weights of the targets, 0 in the padding.
    """

    input_ids: Tensor
    targets: Tensor
    weights: Tensor

    def to(self, device: str) -> Microbatch:
        return Microbatch(self.input_ids.to(device), self.targets.to(device), self.weights.to(device))


def build_microbatch(sequences: Sequence[tuple[Tokens, Roles]], role_weights: Sequence[float]) -> Microbatch:
    """Build the tensors of some sequences; without sequences, one token of weight 0."""
    length = max((len(tokens) - 1 for tokens, _ in sequences), default=1)
    shape = (max(1, len(sequences)), max(1, length))
    input_ids, targets = (torch.zeros(shape, dtype=torch.int64) for _ in range(2))
    weights = torch.zeros(shape)
    by_role = torch.tensor(role_weights, dtype=torch.float32)
    for row, (tokens, roles) in enumerate(sequences):
        ids = torch.from_numpy(tokens.astype("int64"))
        end = len(ids) - 1
        input_ids[row, :end], targets[row, :end] = ids[:-1], ids[1:]
        weights[row, :end] = by_role[torch.from_numpy(roles[1:].astype("int64"))]
    return Microbatch(input_ids, targets, weights)


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
        self, input_ids: Tensor, targets: Tensor | None = None, weights: Tensor | None = None, at: Tensor | None = None
    ) -> Tensor:
        """Return the sum of the weighted losses, a float32 scalar.

        With `at`, int64 [2, N] (rows and columns of N tokens), return the next-token logits there
        instead, float32 [N, V]. Logits are computed only where they are needed: those of long
        prompts would take most of the memory.
        """
        hidden = self.base.model(input_ids).last_hidden_state
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
        losses = cross_entropy(self.base.lm_head(hidden[is_trained]).float(), targets[is_trained], reduction="none")
        return (losses * weights[is_trained]).sum()
