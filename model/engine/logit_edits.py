"""The logits of a sequence that are changed before its next token is chosen: bias, penalties and bans.

Everything is kept up to date token by token, so that no step walks through the whole sequence. NumPy
only; `sampling.py` applies the edits of all rows to their logits at once.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tirazh.model.requests import SamplingParams

BIAS, FACTOR, MINUS = range(3)
# What leaves every logit as it is, bit for bit: x + -0.0, x * 1 or x / 1, x - 0.
_NO_EDIT = np.array([[-0.0], [1.0], [0.0]], np.float32)
_NO_IDS = np.empty(0, np.int64)


class TokenEdits:
    """The tokens whose logits are changed, and how, as growing arrays."""

    def __init__(self) -> None:
        self._index: dict[int, int] = {}
        self._ids = np.empty(64, np.int64)
        self._values = np.tile(_NO_EDIT, 64)

    def set(self, token: int, column: int, value: float) -> None:
        """Set `BIAS`, `FACTOR` or `MINUS` of a token."""
        known = len(self._index)
        at = self._index.setdefault(token, known)
        if at == len(self._ids):
            self._ids = np.concatenate([self._ids, self._ids])
            self._values = np.hstack([self._values, np.tile(_NO_EDIT, known)])
        if at == known:
            self._ids[at] = token
        self._values[column, at] = value

    @property
    def ids(self) -> NDArray[np.int64]:
        """The distinct tokens, int64 [tokens], in the order in which they were first set."""
        return self._ids[: len(self._index)]

    @property
    def values(self) -> NDArray[np.float32]:
        """Of each of `ids` what is added to its logit, the factor by which the sum is divided where it is positive and
        multiplied elsewhere, and what is subtracted in the end: float32 [3, tokens]."""
        return self._values[:, : len(self._index)]


class LogitEdits:
    """What the settings of one sequence change in its logits, given its tokens so far.

    `table`: bias, repetition penalty, and frequency and presence penalty of every token that has one.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int], ending_ids: Iterable[int] = ()) -> None:
        """`ending_ids` are the tokens that end a completion, and are banned before it has
        `min_new_tokens`."""
        self.params = params
        self.table = TokenEdits()
        for token, value in params.logit_bias:
            self.table.set(token, BIAS, value)
        self._repetition = params.repetition_penalty
        self._frequency, self._presence = np.float32(params.frequency_penalty), np.float32(params.presence_penalty)
        self._is_counted = params.frequency_penalty != 0 or params.presence_penalty != 0
        self._counts: defaultdict[int, int] = defaultdict(int)  # of the completion's tokens
        self._ngrams = _NGrams(params.no_repeat_ngram_size) if params.no_repeat_ngram_size else None
        self._always_banned, self._bad_words = _index_bad_words(params.bad_words)
        self._ending_ids = np.array(sorted(ending_ids), np.int64)
        self._recent: list[int] = []  # the completion's last tokens, as many as a bad word may need
        self._num_recent = max((len(word) - 1 for word in params.bad_words), default=0)
        for token in prompt:
            self._add(token)

    def append(self, token: int) -> None:
        """The completion has got one token more."""
        self._add(token)
        if self._is_counted:
            self._counts[token] += 1
            minus = self._frequency * np.float32(self._counts[token]) + self._presence
            self.table.set(token, MINUS, float(minus))
        if self._num_recent:
            self._recent = [*self._recent, token][-self._num_recent :]

    def banned(self, num_new: int) -> NDArray[np.int64]:
        """Return the tokens that may not come next, given the tokens of the completion so far: int64 [tokens], in
        any order, some of them more than once."""
        banned = [self._always_banned]
        if self._ngrams is not None:
            banned.append(self._ngrams.banned())
        if self._recent:
            words = self._bad_words.get(self._recent[-1], ())
            ends = [word[-1] for word in words if tuple(self._recent[1 - len(word) :]) == word[:-1]]
            banned.append(np.array(ends, np.int64))
        if num_new < self.params.min_new_tokens:
            banned.append(self._ending_ids)
        return np.concatenate(banned) if len(banned) > 1 else banned[0]

    def _add(self, token: int) -> None:
        if self._repetition != 1.0:
            self.table.set(token, FACTOR, self._repetition)
        if self._ngrams is not None:
            self._ngrams.add(token)


class _NGrams:
    """The n-grams of a sequence: which tokens would repeat one."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._last: deque[int] = deque(maxlen=size - 1)  # with the next token they are an n-gram
        self._followers: defaultdict[tuple[int, ...], dict[int, None]] = defaultdict(dict)

    def add(self, token: int) -> None:
        if len(self._last) == self._size - 1:
            self._followers[tuple(self._last)][token] = None
        self._last.append(token)

    def banned(self) -> NDArray[np.int64]:
        """Return the tokens that followed the last `size - 1` tokens somewhere before, int64 [tokens]."""
        followers = self._followers.get(tuple(self._last))
        return _NO_IDS if followers is None else np.fromiter(followers, np.int64, len(followers))


@lru_cache(maxsize=8)
def _index_bad_words(
    words: tuple[tuple[int, ...], ...],
) -> tuple[NDArray[np.int64], dict[int, list[tuple[int, ...]]]]:
    """Return the words of one token, and the longer ones by the token before their last."""
    by_token: dict[int, list[tuple[int, ...]]] = {}
    for word in words:
        if len(word) > 1:
            by_token.setdefault(word[-2], []).append(word)
    return np.array([word[0] for word in words if len(word) == 1], np.int64), by_token
