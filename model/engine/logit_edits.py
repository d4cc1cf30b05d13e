"""The logits of a sequence that are changed before its next token is chosen: bias, penalties and bans.

Everything is kept up to date token by token, so that no step walks through the whole sequence. NumPy
only; `sampling.py` applies the edits to the logits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tirazh.model.requests import SamplingParams


class TokenCounts:
    """How often each token has occurred, as two growing arrays."""

    def __init__(self) -> None:
        self._index: dict[int, int] = {}
        self._ids = np.empty(64, np.int64)
        self._counts = np.zeros(64, np.float32)

    def add(self, token: int) -> None:
        """Count a token once more."""
        known = len(self._index)
        at = self._index.setdefault(token, known)
        if at == len(self._ids):
            self._ids = np.concatenate([self._ids, self._ids])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        if at == known:
            self._ids[at] = token
        self._counts[at] += 1

    @property
    def ids(self) -> NDArray[np.int64]:
        """The distinct tokens, int64 [tokens], in the order in which they first occurred."""
        return self._ids[: len(self._index)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """How often each of `ids` has occurred, float32 [tokens]."""
        return self._counts[: len(self._index)]


class LogitEdits:
    """What the settings of one sequence change in its logits, given its tokens so far.

    `bias`: (int64 [B], float32 [B]), the ids of tokens and what is added to their logits, or None.
    `seen`: the tokens of prompt and completion, where the repetition penalty reads them. `generated`:
    those of the completion alone, where the frequency and the presence penalty do.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int], ending_ids: Iterable[int] = ()) -> None:
        """`ending_ids` are the tokens that end a completion, and are banned before it has
        `min_new_tokens`."""
        self.params = params
        self.bias = _bias_arrays(params.logit_bias)
        self.seen = TokenCounts() if params.repetition_penalty != 1.0 else None
        is_counted = params.frequency_penalty != 0 or params.presence_penalty != 0
        self.generated = TokenCounts() if is_counted else None
        self._ngrams = _NGrams(params.no_repeat_ngram_size) if params.no_repeat_ngram_size else None
        self._always_banned, self._bad_words = _index_bad_words(params.bad_words)
        self._ending_ids = sorted(ending_ids)
        self._recent: list[int] = []  # the completion's last tokens, as many as a bad word may need
        self._num_recent = max((len(word) - 1 for word in params.bad_words), default=0)
        for token in prompt:
            self._add(token)

    def append(self, token: int) -> None:
        """The completion has got one token more."""
        self._add(token)
        if self.generated is not None:
            self.generated.add(token)
        if self._num_recent:
            self._recent = [*self._recent, token][-self._num_recent :]

    def banned(self, num_new: int) -> list[int]:
        """Return the tokens that may not come next, given the tokens of the completion so far."""
        banned = list(self._always_banned)
        if self._ngrams is not None:
            banned += self._ngrams.banned()
        if self._recent:
            for word in self._bad_words.get(self._recent[-1], ()):
                if tuple(self._recent[1 - len(word) :]) == word[:-1]:
                    banned.append(word[-1])
        if num_new < self.params.min_new_tokens:
            banned += self._ending_ids
        return sorted(set(banned))

    def _add(self, token: int) -> None:
        if self.seen is not None:
            self.seen.add(token)
        if self._ngrams is not None:
            self._ngrams.add(token)


class _NGrams:
    """The n-grams of a sequence: which tokens would repeat one."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ids: list[int] = []
        self._positions: defaultdict[int, list[int]] = defaultdict(list)

    def add(self, token: int) -> None:
        self._positions[token].append(len(self._ids))
        self._ids.append(token)

    def banned(self) -> list[int]:
        """Return the tokens that followed the last `size - 1` tokens somewhere before."""
        ids, before = self._ids, self._size - 1
        if before == 0:
            return list(self._positions)
        if len(ids) < before:
            return []
        tail = ids[-before:]
        ends = self._positions[ids[-1]][:-1]
        return [ids[end + 1] for end in ends if end + 1 >= before and ids[end + 1 - before : end + 1] == tail]


@lru_cache(maxsize=8)
def _bias_arrays(bias: tuple[tuple[int, float], ...]) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
    if not bias:
        return None
    return np.array([token for token, _ in bias], np.int64), np.array([value for _, value in bias], np.float32)


@lru_cache(maxsize=8)
def _index_bad_words(
    words: tuple[tuple[int, ...], ...],
) -> tuple[tuple[int, ...], dict[int, list[tuple[int, ...]]]]:
    """Return the words of one token, and the longer ones by the token before their last."""
    by_token: dict[int, list[tuple[int, ...]]] = {}
    for word in words:
        if len(word) > 1:
            by_token.setdefault(word[-2], []).append(word)
    return tuple(word[0] for word in words if len(word) == 1), by_token
