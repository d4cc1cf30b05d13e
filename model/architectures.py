"""The models of transformers that the engine runs, and why it does not run the others.

A model is on the list when a test compares the engine's answers with transformers' own for it
(`tests/model/families/`). Any other is refused before its weights are read: it may ask of attention
or of its logits what the engine does not do, and would answer wrongly without a word. Standard
library only, so that planning a job needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tirazh.errors import CheckpointError, RequestError

PAGE = "docs/models.md"
_FUSED = "its projections are fused in one matrix, which DeepSpeed would not split by heads"
_CONV1D = "its layers are Conv1D, which DeepSpeed cannot split"
_UNTESTED = "its split by DeepSpeed is not tested"
_WIDE_NORM = "it normalises queries and keys over all heads at once"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFamily:
    """Models of one `model_type` that the engine runs.

    `unsplit`: why they run on one rank only, as a clause; None where they can be split over ranks.
    `note`: what docs/models.md says of them.
    """

    model_type: str
    title: str
    unsplit: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class LongestSequence:
    """The longest sequence, in tokens, that a model runs exactly, and why it is no longer."""

    num_tokens: int
    reason: str


FAMILIES: tuple[ModelFamily, ...] = (
    ModelFamily(
        model_type="gpt2",
        title="GPT-2, ruGPT-3 Small to Large, ruGPT-3.5, mGPT",
        unsplit=_CONV1D,
        note="plain ones run as dense ruGPT-3, and those can be split; other activations, an inner width of their own "
        "and scaling by layer run through transformers",
    ),
    ModelFamily(model_type="gpt_bigcode", title="StarCoder, SantaCoder", unsplit=_FUSED),
    ModelFamily(model_type="gpt_neox", title="GPT-NeoX, Pythia, Dolly"),
    ModelFamily(model_type="opt", title="OPT", unsplit=_UNTESTED),
    ModelFamily(model_type="biogpt", title="BioGPT", unsplit=_UNTESTED),
    ModelFamily(model_type="phi", title="Phi-1, Phi-2"),
    ModelFamily(model_type="phi3", title="Phi-3, Phi-4", unsplit=_FUSED, note="sliding window"),
    ModelFamily(model_type="llama", title="Llama, Vicuna, Yi, SmolLM and others of its architecture"),
    ModelFamily(model_type="arcee", title="Arcee AFM", unsplit=_UNTESTED),
    ModelFamily(model_type="mistral", title="Mistral", note="sliding window"),
    ModelFamily(
        model_type="ministral",
        title="Ministral",
        unsplit=_UNTESTED,
        note="sliding window",
    ),
    ModelFamily(model_type="qwen2", title="Qwen2, Qwen2.5", note="sliding window"),
    ModelFamily(model_type="qwen3", title="Qwen3", note="sliding window"),
    ModelFamily(model_type="gemma", title="Gemma"),
    ModelFamily(model_type="gemma2", title="Gemma 2", note="sliding window, softcaps of attention and logits"),
    ModelFamily(model_type="gemma3_text", title="Gemma 3, text only", note="sliding window, two RoPE bases"),
    ModelFamily(model_type="granite", title="Granite 3", note="multipliers, logits scaling"),
    ModelFamily(
        model_type="cohere", title="Command R", unsplit="its normalised heads do not split", note="logit scale"
    ),
    ModelFamily(
        model_type="cohere2",
        title="Command R7B, Command A",
        unsplit=_UNTESTED,
        note="logit scale, sliding window",
    ),
    ModelFamily(model_type="olmo", title="OLMo"),
    ModelFamily(model_type="olmo2", title="OLMo 2", unsplit=_WIDE_NORM),
    ModelFamily(model_type="olmo3", title="OLMo 3", unsplit=_WIDE_NORM, note="sliding window"),
    ModelFamily(
        model_type="stablelm",
        title="StableLM",
        unsplit="it normalises each head with weights of its own, which DeepSpeed does not split",
    ),
    ModelFamily(
        model_type="starcoder2",
        title="StarCoder2",
        unsplit=_UNTESTED,
        note="sliding window",
    ),
    ModelFamily(
        model_type="smollm3",
        title="SmolLM3",
        unsplit=_UNTESTED,
        note="sliding window, layers without RoPE",
    ),
    ModelFamily(model_type="helium", title="Helium", unsplit=_UNTESTED),
    ModelFamily(model_type="glm", title="GLM-4", unsplit=_FUSED),
    ModelFamily(model_type="glm4", title="GLM-4-0414", unsplit=_FUSED),
    ModelFamily(model_type="nemotron", title="Nemotron, Minitron", unsplit=_UNTESTED),
    ModelFamily(model_type="exaone4", title="EXAONE 4", unsplit=_UNTESTED, note="sliding window"),
    ModelFamily(model_type="seed_oss", title="Seed-OSS", unsplit=_UNTESTED),
    ModelFamily(model_type="ernie4_5", title="ERNIE 4.5, dense", unsplit=_UNTESTED),
    ModelFamily(model_type="hunyuan_v1_dense", title="HunYuan, dense", unsplit=_UNTESTED),
    ModelFamily(model_type="apertus", title="Apertus", unsplit=_UNTESTED),
    ModelFamily(model_type="persimmon", title="Persimmon", unsplit=_FUSED),
)
_OWN_ATTENTION = "its code computes attention by itself, so the engine's never sees its keys and values"
_EXPERTS = "the rows of a step choose their experts together, so a row's bits would depend on the rows beside it"
_RECURRENT = "it keeps a recurrent state, for which the engine has no cache"
_IMAGES = "it is a model of images and text"
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        ("gptj", "gpt_neo", "codegen", "bloom", "mpt", "falcon", "xglm", "openai-gpt", "ctrl"), _OWN_ATTENTION
    ),
    **dict.fromkeys(
        ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "granitemoe", "dots1", "ernie4_5_moe"), _EXPERTS
    ),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), "its keys and values differ in width, and its layers have experts"),
    **dict.fromkeys(
        ("mamba", "mamba2", "falcon_mamba", "rwkv", "jamba", "bamba", "zamba2", "recurrent_gemma"), _RECURRENT
    ),
    **dict.fromkeys(("gemma3", "gemma3n", "llama4", "mllama", "llava", "qwen2_vl", "qwen2_5_vl", "mistral3"), _IMAGES),
    "llama4_text": "its attention is cut into chunks of the text, and its layers have experts",
    "gpt_oss": "its attention has sinks (s_aux), and its layers have experts",
    "diffllama": "its layers compute attention twice and subtract",
    "bitnet": "its weights are ternary, and that arithmetic is not tested",
}
_BY_TYPE = {family.model_type: family for family in FAMILIES}
# transformers' own answer for these depends on the longest row that it computes at once.
_ROPE_OF_LENGTH = {
    "dynamic": "its dynamic RoPE scales positions by the longest row of a step once a row is longer than that",
    "longrope": "its longrope chooses its factors by the longest row of a step once a row is longer than that",
}


def check_family(values: Mapping[str, Any]) -> ModelFamily:
    """Return the family of the model whose config.json holds `values`.

    Raises CheckpointError, which names model_type and reason, for a model that the engine does not
    run.
    """
    model_type = str(values.get("model_type"))
    reason = None if model_type in _BY_TYPE else REFUSED.get(model_type)
    if model_type not in _BY_TYPE and reason is None:
        reason = "it is not on the list of those that are tested against transformers"
    reason = reason or _refused_variant(values)
    if reason is not None:
        raise CheckpointError(
            f"a model of model_type {model_type} cannot be run: {reason} ({PAGE} lists the models that run)"
        )
    return _BY_TYPE[model_type]


def check_tensor_parallel(values: Mapping[str, Any], tp_size: int) -> None:
    """Raise RequestError when the model whose config.json holds `values` cannot be split over
    `tp_size` ranks."""
    if tp_size == 1:
        return
    family = check_family(values)
    if family.unsplit is not None:
        raise RequestError(
            f"a model of model_type {family.model_type} cannot be split over --tensor-parallel {tp_size} ranks: "
            f"{family.unsplit}; use --tensor-parallel 1"
        )
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        count = values.get(name)
        if isinstance(count, int) and count % tp_size:
            raise RequestError(
                f"--tensor-parallel {tp_size} does not divide the {count} of {name} in the model's config.json; "
                f"give a divisor of {count}"
            )


def longest_exact_sequence(values: Mapping[str, Any]) -> LongestSequence | None:
    """Return the longest sequence that runs exactly where RoPE depends on the length of the rows of
    a step; None where it does not.

    `values` are those of config.json. A RoPE of types `dynamic` and `longrope` is that of no scaling
    up to the original length, and beyond it would change with the longest row (transformers'
    `modeling_rope_utils.py`).
    """
    found = []
    for parameters in _rope_parameters(values):
        rope_type = str(parameters.get("rope_type", parameters.get("type", "default")))
        if rope_type in _ROPE_OF_LENGTH:
            found.append(LongestSequence(_original_length(values, parameters, rope_type), _ROPE_OF_LENGTH[rope_type]))
    return min(found, key=lambda longest: longest.num_tokens, default=None)


def _original_length(values: Mapping[str, Any], parameters: Mapping[str, Any], rope_type: str) -> int:
    positions = values.get("max_position_embeddings")
    original = parameters.get("original_max_position_embeddings", values.get("original_max_position_embeddings"))
    counts = (original, positions) if rope_type == "longrope" else (positions,)
    return next((count for count in counts if isinstance(count, int) and count > 0), 1)


def _rope_parameters(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """RoPE's parameters in config.json: of the model, or of each type of its layers."""
    given = [values.get(key) for key in ("rope_scaling", "rope_parameters")]
    groups = [group for group in given if isinstance(group, Mapping)]
    nested = [part for group in groups for part in group.values() if isinstance(part, Mapping)]
    return [*groups, *nested]


def _refused_variant(values: Mapping[str, Any]) -> str | None:
    """Why this model cannot be run though others of its family can; None if it can."""
    if values.get("quantization_config"):
        return "its weights are quantised (quantization_config in config.json); take the weights that they were made of"
    if values.get("add_cross_attention") or values.get("is_encoder_decoder"):
        return "it attends to an encoder as well"
    if values.get("is_causal") is False or values.get("use_bidirectional_attention"):
        return "its attention is not causal"
    return None
