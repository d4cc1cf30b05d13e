"""Quality of labels: accuracy, macro-F1 and ECE of every scoring and calibration, zero-, one- and few-shot.

    python -m benchmarks.label_quality --data DIR --model embedded --train-rows 400 --test-rows 1500 --out table.md

DIR has `NAME.train.parquet` and `NAME.test.parquet` with the columns `title`, `text` and `category`. Few-shot examples
come from the training split, and all figures are of rows of the test split. So do fitted calibrations, unless
`--fit-on test`: the first rows of the test split, which are then not measured. A model that was trained on the training
split is more often right there than elsewhere, so that a calibration fitted there promises too much. Each row of the
table is one setting, with 95 % bootstrap intervals. The last column is about `--target-error 0.05` with the fitted
calibration: the share of wrong labels among the answered test rows, and the share of rows that are answered.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import RequestError
from tirazh.pipeline.classification.calibration.calibration import Fitted, fit_calibration
from tirazh.pipeline.evaluation.evaluate import Evaluation, evaluate
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.tuning.candidates import Ints
from tirazh.pipeline.tuning.engine_scorer import EngineScorer
from tirazh.pipeline.tuning.fitted import calibrated
from tirazh.pipeline.tuning.metrics import Scores, predictions_of
from tirazh.pipeline.tuning.output import TuneFiles
from tirazh.pipeline.tuning.run import make_scorers, set_up
from tirazh.pipeline.tuning.sample import GoldRows, gold_rows, take_rows
from tirazh.pipeline.tuning.settings import TuneSettings
from tirazh.pipeline.tuning.space import FITTED, NO_CALIBRATION, SCORINGS, ScoreChoice

# (name, column of the text that is classified)
DATA_SETS = (
    ("en_news_agnews", "text"),
    ("ru_news_lenta", "title"),
    ("ru_news_nplus1", "title"),
    ("ru_news_ria", "title"),
)
LABEL_COLUMN = "category"
CALIBRATIONS = (NO_CALIBRATION, "contextual", "batch", FITTED)
TARGET_ERROR = 0.05
RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Measured:
    """One setting on the test rows. `answered` is the coverage at the target error and `wrong` the share of wrong
    labels there; None where the sample cannot support the target."""

    shots: int
    score: ScoreChoice
    found: Evaluation
    wrong: float | None = None
    answered: float | None = None


def main() -> None:
    options = _parser().parse_args()
    lines = [f"Model {options.model}, {options.train_rows} training rows, at most {options.test_rows} test rows.", ""]
    for name, text_column in DATA_SETS:
        if options.only and name not in options.only:
            continue
        began = time.monotonic()
        measured = list(measure(options, name, text_column))
        lines += [*table_of(name, measured), ""]
        print("\n".join(table_of(name, measured)), f"\n{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    text = "\n".join(lines)
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text, encoding="utf-8")


def measure(options: argparse.Namespace, name: str, text_column: str) -> Iterator[Measured]:
    """Every setting of one data set."""
    train, test = (str(options.data / f"{name}.{split}.parquet") for split in ("train", "test"))
    labels = sorted({str(each) for each in pq.read_table(train, columns=[LABEL_COLUMN])[LABEL_COLUMN].to_pylist()})
    spec = ClassifySpec(
        input=(test,),
        output="unused",
        model=options.model,
        labels={label: label for label in labels},
        text_column=text_column,
        seq_length=options.seq_length,
        dtype=options.dtype,
        device="cpu",
        gold_column=LABEL_COLUMN,
    )
    shots = [0, len(labels), *([] if options.few is None else [options.few])]
    settings = TuneSettings(gold=train, out="unused.yaml", search={"template": ["job"], "shots": shots})
    tuning = set_up(spec, settings, TuneFiles(Path("unused.yaml").absolute()))
    with tuning.replica("model") as replica:
        trained, refused = make_scorers(tuning, replica)
        for prompt, reason in refused.items():
            print(f"{name}: {prompt.shots} shots: {reason}", file=sys.stderr)
        rows = test_rows(spec, test, options.test_rows)
        everything = np.random.default_rng(0).permutation(len(rows.gold))  # the file may be sorted by label
        measured = (
            everything if options.fit_on == "train" else everything[min(options.train_rows, len(everything) // 2) :]
        )
        split = replace(tuning.data.split, search=np.sort(everything), held_out=everything[:0])
        tested, _ = make_scorers(replace(tuning, data=replace(tuning.data, rows=rows, split=split)), replica)
        search = tuning.data.split.search[: options.train_rows]
        for prompt in trained:
            tested[prompt].run(everything)
            scorer, chosen, gold = tested[prompt], everything[: len(everything) - len(measured)], rows.gold
            if options.fit_on == "train":
                scorer, chosen, gold = trained[prompt], search, tuning.data.rows.gold
                scorer.run(search)
            sample = Sample(scorer, chosen, gold[chosen])
            yield from of_prompt(prompt.shots or 0, sample, tested[prompt], measured, rows.gold[measured])


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows on which calibrations are fitted: their scorer, their numbers and their gold labels."""

    scorer: EngineScorer
    rows: Ints
    gold: Ints


