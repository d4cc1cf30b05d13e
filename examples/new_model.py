"""Create a new, untrained ruGPT-3 model from your texts, for `tirazh finetune` to train.

    python examples/new_model.py --data news.parquet --out seed-model --layers 6 --hidden-size 320
    tirazh finetune --model seed-model --input news.parquet --output my-model --learning-rate 1e-3 --epochs 3

The tokenizer is trained on the texts, unless `--out` already has one. The texts also determine the
initialisation (see `warm_start.py`). The result is an ordinary model directory in float32.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizer_training import END_OF_TEXT, read_texts, token_id, train_tokenizer
from tokenizers import Tokenizer
from warm_start import warm_start

from tirazh.model.checkpoints.native import native_config
from tirazh.model.config import ModelConfig, expected_shapes
from tirazh.model.gpt import RuGPT3Config, RuGPT3ForCausalLM

_MULTIPLE = 8  # the vocabulary is padded to a multiple of this, as in the original code


def main() -> None:
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "tokenizer.json"
    if not path.exists():
        texts = read_texts(options.data, options.text_column)
        train_tokenizer(texts, options.vocab_size).save(str(path), pretty=False)
    tokenizer = Tokenizer.from_file(str(path))
    config = ModelConfig(
        num_layers=options.layers,
        hidden_size=options.hidden_size,
        num_attention_heads=options.heads,
        vocab_size=-(-tokenizer.get_vocab_size() // _MULTIPLE) * _MULTIPLE,
        max_position_embeddings=options.positions,
        sparse_mode=options.sparse_mode,
    )
    torch.manual_seed(options.seed)
    model = RuGPT3ForCausalLM(RuGPT3Config.from_model_config(config))
    sequences = [tokenizer.encode(text).ids for text in read_texts(options.data, options.text_column)]
    warm_start(model, sequences, token_id(tokenizer, END_OF_TEXT))
    write_model(options.out, model, config, tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters in {options.out}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Create a new, untrained model from your texts.")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="Parquet files")
    parser.add_argument("--text-column", nargs="+", default=["text"], help="columns of texts to learn from")
    parser.add_argument("--out", type=Path, required=True, help="directory that receives the model")
    parser.add_argument("--vocab-size", type=int, default=16_384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden-size", type=int, default=320)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--positions", type=int, default=1024, help="longest sequence, in tokens")
    parser.add_argument("--sparse-mode", default="alternating", help="none, all, alternating or top_bottom")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the initialisation")
    return parser.parse_args()


def write_model(folder: Path, model: RuGPT3ForCausalLM, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Write the weights, then config.json, so that an unfinished directory is never taken for a model."""
    weights = model.state_dict()
    save_file({name: weights[name].contiguous() for name in expected_shapes(config)}, folder / "model.safetensors")
    ids = {"eos_token_id": token_id(tokenizer, END_OF_TEXT), "pad_token_id": token_id(tokenizer, "<pad>")}
    text = json.dumps(native_config(config, "float32") | ids, indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
