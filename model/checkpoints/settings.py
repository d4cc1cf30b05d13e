"""Completes a model's configuration from the directory's contents and the user's settings, once.

A ru-gpts checkpoint holds neither the number of attention heads nor anything about sparsity. They
are taken from, in this order: the user's settings, `model_args.json` and `deepspeed_config.json`
beside the checkpoint, a preset. Some copies of the community port do not give their sparsity
either. A checkpoint whose sparse mode is given nowhere is refused: run dense by accident, such a
model still writes text, at four times the perplexity. All other directories describe themselves; a
setting may repeat that, never contradict it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.contents import Contents, ForeignModel, UnknownSparsity, WeightSizes
from tirazh.model.checkpoints.files import read_json, whole_number
from tirazh.model.checkpoints.pattern import read_pattern
from tirazh.model.config import (
    PRESETS,
    SPARSE_MODES,
    ModelConfig,
    ModelSettings,
    Preset,
    SparseMode,
    SparsePattern,
    checked_sparse_mode,
)

_SIZES = ("num_layers", "hidden_size", "vocab_size", "max_position_embeddings")


def resolve(settings: ModelSettings, contents: Contents) -> ModelConfig | ForeignModel:
    """Return the complete configuration of the model in a directory.

    Raises CheckpointError when a setting contradicts the directory or cannot apply to it, and when
    the number of heads or the sparse mode of a ru-gpts checkpoint is given nowhere.
    """
    match contents.description:
        case ModelConfig() as config:
            _refuse_contradictions(config, settings, contents.folder)
            return config
        case WeightSizes() as sizes:
            return _complete(sizes, settings, contents.folder)
        case UnknownSparsity() as known:
            return _complete_sparsity(known, settings, contents.folder)
        case ForeignModel() as model:
            _refuse_inapplicable(model, settings, contents.folder)
            return model


def _complete(sizes: WeightSizes, settings: ModelSettings, folder: Path) -> ModelConfig:
    sources = _sources(sizes.folders, settings, folder)
    sources.check_sizes(sizes)
    mode = sources.sparse_mode()
    num_heads, layout_groups = sources.num_attention_heads(), sources.layout_groups()
    pattern = SparsePattern() if mode == "none" else _find_pattern(sizes.folders, settings, mode)
    try:
        return ModelConfig(
            **{name: getattr(sizes, name) for name in _SIZES},
            num_attention_heads=num_heads,
            sparse_mode=mode,
            sparse_pattern=pattern,
            layout_groups=layout_groups or sizes.num_ranks,
            tie_word_embeddings=sizes.tie_word_embeddings,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None


def _complete_sparsity(known: UnknownSparsity, settings: ModelSettings, folder: Path) -> ModelConfig:
    """Return the config with the sparsity that the settings or the files beside it give."""
    sources = _sources((folder,), settings, folder)
    sources.check_sizes(known.config)
    mode = sources.sparse_mode()
    given = settings.deepspeed_config is None and known.pattern is not None
    pattern = known.pattern if given else None
    if mode != "none" and pattern is None:
        pattern = _find_pattern((folder,), settings, mode)
    try:
        config = replace(
            known.config,
            sparse_mode=mode,
            sparse_pattern=(pattern or SparsePattern()) if mode != "none" else SparsePattern(),
            layout_groups=sources.layout_groups() or 1,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    _refuse_contradictions(config, replace(settings, sparse_mode=None, preset=None, deepspeed_config=None), folder)
    return config


def _sources(folders: Sequence[Path], settings: ModelSettings, folder: Path) -> _Sources:
    args_path = _first_file(folders, "model_args.json")
    args = {} if args_path is None else read_json(args_path)
    preset = None if settings.preset is None else PRESETS[settings.preset]
    return _Sources(settings, args, args_path, preset, folder)


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where the settings of a ru-gpts checkpoint come from. Earlier fields win over later ones."""

    settings: ModelSettings
    args: Mapping[str, Any]
    args_path: Path | None
    preset: Preset | None
    folder: Path

    def check_sizes(self, sizes: WeightSizes | ModelConfig) -> None:
        """Raise CheckpointError when `model_args.json` or the preset is about a model of other sizes."""
        claims: list[tuple[str, Mapping[str, Any]]] = [(str(self.args_path), self.args)]
        if self.preset is not None:
            preset_sizes = {"num_layers": self.preset.num_layers, "hidden_size": self.preset.hidden_size}
            claims.append((f"--preset {self.settings.preset}", preset_sizes))
        for source, claimed in claims:
            for name in _SIZES:
                if claimed.get(name) not in (None, getattr(sizes, name)):
                    raise CheckpointError(
                        f"{source} says {name} {claimed[name]}, but the weights in {self.folder} have "
                        f"{getattr(sizes, name)}"
                    )

    def sparse_mode(self) -> SparseMode:
        if self.settings.sparse_mode is not None:
            return self.settings.sparse_mode
        if self.args.get("sparse_mode") is not None:
            return checked_sparse_mode(self.args["sparse_mode"], f"{self.args_path}: sparse_mode")
        if self.preset is not None:
            return self.preset.sparse_mode
        raise CheckpointError(
            f"nothing says which layers of {self.folder} are sparse, and a sparse model run as dense gives far worse "
            f"text without an error; give --sparse-mode ({', '.join(SPARSE_MODES)}; none means dense) or --preset "
            f"({', '.join(PRESETS)}), or put the training flags beside it as model_args.json"
        )

    def num_attention_heads(self) -> int:
        if self.settings.num_attention_heads is not None:
            return self.settings.num_attention_heads
        if self.args_path is not None and self.args.get("num_attention_heads") is not None:
            return whole_number(self.args, "num_attention_heads", self.args_path)
        if self.preset is not None:
            return self.preset.num_attention_heads
        raise CheckpointError(
            f"nothing says how many attention heads {self.folder} has; give --num-attention-heads or "
            f"--preset ({', '.join(PRESETS)})"
        )

    def layout_groups(self) -> int | None:
        if self.settings.fix_sparsity_layout is not None:
            return self.settings.fix_sparsity_layout
        # The original's default is 0, which means one group for each rank.
        if self.args_path is not None and self.args.get("fix_sparsity_layout"):
            return whole_number(self.args, "fix_sparsity_layout", self.args_path)
        return None if self.preset is None else self.preset.layout_groups


