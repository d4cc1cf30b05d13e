"""The fixed pattern as pictures: a row is a query block, a column a key block; # is visible, spaces part windows."""

from __future__ import annotations

from textwrap import dedent

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.tiny import sparse_configs, tiny_config
from tirazh.errors import CheckpointError
from tirazh.model.attention.block_layout import build_layout, first_global_block, global_starts, head_pattern
from tirazh.model.config import ModelConfig, SparsePattern

FOUR_BLOCKS = SparsePattern(block_size=2, num_local_blocks=4, num_different_global_patterns=4)


def config(pattern: SparsePattern, *, heads: int, blocks: int, groups: int = 1) -> ModelConfig:
    return tiny_config(
        sparse_pattern=pattern,
        num_attention_heads=heads,
        hidden_size=4 * heads,
        layout_groups=groups,
        max_position_embeddings=blocks * pattern.block_size,
    )


def draw(layout_MM: np.ndarray, window: int) -> str:
    lines = ("".join("#" if seen else "." for seen in row) for row in layout_MM)
    return "\n".join(" ".join(line[i : i + window] for i in range(0, len(line), window)) for line in lines)


def assert_picture(layout_MM: np.ndarray, window: int, picture: str) -> None:
    assert draw(layout_MM, window) == dedent(picture).strip()


LAST_BLOCK = """
    #... .... ....
    ##.. .... ....
    ###. .... ....
    #### .... ....
    ...# #... ....
    ...# ##.. ....
    ...# ###. ....
    ...# #### ....
    ...# ...# #...
    ...# ...# ##..
    ...# ...# ###.
    ...# ...# ####
"""
LAST_BUT_ONE = """
    #... .... ....
    ##.. .... ....
    ###. .... ....
    #### .... ....
    ..#. #... ....
    ..#. ##.. ....
    ..#. ###. ....
    ..#. #### ....
    ..#. ..#. #...
    ..#. ..#. ##..
    ..#. ..#. ###.
    ..#. ..#. ####
"""
SECOND_BLOCK = """
    #... .... ....
    ##.. .... ....
    ###. .... ....
    #### .... ....
    .#.. #... ....
    .#.. ##.. ....
    .#.. ###. ....
    .#.. #### ....
    .#.. .#.. #...
    .#.. .#.. ##..
    .#.. .#.. ###.
    .#.. .#.. ####
"""
FIRST_BLOCK = """
    #... .... ....
    ##.. .... ....
    ###. .... ....
    #### .... ....
    #... #... ....
    #... ##.. ....
    #... ###. ....
    #... #### ....
    #... #... #...
    #... #... ##..
    #... #... ###.
    #... #... ####
"""


@pytest.mark.parametrize(
    ("head", "picture"),
    [(0, LAST_BLOCK), (1, LAST_BUT_ONE), (2, SECOND_BLOCK), (3, FIRST_BLOCK), (4, LAST_BLOCK), (7, FIRST_BLOCK)],
    ids=lambda value: f"head {value}" if isinstance(value, int) else "",
)
def test_each_head_keeps_a_block_of_its_own_of_every_earlier_window(head: int, picture: str) -> None:
    layout = build_layout(config(FOUR_BLOCKS, heads=8, blocks=12), 24)
    assert_picture(layout[head], 4, picture)


@pytest.mark.parametrize(
    ("head", "picture"),
    [(0, LAST_BLOCK), (1, LAST_BUT_ONE), (2, SECOND_BLOCK), (3, LAST_BLOCK), (4, LAST_BUT_ONE), (5, SECOND_BLOCK)],
    ids=lambda value: f"head {value}" if isinstance(value, int) else "",
)
def test_the_pattern_begins_again_in_every_layout_group(head: int, picture: str) -> None:
    """Six heads trained on two ranks: each rank counted its three heads from 0."""
    layout = build_layout(config(FOUR_BLOCKS, heads=6, blocks=12, groups=2), 24)
    assert_picture(layout[head], 4, picture)


def test_all_heads_are_alike_when_the_layout_is_not_per_head() -> None:
    pattern = SparsePattern(
        block_size=2, num_local_blocks=4, num_different_global_patterns=1, different_layout_per_head=False
    )
    for layout_MM in build_layout(config(pattern, heads=3, blocks=12), 24):
        assert_picture(layout_MM, 4, LAST_BLOCK)


