"""ru-gpts (DeepSpeed) and Megatron checkpoints: torch pickles, one for every model-parallel rank.

Merges the ranks' shards without reading them, and maps the tensor names to tirazh's. The sizes come
from the shapes of the tensors; heads and sparsity are resolved later, by `checkpoints/settings.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.contents import Contents, ForeignModel, WeightSizes
from tirazh.model.checkpoints.files import refuse_pointer
from tirazh.model.checkpoints.heads import HEAD, differs
from tirazh.model.checkpoints.pickles import PickledFile, open_pickle
from tirazh.model.checkpoints.rank_files import RankFiles
from tirazh.model.checkpoints.tensors import LazyTensor, StoredTensor, TensorSlice, same_values, third, whole
from tirazh.model.checkpoints.unused import check_unused, named
from tirazh.model.config import ModelConfig

# Later versions of Megatron nest their state dicts and use other names; these restore the first
# version's names.
_RENAMES = (
    (re.compile(r"^(language_model\.)?(embedding\.)?"), ""),
    (re.compile(r"^encoder\."), "transformer."),
    (re.compile(r"\.self_attention\."), ".attention."),
    (re.compile(r"^layers\."), "transformer.layers."),
)

# Output embeddings of their own, or copies of the input embedding: Megatron's names, and Hugging Face's.
_HEADS = ("output_layer.weight", "word_embeddings_for_head.weight", HEAD)

Split = Literal["rows", "columns", "copies"]
_LAYER: dict[str, tuple[str, Split]] = {
    "input_layernorm": ("input_layernorm", "copies"),
    "post_attention_layernorm": ("post_attention_layernorm", "copies"),
    "self_attn.o_proj": ("attention.dense", "columns"),
    "mlp.up_proj": ("mlp.dense_h_to_4h", "rows"),
    "mlp.down_proj": ("mlp.dense_4h_to_h", "columns"),
}


def open_rugpts(root: Path, found: RankFiles) -> Contents:
    """Open the rank files found in or below `root`. Raises CheckpointError."""
    ranks = [_open_rank(path) for path in found.files]
    tensors = [_renamed(rank, path) for rank, path in zip(ranks, found.files, strict=True)]
    checkpoint = _Ranks(found, tensors, _version(ranks[0], found.files[0]))
    folders = tuple(dict.fromkeys((root, found.folder, found.folder.parent)))
    sizes = checkpoint.sizes(folders)
    return Contents(
        kind=found.kind,
        folder=root,
        files=found.files,
        description=sizes,
        tensors=checkpoint.merged_tensors,
        notices=(*found.notices, *checkpoint.unused(sizes), *checkpoint.unequal_copies(sizes)),
    )


def _open_rank(path: Path) -> PickledFile:
    refuse_pointer(path)
    return open_pickle(path)


@dataclass(frozen=True, slots=True)
class _Ranks:
    """The ranks' tensors by their original names."""

    found: RankFiles
    tensors: Sequence[Mapping[str, StoredTensor]]
    megatron_version: float

    def get(self, name: str) -> list[StoredTensor]:
        """Return every rank's shard of one tensor. Raises CheckpointError when a rank has none."""
        for rank, path in zip(self.tensors, self.found.files, strict=True):
            if name not in rank:
                raise CheckpointError(f"{path} has no tensor {name}, which every ruGPT-3 checkpoint holds")
        return [rank[name] for rank in self.tensors]

    def sizes(self, folders: tuple[Path, ...]) -> WeightSizes:
        """Return the model's sizes. Raises CheckpointError when ranks are missing."""
        words = self.get("word_embeddings.weight")
        hidden_size = words[0].size(1)
        self._check_all_ranks(hidden_size)
        matches = (re.match(r"transformer\.layers\.(\d+)\.", name) for name in self.tensors[0])
        # Nine digits are enough: no such number of layers is complete.
        layers = {int(match[1][:9]) for match in matches if match}
        if len(layers) != max(layers) + 1:
            gap = next(layer for layer in range(max(layers)) if layer not in layers)
            raise CheckpointError(
                f"{self.found.files[0]} has tensors of layer {max(layers)}, but none of layer {gap}; copy it again"
            )
        return WeightSizes(
            num_layers=max(layers) + 1,
            hidden_size=hidden_size,
            vocab_size=sum(shard.size(0) for shard in words),
            max_position_embeddings=self.get("position_embeddings.weight")[0].size(0),
            num_ranks=len(self.tensors),
            folders=folders,
            tie_word_embeddings=self._head() is None,
        )

    def _head(self) -> LazyTensor | None:
        """Return the output embedding of a model whose own differs from its input embedding."""
        name = next((name for name in _HEADS if name in self.tensors[0]), None)
        if name is None:
            return None
        head = whole(self.get(name))
        return head if differs(whole(self.get("word_embeddings.weight")), head) else None

    def unused(self, sizes: WeightSizes) -> tuple[str, ...]:
        """Return the notice about tensors that are not the model's. Raises CheckpointError for those that matter."""
        used = {name for name, _ in _required(sizes.num_layers)} | set(_HEADS)
        return check_unused(str(self.found.folder), {name for rank in self.tensors for name in rank} - used)

    def unequal_copies(self, sizes: WeightSizes) -> tuple[str, ...]:
        """Return the notice about small tensors that every rank holds, but not with the same values."""
        names = [name for name, split in _required(sizes.num_layers) if split == "copies"]
        for name in names if len(self.tensors) > 1 else ():
            first, *others = self.get(name)
            for other in others:
                if not same_values(whole([first]), whole([other])):
                    line = f"{first.file} and {other.file} differ in {name}, of which every rank has a copy"
                    return (f"{line}: they may be of different saves; the copy of the first is used",)
        return ()

    def _check_all_ranks(self, hidden: int) -> None:
        shard = self.get("transformer.layers.0.attention.query_key_value.weight")[0]
        # All ranks together store 3 * hidden rows of fused q, k and v; files that are missing at the
        # end leave no gap in the numbering, so the rows show it.
        num_files, num_rows = len(self.tensors), shard.size(0)
        if num_rows and num_rows * num_files != 3 * hidden and 3 * hidden % num_rows == 0:
            raise CheckpointError(
                f"{self.found.folder} was saved by {3 * hidden // num_rows} model-parallel ranks, but has only "
                f"{num_files} of their files; copy every mp_rank file"
            )

    def merged_tensors(self, config: ModelConfig | ForeignModel) -> dict[str, LazyTensor]:
        """Return the model's tensors, merged over the ranks.

        Raises CheckpointError when one is missing.
        """
        assert isinstance(config, ModelConfig)
        self._check_complete(config.num_layers)
        merged = {
            "model.embed_tokens.weight": whole(self.get("word_embeddings.weight")),
            "model.embed_positions.weight": whole(self.get("position_embeddings.weight")[:1]),
        }
        for part in ("weight", "bias"):
            merged[f"model.norm.{part}"] = whole(self.get(f"transformer.final_layernorm.{part}")[:1])
            for layer in range(config.num_layers):
                ours, theirs = f"model.layers.{layer}", f"transformer.layers.{layer}"
                for name, (stored, split) in _LAYER.items():
                    merged[f"{ours}.{name}.{part}"] = _merged(self.get(f"{theirs}.{stored}.{part}"), split, part)
                fused = self.get(f"{theirs}.attention.query_key_value.{part}")
                for index, letter in enumerate("qkv"):
                    merged[f"{ours}.self_attn.{letter}_proj.{part}"] = self._projection(fused, index, config.head_dim)
        head = None if config.tie_word_embeddings else self._head()
        return merged if head is None else merged | {HEAD: head}

    def _check_complete(self, num_layers: int) -> None:
        for rank, path in zip(self.tensors, self.found.files, strict=True):
            missing = [name for name, _ in _required(num_layers) if name not in rank]
            if missing:
                raise CheckpointError(f"{path} has no tensor {named(missing)}, which every ruGPT-3 checkpoint holds")

    def _projection(self, fused: Sequence[StoredTensor], index: int, head_dim: int) -> LazyTensor:
        """Return q, k or v (index 0, 1, 2) from every rank's fused rows.

        A rank stores all q rows, then all k, then all v; since Megatron's checkpoint version 2 it
        stores q, k and v head by head.
        """
        if self.megatron_version < 1:
            return third(fused, index)
        if self.megatron_version < 2:
            raise CheckpointError(
                f"{self.found.folder} has Megatron's checkpoint version {self.megatron_version:g}, whose order of "
                "attention rows is not supported; save it with Megatron 2.1 or later"
            )
        slices = [
            TensorSlice(tensor=tensor, start=start, stop=start + head_dim)
            for tensor in fused
            for start in range(index * head_dim, tensor.size(0), 3 * head_dim)
        ]
        return LazyTensor(slices=tuple(slices))


