"""A preview's rows are those that the job writes, spread over the whole input; nothing is started or written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tirazh
from tests.system.tiny_model import write_tiny_model
from tirazh.actors.local_replica import local_replica
from tirazh.actors.messages import ReplicaConfig
from tirazh.errors import RequestError
from tirazh.jobs.cli import main
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.preview import rows as preview_rows
from tirazh.pipeline.preview.run import preview_job
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec

# Every text occurs several times, so that the repetitions of all earlier rows matter.
TEXTS = [f"Новость {number % 7}" for number in range(60)]
LABELS = {"sport": "sport", "economics": "economics"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def settings(model: str, tmp_path: Path) -> dict[str, Any]:
    for name, start in (("a", 0), ("b", 40)):
        path = tmp_path / "in" / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        table = pa.table({"n": range(60), "text": TEXTS}).slice(start, 40 if name == "a" else 20)
        pq.write_table(table, path, row_group_size=15)
    paths = {"input": (str(tmp_path / "in"),), "output": str(tmp_path / "out"), "model": model}
    return paths | {"dtype": "float32", "device": "cpu", "part_rows": 9, "threads": 1, "slots": 16}


@pytest.fixture
def generate(settings: dict[str, Any]) -> GenerateSpec:
    return GenerateSpec(**settings, prompt_column="text", max_new_tokens=12, temperature=1.0, seed=5)


@pytest.fixture
def classify(settings: dict[str, Any]) -> ClassifySpec:
    return ClassifySpec(**settings, labels=LABELS, calibrate="contextual")


@pytest.fixture
def orders(settings: dict[str, Any], tmp_path: Path) -> ClassifySpec:
    """A job in which everything is scored at the start: a premise, and the sample of two orders of examples."""
    path = tmp_path / "examples.parquet"
    pq.write_table(pa.table({"text": ["goal", "bank"], "label": [*LABELS]}), path)
    asked = {"scoring": "pmi", "calibrate": "batch", "examples": str(path), "permutations": 2}
    return ClassifySpec(**settings, labels={"sport": ["sport", "game"], "economics": "economics"}, **asked)


def whole(spec: JobSpec) -> list[list[dict[str, Any]]]:
    """The output of all rows of the input."""
    return [made["output"] for made in preview_job(spec, rows=60)["rows"]]


@pytest.mark.parametrize("kind", ["generate", "classify", "orders"])
def test_a_preview_shows_rows_of_the_whole_input(kind: str, request: pytest.FixtureRequest) -> None:
    spec: JobSpec = request.getfixturevalue(kind)
    found = preview_job(spec)
    numbers = [made["row"] for made in found["rows"]]
    assert numbers == [3, 11, 18, 26, 33, 41, 48, 56]
    assert [made["output"][0]["n"] for made in found["rows"]] == numbers
    assert [made["input"][-9:] for made in found["rows"]] == ["a.parquet"] * 5 + ["b.parquet"] * 3
    assert all(made["output"][0]["text"] in made["prompt"] for made in found["rows"])
    rows = whole(spec)
    assert [made["output"] for made in found["rows"]] == [rows[number] for number in numbers]
    assert not Path(spec.output).exists()


def test_rows_of_the_same_prompt_differ(generate: GenerateSpec) -> None:
    first, *others = (output["completion"] for (output,) in whole(generate)[::7])
    assert first not in others


@pytest.fixture
def vary(settings: dict[str, Any]) -> GenerateSpec:
    lists = {"topic": ["спорт", "наука", "еда"], "style": ["news", "blog"]}
    return GenerateSpec(
        **settings | {"input": ()},
        vary=lists,
        per_cell=5,
        template="{{ topic }}, {{ style }}:",
        max_new_tokens=12,
        samples=2,
    )


def test_a_preview_of_a_crossing_shows_rows_of_different_cells(vary: GenerateSpec) -> None:
    found = preview_job(vary, rows=6)
    cells = [tuple(made["cell"].values()) for made in found["rows"]]
    assert len(set(cells)) == 6
    assert [len(made["output"]) for made in found["rows"]] == [2] * 6  # a row for each sample
    rows = preview_job(vary, rows=30)["rows"]
    assert [made["row"] for made in rows] == list(range(30))
    assert [made["output"] for made in found["rows"]] == [rows[made["row"]]["output"] for made in found["rows"]]
    assert len({output["completion"] for made in rows for output in made["output"]}) > 50
    assert found["forecast"]["mean_completion_tokens"] > 0


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("kind", ["generate", "classify", "orders", "vary"])
def test_the_rows_are_bit_equal_to_those_of_a_job_on_ray(
    kind: str, request: pytest.FixtureRequest, ray_local: None
) -> None:
    spec: JobSpec = request.getfixturevalue(kind)
    before = preview_job(spec)
    values = {name: value for name, value in spec.to_dict().items() if name != "kind" and value is not None}
    made = (tirazh.classify if spec.kind == "classify" else tirazh.generate)(**values)
    written = [row for part in made.parts for row in pq.read_table(Path(made.output) / part["name"]).to_pylist()]
    count = spec.samples if isinstance(spec, GenerateSpec) else 1
    assert [each["output"] for each in before["rows"]] == [
        written[count * each["row"] : count * (each["row"] + 1)] for each in before["rows"]
    ]
    assert preview_job(spec)["rows"] == before["rows"]  # the same beside a finished output


def test_a_row_without_a_prompt_shows_its_error(settings: dict[str, Any], tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array(["good", None], pa.string())}), tmp_path / "bad.parquet")
    spec = GenerateSpec(**settings | {"input": (str(tmp_path / "bad.parquet"),)}, prompt_column="text")
    good, bad = preview_job(spec)["rows"]
    assert good["output"][0]["error"] is None
    assert (bad["prompt"], bad["output"][0]["error"]) == (None, "column 'text' is null")


def test_an_input_of_bad_rows_alone_has_no_speed(settings: dict[str, Any], tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([None], pa.string())}), tmp_path / "bad.parquet")
    spec = GenerateSpec(**settings | {"input": (str(tmp_path / "bad.parquet"),)}, prompt_column="text")
    found = preview_job(spec)
    assert "tokens_per_s" not in found["forecast"]
    assert found["notes"] == ["about 100.0% of the rows will have an error; the first is: column 'text' is null"]


def test_the_forecast_has_the_measured_lengths_and_a_measured_time(generate: GenerateSpec) -> None:
    found = preview_job(generate)
    forecast, outputs = found["forecast"], [output for made in found["rows"] for output in made["output"]]
    mean = sum(output["completion_tokens"] for output in outputs) / len(outputs)
    assert forecast["mean_completion_tokens"] == pytest.approx(mean, abs=0.05)
    assert forecast["rows"] == 60
    assert forecast["tokens_source"].endswith("completions as in this preview")
    assert forecast["time_source"] == "the speed measured on this machine"
    low, high = forecast["time_s"]
    assert 0 < low < high <= 3 * low + 1
    assert forecast["tokens_per_s"] > 0


def test_the_rows_are_passed_on_before_the_speed_is_measured(generate: GenerateSpec) -> None:
    told: list[str] = []
    preview_job(generate, tell=told.append, on_rows=lambda found: told.append(f"{len(found['rows'])} rows"))
    assert [told.index(text) for text in ("making 8 rows", "8 rows", "measuring the speed")] == [2, 3, 4]


def test_of_a_large_input_the_repetitions_are_not_counted(
    generate: GenerateSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview_rows, "MAX_COUNTED_ROWS", 59)
    found = preview_job(generate)
    assert "so it was not read as a whole" in found["notes"][-1]


def test_with_an_idle_engine_neither_ray_nor_torch_is_loaded(generate: GenerateSpec) -> None:
    code = (
        "import sys\nfrom tirazh.pipeline.preview.run import preview_job\n"
        "from tirazh.pipeline.spec import GenerateSpec\n"
        f"spec = GenerateSpec(**{ {name: value for name, value in generate.to_dict().items() if name in KEYS}!r})\n"
        "assert len(preview_job(spec, engine='echo')['rows']) == 8\n"
        "assert not {'ray', 'torch', 'deepspeed', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


KEYS = ("input", "output", "model", "prompt_column", "max_new_tokens", "dtype", "device")


def test_the_environment_and_the_threads_are_as_before(model: str) -> None:
    import torch

    before, threads = dict(os.environ), torch.get_num_threads()
    with local_replica(ReplicaConfig(model=model, seq_length=64, threads_per_rank=threads + 1)):
        assert os.environ["WORLD_SIZE"] == "1"
        assert torch.get_num_threads() == threads + 1
    assert dict(os.environ) == before
    assert torch.get_num_threads() == threads


def test_a_model_that_does_not_fit_in_memory_is_refused(model: str) -> None:
    with (
        pytest.raises(RequestError, match=r"takes 1,024\.0 GiB of memory in this process, but .* GiB are free"),
        local_replica(ReplicaConfig(model=model), needed_bytes=1 << 40),
    ):
        pass


@pytest.mark.parametrize("count", ["0", "1001"])
def test_a_wrong_number_of_rows_is_refused(
    count: str, generate: GenerateSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(f"kind: generate\ninput: {generate.input[0]}\noutput: {generate.output}\nprompt_column: text\n")
    assert main(["preview", str(job), "--rows", count]) == 2
    assert capsys.readouterr().err == f"tirazh: a preview has between 1 and 1,000 rows, not {count}\n"


def test_the_command_prints_rows_then_the_forecast(
    generate: GenerateSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job.yaml"
    chosen = {name: value for name, value in generate.to_dict().items() if name in KEYS}
    job.write_text("kind: generate\n" + "".join(f"{name}: {value}\n" for name, value in chosen.items()))
    assert main(["preview", str(job), "--rows", "2"]) == 0
    shown, told = capsys.readouterr()
    assert shown.startswith(
        f"row 15 of 60, {generate.input[0]}/a.parquet\n  prompt             Новость 1\n  completion"
    )
    assert shown.index("row 45 of 60") < shown.index("finish_reason", 200) < shown.index("tokens source")
    assert "loading the model" in told
    assert len(plan_job(generate).parts) == 8
