"""What `tune` finds on the training split of news, against the best setting of the whole space on the test split.

The embedded model; `pytest -m slow -s tests/pipeline/tuning/test_news.py` prints the figures. The whole space is run on
the test rows, with the few-shot examples that `tune` had; a fitted calibration is that of the training split.
"""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.tuning.budget import TokenBudget
from tirazh.pipeline.tuning.engine_scorer import EngineScorer
from tirazh.pipeline.tuning.fitted import fit_scores
from tirazh.pipeline.tuning.metrics import value_of
from tirazh.pipeline.tuning.output import TuneFiles
from tirazh.pipeline.tuning.run import Tuning, make_scorers, search_of, set_up, write_found
from tirazh.pipeline.tuning.sample import gold_rows, take_rows
from tirazh.pipeline.tuning.settings import TuneSettings
from tirazh.pipeline.tuning.space import FITTED, NO_CALIBRATION, PromptChoice, ScoreChoice

# (data set, column of the text, column names of the labels are `category` in all)
NEWS = [
    ("en_news_agnews", "text"),
    ("ru_news_lenta", "title"),
    ("ru_news_nplus1", "title"),
    ("ru_news_ria", "title"),
]
SEARCH = {"template": ["job", "category", "list-topic"], "shots": [0, 4]}
TEST_ROWS, LABEL_COLUMN, POINT = 1_500, "category", 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("name", "text_column"), NEWS)
def test_the_setting_that_is_found_is_within_a_point_of_the_best(
    name: str, text_column: str, shared_dir: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    train, test = (str(shared_dir / "data" / f"{name}.{split}.parquet") for split in ("train", "test"))
    categories = sorted(set(pq.read_table(train, columns=[LABEL_COLUMN]).column(LABEL_COLUMN).to_pylist()))
    values: dict[str, Any] = {"labels": {each: each for each in categories}, "text_column": text_column}
    values |= {"input": [test], "output": str(tmp_path / "out"), "gold_column": LABEL_COLUMN, "device": "cpu"}
    spec = ClassifySpec(**values | {"input": (test,)})
    settings = TuneSettings(gold=train, out=str(tmp_path / "best.yaml"), search=SEARCH)
    tuning = set_up(spec, settings, TuneFiles(tmp_path / "best.yaml"))
    budget = TokenBudget(settings.token_budget)
    with tuning.replica("model") as replica:
        trained, refused = make_scorers(tuning, replica)
        found = search_of(tuning, trained).run(budget)
        facts = write_found(tuning, found, budget, values, refused)
        tested, gold = scorers_of_test_rows(tuning, test, replica)
        table = whole_space(tuning, trained, tested, gold)
    best, value = max(table.items(), key=lambda item: item[1])
    chosen = table[found.winner.prompt, found.winner.score]
    given = table[tuning.space.prompts[0], tuning.space.scores[0]]
    held_out = facts["held_out"]["winner"]["accuracy"]
    setting = describe(found.winner.prompt, found.winner.score)
    print(
        f"\n{name}: {len(gold)} test rows, {len(table)} settings; found {setting} "
        f"{chosen:.4f} (held-out {held_out:.4f}), best {describe(*best)} {value:.4f}, as given {given:.4f}, difference "
        f"{100 * (value - chosen):.2f} points; tune read {budget.used:,} tokens; {time.monotonic() - began:.0f} s"
    )
    # The best of so many settings on the test rows themselves is optimistic by about their sampling error.
    error = (value * (1 - value) / len(gold)) ** 0.5
    assert value - chosen <= max(POINT, 2 * error)


def scorers_of_test_rows(tuning: Tuning, test: str, replica: Any) -> tuple[dict[PromptChoice, EngineScorer], Any]:
    """Scorers of the test rows with the prompts, and so with the examples, of the search."""
    labels = tuple(tuning.spec.labels or {})
    column = tuning.spec.text_column
    rows = gold_rows(
        pq.read_table(test), columns=[column], text_column=column, label_column=LABEL_COLUMN, labels=labels
    )
    rows = take_rows(rows, TEST_ROWS, seed=0, labels=labels)
    everything = np.arange(len(rows.gold))
    split = dataclasses.replace(tuning.data.split, search=everything, held_out=everything[:0])
    data = dataclasses.replace(tuning.data, rows=rows, split=split)
    scorers, _ = make_scorers(dataclasses.replace(tuning, data=data), replica)
    return scorers, rows.gold


def whole_space(
    tuning: Tuning, trained: dict[PromptChoice, EngineScorer], tested: dict[PromptChoice, EngineScorer], gold: Any
) -> dict[tuple[PromptChoice, ScoreChoice], float]:
    """The accuracy of every setting on the test rows."""
    fit = partial(fit_scores, labels=tuple(tuning.spec.labels or {}))
    rows, search = np.arange(len(gold)), tuning.data.split.search
    table: dict[tuple[PromptChoice, ScoreChoice], float] = {}
    for prompt, scorer in tested.items():
        scorer.run(rows)
        trained[prompt].run(search)
        for score in tuning.space.scores:
            table[prompt, score] = value_of("accuracy", scorer.scores(score, rows), gold)
            plain = ScoreChoice(score.scoring, NO_CALIBRATION)
            fitted_choice = ScoreChoice(score.scoring, FITTED)
            if (prompt, fitted_choice) not in table:
                fitted = fit(trained[prompt].scores(plain, search), tuning.data.rows.gold[search])
                assert fitted is not None
                table[prompt, fitted_choice] = value_of("accuracy", fitted.apply(scorer.scores(plain, rows)), gold)
    return table


def describe(prompt: PromptChoice, score: ScoreChoice) -> str:
    """A setting in one word."""
    return f"{prompt.name}/{prompt.shots}/{score.scoring}/{score.calibrate}"
