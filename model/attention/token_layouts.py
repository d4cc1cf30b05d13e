"""Forward passes whose tokens are not simply whole sequences: packed documents, and prompts with a label trie.

A layout tells a model's layers the position of every token and computes their attention. A dense layer is
causal; in a sparse one the pattern starts at each document's first token.
Legend: B rows, T tokens of a row, H heads, D head dim, N tokens of all documents, P tokens with padding,
C elements of all heads, M nodes of a trie, S keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tirazh.model.attention.full_sequence import window_attention
from tirazh.model.attention.reference import visible_keys
from tirazh.model.attention.tree_masks import Parents, ancestor_mask, depths
from tirazh.model.config import SparsePattern

_SHORT = 32  # documents of at most so many tokens are padded to one length
_LEAST_FULL = 0.75  # of the longest document of a group, in tokens, that the others have at least


class LayerPattern(NamedTuple):
    """What a layer's heads see: all earlier tokens without a pattern, else the pattern's.

    `global_starts`: token offset within a window at which each head's global tokens begin.
    """

    pattern: SparsePattern | None
    global_starts: Sequence[int]

    def attend(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, scale: float) -> Tensor:
        """Attend within rows that all begin at column 0. Returns [B, H, T, D]; differentiable."""
        if self.pattern is None:
            return scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True, scale=scale)
        return window_attention(q_BHTD, k_BHTD, v_BHTD, self.pattern, self.global_starts, scale)


class TokenLayout(Protocol):
    """The positions of a forward pass's tokens, int64 [B, T], and their attention."""

    @property
    def positions(self) -> Tensor: ...

    def attend(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, layer: LayerPattern, scale: float) -> Tensor:
        """Return the attention of one layer, [B, H, T, D]."""
        ...


class PackedDocuments:
    """Documents one behind another in a single row, without padding: a token sees those of its own document.

    Attention is computed for groups of documents of similar length, each document a row of its own that is
    padded to the longest of its group. All other layers compute no padding.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        """`lengths`: tokens of each document, at least 1, in the order in which they stand in the row."""
        starts = [0, *accumulate(lengths)]
        order = sorted(range(len(lengths)), key=lambda document: -lengths[document])
        groups: list[list[int]] = []
        for document in order:
            longest = lengths[groups[-1][0]] if groups else 0
            if not groups or (lengths[document] < _LEAST_FULL * longest and longest > _SHORT):
                groups.append([])
            groups[-1].append(document)
        self.positions = torch.cat([torch.arange(length) for length in lengths])[None]
        # Of each group, the number of its documents and of the tokens of the longest.
        self._shapes = [(len(group), lengths[group[0]]) for group in groups]
        self._token_of_padded = torch.zeros(sum(rows * width for rows, width in self._shapes), dtype=torch.int64)
        self._padded_of_token = torch.zeros(starts[-1], dtype=torch.int64)
        first = 0
        for group, (_, width) in zip(groups, self._shapes, strict=True):
            for document in group:
                own = torch.arange(starts[document], starts[document + 1])
                self._token_of_padded[first : first + len(own)] = own
                self._padded_of_token[own] = torch.arange(first, first + len(own))
                first += width

    def to(self, device: str) -> Self:
        """Move the layout's tensors to a device. Returns the layout."""
        self.positions = self.positions.to(device)
        self._token_of_padded, self._padded_of_token = (
            index.to(device) for index in (self._token_of_padded, self._padded_of_token)
        )
        return self

    def attend(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, layer: LayerPattern, scale: float) -> Tensor:
        """As `TokenLayout.attend`; B is 1, and T is N."""
        heads = q_BHTD.shape[1]
        padded = [self._padded_groups(x) for x in (q_BHTD, k_BHTD, v_BHTD)]
        outs = [layer.attend(q, k, v, scale).transpose(1, 2).flatten(0, 1) for q, k, v in zip(*padded, strict=True)]
        out_PC = (outs[0] if len(outs) == 1 else torch.cat(outs)).flatten(1)
        out_NC: Tensor = _Unpad.apply(  # type: ignore[no-untyped-call]
            out_PC, self._token_of_padded, self._padded_of_token
        )
        out_BHTD: Tensor = out_NC.unflatten(1, (heads, -1)).transpose(0, 1)[None]
        return out_BHTD

    def _padded_groups(self, x_BHTD: Tensor) -> list[Tensor]:
        """Return the rows of each group, [documents, H, longest, D]."""
        x_NC = x_BHTD[0].transpose(0, 1).flatten(1)
        x_PC: Tensor = _Pad.apply(  # type: ignore[no-untyped-call]
            x_NC, self._token_of_padded, self._padded_of_token
        )
        parts = x_PC.unflatten(1, (x_BHTD.shape[1], -1)).split([rows * width for rows, width in self._shapes])
        return [part.unflatten(0, shape).transpose(1, 2) for part, shape in zip(parts, self._shapes, strict=True)]


