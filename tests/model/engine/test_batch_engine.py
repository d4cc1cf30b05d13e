"""The batch engine: the naive loop's tokens with any number of slots, all finish reasons, errors as
results."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from tests.model.tiny import (
    DECODE_ROWS,
    NUM_TOKENS,
    PREFILL_ROWS,
    build_engine,
    drain,
    greedy_requests,
    naive_greedy,
    random_prompts,
    run,
    tiny_model,
    without_logprob,
)
from tirazh.errors import RequestError
from tirazh.model.config import SPARSE_MODES, SparsePattern
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.gpt import RuGPT3ForCausalLM
from tirazh.model.requests import Completion, EngineCounters, EngineJob, GenerateRequest, LabelScores, SamplingParams
from tirazh.model.requests import ScoreRequest as Score

RAGGED = [1, 2, 7, 14, 15, 16, 17, 18, 31, 32, 33, 34, 47, 48, 49, 60, 64, 65, 70, 5, 3, 11, 20, 25, 29] * 2
PROMPTS = random_prompts(RAGGED)
NUM_NEW = 6  # crosses a window's end for every second prompt or so


@pytest.fixture(scope="module")
def model() -> RuGPT3ForCausalLM:
    return tiny_model()


@pytest.fixture(scope="module")
def naive(model: RuGPT3ForCausalLM) -> list[tuple[int, ...]]:
    """Tokens of a loop that recomputes the whole sequence for every token."""
    return [naive_greedy(model, prompt, NUM_NEW) for prompt in PROMPTS]


def greedy(num_new: int = NUM_NEW, stop: tuple[str, ...] = ()) -> SamplingParams:
    return SamplingParams(max_new_tokens=num_new, temperature=0, stop=stop)


def spell(token_ids: Sequence[int]) -> str:
    """Return the text of tokens: token 17 is " 17"."""
    return "".join(f" {token}" for token in token_ids)


# The same tokens as the obvious loop


@pytest.mark.parametrize("num_slots", [1, 3, 8, 50])
def test_fifty_ragged_prompts_get_the_naive_loop_s_tokens(
    model: RuGPT3ForCausalLM, naive: list[tuple[int, ...]], num_slots: int
) -> None:
    results = run(build_engine(model, num_slots=num_slots), greedy_requests(PROMPTS, greedy()))
    expected = [Completion(token_ids=tokens, finish_reason="length") for tokens in naive]
    assert [without_logprob(result) for result in results] == expected


@pytest.mark.parametrize("mode", SPARSE_MODES)
def test_every_sparse_mode_gets_the_naive_loop_s_tokens(mode: str) -> None:
    pattern = SparsePattern(block_size=2, num_local_blocks=6, num_global_blocks=2, num_different_global_patterns=3)
    model, prompts = tiny_model(sparse_mode=mode, sparse_pattern=pattern), random_prompts([3, 11, 12, 30, 50])
    results = run(build_engine(model), greedy_requests(prompts, greedy(14)))
    assert [result.token_ids for result in results] == [naive_greedy(model, prompt, 14) for prompt in prompts]


def test_requests_may_arrive_while_others_run(model: RuGPT3ForCausalLM, naive: list[tuple[int, ...]]) -> None:
    engine, found, waiting = build_engine(model), {}, list(greedy_requests(PROMPTS[:20], greedy()))
    ids: list[int] = []
    while waiting or engine.has_work:
        ids += engine.add([waiting.pop()] if waiting else [])
        found.update(engine.step())
    assert [found[id].token_ids for id in ids] == naive[19::-1]


@pytest.mark.parametrize("shared", [0, 20])
def test_windows_longer_than_a_step_change_no_token(
    model: RuGPT3ForCausalLM, naive: list[tuple[int, ...]], shared: int
) -> None:
    job = EngineJob(prefix_token_ids=PROMPTS[16][:shared])
    engine = build_engine(model, job=job, prefill_rows=10, decode_rows=2)
    assert [r.token_ids for r in run(engine, greedy_requests(PROMPTS[14:19], greedy()))] == naive[14:19]


# How a completion ends


def test_a_completion_ends_at_an_end_token_without_it(model: RuGPT3ForCausalLM, naive: list[tuple[int, ...]]) -> None:
    prompt, tokens = PROMPTS[8], naive[8]
    end = tokens[3]
    (result,) = run(build_engine(model, end_token_ids=(NUM_TOKENS - 1, end)), greedy_requests([prompt], greedy()))
    assert without_logprob(result) == Completion(token_ids=tokens[: tokens.index(end)], finish_reason="stop")


def test_a_stop_string_that_names_a_control_token_ends_a_completion_there(
    model: RuGPT3ForCausalLM, naive: list[tuple[int, ...]]
) -> None:
    tokens = naive[8]
    end = next(index for index in range(1, len(tokens)) if tokens[index] not in tokens[:index])
    settings = {"control_names": {tokens[end]: "</s>"}, "decode": lambda ids: ""}
    asked = [*greedy_requests([PROMPTS[8]], greedy(stop=("</s>",))), *greedy_requests([PROMPTS[8]], greedy())]
    stopped, other = run(build_engine(model, **settings), asked)
    assert (stopped.token_ids, stopped.finish_reason, stopped.text_end) == (tokens[:end], "stop", None)
    assert other.token_ids == tokens


def test_an_end_token_as_first_token_gives_an_empty_completion(
    model: RuGPT3ForCausalLM, naive: list[tuple[int, ...]]
) -> None:
    engine = build_engine(model, end_token_ids=(naive[8][0],))
    (result,) = run(engine, greedy_requests([PROMPTS[8]]))
    assert without_logprob(result) == Completion(token_ids=(), finish_reason="stop")


def test_a_completion_ends_at_a_stop_string_and_reports_where_its_text_is_cut(
    model: RuGPT3ForCausalLM, naive: list[tuple[int, ...]]
) -> None:
    prompt, tokens = PROMPTS[8], naive[8]
    stop = f"{str(tokens[1])[-1]} {str(tokens[2])[0]}"  # spread over two tokens
    engine = build_engine(model, decode=spell)
    (result,) = run(engine, greedy_requests([prompt], greedy(stop=("never", stop))))
    cut = spell(tokens).index(stop)
    assert without_logprob(result) == Completion(token_ids=tokens[:3], finish_reason="stop", text_end=cut)


def test_a_completion_ends_when_its_sequence_has_max_length_tokens(
    model: RuGPT3ForCausalLM, naive: list[tuple[int, ...]]
) -> None:
    prompt = PROMPTS[8]
    (result,) = run(build_engine(model, max_length=len(prompt) + 4), greedy_requests([prompt], greedy()))
    assert without_logprob(result) == Completion(token_ids=naive[8][:4], finish_reason="length")


def test_max_length_may_lie_at_a_window_s_end_or_beside_it(model: RuGPT3ForCausalLM) -> None:
    for max_length in (16, 17, 32, 33):
        prompts = random_prompts([1, max_length - 1])
        results = run(build_engine(model, max_length=max_length), greedy_requests(prompts, greedy(64)))
        assert [len(result.token_ids) for result in results] == [max_length - 1, 1]
        assert results[0].token_ids == naive_greedy(model, prompts[0], max_length - 1)


# What cannot be run


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ((), "the prompt is empty"),
        ((1,) * 200, "the prompt has 200 tokens; with what follows it, 200 fit"),
        ((1, NUM_TOKENS), "the prompt holds a token id outside 0 to 309"),
        ((1, -1), "the prompt holds a token id outside 0 to 309"),
    ],
    ids=["empty", "too long", "padding of the vocabulary", "negative"],
)
def test_a_prompt_that_cannot_be_run_gets_its_error_and_the_others_their_tokens(
    model: RuGPT3ForCausalLM, naive: list[tuple[int, ...]], prompt: tuple[int, ...], sentence: str
) -> None:
    good = PROMPTS[8]
    job = EngineJob(labels=((1,), (2, 3)))
    requests = [
        *greedy_requests([good, prompt], greedy()),
        Score(prompt_token_ids=prompt),
        Score(prompt_token_ids=good),
    ]
    results = run(build_engine(model, job=job), requests)
    assert results[0].token_ids == naive[8]
    assert results[1] == Completion(token_ids=(), finish_reason="error", error=sentence)
    assert results[2] == LabelScores(logprobs=(), error=sentence)
    assert results[3].error is None


def test_token_ids_out_of_range_are_found_behind_a_shared_prefix_and_in_a_prompt_without_it(
    model: RuGPT3ForCausalLM,
) -> None:
    prefix, own = random_prompts([21, 30])
    prompts = [(*prefix, *own), (*prefix, 5, NUM_TOKENS), (NUM_TOKENS, *own), (-1, 5)]
    results = run(build_engine(model, job=EngineJob(prefix_token_ids=prefix)), greedy_requests(prompts, greedy()))
    assert [result.error is None for result in results] == [True, False, False, False]


def test_a_prompt_may_be_so_long_that_its_labels_just_fit_behind_it(model: RuGPT3ForCausalLM) -> None:
    job = EngineJob(labels=((1, 2, 3), (1, 4)))  # the longest label takes two positions: its last token is only read
    engine = build_engine(model, job=job, max_length=40)
    results = run(engine, [Score(prompt_token_ids=prompt) for prompt in random_prompts([38, 39])])
    assert [result.error is None for result in results] == [True, False]


def test_scores_of_a_job_without_labels_are_an_error(model: RuGPT3ForCausalLM) -> None:
    (result,) = run(build_engine(model), [Score(prompt_token_ids=(1, 2))])
    assert result == LabelScores(logprobs=(), error="label scores were requested, but the job has no labels")


@pytest.mark.parametrize("labels", [((1,), ()), ((1, 2), (1, 2))], ids=["empty", "equal"])
def test_an_engine_for_impossible_labels_cannot_be_built(
    model: RuGPT3ForCausalLM, labels: tuple[tuple[int, ...], ...]
) -> None:
    with pytest.raises(RequestError):
        build_engine(model, job=EngineJob(labels=labels))


@pytest.fixture(scope="module")
def poisoned() -> RuGPT3ForCausalLM:
    """A model whose logits are NaN after token 300, after token 0 (padding rows hold it) and from
    position 100 on."""
    model = tiny_model(tie_word_embeddings=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[300] = torch.nan
        model.model.embed_tokens.weight[0] = torch.nan
        model.model.embed_positions.weight[100] = torch.nan
    return model


@pytest.mark.parametrize("num_slots", [1, 2, 8])
def test_a_row_with_nan_logits_fails_alone(poisoned: RuGPT3ForCausalLM, num_slots: int) -> None:
    """Neither its neighbours nor the next sequence in its slot change."""
    good = [tuple(token % 200 + 1 for token in prompt) for prompt in random_prompts([5, 20, 40, 33, 17, 30])]
    bad = [(*good[1], 300, *good[0]), (300,), (*good[2], 300)]
    job = EngineJob(labels=((1,), (2, 3), (2, 4)))
    generating = greedy_requests([bad[0], good[0], bad[1], good[1], bad[2], good[2]], greedy(20))
    scoring = [Score(prompt_token_ids=prompt) for prompt in (good[3], bad[0], good[4], bad[1], good[5])]
    results = run(build_engine(poisoned, num_slots=num_slots, job=job), [*generating, *scoring])
    non_finite = "the model produced non-finite logits for this prompt"
    for index in (0, 2, 4):
        assert results[index] == Completion(token_ids=(), finish_reason="error", error=non_finite)
    for index, prompt in ((1, good[0]), (3, good[1]), (5, good[2])):
        assert results[index].token_ids == naive_greedy(poisoned, prompt, 20)
    errors = [result.error for result in results[6:]]
    assert errors == [None, *["the model produced non-finite label scores for this prompt", None] * 2]
    alone = run(build_engine(poisoned, job=job), scoring[::2])
    assert [result.logprobs for result in results[6::2]] == [result.logprobs for result in alone]


def test_a_completion_that_turns_nan_in_the_middle_fails_and_its_slot_is_zeroed(poisoned: RuGPT3ForCausalLM) -> None:
    long, short = (tuple(token % 200 + 1 for token in prompt) for prompt in random_prompts([95, 50]))
    for num_slots in (1, 2):
        first, second, third = run(
            build_engine(poisoned, num_slots=num_slots), greedy_requests([long, short, short], greedy(20))
        )
        assert (first.finish_reason, first.token_ids) == ("error", ())
        assert second.token_ids == third.token_ids == naive_greedy(poisoned, short, 20)


# Work and its count


def test_counters_and_has_work_report_the_progress(model: RuGPT3ForCausalLM) -> None:
    engine = build_engine(model, job=EngineJob(labels=((1,), (2, 3))))
    assert not engine.has_work
    assert engine.step() == []
    assert engine.counters == EngineCounters()
    ids = engine.add([*greedy_requests([(1, 2, 3), (), (4,) * 10], greedy(4)), Score(prompt_token_ids=(5, 6))])
    assert ids == [0, 1, 2, 3]
    assert engine.has_work
    assert sorted(id for id, _ in drain(engine)) == ids
    assert not engine.has_work
    # One prefill step, which gives the first token, and three decode steps.
    assert engine.counters == EngineCounters(prompt_tokens=15, completion_tokens=8, finished=4, steps=4)


def test_every_step_has_one_of_two_shapes_and_logits_only_where_they_are_requested(model: RuGPT3ForCausalLM) -> None:
    engine = build_engine(model, num_slots=20)
    run(engine, greedy_requests(random_prompts(RAGGED[:25]), greedy(3)))
    rows = {"prefill": PREFILL_ROWS, "decode": DECODE_ROWS}
    steps = [step for step, _ in engine.runner.seen]
    assert {step.phase for step in steps} == {"prefill", "decode"}
    assert all(len(step.token_ids) == len(step.positions) == rows[step.phase] for step in steps)
    assert sum(len(step.logit_rows) for step in steps) == 25 * 3
    assert sum(s.length for step in steps for s in step.segments) == sum(RAGGED[:25]) + 25 * 2


def test_the_longest_prompts_run_first_and_a_free_slot_is_refilled_at_once(model: RuGPT3ForCausalLM) -> None:
    engine = build_engine(model, num_slots=2)
    engine.add(greedy_requests(random_prompts([4, 9, 6, 8]), greedy(1)))
    order = [[id for id, _ in engine.step()] for _ in range(2)]
    assert order == [[1, 3], [2, 0]]
    assert not engine.has_work


def test_a_short_prompt_waits_while_many_sequences_decode(model: RuGPT3ForCausalLM) -> None:
    engine = build_engine(model, num_slots=8)
    engine.add(greedy_requests(random_prompts([10] * 5), greedy(5)))
    engine.step()
    engine.add(greedy_requests(random_prompts([10]), greedy(5)))
    engine.step()
    assert [step.phase for step, _ in engine.runner.seen] == ["prefill", "decode"]
    list(drain(engine))
    assert phases(engine) == ["prefill"] + ["decode"] * 4 + ["prefill"] + ["decode"] * 4


def phases(engine: BatchEngine) -> list[str]:
    return [step.phase for step, _ in engine.runner.seen]


def test_equal_seeds_give_equal_completions_and_another_seed_another_one(model: RuGPT3ForCausalLM) -> None:
    sampling = SamplingParams(max_new_tokens=10, temperature=1.5)
    requests = [GenerateRequest(prompt_token_ids=(1, 2, 3), sampling=sampling, seed=seed) for seed in (7, 8, 7)]
    first, second, third = run(build_engine(model), requests)
    assert first == third != second
