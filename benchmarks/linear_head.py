"""Compares `classify --head linear` with TF-IDF and logistic regression on the same rows, by a test split.

    python -m benchmarks.linear_head --data ../shared/data --work /tmp/heads

Every set is two files, NAME.train.parquet and NAME.test.parquet, with the columns title, text and category. The rows
are embedded by `tirazh.embed` with the template of `classify`; the outputs in --work resume.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

import tirazh
from tirazh.pipeline.classification.head.fit import fit_head

SETS = ("ru_news_lenta", "ru_news_nplus1", "ru_news_ria", "en_news_agnews")
SIZES = (200, 1_000, 4_000)


class Rows(NamedTuple):
    """Rows of a split: their texts, their labels and their hidden states [N, C]."""

    texts: list[str]
    labels: list[str]
    states_NC: NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare a linear head with TF-IDF and logistic regression.")
    parser.add_argument("--data", type=Path, required=True, help="directory of the sets")
    parser.add_argument("--work", type=Path, required=True, help="directory for embeddings")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--test-rows", type=int, default=10_000, help="rows of a test split at most")
    options = parser.parse_args()
    print(TITLE)
    for name in options.sets:
        train = embedded(options.data / f"{name}.train.parquet", max(SIZES), options.work, options.model)
        test = embedded(options.data / f"{name}.test.parquet", options.test_rows, options.work, options.model)
        for line in compare(name, train, test):
            print(line, flush=True)


TITLE = (
    "| set | labels | test rows | fitted on | head, cross-validated | head | TF-IDF + LR | head − TF-IDF |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|"
)


def compare(name: str, train: Rows, test: Rows) -> list[str]:
    """The lines of the table for one set. The first N training rows, whose order is random, are taken."""
    lines = []
    labels = sorted(set(train.labels))
    for size in sorted({min(size, len(train.labels)) for size in SIZES}):
        targets = train.labels[:size]
        known = [label for label in labels if targets.count(label) > 1]
        rows = [row for row in range(size) if targets[row] in known]
        head = fit_head(train.states_NC[rows], [targets[row] for row in rows], known)
        chosen = head.log_probabilities(test.states_NC).argmax(axis=1)
        own = float(np.mean([known[index] == label for index, label in zip(chosen, test.labels, strict=True)]))
        other = tfidf_accuracy([train.texts[row] for row in rows], [targets[row] for row in rows], test)
        lines.append(
            f"| {name} | {len(labels)} | {len(test.labels):,} | {size:,} | {head.facts['validated_accuracy']:.1%} | "
            f"{own:.1%} | {other:.1%} | {100 * (own - other):+.1f} |"
        )
    return lines


def tfidf_accuracy(texts: list[str], labels: list[str], test: Rows) -> float:
    """The accuracy on `test` of a logistic regression on the TF-IDF of words and pairs of words, its C by
    cross-validation."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1_000))
    folds = min(5, *(labels.count(label) for label in set(labels)))
    grid = {"logisticregression__C": [1.0, 10.0, 100.0, 1_000.0]}
    search = GridSearchCV(model, grid, cv=StratifiedKFold(folds, shuffle=True, random_state=0))
    return float(search.fit(texts, labels).score(test.texts, test.labels))


def embedded(source: Path, most: int, work: Path, model: str) -> Rows:
    """At most `most` rows of a file, drawn at random, with their hidden states."""
    rows = pl.read_parquet(source).filter(pl.col("text").str.strip_chars() != "")
    rows = rows.sample(min(most, len(rows)), seed=0, shuffle=True)
    work.mkdir(parents=True, exist_ok=True)
    path, output = work / f"{source.stem}.parquet", work / source.stem
    if not path.exists():
        rows.write_parquet(path)
    end = "Topic:" if source.name.startswith("en") else "Тема:"
    tirazh.embed(input=path, output=output, model=model, template=f"{{{{ title }}}}\n{{{{ text }}}}\n{end}")
    done = pl.read_parquet(output / "part-*.parquet")
    texts = (done["title"] + "\n" + done["text"]).to_list()
    return Rows(texts, done["category"].to_list(), np.array(done["embedding"].to_list(), np.float32))


if __name__ == "__main__":
    main()