class _Pad(torch.autograd.Function):
    """Rows of documents as rows with padding, [N, C] to [P, C]; padding repeats the first token's row.

    No token sees the padding, so the gradient of the padding is 0, and that of each token is a single row:
    torch's own gradient of `index_select` would add all rows one by one.
    """

    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, token_of_padded: Tensor, padded_of_token: Tensor) -> Tensor:
        ctx.save_for_backward(padded_of_token)
        return torch.index_select(x_NC, 0, token_of_padded)

    @staticmethod
    def backward(ctx: Any, grad_PC: Tensor) -> tuple[Tensor, None, None]:
        return grad_PC.index_select(0, *ctx.saved_tensors), None, None


class _Unpad(torch.autograd.Function):
    """The inverse of `_Pad`, [P, C] to [N, C]; the gradient of the padding is 0."""

    @staticmethod
    def forward(ctx: Any, x_PC: Tensor, token_of_padded: Tensor, padded_of_token: Tensor) -> Tensor:
        ctx.save_for_backward(padded_of_token)
        ctx.num_padded = len(token_of_padded)
        return x_PC.index_select(0, padded_of_token)

    @staticmethod
    def backward(ctx: Any, grad_NC: Tensor) -> tuple[Tensor, None, None]:
        (padded_of_token,) = ctx.saved_tensors
        grad_PC = grad_NC.new_zeros(ctx.num_padded, grad_NC.shape[1])
        return grad_PC.index_copy_(0, padded_of_token, grad_NC), None, None


class PromptsWithTrie:
    """A prompt in each row, padded on the right, and behind that the nodes of the same label trie.

    A node's position follows its parent's; it sees the prompt and its ancestors, in a sparse layer those of
    them that the pattern shows. So a prompt is computed once for all labels. For inference.
    """

    def __init__(self, lengths: Sequence[int], parents: Parents, device: str = "cpu") -> None:
        """`lengths`: tokens of each prompt, at least 1; `parents`: of each node, -1 for the prompt."""
        self._width = max(lengths)
        lengths_B1 = torch.tensor(lengths)[:, None]
        columns_BP = torch.arange(self._width).expand(len(lengths), -1)
        positions = torch.cat([columns_BP, lengths_B1 + depths(parents)], dim=1) if parents else columns_BP
        own = ancestor_mask(parents)[None].expand(len(lengths), 1, -1, -1) if parents else torch.empty(0)
        is_prompt = (columns_BP < lengths_B1)[:, None, None].expand(-1, -1, len(parents), -1)
        self.positions = positions.to(device)
        self._visible_BHMS = torch.cat([is_prompt, own], dim=3).to(device) if parents else None
        self._sparse_mask: Tensor | None = None

    def attend(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, layer: LayerPattern, scale: float) -> Tensor:
        """As `TokenLayout.attend`; columns behind a prompt's end hold arbitrary values."""
        q, k, v = (x[:, :, : self._width] for x in (q_BHTD, k_BHTD, v_BHTD))
        out = layer.attend(q, k, v, scale)
        if self._visible_BHMS is None:
            return out
        mask = self._mask(layer)
        nodes = scaled_dot_product_attention(q_BHTD[:, :, self._width :], k_BHTD, v_BHTD, mask, scale=scale)
        return torch.cat([out, nodes], dim=2)

    def _mask(self, layer: LayerPattern) -> Tensor:
        """Return what the nodes see, bool [B, H or 1, M, S]; made once for all layers of a kind."""
        assert self._visible_BHMS is not None
        if layer.pattern is None:
            return self._visible_BHMS
        if self._sparse_mask is None:
            starts_H = torch.tensor(layer.global_starts, device=self.positions.device)
            nodes = self.positions[:, self._width :]
            shown = visible_keys(layer.pattern, starts_H, nodes, self.positions)
            self._sparse_mask = shown & self._visible_BHMS
        return self._sparse_mask