def _required(num_layers: int) -> Iterator[tuple[str, Split]]:
    """Yield the names of a rank's tensors and how the ranks share them."""
    yield from (("word_embeddings.weight", "rows"), ("position_embeddings.weight", "copies"))
    for part in ("weight", "bias"):
        yield f"transformer.final_layernorm.{part}", "copies"
        for layer in range(num_layers):
            yield f"transformer.layers.{layer}.attention.query_key_value.{part}", "rows"
            for stored, split in _LAYER.values():
                is_copy = split == "copies" or (split == "columns" and part == "bias")
                yield f"transformer.layers.{layer}.{stored}.{part}", "copies" if is_copy else split


def _version(rank: PickledFile, path: Path) -> float:
    version = rank.facts.get("checkpoint_version", 0)
    if isinstance(version, str) or not 0 <= version < 100:
        raise CheckpointError(f"{path} has an invalid checkpoint_version ({str(version)[:40]!r}); copy it again")
    return float(version)


def _merged(shards: Sequence[StoredTensor], split: Split, part: str) -> LazyTensor:
    """Merge one tensor.

    Every rank has the whole bias of a linear that is split by columns, so one copy is taken.
    """
    if split == "copies" or (split == "columns" and part == "bias"):
        return whole(shards[:1])
    return whole(shards, axis=1 if split == "columns" else 0)


def _renamed(file: PickledFile, path: Path) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for original, tensor in file.tensors.items():
        name = original
        for pattern, replacement in _RENAMES:
            name = pattern.sub(replacement, name)
        if name in tensors:
            raise CheckpointError(
                f"{path} holds {name} twice, as {tensors[name].name[:100]} and as {original[:100]}; remove one of them"
            )
        tensors[name] = tensor
    return tensors
