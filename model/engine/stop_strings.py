"""What ends a completion before its greatest length: stop strings, and the tokens that end it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence

from tirazh.model.engine.config import EngineConfig
from tirazh.model.requests import SamplingParams


class StopFinder:
    """Looks for stop strings in the text of one completion, token by token.

    Several tokens may make up one character, so the text of a token is known only together with those beside
    it. The finder decodes the last tokens alone: from a token on before which the completion can be split, and
    before which lies as much text as the longest stop string may need.
    """

    def __init__(
        self,
        params: SamplingParams,
        decode: Callable[[Sequence[int]], str] | None,
        splits_before: Callable[[int], bool] | None = None,
    ) -> None:
        """`decode` turns a completion's token ids into text. `splits_before` says whether `decode` gives the same
        text for the tokens before a token and for it and those behind it, one by one, as for all of them
        (`tirazh.model.text_splits`; default: never, so the whole completion is decoded for each token). Raises
        ValueError without a decoder."""
        if decode is None:
            raise ValueError("stop strings need a decoder")
        self._stop, self._decode, self._splits_before = params.stop, decode, splits_before
        self._num_ignored = params.min_new_tokens
        self._ignored_text: int | None = None  # characters of the first `min_new_tokens` tokens
        self._needed = (
            max(map(len, params.stop), default=1) - 1
        )  # characters before the newest ones that may begin a stop
        # Places where the completion can be split, as tokens and characters before them. No stop string ends before
        # the last of them, and one that ends behind it begins behind the first of them.
        self._splits = deque([(0, 0)])
        self._num_read, self._length = 0, 0  # tokens that were searched, and characters of their text

    def find(self, token_ids: Sequence[int]) -> int | None:
        """Return the length, in characters, of the decoded text before the first stop string; None when there is
        none. Stop strings that the first `min_new_tokens` tokens complete do not count, as in vLLM.

        `token_ids` are all tokens of the completion: those of the call before, which found nothing, and a new one.
        """
        if len(token_ids) <= self._num_ignored:
            return None
        if self._ignored_text is None:
            self._ignored_text = len(self._decode(token_ids[: self._num_ignored])) if self._num_ignored else 0
        if self._num_read and self._num_read == len(token_ids) - 1:
            self._note_split(token_ids[-1])
        first, passed = self._splits[0]
        text = self._decode(token_ids[first:])
        self._num_read, self._length = len(token_ids), passed + len(text)
        ignored = self._ignored_text - passed
        found = [text.find(string, max(0, ignored - len(string) + 1)) for string in self._stop]
        return min((passed + at for at in found if at >= 0), default=None)

    def _note_split(self, token: int) -> None:
        """Let the text that is decoded begin later, where the newest token allows it."""
        if self._splits_before is None or not self._splits_before(token):
            return
        self._splits.append((self._num_read, self._length))
        while len(self._splits) > 1 and self._splits[1][1] <= self._length - self._needed:
            self._splits.popleft()


def ending_ids(stop: Collection[str], config: EngineConfig) -> frozenset[int]:
    """Return the tokens that end a completion: the end tokens, and the control tokens that stop strings
    name."""
    named = {token for token, name in config.control_names.items() if name in stop} if stop else set()
    return frozenset(named.union(config.end_token_ids))
