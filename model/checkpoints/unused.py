"""What to do with stored tensors that a model's reader did not use: nothing is dropped silently.

Buffers that transformers once saved, and that hold no knowledge, pass without a word. Tensors that
would change the model's answers (a layer, a head, an adapter, a quantised weight) are refused. Any other
tensor is named in a notice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tirazh.errors import CheckpointError

_SHOWN = 3
_BUFFERS = re.compile(
    r"(^|\.)((attn|attention|self_attn)\.(masked_)?bias|masked_bias|position_ids|num_batches_tracked|_extra_state"
    r"|rotary_emb\.(inv_freq|cos_cached|sin_cached|original_inv_freq))$"
)
_LAYER = re.compile(r"(^|\.)(h|layers?|blocks?)\.\d+\.")
# Words in names, what such tensors are, and what to do.
_MEANINGFUL: dict[str, tuple[str, str]] = {
    r"lora_|(^|\.)ia3_|adapter|modules_to_save|base_layer|prompt_encoder|prefix_encoder": (
        "an adapter",
        "merge it into the model first (peft's merge_and_unload, then save_pretrained)",
    ),
    r"(^|\.)(qweight|qzeros|scales|zeros|g_idx|SCB|absmax|quant_map|weight_(scale|packed|shape|format)\w*)(\.|$)": (
        "a quantised weight",
        "give the model in float16, bfloat16 or float32",
    ),
    r"(^|\.)(\w*head|\w*head\d|score|classifier|summary|qa_outputs|output_layer|embed_out|pooler|lm_head\w*)\.": (
        "a head that this model does not have",
        "give the causal language model",
    ),
    _LAYER.pattern: ("a part of a layer that this model does not have", "correct config.json, or copy the model again"),
}


def is_buffer(name: str) -> bool:
    """Return whether a tensor is a buffer that transformers once saved, and that holds no knowledge."""
    return _BUFFERS.search(name) is not None


def check_unused(place: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the notice about unused tensors, if one is due; `place` is the directory or file.

    Raises CheckpointError for tensors without which the model would give other answers.
    """
    unknown = sorted(name for name in names if not is_buffer(name))
    for pattern, (what, remedy) in _MEANINGFUL.items():
        found = [name for name in unknown if re.search(pattern, name)]
        if found:
            raise CheckpointError(f"{place} holds {named(found)}, {what}; {remedy}")
    if not unknown:
        return ()
    return (f"{place}: the model does not use {named(unknown)}, which it holds",)


def named(names: Sequence[str]) -> str:
    """Return the first names and the number of the others: "a, b, c and 5 more"."""
    shown = ", ".join(name[:100] for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
