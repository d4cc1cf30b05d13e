"""What the weights do not say about a ru-gpts model: heads, sparse mode, sparse pattern, layout groups.

Found in this order: the user's flags, `model_args.json` and `deepspeed_config.json` beside the checkpoint, a preset.
A checkpoint of which nothing says the sparse mode is refused: run dense by accident, such a model still talks, four
times worse. Called by `checkpoints/rugpts.py`, and by `checkpoints/directory.py` to hold flags against what a
directory says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError, did_you_mean
from tirazh.model.checkpoints.files import read_json, whole_number
from tirazh.model.checkpoints.pattern import read_pattern
from tirazh.model.config import SPARSE_MODES, ModelConfig, ModelSettings, SparseMode, SparsePattern


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A published model. Its DeepSpeed JSON may be unpublished: then the pattern is XL's unless a file says more."""

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    sparse_mode: SparseMode = "alternating"
    layout_groups: int | None = None


PRESETS = {
    "rugpt3xl": Preset(num_layers=24, hidden_size=2048, num_attention_heads=16),
    "rugpt3-13b": Preset(num_layers=40, hidden_size=5120, num_attention_heads=40, layout_groups=4),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSettings:
    """Everything of a ModelConfig that the weights of a ru-gpts checkpoint do not say."""

    num_attention_heads: int
    sparse_mode: SparseMode
    sparse_pattern: SparsePattern
    layout_groups: int


def check_flags(flags: ModelSettings) -> None:
    """Raise CheckpointError for flags that are wrong whatever the checkpoint."""
    if flags.sparse_mode is not None:
        _sparse_mode(flags.sparse_mode, "--sparse-mode")
    if flags.preset is not None and flags.preset not in PRESETS:
        hint = did_you_mean(flags.preset, PRESETS)
        raise CheckpointError(f"unknown --preset {flags.preset!r}{hint}; the presets are {', '.join(PRESETS)}")
    for name in ("num_attention_heads", "fix_sparsity_layout"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise CheckpointError(f"--{name.replace('_', '-')} must be at least 1, not {value}")


def find_settings(folders: Sequence[Path], flags: ModelSettings, num_ranks: int) -> CheckpointSettings:
    """CheckpointSettings of the checkpoint in `folders[0]`; JSON files are looked for in all of them, in order.

    Raises CheckpointError where heads or sparse mode are nowhere to be found, or the pattern is not one we know.
    """
    args_path = _first_file(folders, "model_args.json")
    args = {} if args_path is None else read_json(args_path)
    preset = None if flags.preset is None else PRESETS[flags.preset]
    mode = _find_mode(flags, args, args_path, preset, folders[0])
    return CheckpointSettings(
        num_attention_heads=_find_heads(flags, args, args_path, preset, folders[0]),
        sparse_mode=mode,
        sparse_pattern=SparsePattern() if mode == "none" else _find_pattern(folders, flags, mode),
        layout_groups=_find_groups(flags, args, args_path, preset) or num_ranks,
    )


def check_sizes(folders: Sequence[Path], flags: ModelSettings, found: Mapping[str, int]) -> None:
    """Raise CheckpointError when `model_args.json` or the preset speak of a model of other sizes than `found`."""
    sources: list[tuple[str, Mapping[str, Any]]] = []
    if (path := _first_file(folders, "model_args.json")) is not None:
        sources.append((str(path), read_json(path)))
    if flags.preset is not None:
        preset = PRESETS[flags.preset]
        sources.append(
            (f"--preset {flags.preset}", {key: getattr(preset, key) for key in ("num_layers", "hidden_size")})
        )
    for source, said in sources:
        for key, value in found.items():
            if said.get(key) not in (None, value):
                raise CheckpointError(f"{source} says {key} {said[key]}, but the weights in {folders[0]} have {value}")


def refuse_contradictions(config: ModelConfig, flags: ModelSettings, folder: Path) -> None:
    """Raise CheckpointError when a flag says something else than a directory that describes itself."""
    for flag, said, holds in _contradictions(config, flags):
        raise CheckpointError(f"{folder} says {holds} itself, but {flag} says {said}; leave the flag out")


def _contradictions(config: ModelConfig, flags: ModelSettings) -> Iterator[tuple[str, str, str]]:
    """(flag, what it says, what the config says) for every flag that disagrees."""
    preset = None if flags.preset is None else PRESETS[flags.preset]
    modes = (("--sparse-mode", flags.sparse_mode), (f"--preset {flags.preset}", preset and preset.sparse_mode))
    heads = (
        ("--num-attention-heads", flags.num_attention_heads),
        (f"--preset {flags.preset}", preset and preset.num_attention_heads),
    )
    for flag, mode in modes:
        if mode not in (None, config.sparse_mode):
            yield flag, f"sparse mode {mode}", f"sparse mode {config.sparse_mode}"
    for flag, count in heads:
        if count not in (None, config.num_attention_heads):
            yield flag, f"{count} attention heads", f"{config.num_attention_heads} attention heads"
    is_sparse = config.sparse_mode != "none"
    if is_sparse and flags.fix_sparsity_layout not in (None, config.layout_groups):
        yield "--fix-sparsity-layout", f"{flags.fix_sparsity_layout} groups", f"{config.layout_groups} layout groups"
    if flags.deepspeed_config is not None:
        pattern = read_pattern(Path(flags.deepspeed_config).expanduser())
        if (pattern is not None) != is_sparse or (is_sparse and pattern != config.sparse_pattern):
            holds = str(config.sparse_pattern) if is_sparse else "that it is dense"
            yield "--deepspeed-config", str(pattern or "that it is dense"), holds


def _sparse_mode(word: Any, source: str) -> SparseMode:
    if word not in SPARSE_MODES:
        hint = did_you_mean(str(word), SPARSE_MODES)
        raise CheckpointError(f"{source}: unknown sparse mode {word!r}{hint}; the modes are {', '.join(SPARSE_MODES)}")
    return word


def _find_mode(
    flags: ModelSettings, args: Mapping[str, Any], args_path: Path | None, preset: Preset | None, folder: Path
) -> SparseMode:
    if flags.sparse_mode is not None:
        return flags.sparse_mode
    if args.get("sparse_mode") is not None:
        return _sparse_mode(args["sparse_mode"], str(args_path))
    if preset is not None:
        return preset.sparse_mode
    raise CheckpointError(
        f"nothing says which layers of {folder} are sparse, and a sparse model run dense is far worse without a word; "
        f"give --sparse-mode ({', '.join(SPARSE_MODES)}; none means dense), --preset ({', '.join(PRESETS)}) or put "
        "the training flags beside it as model_args.json"
    )


def _find_heads(
    flags: ModelSettings, args: Mapping[str, Any], args_path: Path | None, preset: Preset | None, folder: Path
) -> int:
    if flags.num_attention_heads is not None:
        return flags.num_attention_heads
    if args_path is not None and args.get("num_attention_heads") is not None:
        return whole_number(args, "num_attention_heads", args_path)
    if preset is not None:
        return preset.num_attention_heads
    raise CheckpointError(
        f"nothing says how many attention heads {folder} has; give --num-attention-heads or "
        f"--preset ({', '.join(PRESETS)})"
    )


def _find_groups(
    flags: ModelSettings, args: Mapping[str, Any], args_path: Path | None, preset: Preset | None
) -> int | None:
    if flags.fix_sparsity_layout is not None:
        return flags.fix_sparsity_layout
    if args_path is not None and args.get("fix_sparsity_layout"):  # the original's default is 0: as many as ranks
        return whole_number(args, "fix_sparsity_layout", args_path)
    return None if preset is None else preset.layout_groups


def _find_pattern(folders: Sequence[Path], flags: ModelSettings, mode: SparseMode) -> SparsePattern:
    """The pattern of the DeepSpeed JSON; XL's, which was published, where there is no such file."""
    path = _first_file(folders, "deepspeed_config.json")
    if flags.deepspeed_config is not None:
        path = Path(flags.deepspeed_config).expanduser()
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
