"""Labels as a trie: shared first tokens once, last tokens never run, and the sums of the right logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import RequestError
from tirazh.model.engine.label_scoring import LabelTrie, build_trie, label_logprobs, token_logprobs

labels_strategy = st.lists(
    st.lists(st.integers(0, 4), min_size=1, max_size=5).map(tuple), min_size=1, max_size=12, unique=True
)


def draw(trie: LabelTrie) -> str:
    """The trie as a picture: a node a line, two spaces deeper than its parent."""
    children = {node: [n for n, parent in enumerate(trie.parents) if parent == node] for node in range(-1, 99)}

    def lines(node: int, depth: int) -> list[str]:
        own = ["prompt" if node < 0 else "  " * depth + str(trie.token_ids[node])]
        return own + [line for child in children[node] for line in lines(child, depth + 1)]

    return "\n".join(lines(-1, 0))


def test_shared_first_tokens_are_one_node_and_last_tokens_are_none() -> None:
    trie = build_trie([(1, 2, 3), (1, 2, 4), (1, 5), (6,), (7, 8)])
    assert draw(trie) == "prompt\n  1\n    2\n  7"
    assert trie.depths == (0, 1, 0)


def test_labels_of_one_token_need_no_forward_of_their_own() -> None:
    trie = build_trie([(5,), (3,), (9,)])
    assert trie == LabelTrie((), (), (), (((-1, 5),), ((-1, 3),), ((-1, 9),)))


def test_a_label_may_be_the_beginning_of_another() -> None:
    trie = build_trie([(1,), (1, 2)])
    assert draw(trie) == "prompt\n  1"
    assert trie.paths == (((-1, 1),), ((-1, 1), (0, 2)))


@given(labels_strategy)
def test_every_path_spells_its_label_and_climbs_from_parent_to_child(labels: list[tuple[int, ...]]) -> None:
    trie = build_trie(labels)
    assert [tuple(token for _, token in path) for path in trie.paths] == labels
    for path in trie.paths:
        nodes = [node for node, _ in path]
        assert nodes[0] == -1
        for (parent, token), node in zip(path, nodes[1:], strict=False):
            assert (trie.parents[node], trie.token_ids[node]) == (parent, token)
            assert trie.depths[node] == (0 if parent < 0 else trie.depths[parent] + 1)


@given(labels_strategy)
def test_no_node_is_there_twice_and_parents_come_first(labels: list[tuple[int, ...]]) -> None:
    trie = build_trie(labels)
    assert len(set(zip(trie.parents, trie.token_ids, strict=True))) == len(trie.token_ids)
    assert all(parent < node for node, parent in enumerate(trie.parents))
    assert len(trie.token_ids) == len({label[:end] for label in labels for end in range(1, len(label))})


def test_a_label_scores_the_sum_of_its_tokens_log_probabilities() -> None:
    labels = [(1, 2, 3), (1, 0), (4,)]
    trie = build_trie(labels)  # nodes: 1, then 2 behind it
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    after_prompt, after_1, after_1_2 = logits.log_softmax(-1).tolist()
    assert label_logprobs(logits, trie) == pytest.approx(
        [after_prompt[1] + after_1[2] + after_1_2[3], after_prompt[1] + after_1[0], after_prompt[4]], abs=1e-5
    )


@given(st.integers(1, 9), st.integers(0, 99))
def test_a_prompts_scores_are_the_same_bits_whoever_is_read_with_it(num_prompts: int, seed: int) -> None:
    trie = build_trie([(1, 2, 3), (1, 0), (4,), (2, 2, 5, 1)])
    num_rows = 1 + len(trie.token_ids)
    logits = torch.randn(num_prompts * num_rows, 700, generator=torch.Generator().manual_seed(seed))
    together = token_logprobs(logits, trie)
    alone = [token_logprobs(part, trie)[0] for part in logits.split(num_rows)]
    assert torch.equal(together, torch.stack(alone))


def test_scores_of_certain_and_impossible_labels() -> None:
    trie = build_trie([(0,), (1,)])
    assert label_logprobs(torch.tensor([[0.0, -torch.inf]]), trie) == [0.0, -torch.inf]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [([(1,), ()], "a label has no tokens"), ([(1, 2), (3,), (1, 2)], "two labels have the same tokens")],
)
def test_labels_that_cannot_be_told_apart_are_refused(labels: list[tuple[int, ...]], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        build_trie(labels)
