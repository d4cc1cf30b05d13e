"""The sampling settings that users give as texts, as tokens: logit bias and bad words.

`sampling_checks.py` checks the texts themselves when a spec is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tirazh.errors import RequestError
from tirazh.model.requests import SamplingParams
from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline.spec import GenerateSpec


def with_tokens(spec: GenerateSpec, tokenizer: Tokenizer) -> SamplingParams:
    """Return the job's sampling parameters with the tokens of its bias and bad words."""
    return replace(
        spec.sampling,
        logit_bias=bias_tokens(spec.logit_bias or {}, tokenizer),
        bad_words=bad_word_tokens(spec.bad_words, tokenizer),
    )


def bias_tokens(bias: Mapping[str, float], tokenizer: Tokenizer) -> tuple[tuple[int, float], ...]:
    """Return (token id, number) for every token of the texts, in the order of the ids.

    The texts are taken as they are: " no" and "no" are different tokens. As in OpenAI's API, a number is
    that of a token wherever it occurs. Raises RequestError where two texts give one token two numbers.
    """
    texts = list(bias)
    owners: dict[int, str] = {}
    for text, ids in zip(texts, tokenizer.encode_many(texts), strict=True):
        for token in ids:
            other = owners.setdefault(token, text)
            if bias[other] != bias[text]:
                raise RequestError(
                    f"--logit-bias: {other!r} and {text!r} have the token {tokenizer.decode([token])!r} in common, but "
                    f"different numbers ({bias[other]:g} and {bias[text]:g}); give both the same number or remove one"
                )
    return tuple(sorted((token, float(bias[text])) for token, text in owners.items()))


def bad_word_tokens(words: Sequence[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Return the token sequences of every text, at the beginning of a text and after a space, as vLLM does.

    A text that the model spells with other tokens than the tokenizer is not recognised.
    """
    texts = [variant for word in words for variant in (word.lstrip(" "), " " + word.lstrip(" "))]
    return tuple(dict.fromkeys(tuple(ids) for ids in tokenizer.encode_many(texts) if ids))
