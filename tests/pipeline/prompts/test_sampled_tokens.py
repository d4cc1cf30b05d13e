"""Bias and bad words that are given as texts become tokens, or are refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from tirazh.errors import RequestError
from tirazh.model.checkpoints.directory import EMBEDDED_DIR
from tirazh.model.tokenizer import Tokenizer, load_tokenizer
from tirazh.pipeline.prompts.sampled_tokens import bad_word_tokens, bias_tokens
from tirazh.pipeline.spec import GenerateSpec


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(str(EMBEDDED_DIR))


def test_every_token_of_a_text_gets_its_number(tokenizer: Tokenizer) -> None:
    text = " экономический"
    assert dict(bias_tokens({text: -2, "!": 1.5}, tokenizer)) == {
        **dict.fromkeys(tokenizer.encode(text), -2.0),
        tokenizer.encode("!")[0]: 1.5,
    }


def test_a_token_cannot_have_two_numbers(tokenizer: Tokenizer) -> None:
    assert bias_tokens({"!": 1, "!?": 1}, tokenizer)
    with pytest.raises(
        RequestError, match=r"'!' and '! !' have the token '!' in common, but different numbers \(1 and"
    ):
        bias_tokens({"!": 1, "! !": 2}, tokenizer)


def test_a_bad_word_is_banned_at_the_beginning_and_after_a_space(tokenizer: Tokenizer) -> None:
    expected = {tuple(tokenizer.encode("рубль")), tuple(tokenizer.encode(" рубль"))}
    assert set(bad_word_tokens(["рубль"], tokenizer)) == set(bad_word_tokens([" рубль"], tokenizer)) == expected


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"logit_bias": [1]}, "--logit-bias must map texts to numbers"),
        ({"logit_bias": {}}, "--logit-bias must map texts to numbers"),
        ({"logit_bias": {5: 1}}, "--logit-bias must map texts to numbers"),
        ({"logit_bias": {"a": "b"}}, "--logit-bias must give 'a' a number between -100 and 100, not 'b'"),
        ({"logit_bias": {"a": 101}}, "--logit-bias must give 'a' a number between -100 and 100, not 101"),
        ({"logit_bias": {str(i): 1 for i in range(1001)}}, "--logit-bias has 1001 texts; at most 1000 are allowed"),
        ({"bad_words": ("a", " ")}, "--bad-words must not contain an empty text"),
        ({"min_p": 1.5}, "--min-p must be between 0 and 1, not 1.5"),
        ({"min_new_tokens": -1}, r"--min-new-tokens must be 0 \(off\) or more, not -1"),
        ({"min_new_tokens": 65}, r"--min-new-tokens must be at most max_new_tokens \(64\), not 65"),
        ({"frequency_penalty": 2.5}, "--frequency-penalty must be between -2 and 2, not 2.5"),
        ({"presence_penalty": float("nan")}, "--presence-penalty must be between -2 and 2, not nan"),
    ],
)
def test_a_value_that_means_nothing_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        GenerateSpec(input=("in",), output="out", **settings)
