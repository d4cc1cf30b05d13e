"""The labels to score during training: their tokens, and the gold label of each prompt of a store.

The driver writes the file beside the prompts, and every worker reads it. Standard library only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

_NAME = "labels.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFile:
    """`gold[i]` is the index in `names` of the gold label of the store's sequence i. `ends` are the tokens
    that end a label, where the labels' ends are scored."""

    names: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    gold: tuple[int, ...]
    ends: tuple[int, ...] = ()

    def write(self, folder: Path) -> None:
        """Write the file beside the store in `folder`."""
        (folder / _NAME).write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> LabelFile:
        """Read the file beside the store in `folder`."""
        values = json.loads((folder / _NAME).read_text(encoding="utf-8"))
        token_ids = tuple(tuple(ids) for ids in values["token_ids"])
        names, gold, ends = (tuple(values[name]) for name in ("names", "gold", "ends"))
        return cls(names=names, token_ids=token_ids, gold=gold, ends=ends)
