"""Label scores and shared prefixes: the scores of one full forward per label, whatever the labels
and prompts."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.model.tiny import (
    NUM_TOKENS,
    build_engine,
    full_logits,
    greedy_requests,
    naive_greedy,
    random_prompts,
    run,
    tiny_model,
)
from tirazh.model.gpt import RuGPT3ForCausalLM
from tirazh.model.requests import EngineJob, LabelScores, Request, Result, SamplingParams, ScoreRequest

Labels = tuple[tuple[int, ...], ...]
# Labels of one to five tokens, with shared first tokens, and one that is the beginning of another.
LABELS: Labels = ((11,), (12, 13), (12, 14), (12, 13, 15), (12, 13, 16, 17, 18), (12, 13, 16, 17, 19), (20, 11, 12, 13))
AROUND_WINDOWS = [1, 11, 12, 13, 14, 15, 16, 17, 28, 29, 30, 31, 32, 33, 46, 47, 48, 49]
NUM_NEW = 5


@pytest.fixture(scope="module")
def model() -> RuGPT3ForCausalLM:
    return tiny_model()


def forward_scores(model: RuGPT3ForCausalLM, prompt: tuple[int, ...], labels: Labels) -> list[float]:
    """Score one label at a time, by a plain forward of prompt and label."""
    scores = []
    for label in labels:
        logprobs = full_logits(model, prompt + label)[:, :NUM_TOKENS].log_softmax(-1)
        scores.append(sum(float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(label)))
    return scores


def engine_scores(
    model: RuGPT3ForCausalLM, prompts: list[tuple[int, ...]], labels: Labels, *, prefix: tuple[int, ...] = ()
) -> list[Result]:
    engine = build_engine(model, job=EngineJob(prefix_token_ids=prefix, labels=labels))
    return run(engine, [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts])


@pytest.mark.parametrize("mode", ["alternating", "all", "none"])
def test_the_label_trie_gives_the_scores_of_a_forward_per_label(mode: str) -> None:
    """Also where the trie crosses a window's end, so that its deeper nodes attend to less of the
    prompt."""
    model, prompts = tiny_model(sparse_mode=mode), random_prompts(AROUND_WINDOWS)
    for prompt, result in zip(prompts, engine_scores(model, prompts, LABELS), strict=True):
        assert isinstance(result, LabelScores)
        assert result.logprobs == pytest.approx(forward_scores(model, prompt, LABELS), abs=1e-4)


def test_labels_of_one_token_are_scored_by_the_prompt_s_last_logits(model: RuGPT3ForCausalLM) -> None:
    labels = tuple((token,) for token in range(NUM_TOKENS))
    (result,) = engine_scores(model, random_prompts([20]), labels)
    assert result.logprobs == pytest.approx(
        forward_scores(model, random_prompts([20])[0], labels[:3])
        + list(full_logits(model, random_prompts([20])[0])[-1, :NUM_TOKENS].log_softmax(-1)[3:].tolist()),
        abs=1e-4,
    )
    assert sum(torch.tensor(result.logprobs).exp().tolist()) == pytest.approx(1, abs=1e-6)


def test_more_labels_than_a_step_has_rows_are_scored_in_a_larger_step(model: RuGPT3ForCausalLM) -> None:
    labels = tuple((first, second, 7) for first in range(20, 35) for second in range(8))
    prompts = random_prompts([3, 15, 30])
    for prompt, result in zip(prompts, engine_scores(model, prompts, labels), strict=True):
        chosen = labels[::17]
        assert result.logprobs[::17] == pytest.approx(forward_scores(model, prompt, chosen), abs=1e-4)


@pytest.mark.parametrize("shared", [0, 1, 7, 15, 16, 17, 32, 40, 48], ids=lambda n: f"{n} tokens")
@pytest.mark.parametrize("mode", ["alternating", "top_bottom"])
def test_a_shared_prefix_of_any_length_changes_no_token_and_no_score(mode: str, shared: int) -> None:
    """Windows have 16 tokens: prefixes of none, of a part of one, of exactly one and of several
    windows. Prompts without the prefix run beside them."""
    model = tiny_model(sparse_mode=mode)
    (prefix,) = random_prompts([shared], seed=5)
    tails = random_prompts([1, 2, 9, 15, 16, 17, 31])
    prompts = [*(prefix + tail for tail in tails), tails[-1], prefix or (3,), prefix[: shared // 2] or (4,)]
    engine = build_engine(model, job=EngineJob(prefix_token_ids=prefix, labels=LABELS))
    sampling = SamplingParams(max_new_tokens=NUM_NEW, temperature=0)
    scoring = [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts]
    results = run(engine, [*scoring, *greedy_requests(prompts, sampling)])
    for prompt, scores, completion in zip(prompts, results, results[len(prompts) :], strict=False):
        assert completion.token_ids == naive_greedy(model, prompt, NUM_NEW)
        without = engine_scores(model, [prompt], LABELS)[0]
        assert scores.logprobs == pytest.approx(without.logprobs, abs=1e-4)


def test_no_row_computes_the_shared_prefix_again(model: RuGPT3ForCausalLM) -> None:
    (prefix,) = random_prompts([40], seed=5)
    engine = build_engine(model, job=EngineJob(prefix_token_ids=prefix, labels=LABELS))
    run(engine, [ScoreRequest(prompt_token_ids=prefix + tail) for tail in random_prompts([3, 5, 20])])
    own = [s for step, _ in engine.runner.seen for s in step.segments if s.tree_parents is None]
    assert min(s.start for s in own) == 40
    assert sum(s.length for s in own) == 3 + 5 + 20
    assert engine.counters.prompt_tokens == 3 * 40 + 28


def test_prompts_and_their_label_tries_are_computed_in_one_step(model: RuGPT3ForCausalLM) -> None:
    engine = build_engine(model, job=EngineJob(labels=LABELS))
    run(engine, [ScoreRequest(prompt_token_ids=prompt) for prompt in random_prompts([5, 6, 7])])
    assert engine.counters.steps == 1


def test_the_ends_of_labels_are_scored_like_one_more_token(model: RuGPT3ForCausalLM) -> None:
    """Also where the trie crosses a window's end, and with thousands of rows of logits in slices."""
    ends, prompts = (3, 21), random_prompts(AROUND_WINDOWS)
    engine = build_engine(model, job=EngineJob(labels=LABELS, label_ends=(*ends, NUM_TOKENS + 1)))
    for prompt, result in zip(prompts, run(engine, [ScoreRequest(prompt_token_ids=p) for p in prompts]), strict=True):
        wanted = []
        for label, score in zip(LABELS, forward_scores(model, prompt, LABELS), strict=True):
            last = full_logits(model, prompt + label)[-1, :NUM_TOKENS].log_softmax(-1)
            wanted.append(score + float(last[list(ends)].logsumexp(0)))
        assert result.logprobs == pytest.approx(wanted, abs=1e-4)


