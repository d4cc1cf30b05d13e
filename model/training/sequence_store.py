"""Training sequences on disk, memory-mapped: documents, and which spans of them form each sequence.

The driver writes a store once, and every worker reads it; it needs neither torch nor pickle. A
directory holds `tokens.bin` (int32), `roles.bin` (uint8, see `training/config.py`), `pieces.npy`
(int64 [P, 2]: start and stop of each span in the tokens), `offsets.npy` (int64 [S + 1]: the spans
of each sequence) and, written last, `store.json`. The spans of a sequence are joined into one text,
or packed: then each is a text of its own, and they only share a sequence.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from tirazh.errors import CheckpointError

FORMAT = 2  # 1 had no `packed`
_META = "store.json"
Tokens = NDArray[np.int32]
Roles = NDArray[np.uint8]
# The spans of a sequence: (start, stop) in the tokens of all documents, concatenated.
Spans = Sequence[tuple[int, int]]


class StoreWriter:
    """Writes documents one after the other, then the sequences formed from them.

    A context manager.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lengths: list[int] = []
        self._tokens: IO[bytes] = (folder / "tokens.bin").open("wb")
        self._roles: IO[bytes] = (folder / "roles.bin").open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._tokens.close()
        self._roles.close()

    def add(self, tokens: Sequence[int], roles: Sequence[int]) -> None:
        """Append one document."""
        assert len(tokens) == len(roles)
        self._tokens.write(np.asarray(tokens, dtype=np.int32).tobytes())
        self._roles.write(np.asarray(roles, dtype=np.uint8).tobytes())
        self.lengths.append(len(tokens))

    def finish(self, sequences: Sequence[Spans], *, packed: bool = False, **facts: Any) -> None:
        """Write the spans of every sequence, and `facts` beside the counts in `store.json`.

        `packed`: the spans of a sequence are texts of their own.
        """
        self.__exit__()
        spans = [span for sequence in sequences for span in sequence]
        offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
        np.save(self.folder / "pieces.npy", np.asarray(spans, dtype=np.int64).reshape(-1, 2))
        np.save(self.folder / "offsets.npy", offsets)
        counts = {"documents": len(self.lengths), "tokens": sum(self.lengths), "sequences": len(sequences)}
        # Written last: a store without it is incomplete, and the reader refuses it.
        text = json.dumps({"format": FORMAT, "packed": packed} | counts | facts, ensure_ascii=False, indent=1)
        partial = self.folder / f"{_META}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.rename(self.folder / _META)


class SequenceStore:
    """Reads a finished store; `facts` are the values of `store.json`. Raises CheckpointError.

    `is_packed`: the spans of a sequence are texts of their own.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.facts: dict[str, Any] = json.loads((self.folder / _META).read_text(encoding="utf-8"))
            self._spans = np.load(self.folder / "pieces.npy", mmap_mode="r", allow_pickle=False)
            self._offsets = np.load(self.folder / "offsets.npy", allow_pickle=False)
            self._tokens = _mapped(self.folder / "tokens.bin", np.int32)
            self._roles = _mapped(self.folder / "roles.bin", np.uint8)
        except (OSError, ValueError, EOFError) as error:
            raise CheckpointError(
                f"the training data in {self.folder} cannot be read ({error}); remove that directory"
            ) from error
        counts = {len(self._tokens), len(self._roles), self.facts.get("tokens")}
        if self.facts.get("format") != FORMAT or len(counts) > 1:
            raise CheckpointError(
                f"the training data in {self.folder} are damaged or of another version; remove that directory"
            )
        self.is_packed = bool(self.facts.get("packed"))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def lengths(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of tokens of each of these sequences, int64."""
        return np.array(
            [sum(stop - start for start, stop in self._spans_of(int(index))) for index in indices], dtype=np.int64
        )

    def num_targets(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many tokens of each of these sequences are predicted, int64: all but the first of each text."""
        counts = [[stop - start for start, stop in self._spans_of(int(index))] for index in indices]
        return np.array([sum(each) - (len(each) if self.is_packed else 1) for each in counts], dtype=np.int64)

    def texts(self, index: int) -> list[tuple[Tokens, Roles]]:
        """Return the texts of one sequence: the token ids, int32 [T], and roles, uint8 [T], of each."""
        if not self.is_packed:
            return [self.sequence(index)]
        return [(self._tokens[start:stop], self._roles[start:stop]) for start, stop in self._spans_of(index)]

    def sequence(self, index: int) -> tuple[Tokens, Roles]:
        """Return the token ids, int32 [T], and roles, uint8 [T], of one sequence, whose spans are joined."""
        slices = [slice(start, stop) for start, stop in self._spans_of(index)]
        tokens = np.concatenate([self._tokens[each] for each in slices])
        return tokens, np.concatenate([self._roles[each] for each in slices])

    def _spans_of(self, index: int) -> list[tuple[int, int]]:
        first, last = self._offsets[index : index + 2]
        return [(int(start), int(stop)) for start, stop in self._spans[first:last]]


def _mapped(path: Path, dtype: Any) -> NDArray[Any]:
    # An empty file cannot be memory-mapped.
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)
