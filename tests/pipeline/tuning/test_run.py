"""`tune_job` with a real engine: what is written, and that a trial's labels are those of the job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.system.tiny_model import write_tiny_model
from tirazh.errors import RequestError
from tirazh.jobs.job_files.job_file import spec_from_file
from tirazh.pipeline.preview.run import preview_job
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.tuning.budget import TokenBudget
from tirazh.pipeline.tuning.output import TuneFiles
from tirazh.pipeline.tuning.run import make_scorers, search_of, set_up, tune_job, write_found
from tirazh.pipeline.tuning.settings import TuneSettings
from tirazh.pipeline.tuning.space import PromptChoice, ScoreChoice
from tirazh.pipeline.tuning.trial_jobs import score_spec

LABELS = {"sport": "sport", "economics": {"words": "economics", "aliases": ["money"]}}
SEARCH = {"template": ["job", "topic"], "shots": [0, 2], "scoring": ["sum", "mean", "pmi"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def gold(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Labelled rows; a model with random weights knows nothing of them."""
    words = np.random.default_rng(5).choice(["goal", "bank", "team", "rate", "score", "price"], size=(120, 4))
    texts = [f"{' '.join(own)} {number}" for number, own in enumerate(words)]
    path = tmp_path_factory.mktemp("gold") / "gold.parquet"
    pq.write_table(pa.table({"text": texts, "topic": [list(LABELS)[number % 2] for number in range(120)]}), path)
    return str(path)


@pytest.fixture
def values(model: str, gold: str, tmp_path: Path) -> dict[str, Any]:
    """The settings of the job file."""
    values = {"input": [gold], "output": str(tmp_path / "out"), "model": model, "labels": LABELS}
    return values | {"dtype": "float32", "device": "cpu", "threads": 1, "slots": 16, "gold_column": "topic"}


@pytest.fixture
def job(values: dict[str, Any]) -> ClassifySpec:
    return ClassifySpec(**values | {"input": tuple(values["input"])})


def settings(gold: str, folder: Path, **more: Any) -> TuneSettings:
    given: dict[str, Any] = {"gold": gold, "out": str(folder / "best.yaml"), "search": SEARCH, "token_budget": 200_000}
    return TuneSettings(**given | more)


def test_the_job_that_is_found_is_written_with_its_files(
    job: ClassifySpec, values: dict[str, Any], gold: str, tmp_path: Path
) -> None:
    told: list[str] = []
    facts = tune_job(job, settings(gold, tmp_path), values=values, tell=told.append)
    text = (tmp_path / "best.yaml").read_text(encoding="utf-8")
    assert text.startswith(f"# Found by `tirazh tune` on {gold} (seed 0)")
    assert "held-out rows, which no trial saw" in text
    found = spec_from_file(tmp_path / "best.yaml")
    assert isinstance(found, ClassifySpec)
    assert found.search is None
    assert (found.scoring, found.shots or 0) == (facts["winner"]["scoring"], facts["winner"]["shots"])
    assert dict(found.labels or {}) == LABELS
    table = json.loads((tmp_path / "best.tune.json").read_text(encoding="utf-8"))
    assert len(table["trials"]) == 4 * 9 + 3
    assert table["rows"]["held_out"] == 60
    assert table["tokens"]["used"] <= 200_000
    assert table["held_out"]["winner"]["rows"] == 60
    assert next(line for line in told if line.startswith("rung ")).startswith(
        "rung 1 of 3: 4 prompt settings on 16 rows; 0"
    )


def test_the_same_search_finds_the_same(job: ClassifySpec, values: dict[str, Any], gold: str, tmp_path: Path) -> None:
    search = {"template": "job", "shots": [0, 1], "scoring": "sum", "calibrate": ["none", "batch"]}
    first = tune_job(job, settings(gold, tmp_path, search=search), values=values)
    again = tune_job(job, settings(gold, tmp_path, search=search, overwrite=True), values=values)
    assert first == again


