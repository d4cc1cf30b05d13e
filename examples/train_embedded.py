"""Train a small ruGPT-3-shaped model from scratch on your own labelled texts, the way the embedded one was made.

    python examples/train_embedded.py --data labelled.parquet --out my-model --minutes 90
    tirazh classify --model my-model --input new.parquet --output labelled --labels economics,sport

`--data` is Parquet with string columns `text` and `label` (null: the text is only read); the tokenizer is trained on
it too. A usable model is in `--out` after every checkpoint; the same command goes on from the last one. On a machine
that others use as well, set OMP_WAIT_POLICY=PASSIVE: threads that spin cost more than they win.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from tokenizer_training import token_id, train_tokenizer
from tokenizers import Tokenizer
from training_loop import Example, Recipe, Trainer, build_batches
from warm_start import warm_start

from model.config import ModelConfig
from model.gpt import RuGPT3Config, RuGPT3ForCausalLM

PROMPT_END = "\nТема:"  # how the default template of `tirazh classify` ends
Row = tuple[str, str | None]


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    rows = read_rows(options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer_path = options.out / "tokenizer.json"
    if not tokenizer_path.exists():
        train_tokenizer(training_texts(rows), options.vocab_size).save(str(tokenizer_path), pretty=False)
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    config = ModelConfig(
        num_layers=options.layers,
        hidden_size=options.hidden_size,
        num_attention_heads=options.heads,
        vocab_size=-(-tokenizer.get_vocab_size() // 8) * 8,
        max_position_embeddings=options.positions,
        sparse_mode="alternating",
    )
    torch.manual_seed(options.seed)
    model = RuGPT3ForCausalLM(RuGPT3Config.from_model_config(config))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {len(rows):,} rows")
    checkpoint = options.out / "training.pt"
    if not checkpoint.exists():
        sequences = [encoding.ids for encoding in tokenizer.encode_batch([text for text, _ in rows])]
        warm_start(model, sequences, token_id(tokenizer, "<|endoftext|>"))
    trainer = Trainer(model, Recipe(minutes=options.minutes))

    def on_checkpoint() -> None:
        minutes, tokens, text_loss, label_loss = trainer.progress.curve[-1]
        print(f"{minutes:6.1f} min  {tokens:11,} tokens  text {text_loss:.3f}  labels {label_loss:.3f}", flush=True)
        export(trainer.masters, config, tokenizer, options.out)

    draw = row_drawer(rows, tokenizer, max_tokens=options.positions // 2)
    batches = build_batches(draw, trainer.recipe.batch_tokens, random.Random())
    trainer.train(batches, checkpoint, on_checkpoint)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small model on labelled texts.")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="Parquet with columns text, label")
    parser.add_argument("--out", type=Path, required=True, help="directory that receives the model")
    parser.add_argument("--minutes", type=float, default=90.0, help="wall-clock time, all runs together")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--positions", type=int, default=1024, help="longest sequence, in tokens")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0, help="of the first weights")
    return parser.parse_args()


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """Every (text, label) of the files; rows without a text are left out."""
    table = pa.concat_tables([pq.read_table(path, columns=["text", "label"]) for path in paths])
    columns = zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True)
    return [(text, label) for text, label in columns if text]


def training_texts(rows: list[Row]) -> Iterable[str]:
    """What the tokenizer learns from: the texts, and the labels often enough to become single tokens."""
    for text, label in rows:
        yield text if label is None else f"{text}{PROMPT_END} {label}"


def row_drawer(rows: list[Row], tokenizer: Tokenizer, max_tokens: int) -> Callable[[random.Random], Example]:
    """Draw labels equally often, whatever their share of the rows: the model shall not learn the shares."""
    by_label: dict[str | None, list[str]] = {}
    for text, label in rows:
        by_label.setdefault(label, []).append(text)
    labels = list(by_label)
    tail = tokenizer.encode(PROMPT_END).ids
    end = token_id(tokenizer, "<|endoftext|>")

    def draw(rng: random.Random) -> Example:
        label = rng.choice(labels)
        body = tokenizer.encode(rng.choice(by_label[label])).ids
        if label is None:
            start = rng.randrange(max(1, len(body) - max_tokens + 1))
            return Example(body[start : start + max_tokens])
        prompt = [*body[:max_tokens], *tail]
        return Example([*prompt, *tokenizer.encode(" " + label).ids, end], label_start=len(prompt))

    return draw


def export(weights: dict[str, torch.nn.Parameter], config: ModelConfig, tokenizer: Tokenizer, out: Path) -> None:
    """Write `config.json` and float16 `model.safetensors`; each file whole or not at all."""
    end = token_id(tokenizer, "<|endoftext|>")
    values = RuGPT3Config.from_model_config(
        config,
        architectures=["RuGPT3ForCausalLM"],
        dtype="float16",
        pad_token_id=token_id(tokenizer, "<pad>"),
        bos_token_id=token_id(tokenizer, "<s>"),
        eos_token_id=end,
    ).to_diff_dict()
    text = json.dumps({"model_type": "rugpt3"} | values, indent=2, ensure_ascii=False)
    (out / "config.json").write_text(text + "\n", encoding="utf-8")
    tensors = {name: weight.detach().to(torch.float16).contiguous() for name, weight in weights.items()}
    save_file(tensors, out / "model.part", metadata={"format": "pt"})
    (out / "model.part").replace(out / "model.safetensors")


if __name__ == "__main__":
    main()
