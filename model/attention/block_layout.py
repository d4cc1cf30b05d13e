"""The fixed sparse pattern in blocks: pure functions from a pattern to what each head may see.

No torch.

Legend: H heads of the whole model, M blocks of the longest sequence, W tokens of a window, G global
tokens of a window.
Source of the pattern: Child et al. 2019 (arXiv 1904.10509), as implemented by DeepSpeed's
FixedSparsityConfig.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tirazh.model.config import ModelConfig, SparsePattern


def head_pattern(head: int, num_heads: int, layout_groups: int, pattern: SparsePattern) -> int:
    """Index of the layout that head `head` (from 0, of `num_heads`) uses, among the pattern's
    different layouts.

    The index restarts in every layout group, because in training each model-parallel rank built a
    layout of its own.
    """
    if not pattern.different_layout_per_head:
        return 0
    return head % (num_heads // layout_groups) % pattern.num_different_global_patterns


def first_global_block(head_pattern: int, pattern: SparsePattern) -> int:
    """Block within a window at which the global blocks of a head begin."""
    return pattern.num_local_blocks - (1 + head_pattern) * pattern.num_global_blocks


def global_starts(config: ModelConfig) -> list[int]:
    """For each head of the whole model, the token offset within a window at which its global tokens
    begin."""
    return [
        config.sparse_pattern.block_size
        * first_global_block(
            head_pattern(head, config.num_attention_heads, config.layout_groups, config.sparse_pattern),
            config.sparse_pattern,
        )
        for head in range(config.num_attention_heads)
    ]


def build_layout(config: ModelConfig, num_tokens: int) -> NDArray[np.bool_]:
    """The layout of every head, cut to the blocks that `num_tokens` tokens need.

    Returns bool [H, M, M]: whether a row's block sees a column's block; causality inside the
    diagonal block is left to the token mask. Like the original, it builds the layout of the longest
    sequence and then cuts it.
    A specification for tests, benchmarks and figures; no product code calls it.
    """
    pattern = config.sparse_pattern
    longest = -(-config.max_position_embeddings // pattern.block_size)
    layout_HMM = np.zeros((config.num_attention_heads, longest, longest), dtype=bool)
    for head in range(config.num_attention_heads):
        index = head_pattern(head, config.num_attention_heads, config.layout_groups, pattern)
        _mark_local(layout_HMM[head], pattern)
        _mark_global(layout_HMM[head], pattern, first_global_block(index, pattern))
    needed = -(-num_tokens // pattern.block_size)
    return layout_HMM[:, :needed, :needed]


def _mark_local(layout_MM: NDArray[np.bool_], pattern: SparsePattern) -> None:
    num_blocks = len(layout_MM)
    for row in range(num_blocks):
        layout_MM[row, row - row % pattern.num_local_blocks : row + 1] = True


def _mark_global(layout_MM: NDArray[np.bool_], pattern: SparsePattern, first: int) -> None:
    num_blocks, size = len(layout_MM), pattern.num_global_blocks
    for window in range(0, num_blocks, pattern.num_local_blocks):
        is_whole = window + pattern.num_local_blocks <= num_blocks
        # In a short last window the global blocks are moved inside, as DeepSpeed does.
        block = window + first if is_whole else min(window + first, num_blocks - size)
        for column in range(block, block + size):
            layout_MM[column:, column] = True
