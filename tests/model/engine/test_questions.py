"""Several questions after one text: each label's first tokens lead to its question, and the scores are those of one
forward pass per question and label."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.model.tiny import NUM_TOKENS, build_engine, full_logits, random_prompts, run, tiny_model
from tirazh.model.config import SparsePattern
from tirazh.model.requests import EngineJob, LabelScores, ScoreRequest, TextScoreRequest

AROUND_WINDOWS = [1, 12, 15, 16, 17, 31, 32, 33, 48]
WORDS = ((11,), (12, 13), (12, 14), (12, 13, 15))


def questions(lengths: list[int]) -> EngineJob:
    """Every question has the same words as labels behind a suffix of its own."""
    suffixes = random_prompts(lengths, seed=4)
    labels = tuple(suffix + words for suffix in suffixes for words in WORDS)
    return EngineJob(labels=labels, label_starts=tuple(len(suffix) for suffix in suffixes for _ in WORDS))


def scores(model: nn.Module, prompt: tuple[int, ...], job: EngineJob) -> list[float]:
    """One label at a time, by a whole forward pass in float64."""
    found = []
    for label, start in zip(job.labels, job.label_starts, strict=True):
        logprobs_NV: Tensor = full_logits(model, prompt + label)[:, :NUM_TOKENS].double().log_softmax(-1)
        rows = range(len(prompt) - 1 + start, len(prompt) - 1 + len(label))
        terms = [float(logprobs_NV[row, token]) for row, token in zip(rows, label[start:], strict=True)]
        if job.label_ends:
            terms.append(float(logprobs_NV[-1, list(job.label_ends)].logsumexp(0)))
        found.append(sum(terms))
    return found


@pytest.mark.parametrize("mode", ["alternating", "all", "none"])
@pytest.mark.parametrize("ends", [(), (3, 21)], ids=["no ends", "ends"])
def test_suffixes_of_any_length_give_the_scores_of_a_forward_per_label(mode: str, ends: tuple[int, ...]) -> None:
    """A window has 16 tokens: the longest suffix ends three windows behind the prompt."""
    model, reference = (tiny_model(sparse_mode=mode, num_layers=2).to(dtype) for dtype in (torch.float32, torch.double))
    job = questions([1, 17, 40])
    job = EngineJob(labels=job.labels, label_starts=job.label_starts, label_ends=ends)
    prompts = random_prompts(AROUND_WINDOWS)
    results = run(build_engine(model, job=job), [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts])
    for prompt, result in zip(prompts, results, strict=True):
        assert isinstance(result, LabelScores)
        assert result.logprobs == pytest.approx(scores(reference, prompt, job), abs=5e-5)


@pytest.mark.parametrize("length", [1, 126, 127, 128, 129, 200])
def test_a_suffix_may_cross_the_end_of_a_window_of_the_original_pattern(length: int) -> None:
    """Blocks of 16 tokens, windows of 128: a tile of keys of the kernels is a part of one window. A shared prefix
    ends inside a window."""
    pattern = SparsePattern(block_size=16, num_local_blocks=8, num_different_global_patterns=8)
    settings = {"sparse_pattern": pattern, "num_layers": 2, "layout_groups": 1, "sparse_mode": "all"}
    model, reference = (tiny_model(**settings).to(dtype) for dtype in (torch.float32, torch.double))
    (prefix,), job = random_prompts([70], seed=8), questions([3, 150])
    job = EngineJob(labels=job.labels, label_starts=job.label_starts, prefix_token_ids=prefix)
    prompts = [*random_prompts([length]), prefix + random_prompts([length])[0]]
    engine = build_engine(model, job=job, max_length=450, prefill_rows=256)
    results = run(engine, [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts])
    for prompt, result in zip(prompts, results, strict=True):
        assert result.logprobs == pytest.approx(scores(reference, prompt, job), abs=5e-5)


def test_a_question_scores_as_a_text_behind_prompt_and_suffix() -> None:
    model, job = tiny_model(num_layers=2), questions([7, 30])
    (prompt,) = random_prompts([25])
    (result,) = run(build_engine(model, job=job), [ScoreRequest(prompt_token_ids=prompt)])
    texts = [
        TextScoreRequest(token_ids=prompt + label, num_context=len(prompt) + start)
        for label, start in zip(job.labels, job.label_starts, strict=True)
    ]
    found = [each.logprob for each in run(build_engine(model), texts)]
    assert result.logprobs == pytest.approx(found, abs=2e-5)


def test_a_suffix_is_computed_once_and_logits_only_where_a_label_is_scored() -> None:
    job = questions([20, 30, 5])
    engine = build_engine(tiny_model(num_layers=2), job=job)
    prompts = random_prompts([9, 14])
    run(engine, [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts])
    trees = [segment.length for step, _ in engine.runner.seen for segment in step.segments if segment.tree_parents]
    assert trees == [55 + 3 * 2] * 2  # of the words, 12 and the 13 behind it are nodes
    read = sum(len(step.logit_rows) for step, _ in engine.runner.seen)
    assert read == 2 * 3 * 3  # behind each suffix, and behind 12 and 13


def test_logits_in_slices_give_the_same_bits_to_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, job = tiny_model(num_layers=2), questions([3, 18])
    job = EngineJob(labels=job.labels, label_starts=job.label_starts, label_ends=(3, 21))
    requests = [ScoreRequest(prompt_token_ids=prompt) for prompt in random_prompts(AROUND_WINDOWS)]
    whole = run(build_engine(model, job=job), requests)
    monkeypatch.setattr("tirazh.model.engine.runner.rows_at_once", lambda vocab_size, multiple: multiple)
    assert run(build_engine(model, job=job), requests) == whole


def test_a_question_scores_the_same_with_and_without_other_questions() -> None:
    model, job = tiny_model(num_layers=2), questions([3, 18, 40])
    requests = [ScoreRequest(prompt_token_ids=prompt) for prompt in random_prompts(AROUND_WINDOWS)]
    together = run(build_engine(model, job=job), requests)
    for question in range(3):
        part = slice(question * len(WORDS), (question + 1) * len(WORDS))
        single = EngineJob(labels=job.labels[part], label_starts=job.label_starts[part])
        for result, alone in zip(together, run(build_engine(model, job=single), requests), strict=True):
            assert result.logprobs[part] == pytest.approx(alone.logprobs, abs=1e-5)