def _find_pattern(folders: Sequence[Path], settings: ModelSettings, mode: SparseMode) -> SparsePattern:
    """Return the pattern of the DeepSpeed JSON, or the published XL pattern when there is no such file."""
    path = _first_file(folders, "deepspeed_config.json")
    if settings.deepspeed_config is not None:
        path = Path(settings.deepspeed_config).expanduser()
    if path is None:
        return SparsePattern()
    pattern = read_pattern(path)
    if pattern is None:
        raise CheckpointError(
            f"{path} has no sparse_attention key, which makes the model dense, but its sparse mode is said to be "
            f"{mode}; give --sparse-mode none, or --deepspeed-config with the file it was trained with"
        )
    return pattern


def _first_file(folders: Sequence[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _refuse_contradictions(config: ModelConfig, settings: ModelSettings, folder: Path) -> None:
    for flag, given, held in _contradictions(config, settings):
        raise CheckpointError(f"{folder} says {held} itself, but {flag} says {given}; leave the flag out")


def _contradictions(config: ModelConfig, settings: ModelSettings) -> Iterator[tuple[str, str, str]]:
    """Yield (flag, what it says, what the config says) for every setting that disagrees with the config."""
    preset = None if settings.preset is None else PRESETS[settings.preset]
    modes = (("--sparse-mode", settings.sparse_mode), (f"--preset {settings.preset}", preset and preset.sparse_mode))
    heads = (
        ("--num-attention-heads", settings.num_attention_heads),
        (f"--preset {settings.preset}", preset and preset.num_attention_heads),
    )
    for flag, mode in modes:
        if mode not in (None, config.sparse_mode):
            yield flag, f"sparse mode {mode}", f"sparse mode {config.sparse_mode}"
    for flag, count in heads:
        if count not in (None, config.num_attention_heads):
            yield flag, f"{count} attention heads", f"{config.num_attention_heads} attention heads"
    is_sparse = config.sparse_mode != "none"  # layout groups and pattern mean nothing in a dense model
    groups = settings.fix_sparsity_layout
    if is_sparse and groups not in (None, config.layout_groups):
        yield "--fix-sparsity-layout", f"{groups} layout groups", f"{config.layout_groups} layout groups"
    if settings.deepspeed_config is not None:
        pattern = read_pattern(Path(settings.deepspeed_config).expanduser())
        if (pattern is not None) != is_sparse or (is_sparse and pattern != config.sparse_pattern):
            held = str(config.sparse_pattern) if is_sparse else "that it is dense"
            yield "--deepspeed-config", str(pattern or "that it is dense"), held


def _refuse_inapplicable(model: ForeignModel, settings: ModelSettings, folder: Path) -> None:
    """Raise CheckpointError when a setting about ruGPT-3 models is given for another architecture."""
    given = {
        "--sparse-mode": None if settings.sparse_mode == "none" else settings.sparse_mode,
        "--num-attention-heads": settings.num_attention_heads,
        "--fix-sparsity-layout": settings.fix_sparsity_layout,
        "--deepspeed-config": settings.deepspeed_config,
        "--preset": settings.preset,
    }
    for flag, value in given.items():
        if value is not None:
            raise CheckpointError(
                f"{folder} is a {model.model_type} model, to which {flag} {value} cannot be applied; leave it out"
            )