def test_the_examples_of_the_job_stay_in_the_pool_and_out_of_the_other_rows(
    values: dict[str, Any], gold: str, tmp_path: Path
) -> None:
    first = pq.read_table(gold).slice(0, 4).rename_columns(["text", "label"])
    pq.write_table(first, tmp_path / "few.parquet")
    values["examples"] = str(tmp_path / "few.parquet")
    job = ClassifySpec(**values | {"input": tuple(values["input"])})
    search = {"template": "job", "shots": [0, 2], "scoring": "sum", "calibrate": "none"}
    tuning = set_up(job, settings(gold, tmp_path, search=search), TuneFiles(tmp_path / "best.yaml"))
    assert tuning.data.counts()["among_examples"] == 4
    assert not set(first.column("text").to_pylist()) & set(tuning.data.rows.table.column("text").to_pylist())
    assert tuning.data.pool.slice(0, 4).equals(first)
    facts = tune_job(job, settings(gold, tmp_path, search=search), values=values)
    assert (facts["baseline"]["template"], facts["baseline"]["shots"]) == ("given", None)
    assert len({(trial["template"], trial["shots"]) for trial in facts["trials"]}) == 3
    found = spec_from_file(tmp_path / "best.yaml")
    assert isinstance(found, ClassifySpec)
    expected = {
        "given": values["examples"],
        "job": None if not facts["winner"]["shots"] else str(tmp_path / "best.examples.parquet"),
    }
    assert found.examples == expected[facts["winner"]["template"]]


CHOICES = [
    (PromptChoice("job", "{{ text }}\nТема:", 0), ScoreChoice("sum", "none")),
    (PromptChoice("topic", "{{ text }}\nTopic:", 2), ScoreChoice("pmi", "batch")),
    (PromptChoice("topic", "{{ text }}\nTopic:", 2), ScoreChoice("mean", "contextual")),
    (PromptChoice("job", "{{ text }}\nТема:", 2, "nearest"), ScoreChoice("mean", "batch")),
]


def test_the_labels_of_a_trial_are_those_of_the_job_to_the_last_bit(
    job: ClassifySpec, gold: str, tmp_path: Path
) -> None:
    """A preview's rows are those of the job (`tests/pipeline/preview/test_run.py`)."""
    search = SEARCH | {"shot_selection": ["balanced", "nearest"]}
    files = TuneFiles(tmp_path / "best.yaml")
    tuning = set_up(job, settings(gold, tmp_path, search=search), files)
    files.write_examples(tuning.data.pool)
    rows = tuning.data.split.held_out
    pq.write_table(tuning.data.rows.table.take(rows), tmp_path / "held-out.parquet")
    with tuning.replica("model") as replica:
        scorers, refused = make_scorers(tuning, replica)
        assert not refused
        for prompt, score in CHOICES:
            scorers[prompt].run(rows[:7])
            scorers[prompt].run(rows)
            scores = scorers[prompt].scores(score, rows)
            chances = np.exp(scores - scores.max(axis=1, keepdims=True))
            expected = (chances / chances.sum(axis=1, keepdims=True)).astype(np.float32)
            spec = score_spec(tuning.specs[prompt], score, calibration="")
            assert made_by(spec, tmp_path / "held-out.parquet", len(rows)).tolist() == expected.tolist()