@pytest.mark.parametrize(
    ("head", "picture"),
    [
        (
            0,
            """
            #... .... ....
            ##.. .... ....
            ###. .... ....
            #### .... ....
            ..## #... ....
            ..## ##.. ....
            ..## ###. ....
            ..## #### ....
            ..## ..## #...
            ..## ..## ##..
            ..## ..## ###.
            ..## ..## ####
            """,
        ),
        (
            1,
            """
            #... .... ....
            ##.. .... ....
            ###. .... ....
            #### .... ....
            ##.. #... ....
            ##.. ##.. ....
            ##.. ###. ....
            ##.. #### ....
            ##.. ##.. #...
            ##.. ##.. ##..
            ##.. ##.. ###.
            ##.. ##.. ####
            """,
        ),
    ],
    ids=["head 0", "head 1"],
)
def test_two_global_blocks_lie_side_by_side(head: int, picture: str) -> None:
    pattern = SparsePattern(block_size=2, num_local_blocks=4, num_global_blocks=2, num_different_global_patterns=2)
    assert_picture(build_layout(config(pattern, heads=2, blocks=12), 24)[head], 4, picture)


def test_a_short_last_window_of_the_longest_sequence_is_seen_like_any_open_window() -> None:
    """Ten blocks are not a whole number of windows: the last one's global block is pulled inside it, where every
    later query sees it anyway."""
    layout = build_layout(config(FOUR_BLOCKS, heads=4, blocks=10), 20)
    assert_picture(
        layout[0],
        4,
        """
        #... .... ..
        ##.. .... ..
        ###. .... ..
        #### .... ..
        ...# #... ..
        ...# ##.. ..
        ...# ###. ..
        ...# #### ..
        ...# ...# #.
        ...# ...# ##
        """,
    )


@pytest.mark.parametrize("blocks", [9, 10, 11])
def test_a_longest_sequence_with_a_short_last_window_is_a_longer_one_cut(blocks: int) -> None:
    longer = build_layout(config(FOUR_BLOCKS, heads=4, blocks=12), 24)
    layout = build_layout(config(FOUR_BLOCKS, heads=4, blocks=blocks), 2 * blocks)
    assert np.array_equal(layout, longer[:, :blocks, :blocks])


def test_a_last_window_too_short_for_its_global_blocks_is_refused() -> None:
    pattern = SparsePattern(block_size=2, num_local_blocks=4, num_global_blocks=2, num_different_global_patterns=2)
    with pytest.raises(CheckpointError, match="18 positions leave a last window of 1 blocks"):
        config(pattern, heads=2, blocks=9)


@pytest.mark.parametrize(("tokens", "blocks"), [(1, 1), (2, 1), (3, 2), (13, 7), (24, 12)])
def test_a_shorter_sequence_has_the_longest_ones_layout_cut_in_blocks(tokens: int, blocks: int) -> None:
    longest = config(FOUR_BLOCKS, heads=4, blocks=12)
    assert np.array_equal(build_layout(longest, tokens), build_layout(longest, 24)[:, :blocks, :blocks])


@given(sparse_configs(), st.data())
def test_every_query_sees_its_own_block_and_nothing_after_it(config: ModelConfig, data: st.DataObject) -> None:
    tokens = data.draw(st.integers(1, config.max_position_embeddings))
    layout_HMM = build_layout(config, tokens)
    assert layout_HMM.shape[1] == layout_HMM.shape[2] == -(-tokens // config.sparse_pattern.block_size)
    assert np.diagonal(layout_HMM, axis1=1, axis2=2).all()
    assert not np.triu(layout_HMM, 1).any()


def test_the_published_patterns_of_xl_begin_where_the_specification_says() -> None:
    """XL: windows of 128 tokens in blocks of 16; head 0 keeps the last block, head 7 the first, head 8 the last."""
    xl = tiny_config(num_attention_heads=16, sparse_pattern=SparsePattern(), layout_groups=1)
    assert global_starts(xl) == [112, 96, 80, 64, 48, 32, 16, 0] * 2


def test_the_index_of_a_head_counts_within_its_group_and_wraps_at_the_number_of_patterns() -> None:
    pattern = SparsePattern(num_local_blocks=4, num_different_global_patterns=4)
    assert [head_pattern(head, 12, 2, pattern) for head in range(12)] == [0, 1, 2, 3, 0, 1] * 2
    assert [head_pattern(head, 12, 1, pattern) for head in range(12)] == [0, 1, 2, 3] * 3
    assert [first_global_block(index, pattern) for index in range(4)] == [3, 2, 1, 0]
