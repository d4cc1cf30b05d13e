"""The label trie: tokens that labels share are one node, and last tokens are no node."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import RequestError
from tirazh.model.engine.labels.trie import LabelTrie, build_trie, job_trie, split_trie, sum_terms
from tirazh.model.requests import EngineJob

labels_strategy = st.lists(
    st.lists(st.integers(0, 4), min_size=1, max_size=5).map(tuple), min_size=1, max_size=12, unique=True
)


def picture(trie: LabelTrie) -> str:
    """Draw the trie with one node per line, two spaces deeper than its parent."""
    children = {node: [n for n, parent in enumerate(trie.parents) if parent == node] for node in range(-1, 99)}

    def lines(node: int, depth: int) -> list[str]:
        own = ["prompt" if node < 0 else "  " * depth + str(trie.token_ids[node])]
        return own + [line for child in children[node] for line in lines(child, depth + 1)]

    return "\n".join(lines(-1, 0))


def test_shared_first_tokens_are_one_node_and_last_tokens_are_no_node() -> None:
    trie = build_trie([(1, 2, 3), (1, 2, 4), (1, 5), (6,), (7, 8)])
    assert picture(trie) == "prompt\n  1\n    2\n  7"
    assert trie.depths == (0, 1, 0)
    assert (trie.num_nodes, trie.height) == (3, 2)


def test_labels_of_one_token_need_no_node() -> None:
    trie = build_trie([(5,), (3,), (9,)])
    assert (trie.num_nodes, trie.height) == (0, 0)
    assert trie == LabelTrie((), (), (), (((-1, 5),), ((-1, 3),), ((-1, 9),)))


def test_a_label_may_be_a_prefix_of_another_label() -> None:
    trie = build_trie([(1,), (1, 2)])
    assert picture(trie) == "prompt\n  1"
    assert trie.paths == (((-1, 1),), ((-1, 1), (0, 2)))


def test_with_ends_the_last_token_of_every_label_is_a_node() -> None:
    trie = build_trie([(1,), (1, 2)], ends=(7,))
    assert picture(trie) == "prompt\n  1\n    2"
    assert (trie.leaves, trie.height) == ((0, 1), 2)


def test_tokens_before_a_label_s_start_are_nodes_that_only_lead_to_it() -> None:
    trie = build_trie([(8, 9, 1), (8, 9, 2, 3), (7, 2)], starts=(2, 2, 1))
    assert picture(trie) == "prompt\n  8\n    9\n      2\n  7"
    assert trie.paths == (((1, 1),), ((1, 2), (2, 3)), ((3, 2),))
    assert (trie.read_nodes, trie.num_read) == ([1, 2, 3], 3)
    assert build_trie([(8, 1), (3,)], starts=(1, 0)).read_nodes == [-1, 0]


def test_ends_that_a_model_never_produces_are_left_out() -> None:
    assert job_trie(EngineJob(labels=((1,), (1, 2)), label_ends=(3, 50)), 50).pieces[0].trie.ends == (3,)


def test_two_questions_may_have_the_same_words_and_none_may_have_two_equal_labels() -> None:
    assert len(build_trie([(8, 1), (9, 1)], starts=(1, 1)).paths) == 2
    with pytest.raises(RequestError, match="two labels have the same tokens"):
        build_trie([(8, 1), (8, 1)], starts=(0, 1))


@given(labels_strategy)
def test_every_path_holds_its_label_s_tokens_from_parent_to_child(labels: list[tuple[int, ...]]) -> None:
    trie = build_trie(labels)
    assert trie.num_read == len(trie.read_nodes) == 1 + trie.num_nodes  # without starts all logits are read
    assert [tuple(token for _, token in path) for path in trie.paths] == labels
    for path in trie.paths:
        nodes = [node for node, _ in path]
        assert nodes[0] == -1
        for (parent, token), node in zip(path, nodes[1:], strict=False):
            assert (trie.parents[node], trie.token_ids[node]) == (parent, token)
            assert trie.depths[node] == (0 if parent < 0 else trie.depths[parent] + 1)


@given(labels_strategy)
def test_nodes_are_unique_and_parents_precede_children(labels: list[tuple[int, ...]]) -> None:
    trie = build_trie(labels)
    assert len(set(zip(trie.parents, trie.token_ids, strict=True))) == len(trie.token_ids)
    assert all(parent < node for node, parent in enumerate(trie.parents))
    assert len(trie.token_ids) == len({label[:end] for label in labels for end in range(1, len(label))})


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [([(1,), ()], "a label has no tokens"), ([(1, 2), (3,), (1, 2)], "two labels have the same tokens")],
)
def test_empty_and_equal_labels_are_refused(labels: list[tuple[int, ...]], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        build_trie(labels)


@given(labels_strategy, st.integers(1, 8), st.booleans(), st.data())
def test_the_pieces_of_a_trie_hold_every_term_once(
    labels: list[tuple[int, ...]], max_nodes: int, has_ends: bool, data: st.DataObject
) -> None:
    """With a term for every token and end of a label, the pieces add up to the label's own sum."""
    ends = (9,) if has_ends else ()
    starts = [data.draw(st.integers(0, len(label) - 1)) for label in labels]
    split = split_trie(labels, ends, starts, max_nodes=max_nodes)
    assert split.height == build_trie(labels, ends, starts).height
    scores = [0.0] * len(labels)
    for index, piece in enumerate(split.pieces):
        trie = piece.trie
        longest = max(len(labels[label]) for label in piece.labels)
        assert trie.num_nodes <= max(max_nodes, longest)
        assert index == 0 or -1 not in trie.read_nodes
        assert {node for path in trie.paths for node, _ in path} | set(trie.leaves) == set(trie.read_nodes)
        terms = [float(10 ** depth_of(trie, node) * (1 + token)) for path in trie.paths for node, token in path]
        terms += [1e6] * len(trie.leaves)
        for label, score in zip(piece.labels, sum_terms(terms, trie), strict=True):
            scores[label] += score
    for label, start, score in zip(labels, starts, scores, strict=True):
        wanted = sum(10**at * (1 + label[at]) for at in range(start, len(label)))
        assert score == wanted + 1e6 * has_ends


def depth_of(trie: LabelTrie, node: int) -> int:
    """Tokens of the label before the one that the node predicts."""
    return 0 if node < 0 else trie.depths[node] + 1


def test_a_trie_that_fits_is_one_piece_in_the_order_of_its_labels() -> None:
    labels = [(7, 1), (2, 3, 4), (7, 2)]
    split = split_trie(labels, max_nodes=3)
    assert [piece.trie for piece in split.pieces] == [build_trie(labels)]
    assert len(split_trie(labels, max_nodes=2).pieces) == 2


def test_ten_thousand_labels_need_few_more_nodes_in_pieces() -> None:
    labels = [(n // 1000, 10 + n // 10 % 100, 200 + n % 10, 7) for n in range(10_000)]
    split = split_trie(labels, (3,), max_nodes=512)
    assert split.max_nodes <= 512
    num_nodes = sum(piece.trie.num_nodes for piece in split.pieces)
    assert build_trie(labels, (3,)).num_nodes <= num_nodes <= 1.01 * build_trie(labels, (3,)).num_nodes
