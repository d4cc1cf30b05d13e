"""The model as transformers sees it: registered, saved, loaded, generated from, trained; padded on either side."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from tests.model.tiny import full_logits, naive_greedy, random_prompts, tiny_config, tiny_model, use_threads
from tirazh.errors import CheckpointError
from tirazh.model.attention.layer_shape import LayerKind
from tirazh.model.config import SPARSE_MODES, SparsePattern
from tirazh.model.gpt import RuGPT3Config, RuGPT3ForCausalLM

LENGTHS = (5, 16, 17, 40)  # about windows of 16


@pytest.fixture(scope="module")
def model() -> RuGPT3ForCausalLM:
    return tiny_model()


def padded(prompts: list[tuple[int, ...]], side: str) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, [B, longest]; padding holds token 7, so that a leak would show."""
    longest = max(map(len, prompts))
    ids, mask = torch.full((len(prompts), longest), 7), torch.zeros(len(prompts), longest, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        columns = slice(longest - len(prompt), None) if side == "left" else slice(0, len(prompt))
        ids[row, columns], mask[row, columns] = torch.tensor(prompt), 1
    return ids, mask


def test_transformers_finds_the_model_by_its_type() -> None:
    config = AutoConfig.for_model("rugpt3", num_hidden_layers=2, hidden_size=32, num_attention_heads=4, vocab_size=48)
    assert isinstance(config, RuGPT3Config)
    assert isinstance(AutoModelForCausalLM.from_config(config), RuGPT3ForCausalLM)


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("mode", SPARSE_MODES)
def test_a_saved_model_comes_back_the_same(tmp_path: Path, mode: str, is_tied: bool) -> None:
    pattern = SparsePattern(block_size=2, num_local_blocks=4, num_global_blocks=2, num_different_global_patterns=2)
    model = tiny_model(sparse_mode=mode, sparse_pattern=pattern, tie_word_embeddings=is_tied)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True).eval()
    assert loaded.config.to_model_config() == model.config.to_model_config()
    (prompt,) = random_prompts([40])
    assert torch.equal(full_logits(loaded, prompt), full_logits(model, prompt))


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_logits_come_from_the_token_embedding_unless_the_model_is_untied(is_tied: bool) -> None:
    model = tiny_model(tie_word_embeddings=is_tied)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == is_tied
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
        hidden = model.model(torch.tensor([[1, 2, 3]])).last_hidden_state
        assert torch.equal(model(torch.tensor([[1, 2, 3]])).logits, hidden @ model.lm_head.weight.T)


def test_a_config_that_does_not_fit_together_is_refused() -> None:
    with pytest.raises(CheckpointError, match="12 attention heads cannot be split into 5 layout groups"):
        RuGPT3Config(hidden_size=96, num_attention_heads=12, sparse_layout_groups=5)


@pytest.mark.parametrize(
    ("mode", "sparse_layers"),
    [("none", []), ("all", [0, 1, 2, 3, 4]), ("alternating", [0, 2, 4]), ("top_bottom", [0, 1])],
)
def test_the_sparse_mode_decides_which_layers_are_sparse(mode: str, sparse_layers: list[int]) -> None:
    model = RuGPT3ForCausalLM(RuGPT3Config.from_model_config(tiny_config(sparse_mode=mode, num_layers=5)))
    assert [
        i for i, attention in enumerate(model.model.attentions) if attention.kind is LayerKind.SPARSE
    ] == sparse_layers


@pytest.mark.parametrize("mode", SPARSE_MODES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_of_a_padded_batch_is_that_row_alone(mode: str, side: str) -> None:
    """Windows count from a row's own first token, not from the padded column."""
    model = tiny_model(sparse_mode=mode)
    prompts = random_prompts(LENGTHS)
    ids, mask = padded(prompts, side)
    with torch.inference_mode():
        logits = model(ids, attention_mask=mask).logits
    for row, prompt in enumerate(prompts):
        assert (logits[row][mask[row] == 1] - full_logits(model, prompt)).abs().max() < 1e-4


@pytest.mark.parametrize("mode", SPARSE_MODES)
def test_decoding_token_by_token_gives_the_full_forwards_logits(mode: str) -> None:
    model = tiny_model(sparse_mode=mode)
    (prompt,) = random_prompts([37])
    cache, parts = DynamicCache(config=model.config), []
    with torch.inference_mode():
        for start, stop in ((0, 14), *((i, i + 1) for i in range(14, 37))):
            out = model(torch.tensor([prompt[start:stop]]), past_key_values=cache, use_cache=True)
            parts.append(out.logits[0])
    assert (torch.cat(parts) - full_logits(model, prompt)).abs().max() < 1e-4


def test_transformers_generate_is_the_loop_that_recomputes_everything(model: RuGPT3ForCausalLM) -> None:
    (prompt,) = random_prompts([13])
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert tuple(out[0, 13:].tolist()) == naive_greedy(model, prompt, 12, num_tokens=320)


def test_transformers_generate_over_a_left_padded_batch_gives_every_row_its_own_tokens(
    model: RuGPT3ForCausalLM,
) -> None:
    prompts = random_prompts(LENGTHS, seed=1)
    ids, mask = padded(prompts, "left")
    out = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)
    for row, prompt in enumerate(prompts):
        assert tuple(out[row, ids.shape[1] :].tolist()) == naive_greedy(model, prompt, 6, num_tokens=320)


def test_only_the_logits_that_are_asked_for_are_computed(model: RuGPT3ForCausalLM) -> None:
    (prompt,) = random_prompts([20])
    with torch.inference_mode():
        last = model(torch.tensor([prompt]), logits_to_keep=2).logits
        chosen = model(torch.tensor([prompt]), logits_to_keep=torch.tensor([3, 19])).logits
    whole = full_logits(model, prompt)
    assert (last[0] - whole[-2:]).abs().max() < 1e-5
    assert (chosen[0] - whole[[3, 19]]).abs().max() < 1e-5


def test_the_loss_is_the_next_tokens_cross_entropy_and_skips_what_is_marked(model: RuGPT3ForCausalLM) -> None:
    (prompt,) = random_prompts([20])
    ids = torch.tensor([prompt])
    labels = ids.clone()
    labels[0, :8] = -100
    with torch.inference_mode():
        loss = model(ids, labels=labels).loss
    logprobs = full_logits(model, prompt).log_softmax(-1)
    wanted = [-float(logprobs[t - 1, prompt[t]]) for t in range(8, 20)]
    assert float(loss) == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)


@pytest.mark.parametrize("num_threads", [1, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_of_the_mlp_is_the_same_wherever_it_stands(num_threads: int, dtype: torch.dtype) -> None:
    """Also where the threads' shares end inside rows."""
    mlp = tiny_model(hidden_size=256, dtype=dtype).model.layers[0].mlp
    row = torch.randn(256, generator=torch.Generator().manual_seed(0)).to(dtype)
    with use_threads(num_threads), torch.inference_mode():
        rows = mlp(row.expand(70, -1).contiguous())
    assert (rows == rows[0]).all()


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    model = RuGPT3ForCausalLM(RuGPT3Config.from_model_config(tiny_config())).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = torch.tensor(random_prompts([40, 40]))
    losses = []
    for _ in range(8):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_every_weight_of_a_sparse_model_gets_a_gradient() -> None:
    model = tiny_model(sparse_mode="all").train()
    ids = torch.tensor(random_prompts([40]))
    model(ids, labels=ids).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
