"""Training sequences on disk, mapped into memory: documents in a row, and which pieces of them make a sequence.

Written once by the driver, read by every worker; no torch, no pickle. A directory holds `tokens.bin` (int32),
`roles.bin` (uint8, see `training/plan.py`), `pieces.npy` (int64 [P, 2]: start and stop in the tokens), `offsets.npy`
(int64 [S + 1]: the pieces of each sequence) and, written last, `store.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from tirazh.errors import CheckpointError

FORMAT = 1
_META = "store.json"
Tokens = NDArray[np.int32]
Roles = NDArray[np.uint8]
# A sequence: the documents' pieces in it, each a (start, stop) in the tokens of all documents laid end to end.
Pieces = Sequence[tuple[int, int]]


class StoreWriter:
    """Takes documents one after the other, then the sequences made of them. Use it as a context manager."""

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

    def finish(self, sequences: Sequence[Pieces], **facts: Any) -> None:
        """Say which pieces make which sequence; `facts` are kept beside the counts."""
        self.__exit__()
        pieces = [piece for sequence in sequences for piece in sequence]
        offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
        np.save(self.folder / "pieces.npy", np.asarray(pieces, dtype=np.int64).reshape(-1, 2))
        np.save(self.folder / "offsets.npy", offsets)
        counts = {"documents": len(self.lengths), "tokens": sum(self.lengths), "sequences": len(sequences)}
        text = json.dumps({"format": FORMAT} | counts | facts, ensure_ascii=False, indent=1)
        partial = self.folder / f"{_META}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.rename(self.folder / _META)


class SequenceStore:
    """The sequences of a finished directory. `facts` is what `store.json` says."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.facts: dict[str, Any] = json.loads((self.folder / _META).read_text(encoding="utf-8"))
            self._pieces = np.load(self.folder / "pieces.npy", mmap_mode="r", allow_pickle=False)
            self._offsets = np.load(self.folder / "offsets.npy", allow_pickle=False)
            self._tokens = _mapped(self.folder / "tokens.bin", np.int32)
            self._roles = _mapped(self.folder / "roles.bin", np.uint8)
        except (OSError, ValueError, EOFError) as error:
            raise CheckpointError(f"the training data in {self.folder} cannot be read ({error}); remove it") from error
        counts = {len(self._tokens), len(self._roles), self.facts.get("tokens")}
        if self.facts.get("format") != FORMAT or len(counts) > 1:
            raise CheckpointError(f"the training data in {self.folder} are damaged or of another version; remove them")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def lengths(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of each of these sequences."""
        return np.array(
            [sum(stop - start for start, stop in self._of(int(index))) for index in indices], dtype=np.int64
        )

    def sequence(self, index: int) -> tuple[Tokens, Roles]:
        """Token ids int32 [T] and roles uint8 [T] of one sequence."""
        pieces = [slice(start, stop) for start, stop in self._of(index)]
        tokens = np.concatenate([self._tokens[piece] for piece in pieces])
        return tokens, np.concatenate([self._roles[piece] for piece in pieces])

    def _of(self, index: int) -> list[tuple[int, int]]:
        first, last = self._offsets[index : index + 2]
        return [(int(start), int(stop)) for start, stop in self._pieces[first:last]]


def _mapped(path: Path, dtype: Any) -> NDArray[Any]:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)
