"""Tree attention: which keys the tokens of a label trie see.

A label trie is appended to a prompt as one segment of a prefill step. Each of its tokens sees the
prompt and its own ancestors in the trie, so that all labels are scored in the same forward pass.
Its keys are not kept in the cache.
Legend: H heads, T tokens of the tree, S keys in the cache before the tree.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from tirazh.model.attention.kv_cache import LayerCache
from tirazh.model.attention.layer_shape import LayerKind
from tirazh.model.attention.reference import visible_keys
from tirazh.model.attention.segment_context import SegmentContext

_MAX_KEPT = 64  # trees whose masks are kept: the pieces of a job's labels, of at most 256 KiB each

Parents = tuple[int, ...]  # of every token its parent in the tree, -1 for the end of the prompt


@functools.lru_cache(maxsize=_MAX_KEPT)
def ancestor_mask(parents: Parents) -> Tensor:
    """Bool [1, T, T]: token i sees token j if j is i or one of its ancestors."""
    mask = torch.eye(len(parents), dtype=torch.bool)
    for token, parent in enumerate(parents):
        if parent >= 0:
            mask[token] |= mask[parent]
    return mask[None]


def tree_mask(context: SegmentContext, parents: Parents, cache: LayerCache) -> Tensor:
    """Bool [1 or H, T, S + T]: what each token of the tree sees in one layer.

    All tokens see all keys in the cache, except in a sparse layer if the tree reaches into the
    window after the prompt's last one: there a token sees, per head, only the global tokens of that
    last window.
    """
    shape = cache.shape
    num_cached = context.num_cached(shape.kind)
    before = torch.ones(1, len(parents), num_cached, dtype=torch.bool)
    if shape.kind is LayerKind.DENSE:
        return torch.cat([before, ancestor_mask(parents)], dim=2)
    start = context.segment.start
    tree_positions = start + depths(parents)
    open_positions = torch.arange(start - context.num_open, start)
    starts_H = cache.global_starts_H.cpu()
    keys = torch.cat([open_positions, tree_positions])
    visible = visible_keys(shape.sparse_pattern, starts_H, tree_positions[None], keys[None])[0]
    retained = before[..., : context.num_retained].expand(len(starts_H), -1, -1)
    own = ancestor_mask(parents) & visible[..., context.num_open :]
    return torch.cat([retained, visible[..., : context.num_open], own], dim=2)


def leaves_window(context: SegmentContext, parents: Parents, cache: LayerCache) -> bool:
    """Whether a tree in this layer reaches into the window after the one that the prompt ends in.

    If it does not, its tokens see all keys in the cache and `ancestor_mask` is all that is needed.
    """
    if cache.shape.kind is LayerKind.DENSE:
        return False
    window = cache.shape.sparse_pattern.window_size
    last = context.segment.start - 1
    deepest = last + 1 + int(depths(parents).max())
    return last // window != deepest // window


@functools.lru_cache(maxsize=_MAX_KEPT)
def depths(parents: Parents) -> Tensor:
    """How many tokens of the tree are between each of its tokens and the prompt, int64 [T]."""
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return torch.tensor(depths)
