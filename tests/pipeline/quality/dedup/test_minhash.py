"""Signatures: their bytes never change, and they estimate the similarity of two texts."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.quality.dedup.planted import similarity
from tirazh.pipeline.quality.dedup import minhash as module
from tirazh.pipeline.quality.dedup.config import FORMAT_VERSION
from tirazh.pipeline.quality.dedup.minhash import (
    BANDS,
    HASHES,
    NGRAM,
    equal_bytes_needed,
    minhash,
    to_bands,
    to_bytes,
)

TEXTS = [
    "съешь же ещё этих мягких французских булок, да выпей чаю",
    "the quick brown fox jumps over the lazy dog",
    "двенадцать!!",
    "😀 emoji beyond the basic plane 🎉",
]


def test_the_bytes_of_signatures_are_frozen() -> None:
    """They are stored beside outputs and compared for years. Where this fails, `FORMAT_VERSION` has to grow."""
    assert FORMAT_VERSION == 1
    found = minhash(TEXTS)
    assert found.dtype == np.uint8
    assert found.shape == (4, HASHES) == (4, 112)
    assert found[0, :7].tobytes().hex() == "c10e825031a51c"
    assert (
        hashlib.sha256(found.tobytes()).hexdigest()
        == "a2a87a6b0c0ac84cd295d388a681a192b7413cbf00a091ed609e31fe5fbaf3d0"
    )
    assert (
        hashlib.sha256(to_bands(found).astype("<u8").tobytes()).hexdigest()
        == "8f22873d0405aa7ad0fb62cb804ab6099b0a1f3f24ae60302b1e1da84d84ff51"
    )


@pytest.mark.parametrize("text", TEXTS)
def test_the_arithmetic_is_this(text: str) -> None:
    """The same numbers in Python's integers, for whoever has to write it again."""
    hashes = []
    for start in range(len(text) - 11):
        value = 0
        for character in text[start : start + 12]:
            value = (value * 0x9FB21C651E98DF25 + ord(character) + 1) % 2**64
        hashes.append(((value ^ value >> 32) * 0xD6E8FEB86659FD93 % 2**64) >> 32)
    minima = [min(value * int(multiplier) % 2**32 for value in hashes) for multiplier in module._MULTIPLIERS]
    assert minhash([text])[0].tolist() == [_mixed(value) & 255 for value in minima]


def _mixed(value: int) -> int:
    value = (value ^ value >> 16) * 0x85EBCA6B % 2**32
    value = (value ^ value >> 13) * 0xC2B2AE35 % 2**32
    return value ^ value >> 16


def test_a_band_is_a_number_of_its_seven_bytes() -> None:
    found = minhash(TEXTS)
    bands = to_bands(found)
    assert bands.shape == (4, BANDS) == (4, 16)
    assert int(bands[1, 2]) == int.from_bytes(found[1, 14:21].tobytes(), "little")
    assert (to_bytes(bands) == found).all()


@given(st.lists(st.text(min_size=NGRAM, max_size=60), min_size=1, max_size=8), st.integers(1, 200))
def test_a_signature_depends_on_its_own_text_alone(texts: list[str], block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        together = minhash(texts)
    for text, signature in zip(texts, together, strict=True):
        assert (minhash([text])[0] == signature).all()


def test_no_texts_have_no_signatures() -> None:
    assert minhash([]).shape == (0, HASHES)


def test_texts_of_one_ngram_are_equal_or_unrelated() -> None:
    """All 112 minima of such a text come from one number, so a weak mix of it would show here."""
    found = minhash([f"{number:012d}" for number in range(2_000)])
    one, other = np.triu_indices(len(found), 1)
    chosen = np.random.default_rng(1).choice(len(one), 100_000, replace=False)
    equal = (found[one[chosen]] == found[other[chosen]]).sum(axis=1)
    assert equal.mean() == pytest.approx(HASHES / 256, rel=0.05)
    assert equal.max() <= 8


def test_equal_bytes_estimate_the_similarity(news_dir_texts: list[str]) -> None:
    pairs = [(text, text[: int(len(text) * share)]) for text in news_dir_texts for share in (0.95, 0.8, 0.6, 0.3)]
    signatures = minhash([text for pair in pairs for text in pair])
    equal = (signatures[::2] == signatures[1::2]).mean(axis=1)
    estimates = (equal - 1 / 256) / (1 - 1 / 256)
    truth = np.array([similarity(*pair) for pair in pairs])
    assert abs((estimates - truth).mean()) < 0.01
    deviation = np.sqrt((truth * (1 - truth) / HASHES).mean())
    assert (estimates - truth).std() == pytest.approx(deviation, rel=0.2)


@pytest.fixture
def news_dir_texts() -> list[str]:
    chance = np.random.default_rng(1)
    words = ["".join(chance.choice(list("абвгдежзиклмнопрст"), 6)) for _ in range(300)]
    return [" ".join(chance.choice(words, 60)) for _ in range(100)]


@pytest.mark.parametrize(("asked", "needed"), [(1.0, 112), (0.8, 82), (0.7, 69)])
def test_a_pair_may_lie_two_standard_deviations_below_what_is_asked(asked: float, needed: int) -> None:
    assert equal_bytes_needed(asked) == needed
