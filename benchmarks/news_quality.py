"""Quality of a model on real news: accuracy, macro-F1, ECE before and after a calibration, and bits per character.

    python -m benchmarks.news_quality --data DIR --models embedded other/model --out table.md
    python -m benchmarks.news_quality --data DIR --dtypes float32 bfloat16 int8

DIR has `NAME.test.parquet` with the columns `title`, `text` and `category`. Each row is its title and text, truncated
at 420 characters; the prediction is the label with the highest likelihood, without examples, in float32 or the given
dtypes. The calibration is fitted by cross-validation on the same rows, so every row is measured with a fit that has not
seen it. Bits per character are those of the first 1,000 characters of the texts. Brackets are 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tirazh.pipeline.evaluation.evaluate import Evaluation, evaluate
from tirazh.pipeline.evaluation.predictions import Predictions

# name → (rows that are labelled, texts whose bits are measured); None: all rows.
DATA_SETS = {
    "en_news_agnews": (None, 200),
    "ru_news_lenta": (None, 500),
    "ru_news_nplus1": (500, 60),
    "ru_news_ria": (None, 40),
}
LONGEST_PROMPT, LONGEST_TEXT = 420, 1_000  # characters
_LABELS = "category"
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class NewsFigures:
    """The figures of one model on one data set; intervals are (low, high)."""

    rows: int
    labels: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    macro_f1_interval: tuple[float, float]
    ece: float
    calibrated_ece: float
    bits_per_character: float


def measure(data: Path, name: str, model: str, dtype: str = "float32") -> NewsFigures:
    """Label the test rows of a data set with a model, and score some of their texts."""
    from tirazh.pipeline.classification.calibration.calibration import fit_calibration

    table = pl.read_parquet(data / f"{name}.test.parquet").sample(fraction=1.0, shuffle=True, seed=0)
    labels = tuple(sorted(table[_LABELS].unique()))
    num_rows, num_texts = DATA_SETS[name]
    rows = table if num_rows is None else table.head(num_rows)
    gold_N, probabilities_NL = _label(rows, labels, model, dtype)

    assert len(gold_N) == len(rows)
    plain = _evaluate(probabilities_NL, gold_N, labels)
    fitted = fit_calibration(np.log(np.maximum(probabilities_NL, 1e-30)), gold_N, labels)
    calibrated = _evaluate(fitted.after, fitted.gold, labels)
    assert plain.accuracy is not None
    assert plain.ece is not None
    assert calibrated.ece is not None
    return NewsFigures(
        rows=len(gold_N),
        labels=len(labels),
        accuracy=plain.accuracy,
        accuracy_interval=plain.intervals["accuracy"],
        macro_f1=plain.macro_f1,
        macro_f1_interval=plain.intervals["macro_f1"],
        ece=plain.ece,
        calibrated_ece=calibrated.ece,
        bits_per_character=_bits(table.head(num_texts), model, dtype),
    )


def _evaluate(probabilities_NL: Floats, gold_N: Ints, labels: tuple[str, ...]) -> Evaluation:
    return evaluate(
        Predictions(
            labels=labels,
            gold=gold_N,
            chosen=probabilities_NL.argmax(axis=1),
            confidence=probabilities_NL.max(axis=1),
            probabilities=probabilities_NL,
        )
    )


def _prompts(rows: pl.DataFrame, longest: int) -> list[str]:
    """The title and the text of every row, or the title where the text repeats it."""
    pairs = rows.select("title", "text").iter_rows()
    texts = (title if text == title else f"{title}\n{text}" for title, text in pairs)
    return [text.replace("\\", " ").strip()[:longest].strip() for text in texts]


def _label(rows: pl.DataFrame, labels: tuple[str, ...], model: str, dtype: str) -> tuple[Ints, Floats]:
    """Gold labels int64 [N] and probabilities float64 [N, L] of the rows."""
    import tirazh

    asked = pl.DataFrame({"text": _prompts(rows, LONGEST_PROMPT), "gold": rows[_LABELS]})
    with tempfile.TemporaryDirectory() as folder:
        tirazh.classify(
            input=asked,
            output=f"{folder}/out",
            labels={each: each for each in labels},
            model=model,
            dtype=dtype,  # type: ignore[arg-type]  # checked by the job
        )
        made = pl.read_parquet(f"{folder}/out/*.parquet")
    index = {label: number for number, label in enumerate(labels)}
    found = np.full((len(made), len(labels)), np.nan)
    for row, probabilities in enumerate(made["probabilities"].to_list()):
        for each in probabilities:
            found[row, index[each["label"]]] = each["probability"]
    return np.array([index[label] for label in made["gold"]], np.int64), found


def _bits(rows: pl.DataFrame, model: str, dtype: str) -> float:
    """Bits per character of the texts, each after the start of the text."""
    import tirazh

    asked = pl.DataFrame({"text": _prompts(rows, LONGEST_TEXT)})
    with tempfile.TemporaryDirectory() as folder:
        tirazh.score(
            input=asked,
            output=f"{folder}/out",
            model=model,
            dtype=dtype,  # type: ignore[arg-type]  # checked by the job
            truncate="right",
        )
        made = pl.read_parquet(f"{folder}/out/*.parquet")
    characters = made["text"].str.len_chars().sum()
    return -float(made["logprob"].sum()) / math.log(2) / float(characters)


def table_lines(
    models: list[str], dtypes: list[str], figures: dict[tuple[str, str, str], NewsFigures]
) -> Iterator[str]:
    """Yield the lines of a table in Markdown; `figures` by data set, model and dtype."""
    yield "| data set | model | dtype | rows, labels | accuracy | macro-F1 | ECE | ECE calibrated | bits a character |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in DATA_SETS:
        for model, dtype in itertools.product(models, dtypes):
            found = figures[name, model, dtype]
            low, high = found.accuracy_interval
            low_f1, high_f1 = found.macro_f1_interval
            yield (
                f"| {name} | {model} | {dtype} | {found.rows:,}, {found.labels} | "
                f"{found.accuracy:.4f} [{low:.3f}, {high:.3f}] | "
                f"{found.macro_f1:.3f} [{low_f1:.3f}, {high_f1:.3f}] | {found.ece:.3f} | {found.calibrated_ece:.3f} | "
                f"{found.bits_per_character:.4f} |"
            )


def main() -> None:
    """Measure models and print a table in Markdown."""
    parser = argparse.ArgumentParser(description="Measure models on real news.")
    parser.add_argument("--data", type=Path, required=True, help="directory of the labelled news")
    parser.add_argument("--models", nargs="+", default=["embedded"], help="model directories")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help="each is a job of its own")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    figures = {
        (name, model, dtype): measure(options.data, name, model, dtype)
        for name, model, dtype in itertools.product(DATA_SETS, options.models, options.dtypes)
    }
    text = "\n".join(table_lines(options.models, options.dtypes, figures)) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
