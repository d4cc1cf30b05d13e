"""The tree of waiting prompts: which prefixes several of them share, and which are worth a slot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tirazh.model.engine.prefix_caching.tree import CachedPrefix, PrefixNode, PrefixTree, deepest_cached, missing_prefix
from tirazh.model.engine.sequences import ActiveSequence
from tirazh.model.requests import (
    Constraint,
    EmbedRequest,
    GenerateRequest,
    Request,
    SamplingParams,
    ScoreRequest,
    TextScoreRequest,
)

WINDOW = 4
ANYTHING = Constraint("regex", ".*")


def new_tree() -> PrefixTree:
    return PrefixTree(window=WINDOW, max_chunk=64)


def wait(tree: PrefixTree, *requests: Request, num_shared: int = 0) -> list[ActiveSequence]:
    sequences = [
        ActiveSequence(id, each, tuple(each.prompt_token_ids), 0, num_shared=num_shared)
        for id, each in enumerate(requests)
    ]
    for sequence in sequences:
        tree.add(sequence)
    return sequences


def generate(prompt: str, constraint: Constraint | None = None) -> GenerateRequest:
    tokens = tuple(map(ord, prompt))
    return GenerateRequest(prompt_token_ids=tokens, sampling=SamplingParams(), seed=0, constraint=constraint)


def score(prompt: str) -> ScoreRequest:
    return ScoreRequest(prompt_token_ids=tuple(map(ord, prompt)))


def missing(sequence: ActiveSequence, *, min_saved: int = 1) -> tuple[int, int] | None:
    """The length of the prefix that is to be cached next, and how many sequences it begins."""
    node = missing_prefix(sequence, min_saved=min_saved)
    return None if node is None else (node.length, len(node.waiting))


def test_prompts_share_the_whole_windows_that_they_begin_with() -> None:
    first, second, other = wait(new_tree(), score("aaaabbbbcc"), score("aaaabbbbdd"), score("zzzzbbbbcc"))
    assert missing(first) == missing(second) == (8, 2)
    assert missing(other) is None


def test_windows_are_counted_from_the_first_token_of_the_prompt_also_behind_the_shared_prefix_of_the_job() -> None:
    first, _ = wait(new_tree(), score("xxaabbbbcc"), score("xxaabbbbdd"), num_shared=2)
    assert missing(first) == (8, 2)


def test_a_prefix_is_worth_a_slot_where_prompts_part() -> None:
    first, _, third, _ = wait(new_tree(), *map(score, ("ttttaaaa1", "ttttaaaa2", "ttttbbbb1", "ttttbbbb2")))
    assert missing(first) == missing(third) == (4, 4)
    assert missing(first, min_saved=4 * 3 + 1) is None


def test_behind_a_cached_prefix_the_next_one_is_missing() -> None:
    first, *_ = wait(new_tree(), *map(score, ("ttttaaaa1", "ttttaaaa2", "ttttbbbb1", "ttttbbbb2")))
    _cache(first.path[0])
    assert missing(first) == (8, 2)
    _cache(first.path[1])
    assert missing(first) is None
    cached = deepest_cached(first)
    assert cached is not None
    assert len(cached.sequence.prompt) == 8


def test_equal_prompts_of_completions_are_shared_to_their_end_and_others_to_their_last_chunk() -> None:
    equal = "aaaabbbbcc"
    assert missing(wait(new_tree(), generate(equal), generate(equal))[0]) == (10, 2)
    assert missing(wait(new_tree(), generate(equal, ANYTHING), generate(equal, ANYTHING))[0]) == (8, 2)
    assert missing(wait(new_tree(), score(equal), generate(equal))[0]) == (8, 2)
    assert missing(wait(new_tree(), score(equal[:8]), score(equal[:8]))[0]) == (4, 2)


def test_tokens_whose_logits_or_hidden_states_are_read_are_not_shared() -> None:
    tokens = tuple(map(ord, "aaaabbbbcccc"))
    text = TextScoreRequest(token_ids=tokens, num_context=8)
    assert missing(wait(new_tree(), text, text)[0]) == (4, 2)
    last, mean = (EmbedRequest(prompt_token_ids=tokens, pooling=pooling) for pooling in ("last", "mean"))
    assert missing(wait(new_tree(), last, last)[0]) == (8, 2)
    assert missing(wait(new_tree(), mean, mean)[0]) is None


@given(st.lists(st.text("ab", min_size=1, max_size=14), max_size=12), st.randoms(use_true_random=False))
def test_every_node_holds_the_sequences_that_begin_with_it_while_they_wait(prompts: list[str], random: object) -> None:
    tree = new_tree()
    left = wait(tree, *map(score, prompts))
    random.shuffle(left)  # type: ignore[attr-defined]
    while left:
        for sequence in left:
            for node in sequence.path[:-1]:
                begins = sequence.prompt[: node.length]
                same = {
                    other.id for other in left if other.prompt[: node.length] == begins and _most(other) >= node.length
                }
                assert set(node.waiting) == same
            last = sequence.path[-1] if sequence.path else None
            assert last is None or len(last.waiting) == 1 or _most(sequence) - last.length < WINDOW
        tree.remove(left.pop())
    assert not any(root.children for root in tree._roots.values())


def _most(sequence: ActiveSequence) -> int:
    return len(sequence.prompt) - 1


def _cache(node: PrefixNode) -> None:
    """Let the node be cached, and computed."""
    prefix = next(iter(node.waiting.values())).prompt[: node.length]
    request = ScoreRequest(prompt_token_ids=prefix)
    node.cached = CachedPrefix(9, ActiveSequence(-1, request, prefix, 0, num_cached=node.length))
