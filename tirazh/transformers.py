"""Lets transformers open models in tirazh's own format: `import tirazh.transformers` before `from_pretrained`.

    import tirazh.transformers
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("my-model")

Sparse models need it, because transformers has no such layers. A dense model that `finetune` wrote is a
GPT-2, which transformers opens alone. Importing this module imports torch and transformers.
"""

from __future__ import annotations

from tirazh.model.gpt import RuGPT3Config, RuGPT3ForCausalLM

__all__ = ["RuGPT3Config", "RuGPT3ForCausalLM"]