def of_prompt(shots: int, sample: Sample, scorer: EngineScorer, rows: Ints, gold: Ints) -> Iterator[Measured]:
    """Every scoring and calibration of one prompt, measured on `rows` of `scorer`."""
    labels = tuple(str(index) for index in range(int(max(sample.gold.max(), gold.max())) + 1))
    for scoring in SCORINGS:
        plain = ScoreChoice(scoring, NO_CALIBRATION)
        for calibrate in CALIBRATIONS:
            choice = ScoreChoice(scoring, calibrate)
            if calibrate == "contextual" and not scorer.has_content_free:
                continue
            if calibrate != FITTED:
                found = _evaluate(scorer.scores(choice, rows), gold, labels)
                yield Measured(shots, choice, found)
                continue
            fitted = fit_calibration(sample.scorer.scores(plain, sample.rows), sample.gold, labels)
            scores = calibrated(fitted.calibration, scorer.scores(plain, rows))
            yield _with_target(Measured(shots, choice, _evaluate(scores, gold, labels)), fitted, scores, gold)


def _with_target(measured: Measured, fitted: Fitted, scores_NL: Scores, gold: Ints) -> Measured:
    try:
        threshold = fitted.calibration.threshold(TARGET_ERROR)
    except RequestError:
        return measured
    chances = np.exp(scores_NL)
    is_answered = chances.max(axis=1) >= threshold
    wrong = chances.argmax(axis=1)[is_answered] != gold[is_answered]
    return replace(measured, answered=float(is_answered.mean()), wrong=float(wrong.mean()) if len(wrong) else 0.0)


def _evaluate(scores_NL: Scores, gold: Ints, labels: tuple[str, ...]) -> Evaluation:
    return evaluate(predictions_of(scores_NL, gold, labels), resamples=RESAMPLES)


def test_rows(spec: ClassifySpec, path: str, count: int) -> GoldRows:
    """At most `count` rows of the test split."""
    labels, column = tuple(spec.labels or {}), spec.text_column
    table: pa.Table = pq.read_table(path)
    rows = gold_rows(table, columns=[column], text_column=column, label_column=LABEL_COLUMN, labels=labels)
    return take_rows(rows, count, seed=0, labels=labels)


def table_of(name: str, measured: list[Measured]) -> list[str]:
    """A Markdown table."""
    head = "| shots | scoring | calibration | accuracy | macro-F1 | ECE | log-loss | wrong / answered at 5 % |"
    lines = [f"### {name}: {measured[0].found.rows:,} test rows, {len(measured[0].found.labels)} labels", "", head]
    lines.append("|---" * 8 + "|")
    for each in measured:
        found = each.found
        target = "" if each.wrong is None else f"{each.wrong:.3f} / {each.answered:.2f}"
        cells = [
            str(each.shots),
            each.score.scoring,
            each.score.calibrate,
            *(_with_interval(found, name) for name in ("accuracy", "macro_f1", "ece")),
            "" if found.log_loss is None else f"{found.log_loss:.2f}",
            target,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _with_interval(found: Evaluation, name: str) -> str:
    value: Any = getattr(found, name)
    low, high = found.intervals[name]
    return f"{value:.3f} ({low:.3f}–{high:.3f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_quality", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory of the data sets")
    parser.add_argument("--model", default="embedded", help="model directory")
    parser.add_argument("--train-rows", type=int, default=400, help="training rows for fitted calibrations")
    parser.add_argument("--test-rows", type=int, default=1500, help="test rows at most")
    parser.add_argument("--fit-on", choices=("train", "test"), default="train", help="split of the calibration rows")
    parser.add_argument("--few", type=int, default=None, help="number of examples of the few-shot setting")
    parser.add_argument("--seq-length", type=int, default=None, help="length of a sequence in tokens")
    parser.add_argument("--dtype", default="auto", help="data type of the model")
    parser.add_argument("--only", nargs="*", default=(), help="names of the data sets to run")
    parser.add_argument("--out", type=Path, default=None, help="Markdown file to write")
    return parser


if __name__ == "__main__":
    main()
