"""Write the mean of several models of the same shape: of checkpoints of one training, or of its last stages.

    python examples/mean_of_models.py --models stage-4 stage-5 --out model --dtype float16

The mean is taken in float64, weight by weight, so the order of the models does not matter beyond the last bit. All
other files (config, tokenizer, labels) are those of the last model. The weights of the embedded model are such a mean.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main() -> None:
    options = parse_options()
    means = mean_of(options.models)
    options.out.mkdir(parents=True)
    for path in options.models[-1].iterdir():
        if path.is_file() and ".safetensors" not in path.name and path.name != "README.md":
            shutil.copyfile(path, options.out / path.name)
    tensors = {name: mean.to(_DTYPES[options.dtype]) for name, mean in means.items()}
    save_file(tensors, options.out / "model.safetensors", metadata={"format": "pt"})
    print(f"the mean of {len(options.models)} models is in {options.out}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write the mean of several models of the same shape.")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="model directories")
    parser.add_argument("--out", type=Path, required=True, help="new directory that receives the model")
    parser.add_argument("--dtype", choices=sorted(_DTYPES), default="float32", help="data type of the weights")
    return parser.parse_args()


def mean_of(folders: list[Path]) -> dict[str, torch.Tensor]:
    """Return the means of the weights, float64, by name. Raises ValueError for models of different shapes."""
    sums: dict[str, torch.Tensor] = {}
    for number, folder in enumerate(folders):
        weights = read_weights(folder)
        if number and {name: weight.shape for name, weight in weights.items()} != {
            name: weight.shape for name, weight in sums.items()
        }:
            raise ValueError(f"{folder} has other weights than {folders[0]}")
        for name, weight in weights.items():
            sums[name] = sums[name] + weight.double() if number else weight.double()
    return {name: each / len(folders) for name, each in sums.items()}


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read all weights of a model directory, in one file or in several."""
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as opened:
            weights |= {name: opened.get_tensor(name) for name in opened.keys()}
    return weights


if __name__ == "__main__":
    main()
