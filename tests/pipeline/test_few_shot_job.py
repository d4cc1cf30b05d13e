"""Few-shot examples in whole jobs: what plan, manifest and report say, and that rows do not depend on the cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.without_ray import run_without_ray
from tirazh.pipeline.build import run_job
from tirazh.pipeline.forecast.describe import describe_job
from tirazh.pipeline.spec import ClassifySpec

EXAMPLES = {
    "text": ["Гол в ворота", "Матч отложен", "Банк поднял ставку", "Рубль вырос"],
    "label": ["sport", "sport", "economics", "economics"],
}
TEXTS = ["Ставка банка", "Голы матча", "Рубль и банки", "Отложенный матч", "Ставка банка", "x" * 400]


@pytest.fixture
def spec(
    write_input: Callable[..., Path], tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> ClassifySpec:
    run_without_ray(monkeypatch)
    write_input("a.parquet", text=TEXTS)
    pq.write_table(pa.table(EXAMPLES), tmp_path / "examples.parquet")
    return ClassifySpec(
        input=(str(tmp_path / "in"),),
        output=str(tmp_path / "out"),
        model=str(model_dir),
        labels={"sport": "спорт", "economics": "экономика"},
        examples=str(tmp_path / "examples.parquet"),
        shots=2,
        seq_length=128,
        dtype="float32",
    )


def rows_of(spec: ClassifySpec) -> list[dict[str, Any]]:
    run_job(spec)
    return [row for path in sorted(Path(spec.output).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_plan_manifest_and_report_say_which_examples_were_taken(spec: ClassifySpec) -> None:
    planned = describe_job(spec)["few_shot"]
    manifest = run_job(spec)
    assert manifest["few_shot"] == planned
    assert planned["examples_per_label"] == {"sport": 1, "economics": 1}
    assert len(planned["rows"]) == planned["examples"] == 2
    assert planned["tokens"] > 0
    page = (Path(spec.output) / "_tirazh/report.html").read_text()
    assert f"Examples before every prompt: 2 (sport 1, economics 1), {planned['tokens']} tokens" in page


def test_a_job_without_examples_says_nothing_about_them(spec: ClassifySpec) -> None:
    plain = replace(spec, examples=None, shots=None)
    assert "few_shot" not in describe_job(plain)
    assert "few_shot" not in run_job(plain)


def test_a_label_without_examples_is_told_before_the_job_starts(spec: ClassifySpec) -> None:
    said: list[str] = []
    more = replace(spec, labels={"sport": "спорт", "economics": "экономика", "culture": "культура"})
    assert "--examples has no example of 'culture'" in describe_job(more)["notes"]
    run_job(replace(spec, shots=1), tell=said.append)
    assert any(line.startswith("no example of ") for line in said)


def test_with_the_nearest_examples_rows_are_the_same_for_any_parts(spec: ClassifySpec, tmp_path: Path) -> None:
    nearest = replace(spec, shot_selection="nearest")
    whole = rows_of(nearest)
    cut = rows_of(replace(nearest, part_rows=2, output=str(tmp_path / "cut")))
    assert cut == whole
    tokens = [row["prompt_tokens"] for row in whole]
    assert (
        tokens[0]
        == tokens[4]
        > rows_of(replace(spec, examples=None, shots=None, output=f"{tmp_path}/plain"))[0]["prompt_tokens"]
    )


def test_the_plan_says_how_many_rows_have_fewer_examples_than_asked(spec: ClassifySpec) -> None:
    planned = describe_job(replace(spec, shot_selection="nearest"))
    assert planned["few_shot"] == {"selection": "nearest", "examples_per_row": 2, "examples": 4}
    assert "about 16.7% of the rows have fewer examples than --shots: no more fit" in planned["notes"]
