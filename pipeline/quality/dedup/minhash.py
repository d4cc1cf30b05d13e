"""MinHash over the character 12-grams of a text, in arithmetic that never changes.

Signatures are stored beside an output and compared with those of later jobs, so every constant here is frozen:
a change needs a new `config.FORMAT_VERSION`. A test pins the bytes.

The scheme is that of Broder (1997, "On the resemblance and containment of documents"). Two texts share a band with a
probability of 1 - (1 - J^7)^16, where J is the Jaccard similarity of their sets of 12-grams. FineWeb has the same 112
hash functions in 14 bands of 8. That finds 97.4 % of planted pairs with a J of 0.8 to 0.9, 16 bands of 7 find 99.3 %,
and the estimate of J from all 112 removes the candidates that are less similar.

Of every minimum one byte is stored (b-bit minwise hashing, Li and König 2010). A band is then one uint64, and the
112 bytes of all bands are at the same time what J is estimated from. Two different minima have the same byte once in
256, which is too rare to make candidates (the seven of a band) and is subtracted from the estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

NGRAM = 12
BANDS = 16
HASHES_PER_BAND = 7
HASHES = BANDS * HASHES_PER_BAND
# How many standard deviations the estimate may lie below the similarity that is asked for: 2 keep 97.7 % of the
# pairs that have exactly that similarity.
_MARGIN = 2.0
_MASK = 2**64 - 1
# Code points of the texts that are hashed at once: their 12-grams stay in the second-level cache.
_BLOCK = 1 << 15

Signatures: TypeAlias = npt.NDArray[np.uint8]
Words: TypeAlias = npt.NDArray[np.uint32]
Flags: TypeAlias = npt.NDArray[np.bool_]


def minhash(texts: Sequence[str]) -> Signatures:
    """The signatures of texts with at least `NGRAM` code points, uint8 [texts, 112].

    Bytes 7·b to 7·b + 6 are those of band b. A signature depends on its own text only.
    """
    result = np.empty((len(texts), HASHES), np.uint8)
    for start, stop in _blocks(texts):
        result[start:stop] = _bytes_of(_minima(texts[start:stop]))
    return result


def to_bands(signatures: Signatures) -> npt.NDArray[np.uint64]:
    """uint8 [rows, 112] as uint64 [rows, 16]: the seven bytes of a band as a little-endian number below 2^56."""
    padded = np.zeros((len(signatures), BANDS, 8), np.uint8)
    padded[:, :, :HASHES_PER_BAND] = signatures.reshape(-1, BANDS, HASHES_PER_BAND)
    return padded.reshape(-1, BANDS * 8).view("<u8")


def to_bytes(bands: npt.NDArray[np.uint64]) -> Signatures:
    """The inverse of `to_bands`."""
    padded = np.ascontiguousarray(bands, "<u8").view(np.uint8).reshape(-1, BANDS, 8)
    return np.ascontiguousarray(padded[:, :, :HASHES_PER_BAND]).reshape(-1, HASHES)


def equal_bytes_needed(similarity: float) -> int:
    """How many of the 112 bytes of two rows must be equal for them to be near-duplicates.

    The estimate of a similarity J from k independent hashes has a standard deviation of sqrt(J (1 - J) / k). It
    may lie two of them below `similarity`: for 0.8 it is at least 0.724.
    """
    least = similarity - _MARGIN * (similarity * (1 - similarity) / HASHES) ** 0.5
    by_chance = 1 / 256
    return int(np.ceil((least + by_chance * (1 - least)) * HASHES - 1e-9))


def _blocks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(start, stop) of successive texts with about `_BLOCK` code points in all, and at least one text."""
    start, size = 0, 0
    for index, text in enumerate(texts):
        if size and size + len(text) > _BLOCK:
            yield start, index
            start, size = index, 0
        size += len(text)
    if start < len(texts):
        yield start, len(texts)


def _minima(texts: Sequence[str]) -> Words:
    """The minimum of every hash function over the 12-grams of every text, uint32 [hash functions, texts]."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    ends = np.cumsum(lengths)
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
    hashes = _hash_ngrams(points)
    # 12-grams that begin in the last 11 code points of a text reach into the next one.
    within = np.ones(len(points), np.bool_)
    within[(ends[:, None] - np.arange(1, NGRAM)).ravel()] = False
    hashes = hashes[within[: len(hashes)]]
    counts = lengths - (NGRAM - 1)
    starts = np.cumsum(counts) - counts
    result = np.empty((HASHES, len(texts)), np.uint32)
    permuted = np.empty_like(hashes)
    for index, multiplier in enumerate(_MULTIPLIERS):
        np.multiply(hashes, multiplier, out=permuted)
        np.minimum.reduceat(permuted, starts, out=result[index])
    return result


def _hash_ngrams(points: npt.NDArray[np.uint32]) -> Words:
    """A 32-bit hash of the 12 code points from every position on, uint32 [points - 11].

    It is a polynomial modulo 2^64, put together from those of 2, 4 and 8 code points, and then mixed.
    """
    one = points.astype(np.uint64) + np.uint64(1)
    two = one[:-1] * _power(1) + one[1:]
    four = two[:-2] * _power(2) + two[2:]
    eight = four[:-4] * _power(4) + four[4:]
    twelve = eight[:-4] * _power(4) + four[8:]
    twelve ^= twelve >> np.uint64(32)
    twelve *= np.uint64(0xD6E8FEB86659FD93)
    return (twelve >> np.uint64(32)).astype(np.uint32)


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(0x9FB21C651E98DF25, exponent, 2**64))


def _bytes_of(minima: Words) -> Signatures:
    """One byte of every minimum, uint8 [texts, hash functions]. Mixed by the end of MurmurHash3."""
    mixed = minima ^ (minima >> np.uint32(16))
    mixed *= np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> np.uint32(16)
    return np.ascontiguousarray((mixed & np.uint32(255)).astype(np.uint8).T)


def _multipliers() -> Words:
    """Odd numbers from SplitMix64 with the seed 1: x → a·x modulo 2^32 is then a permutation."""
    state, numbers = 1, []
    for _ in range(HASHES):
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        number = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
        numbers.append(((number ^ (number >> 31)) & 0xFFFFFFFF) | 1)
    return np.array(numbers, np.uint32)


_MULTIPLIERS = _multipliers()
