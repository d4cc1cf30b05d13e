"""Tiny random models of every family that the engine runs, and what transformers itself answers for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from torch import nn

VOCABULARY = 320
WINDOW = 16
LABELS = ((5,), (6, 7), (6, 8, 9), tuple(range(40, 60)))  # the last one is longer than a window
LLAMA_LIKE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2_LIKE = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
_NEOX_LIKE = {name: value for name, value in LLAMA_LIKE.items() if name != "num_key_value_heads"}
_OPT_LIKE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "ffn_dim": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}


def _rope(rope_type: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 10000.0, **parameters}}


def _like_llama(config: str, **changes: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, config)(**LLAMA_LIKE | changes)


def _like(config: str, values: dict[str, Any], **changes: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, config)(**values | changes)


_WINDOWS = {"sliding_window": WINDOW}
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
_GRANITE = {"logits_scaling": 8.0, "attention_multiplier": 0.3, "residual_multiplier": 0.5, "embedding_multiplier": 2.0}
# By name: how to make the config.
MODELS: dict[str, Callable[[], Any]] = {
    "gpt2, scaled by layer": _like(
        "GPT2Config", GPT2_LIKE, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True
    ),
    "gpt2, unscaled, relu, narrow": _like(
        "GPT2Config", GPT2_LIKE, scale_attn_weights=False, activation_function="relu", n_inner=96
    ),
    "gpt_bigcode, one key head": _like("GPTBigCodeConfig", GPT2_LIKE, multi_query=True),
    "gpt_bigcode": _like("GPTBigCodeConfig", GPT2_LIKE, multi_query=False),
    "gpt_neox": _like("GPTNeoXConfig", _NEOX_LIKE),
    "opt": _like("OPTConfig", _OPT_LIKE, word_embed_proj_dim=32, do_layer_norm_before=False),
    "biogpt": _like("BioGptConfig", _NEOX_LIKE),
    "phi": _like_llama("PhiConfig"),
    "phi3": _like_llama("Phi3Config", **_WINDOWS),
    "llama": _like_llama("LlamaConfig"),
    "llama, linear RoPE": _like_llama("LlamaConfig", **_rope("linear", factor=4.0)),
    "llama, llama3 RoPE": _like_llama("LlamaConfig", **_rope("llama3", **_LLAMA3)),
    "llama, yarn RoPE": _like_llama("LlamaConfig", **_rope("yarn", factor=4.0, original_max_position_embeddings=64)),
    "arcee": _like_llama("ArceeConfig"),
    "mistral": _like_llama("MistralConfig", **_WINDOWS),
    "ministral": _like_llama("MinistralConfig", head_dim=16, **_WINDOWS),
    "qwen2": _like_llama("Qwen2Config", use_sliding_window=True, max_window_layers=2, **_WINDOWS),
    "qwen3": _like_llama("Qwen3Config", head_dim=16, use_sliding_window=True, max_window_layers=2, **_WINDOWS),
    "gemma": _like_llama("GemmaConfig", head_dim=16),
    "gemma2": _like_llama(
        "Gemma2Config",
        head_dim=16,
        query_pre_attn_scalar=24,
        final_logit_softcapping=3.0,
        attn_logit_softcapping=2.0,
        **_WINDOWS,
    ),
    "gemma3_text": _like_llama("Gemma3TextConfig", head_dim=16, query_pre_attn_scalar=24, **_WINDOWS),
    "granite": _like_llama("GraniteConfig", **_GRANITE),
    "cohere": _like_llama("CohereConfig", logit_scale=0.0625, use_qk_norm=True),
    "cohere2": _like_llama("Cohere2Config", logit_scale=0.0625, sliding_window_pattern=2, **_WINDOWS),
    "olmo": _like_llama("OlmoConfig", clip_qkv=0.3),
    "olmo2": _like_llama("Olmo2Config"),
    "olmo3": _like_llama("Olmo3Config", **_WINDOWS),
    "stablelm": _like_llama("StableLmConfig", use_qkv_bias=True, qk_layernorm=True, use_parallel_residual=True),
    "starcoder2": _like_llama("Starcoder2Config", **_WINDOWS),
    "smollm3": _like_llama("SmolLM3Config", use_sliding_window=True, no_rope_layer_interval=2, **_WINDOWS),
    "helium": _like_llama("HeliumConfig", head_dim=16),
    "glm": _like_llama("GlmConfig", head_dim=16),
    "glm4": _like_llama("Glm4Config", head_dim=16),
    "nemotron": _like_llama("NemotronConfig"),
    "exaone4": _like_llama("Exaone4Config", sliding_window_pattern=2, **_WINDOWS),
    "seed_oss": _like_llama("SeedOssConfig", head_dim=16),
    "ernie4_5": _like_llama("Ernie4_5Config", head_dim=16),
    "hunyuan_v1_dense": _like_llama("HunYuanDenseV1Config", head_dim=16),
    "apertus": _like_llama("ApertusConfig"),
    "persimmon": _like("PersimmonConfig", _NEOX_LIKE),
}


def random_model(config: Any) -> Any:
    """Return a model of this config whose weights are large enough for every key to change the logits."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.dim() > 1:
                parameter.copy_(0.15 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            else:
                parameter.add_(0.1 * noise)
    model.tie_weights()
    return model


def answers(
    model: nn.Module, prompts: Sequence[Sequence[int]], num_new: int, num_tokens: int
) -> tuple[list[tuple[int, ...]], list[list[float]]]:
    """Greedy tokens and the log-probabilities of `LABELS` by transformers' eager forward, one sequence at a time."""
    model.set_attn_implementation("eager")  # type: ignore[operator]
    tokens, logprobs = [], []
    for prompt in prompts:
        sequence = list(prompt)
        for _ in range(num_new):
            sequence.append(int(_logits(model, sequence)[-1, :num_tokens].argmax()))
        tokens.append(tuple(sequence[len(prompt) :]))
        logprobs.append([_logprob(model, prompt, label, num_tokens) for label in LABELS])
    return tokens, logprobs


def _logprob(model: nn.Module, prompt: Sequence[int], label: Sequence[int], num_tokens: int) -> float:
    terms = _logits(model, [*prompt, *label])[:, :num_tokens].log_softmax(-1)
    return sum(float(terms[len(prompt) - 1 + index, token]) for index, token in enumerate(label))


def _logits(model: nn.Module, tokens: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([list(tokens)]), use_cache=False).logits[0].float()
    return logits
