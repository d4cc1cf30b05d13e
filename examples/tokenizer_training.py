"""Train a byte-level BPE tokenizer, which encodes any text without loss.

    python examples/tokenizer_training.py --data news.parquet --text-column text --out my-model --vocab-size 16384

Writes `tokenizer.json` into `--out`; the same texts give the same file. The special tokens of the
ruGPT-3 family come first; `<|endoftext|>` ends a text.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", END_OF_TEXT]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a byte-level BPE tokenizer.")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="Parquet files")
    parser.add_argument("--text-column", nargs="+", default=["text"], help="columns of texts to learn from")
    parser.add_argument("--out", type=Path, required=True, help="directory that receives tokenizer.json")
    parser.add_argument(
        "--vocab-size", type=int, default=16_384, help="number of tokens, including special tokens and bytes"
    )
    options = parser.parse_args()
    tokenizer = train_tokenizer(read_texts(options.data, options.text_column), options.vocab_size)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(options.out / "tokenizer.json"), pretty=False)
    print(f"{tokenizer.get_vocab_size():,} entries in {options.out / 'tokenizer.json'}")


def read_texts(paths: Iterable[Path], columns: Iterable[str]) -> Iterator[str]:
    """Yield every text of the columns, reading in batches; skips nulls and empty texts."""
    names = list(columns)
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(columns=names):
            for name in names:
                yield from (text for text in batch.column(name).to_pylist() if text)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE of at most `vocab_size` tokens.

    Ties between merges are broken by the order of the tokens, so the result depends on neither
    threads nor hashing.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_id(tokenizer: Tokenizer, name: str) -> int:
    """Return the id of a special token by its name."""
    found = tokenizer.token_to_id(name)
    assert found is not None, f"the tokenizer has no {name}"
    return int(found)


if __name__ == "__main__":
    main()
