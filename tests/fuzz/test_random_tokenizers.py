"""Random tokenizers: refused in one sentence, or every text gets the tokens that transformers makes of it.

The texts hold no names of control tokens, which are text for tirazh on purpose and tokens for transformers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.ending import attempt
from tests.fuzz.random_tokenizers import TEXTS, write_tokenizer
from tirazh.model.tokenizer import Tokenizer, load_tokenizer

FEW, MANY = range(40), range(1_000, 1_400)


def load_and_compare(seed: int, folder: Path) -> str:
    """Load the tokenizer of `seed`, and compare it with transformers. Returns the sentence of a refusal."""
    from transformers import PreTrainedTokenizerFast

    write_tokenizer(seed, folder)
    loaded: list[Tokenizer] = []
    sentence = attempt("random tokenizers", seed, lambda: loaded.append(load_tokenizer(str(folder))))
    if sentence:
        assert str(folder) in sentence
        return sentence
    (ours,) = loaded
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    for text in TEXTS:
        plain = theirs(text, add_special_tokens=False, truncation=False, padding=False)["input_ids"]
        assert ours.encode(text) == plain, f"{text!r}: other tokens than transformers'"
        whole = theirs(text, truncation=False, padding=False)["input_ids"]
        start = [*ours.prefix_token_ids, *plain]
        assert whole[: len(start)] == start, f"{text!r}: other tokens at the beginning than transformers'"
        assert set(whole[len(start) :]) <= set(theirs.all_special_ids), f"{text!r}: tokens are missing at the end"
    assert theirs.eos_token_id in ours.end_token_ids
    return ""


@pytest.mark.parametrize("seed", FEW)
def test_a_random_tokenizer_is_refused_or_makes_the_tokens_of_transformers(seed: int, tmp_path: Path) -> None:
    load_and_compare(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY)
def test_more_random_tokenizers_are_refused_or_make_the_tokens_of_transformers(seed: int, tmp_path: Path) -> None:
    load_and_compare(seed, tmp_path)
