"""Whole jobs of `score`, and the log-probabilities of `generate`, with the embedded model in this process."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.model_engine import build_engine, build_runner
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.rendezvous import RankPlace
from tirazh.model.requests import Request, Result
from tirazh.pipeline import build, schema
from tirazh.pipeline.build import run_job
from tirazh.pipeline.execution import infer
from tirazh.pipeline.execution.progress import JobProgress
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.leases import lease as lease_module
from tirazh.pipeline.output.report import write_report
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.output.write import WriteStep
from tirazh.pipeline.spec import GenerateSpec, JobSpec, ScoreSpec

TEXTS = [
    "Учёные обнаружили новый вид бабочек в горах Алтая.",
    "",
    "Сборная России выиграла матч со счётом два — один, сообщает агентство.",
    "Курс рубля",
    "Банк снизил ставку. " * 30,
    "Премьера спектакля состоится в Москве в субботу.",
]


class Engines:
    """One engine of the embedded model for each configuration."""

    def __init__(self) -> None:
        self._engines: dict[ReplicaConfig, Any] = {}

    def run(self, config: ReplicaConfig, requests: list[Request]) -> list[Result]:
        if config not in self._engines:
            place = RankPlace(rank=0, world_size=1, local_rank=0, local_size=1, threads=1)
            runner = build_runner(config, place, ProgressCounter())
            self._engines[config] = build_engine(config, runner, runner.execute)
        engine = self._engines[config]
        ids, results = engine.add(requests), {}
        while engine.has_work:
            results |= dict(engine.step())
        return [results[id] for id in ids]


@pytest.fixture(scope="module")
def engines() -> Engines:
    return Engines()


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch, engines: Engines) -> None:
    """Let `run_job` make its parts in this process."""

    def make(self: JobRun, parts: list[Any]) -> dict[str, Any]:
        write, config = WriteStep(self.write_config()), self.infer_config(None, self.replica_config(threads=1))  # type: ignore[arg-type]
        progress = JobProgress(
            self.plan, parts, samples=self._samples, max_error_rate=0.5, earlier_errors=0, on_progress=None
        )
        for part in parts:
            table: Any = self.prompt_step()(read_part(part, self.output.storage, self.plan.schema))  # type: ignore[arg-type]
            good = [row for row, error in enumerate(table.column(schema.ROW_ERROR).to_pylist()) if error is None]
            results = engines.run(config.replica, infer.make_requests(table.take(good), config) if good else [])
            (written,) = write(infer.append_results(table, good, results, config)).to_pylist()
            progress.add(written)
        return {}

    monkeypatch.setattr(build, "ray_session", lambda spec, tell: nullcontext())
    monkeypatch.setattr(build, "resolve_device", lambda spec: "cpu")
    monkeypatch.setattr(build, "resolve_dtype", lambda device: "float32")
    monkeypatch.setattr(build, "refuse_impossible", lambda config: None)
    monkeypatch.setattr(lease_module, "RACE_WINDOW_S", 0.0)
    monkeypatch.setattr(JobRun, "make", make)


Run = Callable[..., pl.DataFrame]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a job over a table, and read its output."""

    def run_over(kind: type[JobSpec], table: pl.DataFrame, name: str = "out", **settings: Any) -> pl.DataFrame:
        table.write_parquet(tmp_path / "in.parquet")
        run_job(kind(input=(str(tmp_path / "in.parquet"),), output=str(tmp_path / name), threads=1, **settings))
        return pl.read_parquet(tmp_path / name / "*.parquet")

    return run_over


def test_a_score_job_adds_its_columns(run: Run, tmp_path: Path) -> None:
    table = run(ScoreSpec, pl.DataFrame({"text": [*TEXTS, None]}), part_rows=3, max_error_rate=0.5)
    assert table.columns == ["text", "logprob", "num_tokens", "bits_per_character", "error"]
    assert table["error"].to_list() == [None] * len(TEXTS) + ["column 'text' is null"]
    empty = table.row(1, named=True)
    assert (empty["logprob"], empty["num_tokens"], empty["bits_per_character"]) == (0.0, 0, None)
    first = table.row(0, named=True)
    assert first["bits_per_character"] == pytest.approx(-first["logprob"] / 0.6931471805599453 / len(TEXTS[0]))
    assert 0 < first["bits_per_character"] < 8
    found = verify(str(tmp_path / "out"))
    assert found.is_whole
    assert Path(write_report(str(tmp_path / "out"))).is_file()


@pytest.mark.parametrize(("slots", "part_rows"), [(1, 1), (8, 4), (64, 100)])
def test_scores_and_logprobs_have_the_same_bits_for_any_slots_and_parts(
    run: Run, slots: int, part_rows: int, tmp_path: Path
) -> None:
    texts = pl.DataFrame({"text": TEXTS})
    plain = run(ScoreSpec, texts, "plain", seq_length=256)
    assert run(ScoreSpec, texts, "other", seq_length=256, slots=slots, part_rows=part_rows).equals(plain)
    prompts = pl.DataFrame({"prompt": [text[:40] or "Москва" for text in TEXTS]})
    settings: dict[str, Any] = {"max_new_tokens": 12, "min_p": 0.02, "presence_penalty": 0.5, "bad_words": ("года",)}
    plain = run(GenerateSpec, prompts, "completed", **settings)
    assert plain["logprob"].null_count() == 0
    assert run(GenerateSpec, prompts, "again", slots=slots, part_rows=part_rows, **settings).equals(plain)


def test_the_context_makes_a_text_that_follows_from_it_more_likely(run: Run) -> None:
    table = pl.DataFrame({"text": ["спорт", "экономика"] * 2, "topic": ["спорт", "спорт", "экономика", "экономика"]})
    scored = run(ScoreSpec, table, template="Тема: {{ topic }}. Тема: {{ topic }}. Тема: ")
    spoken, other, unspoken, repeated = scored["logprob"].to_list()
    assert spoken > unspoken
    assert repeated > other


def test_bias_and_bad_words_reach_the_model(run: Run) -> None:
    prompts = pl.DataFrame({"prompt": ["Москва"] * 3})
    forced = run(GenerateSpec, prompts, max_new_tokens=3, logit_bias={"!": 100})
    assert set(forced["completion"]) == {"!!!"}
    banned = run(GenerateSpec, prompts, "banned", max_new_tokens=3, logit_bias={"!": 100}, bad_words=("!",))
    assert not any("!" in text for text in banned["completion"])


@pytest.mark.slow
def test_shuffled_words_are_less_likely_than_the_original(run: Run, news_dir: Path) -> None:
    texts = pl.read_parquet(news_dir / "ru_news_lenta.test.parquet")["text"].str.slice(0, 400).head(100).to_list()
    shuffled = [" ".join(random.Random(0).sample(text.split(), len(text.split()))) for text in texts]
    scored = run(ScoreSpec, pl.DataFrame({"text": texts + shuffled}), truncate="right")["bits_per_character"].to_list()
    assert sum(own < other for own, other in zip(scored[:100], scored[100:], strict=True)) >= 99