@pytest.mark.parametrize("calibrate", ["fitted", "batch"])
def test_the_job_that_is_found_gives_the_labels_of_the_held_out_figure(
    job: ClassifySpec, values: dict[str, Any], gold: str, tmp_path: Path, calibrate: str
) -> None:
    """It is run as it is written, from its job file, on the held-out rows."""
    search = {"template": "topic", "shots": [2], "scoring": "mean", "calibrate": [calibrate]}
    given = settings(gold, tmp_path, search=search, metric="log_loss")
    files = TuneFiles(tmp_path / "best.yaml")
    tuning = set_up(job, given, files)
    with tuning.replica("model") as replica:
        scorers, _ = make_scorers(tuning, replica)
        found = search_of(tuning, scorers).run(TokenBudget(10**6))
    write_found(tuning, found, TokenBudget(10**6), values, {})
    rows = tuning.data.split.held_out
    pq.write_table(tuning.data.rows.table.take(rows), tmp_path / "held-out.parquet")
    expected = found.held_out.winner_predictions.probabilities
    spec = spec_from_file(files.job)
    assert isinstance(spec, ClassifySpec)
    assert (spec.calibrate == str(files.calibration)) == (found.winner.score.calibrate == "fitted")
    made = made_by(spec, tmp_path / "held-out.parquet", len(rows))
    assert expected is not None
    assert made.argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()
    assert np.abs(made - expected).max() < 1e-6


def made_by(spec: ClassifySpec, path: Path, count: int) -> np.ndarray[Any, Any]:
    """The probabilities that the job writes for the rows of a file."""
    values = {name: value for name, value in spec.to_dict().items() if name not in ("kind", "input", "gold_column")}
    made = preview_job(ClassifySpec(**values, input=(str(path),)), rows=count)["rows"]
    assert [row["output"][0]["error"] for row in made] == [None] * count
    found = [row["output"][0]["probabilities"] for row in made]
    return np.array([[each["probability"] for each in row] for row in found], np.float32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tensor_parallel": 2}, "tune runs the model in this process, but the job has tensor_parallel; remove it"),
        ({"address": "auto"}, "but the job has address"),
        ({"priors": "balanced"}, "a job with priors: leave it out, and add it to the job that is found"),
        ({"labels": None, "questions": {"a": {"labels": ["x", "y"], "suffix": "?"}}}, "a job with questions: run it"),
    ],
)
def test_a_job_that_cannot_be_tuned_is_refused(
    values: dict[str, Any], gold: str, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    spec = ClassifySpec(**values | {"input": tuple(values["input"]), "gold_column": None} | changed)
    with pytest.raises(RequestError) as caught:
        tune_job(spec, settings(gold, tmp_path), values=values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"token_budget": 0}, "--token-budget must be at least 1, not 0"),
        ({"rows": 0}, "--rows must be at least 1, not 0"),
        ({"metric": "f1"}, "--metric must be one of accuracy, macro_f1, log_loss, not 'f1'"),
        ({"out": "best.json"}, "--out must be the path of a .yaml file on this machine, not 'best.json'"),
        ({"token_budget": 6_000}, "--token-budget 6000 is too small"),
        ({"rows": 20, "search": {"shots": [99]}, "token_budget": 10**6}, None),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(
    job: ClassifySpec, values: dict[str, Any], gold: str, tmp_path: Path, given: dict[str, Any], message: str | None
) -> None:
    if message is None:  # more shots than examples: these prompts are not tried
        facts = tune_job(job, settings(gold, tmp_path, **given), values=values)
        assert {each["reason"] for each in facts["not_tried"]} == {"the labelled file gives 4 examples, fewer than 99"}
        return
    with pytest.raises(RequestError) as caught:
        tune_job(job, settings(gold, tmp_path, **given), values=values)
    assert message in str(caught.value)
    assert not list(tmp_path.glob("best*"))


def test_files_of_an_earlier_search_are_kept(
    job: ClassifySpec, values: dict[str, Any], gold: str, tmp_path: Path
) -> None:
    (tmp_path / "best.tune.json").write_text("{}")
    with pytest.raises(RequestError, match=r"best\.tune\.json exists; name another --out, or add --overwrite"):
        tune_job(job, settings(gold, tmp_path), values=values)
    with pytest.raises(RequestError, match=r"is the job file itself; name another file"):
        tune_job(job, settings(gold, tmp_path), values=values, job_file=str(tmp_path / "best.yaml"))
