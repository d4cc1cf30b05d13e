"""ru-gpts (DeepSpeed) and Megatron checkpoints: torch pickles, one for every model-parallel rank of the training.

Joins the ranks' shares without reading them, and names the tensors as we do. Sizes come from the tensors; heads and
sparsity from `checkpoints/settings.py`. Called by `checkpoints/directory.py`, which found the files by
`checkpoints/rank_files.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.pickles import PickledFile, open_pickle
from tirazh.model.checkpoints.rank_files import RankFiles
from tirazh.model.checkpoints.settings import check_sizes, find_settings
from tirazh.model.checkpoints.tensors import Contents, LazyTensor, StoredTensor, TensorSlice, third, whole
from tirazh.model.config import ModelConfig, ModelSettings

# How later Megatrons, which nest their state dicts, call what the first one called otherwise.
_RENAMES = (
    (re.compile(r"^(language_model\.)?(embedding\.)?"), ""),
    (re.compile(r"^encoder\."), "transformer."),
    (re.compile(r"\.self_attention\."), ".attention."),
    (re.compile(r"^layers\."), "transformer.layers."),
)

Split = Literal["rows", "columns", "copies"]
_LAYER: dict[str, tuple[str, Split]] = {
    "input_layernorm": ("input_layernorm", "copies"),
    "post_attention_layernorm": ("post_attention_layernorm", "copies"),
    "self_attn.o_proj": ("attention.dense", "columns"),
    "mlp.up_proj": ("mlp.dense_h_to_4h", "rows"),
    "mlp.down_proj": ("mlp.dense_4h_to_h", "columns"),
}


def open_rugpts(root: Path, found: RankFiles, flags: ModelSettings) -> Contents:
    """Plans for every tensor of the checkpoint. Raises CheckpointError."""
    ranks = [open_pickle(path) for path in found.files]
    checkpoint = _Ranks(found, [_renamed(rank) for rank in ranks], _version(ranks[0], found.files[0]))
    sizes = checkpoint.sizes()
    folders = list(dict.fromkeys((root, found.folder, found.folder.parent)))
    check_sizes(folders, flags, sizes)
    settings = find_settings(folders, flags, len(ranks))
    try:
        config = ModelConfig(
            num_layers=sizes["num_layers"],
            hidden_size=sizes["hidden_size"],
            vocab_size=sizes["vocab_size"],
            max_position_embeddings=sizes["max_position_embeddings"],
            num_attention_heads=settings.num_attention_heads,
            sparse_mode=settings.sparse_mode,
            sparse_pattern=settings.sparse_pattern,
            layout_groups=settings.layout_groups,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{root}: {error}") from None
    return Contents(kind=found.kind, config=config, plans=checkpoint.plans(config), files=found.files)


@dataclass(frozen=True, slots=True)
class _Ranks:
    """The ranks' tensors by their original names."""

    found: RankFiles
    tensors: Sequence[Mapping[str, StoredTensor]]
    megatron_version: float

    def get(self, name: str) -> list[StoredTensor]:
        """Every rank's share of one tensor. Raises CheckpointError when one has none."""
        for rank, path in zip(self.tensors, self.found.files, strict=True):
            if name not in rank:
                raise CheckpointError(f"{path} has no tensor {name}, which every ruGPT-3 checkpoint holds")
        return [rank[name] for rank in self.tensors]

    def sizes(self) -> dict[str, int]:
        """Sizes as ModelConfig names them. Raises CheckpointError when ranks are missing."""
        words = self.get("word_embeddings.weight")
        hidden = words[0].size(1)
        self._check_all_ranks(hidden)
        matches = (re.match(r"transformer\.layers\.(\d+)\.", name) for name in self.tensors[0])
        layers = {int(match[1][:9]) for match in matches if match}  # a number without end is too many layers, too
        return {
            "num_layers": max(layers) + 1,
            "hidden_size": hidden,
            "vocab_size": sum(share.size(0) for share in words),
            "max_position_embeddings": self.get("position_embeddings.weight")[0].size(0),
        }

    def _check_all_ranks(self, hidden: int) -> None:
        share = self.get("transformer.layers.0.attention.query_key_value.weight")[0]
        num_files, num_rows = len(self.tensors), share.size(0)
        if num_rows and num_rows * num_files != 3 * hidden and 3 * hidden % num_rows == 0:
            raise CheckpointError(
                f"{self.found.folder} was saved by {3 * hidden // num_rows} model-parallel ranks, but {num_files} "
                f"of their files {'is' if num_files == 1 else 'are'} there; copy every mp_rank file"
            )

    def plans(self, config: ModelConfig) -> dict[str, LazyTensor]:
        plans = {
            "model.embed_tokens.weight": whole(self.get("word_embeddings.weight")),
            "model.embed_positions.weight": whole(self.get("position_embeddings.weight")[:1]),
        }
        for part in ("weight", "bias"):
            plans[f"model.norm.{part}"] = whole(self.get(f"transformer.final_layernorm.{part}")[:1])
            for layer in range(config.num_layers):
                ours, theirs = f"model.layers.{layer}", f"transformer.layers.{layer}"
                for name, (stored, split) in _LAYER.items():
                    plans[f"{ours}.{name}.{part}"] = _joined(self.get(f"{theirs}.{stored}.{part}"), split, part)
                fused = self.get(f"{theirs}.attention.query_key_value.{part}")
                for index, letter in enumerate("qkv"):
                    plans[f"{ours}.self_attn.{letter}_proj.{part}"] = self._projection(fused, index, config.head_dim)
        return plans

    def _projection(self, fused: Sequence[StoredTensor], index: int, head_dim: int) -> LazyTensor:
        """Rows of q, k or v (index 0, 1, 2) out of every rank's fused rows: all q, all k, all v on each rank, but
        head by head since Megatron's checkpoint version 2."""
        if self.megatron_version < 1:
            return third(fused, index)
        if self.megatron_version < 2:
            raise CheckpointError(
                f"{self.found.folder} has Megatron's checkpoint version {self.megatron_version:g}, whose order of "
                "attention rows is not read here; save it with Megatron 2.1 or later"
            )
        pieces = [
            TensorSlice(tensor=tensor, start=start, stop=start + head_dim)
            for tensor in fused
            for start in range(index * head_dim, tensor.size(0), 3 * head_dim)
        ]
        return LazyTensor(pieces=tuple(pieces))


def _version(rank: PickledFile, path: Path) -> float:
    version = rank.facts.get("checkpoint_version", 0)
    if isinstance(version, str) or not 0 <= version < 100:
        raise CheckpointError(f"{path} has a checkpoint_version that is none ({str(version)[:40]!r}); copy it again")
    return float(version)


def _joined(shares: Sequence[StoredTensor], split: Split, part: str) -> LazyTensor:
    """One tensor out of the ranks' shares; a bias after a column split is whole on every rank."""
    if split == "copies" or (split == "columns" and part == "bias"):
        return whole(shares[:1])
    return whole(shares, axis=1 if split == "columns" else 0)


def _renamed(file: PickledFile) -> dict[str, StoredTensor]:
    tensors = {}
    for name, tensor in file.tensors.items():
        for pattern, replacement in _RENAMES:
            name = pattern.sub(replacement, name)
        tensors[name] = tensor
    return tensors
