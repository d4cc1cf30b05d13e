"""Foreign Hugging Face causal LMs run in the same engine, through transformers' attention interface."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tests.model.tiny import build_engine, full_logits, greedy_requests, random_prompts, run, without_logprob
from tirazh.model.load import load_pretrained
from tirazh.model.requests import Completion, EngineJob, SamplingParams, ScoreRequest

LENGTHS = [1, 5, 12, 40, 90, 3, 17, 60]
NUM_NEW = 10


def transformers_greedy(model: nn.Module, prompt: tuple[int, ...], num_new: int) -> tuple[int, ...]:
    model.set_attn_implementation("sdpa")
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_new, do_sample=False, eos_token_id=None
    )
    return tuple(out[0, len(prompt) :].tolist())


def assert_engine_is_transformers(model: nn.Module, prefix: tuple[int, ...], vocab_size: int) -> None:
    prompts = [prefix + prompt for prompt in random_prompts(LENGTHS)]
    expected = [transformers_greedy(model, prompt, NUM_NEW) for prompt in prompts]
    job = EngineJob(prefix_token_ids=prefix, labels=((5,), (6, 7), (6, 8, 9)))
    engine = build_engine(model, job=job, max_length=128, num_tokens=vocab_size)
    sampling = SamplingParams(max_new_tokens=NUM_NEW, temperature=0)
    results = run(engine, [*greedy_requests(prompts, sampling), ScoreRequest(prompt_token_ids=prompts[3])])
    completions = [without_logprob(result) for result in results[:-1]]
    assert completions == [Completion(token_ids=tokens, finish_reason="length") for tokens in expected]
    logprobs = full_logits(model, (*prompts[3], 6, 8, 9)).log_softmax(-1)
    last = len(prompts[3]) - 1
    wanted = sum(float(logprobs[last + i, token]) for i, token in enumerate((6, 8, 9)))
    assert results[-1].logprobs[2] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("shared", [0, 20], ids=["no prefix", "shared prefix"])
def test_the_engine_gives_the_tokens_of_transformers_for_a_published_llama(shared_dir: Path, shared: int) -> None:
    folder = shared_dir / "data" / "aidreams-hf"
    if not folder.is_dir():
        pytest.skip(f"needs data that is not in the repository: no folder {folder}")
    model = load_pretrained(str(folder))
    assert_engine_is_transformers(model, random_prompts([shared], seed=3)[0], model.config.vocab_size)


@pytest.mark.parametrize("shared", [0, 20], ids=["no prefix", "shared prefix"])
def test_the_engine_gives_the_tokens_of_transformers_with_grouped_query_attention(shared: int) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    assert_engine_is_transformers(model, random_prompts([shared], seed=3)[0], 320)
