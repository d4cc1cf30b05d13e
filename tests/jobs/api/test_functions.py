"""Small jobs through the Python functions, over files and over tables in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tirazh
from tests.seaweedfs import SeaweedServer
from tests.system.tiny_model import write_tiny_model
from tirazh.jobs.api import tables

TEXTS = {"text": ["Вчера", "Сегодня", "Завтра"], "gold": ["a", "b", "a"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.mark.ray
@pytest.mark.parametrize(
    "make", [pytest.param(polars.DataFrame, marks=pytest.mark.slow), pa.table], ids=["polars", "pyarrow"]
)
def test_a_table_in_memory_is_labelled_and_the_same_table_resumes(
    make: Any, model: str, tmp_path: Path, ray_local: None
) -> None:
    def job(texts: dict[str, list[str]]) -> tirazh.Manifest:
        return tirazh.classify(
            input=make(texts),
            output=tmp_path / "out",
            labels=["a", "b"],
            gold_column="gold",
            model=model,
            dtype="float32",
        )

    made = job(TEXTS)
    assert (made.rows, made.errors, made["gold_rows"]) == (3, 0, 3)
    assert tirazh.verify(tmp_path / "out").is_whole
    (part,) = (tmp_path / "out").glob("part-*.parquet")
    assert pq.read_table(part)["text"].to_pylist() == TEXTS["text"]
    assert job(TEXTS) == made  # nothing was made again: the seconds are equal, too

    changed = {**TEXTS, "text": ["Вчера", "Сегодня", "Послезавтра"]}
    with pytest.raises(tirazh.OutputError, match="another job"):
        job(changed)
    assert len(list((tmp_path / "_out-input").iterdir())) == 1


@pytest.mark.ray
def test_plan_generate_verify_and_report_work_on_one_job(
    model: str, tmp_path: Path, ray_local: None, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table(TEXTS), tmp_path / "in.parquet")
    job: Any = {
        **{"input": tmp_path / "in.parquet", "output": str(tmp_path / "out"), "model": model, "dtype": "float32"},
        **{"prompt_column": "text", "max_new_tokens": 2},
    }
    planned = tirazh.plan("generate", **job)
    assert (planned.kind, planned.rows, planned.parts) == ("generate", 3, 1)
    assert not (tmp_path / "out").exists()

    made = tirazh.generate(**job, progress="lines")
    assert made.fingerprint == planned.fingerprint
    assert made.completion_tokens > 0
    assert "3 of 3 rows (100%)" in capsys.readouterr().err

    found = tirazh.verify(made.output)
    assert (found.rows, found.rows_expected, found.problems) == (3, 3, ())
    assert tirazh.report(made.output).page == f"{made.output}/_tirazh/report.html"


@pytest.mark.ray
@pytest.mark.s3
def test_a_table_goes_to_the_object_store_that_receives_the_output(
    model: str, s3_server: SeaweedServer, ray_local: None
) -> None:
    output = f"{s3_server.make_bucket('tables')}/out"
    job: Any = {"model": model, "dtype": "float32", "max_new_tokens": 2, "endpoint_url": s3_server.endpoint_url}
    made = tirazh.generate(input=polars.DataFrame({"prompt": ["Вчера", "Сегодня"]}), output=output, **job)
    assert (made.rows, made.errors) == (2, 0)
    assert made.parts[0]["input"].startswith(f"{output.removesuffix('/out')}/_out-input/table-")
    assert tirazh.verify(output, endpoint_url=s3_server.endpoint_url).is_whole


@pytest.mark.ray
@pytest.mark.slow
def test_finetune_returns_a_manifest_and_a_model_for_generate(model: str, tmp_path: Path, ray_local: None) -> None:
    pq.write_table(pa.table({"text": ["Вчера было тепло. " * 9] * 8}), tmp_path / "in.parquet")
    made = tirazh.finetune(
        input=tmp_path / "in.parquet",
        output=tmp_path / "out",
        model=model,
        dtype="float32",
        seq_length=32,
        batch_size=2,
        max_steps=2,
        device="cpu",
        threads=1,
    )
    assert (made.total_steps, made.output) == (2, str(tmp_path / "out"))
    assert made.last_loss > 0
    assert tirazh.load_pretrained(made.output) is not None


def test_a_refused_request_leaves_no_file_of_its_table_behind(model: str, tmp_path: Path) -> None:
    with pytest.raises(tirazh.InputError, match="'txt'"):
        tirazh.plan(
            "classify",
            input=pa.table(TEXTS),
            output=tmp_path / "out",
            labels=["a", "b"],
            text_column="txt",
            model=model,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_is_too_large_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 2 << 20)
    large = polars.DataFrame({"prompt": ["x" * 1000] * 4000})
    with pytest.raises(tirazh.RequestError, match=r"holds 3 MiB, more than the 2 MiB .* write it to Parquet files"):
        tirazh.generate(input=large, output=tmp_path / "out")


def test_a_table_needs_an_output_that_has_a_directory_above_it() -> None:
    with pytest.raises(tirazh.RequestError, match="below another one"):
        tirazh.generate(input=pa.table({"prompt": ["x"]}), output="s3://bucket")


def test_a_misspelt_setting_is_refused_with_the_nearest_name() -> None:
    misspelt: Any = {"tempereture": 0.5}
    with pytest.raises(tirazh.RequestError, match="no setting 'tempereture'; did you mean temperature"):
        tirazh.generate(input="in.parquet", output="out", **misspelt)