def test_logits_in_slices_give_the_same_bits(model: RuGPT3ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = random_prompts(AROUND_WINDOWS)
    job = EngineJob(labels=LABELS, label_ends=(3, 21))
    requests = [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts]
    whole = run(build_engine(model, job=job), requests)
    monkeypatch.setattr("tirazh.model.engine.runner.rows_at_once", lambda vocab_size, multiple: multiple)
    assert run(build_engine(model, job=job), requests) == whole


@functools.cache
def model_of_mode(mode: str) -> RuGPT3ForCausalLM:
    return tiny_model(sparse_mode=mode)


@pytest.mark.parametrize("mode", ["alternating", "none"])
@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(
        st.lists(st.integers(3, 8), min_size=1, max_size=5).map(tuple), min_size=1, max_size=40, unique=True
    ).map(tuple),
    max_nodes=st.integers(1, 12),
    ends=st.sampled_from([(), (3, 21)]),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    overlaps_steps=st.booleans(),
)
# A piece that holds the last tokens of labels alone, whose logits nobody reads.
@example(labels=((4,), (3, 3, 3)), max_nodes=1, ends=(), lengths=[1], overlaps_steps=False)
def test_labels_in_pieces_have_the_scores_of_the_whole_trie(
    mode: str, labels: Labels, max_nodes: int, ends: tuple[int, ...], lengths: list[int], overlaps_steps: bool
) -> None:
    """Beside completions, across windows, and with steps that are read while the next one runs."""
    model, prompts = model_of_mode(mode), random_prompts(lengths)
    job = EngineJob(labels=labels, label_ends=ends)
    requests: list[Request] = [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts]
    requests += greedy_requests(prompts[:2], SamplingParams(max_new_tokens=3, temperature=0))
    whole = run(build_engine(model, job=job), requests)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tirazh.model.engine.labels.trie.MAX_NODES", max_nodes)
        engine = build_engine(model, job=job, overlaps_steps=overlaps_steps)
        in_pieces = run(engine, requests)
    for one, other in zip(whole, in_pieces, strict=True):
        if isinstance(one, LabelScores):
            assert isinstance(other, LabelScores)
            assert other.logprobs == pytest.approx(one.logprobs, abs=1e-5)
        else:
            assert other == one
    own = [s for step, _ in engine.runner.seen for s in step.segments if s.tree_parents is None]
    num_decoded = sum(s.length for step, _ in engine.runner.seen if step.phase == "decode" for s in step.segments)
    assert sum(s.length for s in own) - num_decoded == sum(lengths) + sum(lengths[:2])  # prompts are prefilled once
    assert not engine.has_work


def test_a_sequence_whose_first_piece_is_not_finite_ends_with_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tirazh.model.engine.labels.trie.MAX_NODES", 2)
    model = tiny_model()
    with torch.no_grad():
        model.model.embed_positions.weight[100] = torch.nan
    engine = build_engine(model, job=EngineJob(labels=LABELS))
    bad, good = run(engine, [ScoreRequest(prompt_token_ids=prompt) for prompt in random_prompts([101, 20])])
    assert isinstance(bad, LabelScores)
    assert isinstance(good, LabelScores)
    assert (bad.error, len(good.logprobs)) == (
        "the model produced non-finite label scores for this prompt",
        len(LABELS),
    )
    assert not engine.has_work
