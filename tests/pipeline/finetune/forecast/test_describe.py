"""The plan of a training: its steps and tokens, the rows that it loses, and what it needs of memory and disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.finetune.test_start import write
from tests.system.tiny_model import TINY, write_tiny_model
from tirazh.errors import OutputError, RequestError
from tirazh.jobs.planning import training_facts
from tirazh.jobs.settings import build_finetune_spec
from tirazh.jobs.training_text import plan_lines
from tirazh.pipeline.finetune.forecast.describe import describe_training
from tirazh.pipeline.finetune.forecast.disk import check_room, count_trained, count_weights, held_bytes
from tirazh.pipeline.finetune.identity import training_id
from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.finetune.plan import plan_finetune
from tirazh.pipeline.finetune.spec import FinetuneSpec

LABELS = {"economics": "экономика", "sport": "спорт"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def request(folder: Path, model: str, columns: dict[str, Any], **settings: Any) -> FinetuneSpec:
    pq.write_table(pa.table(columns), folder / "in.parquet", row_group_size=100)
    named = {"input": folder / "in.parquet", "output": folder / "out", "model": model, "device": "cpu"}
    return build_finetune_spec(named | {"dtype": "float32"} | settings)


def test_a_plan_of_few_rows_counts_exactly_what_the_training_will_have(model: str, tmp_path: Path) -> None:
    texts = ["матч"] * 90 + ["матч " * 100] * 10
    topics = ["sport"] * 80 + [None] * 3 + ["abroad"] * 7 + ["sport"] * 10
    columns = {"text": texts, "topic": pa.array(topics, pa.string())}
    settings = {"completion_column": "topic", "labels": LABELS, "seq_length": 64, "packing": "single"}
    facts = describe_training(request(tmp_path, model, columns, **settings, batch_size=8, epochs=2.0))
    assert (facts["rows"], facts["documents"], facts["sequences"], facts["is_exact"]) == (100, 90, 90, True)
    assert facts["steps"] == 23  # 2 epochs of 90 sequences, 8 in a step
    assert facts["sampled"]["skipped"] == 10
    assert facts["sampled"]["cut_texts"] == 10
    notes = "\n".join(facts["notes"])
    assert "3.0% of the rows are skipped (null); row 81 (in " in notes
    assert "7.0% of the rows are skipped (unknown label); row 84 (in " in notes
    assert "10.0% of the texts are too long and lose " in notes
    assert facts["would"] == "start a new training"
    assert not (tmp_path / "out").exists()


def test_a_plan_of_many_rows_estimates_them_from_places_all_over_the_input(model: str, tmp_path: Path) -> None:
    texts = ["x" * (10 + row % 7) for row in range(9_000)]
    facts = describe_training(request(tmp_path, model, {"text": texts}, seq_length=100, batch_size=10))
    tokens = sum(len(text) + 1 for text in texts)
    assert not facts["is_exact"]
    assert facts["sampled_rows"] == 16 * 64
    assert facts["tokens"] == pytest.approx(tokens, rel=0.02)
    assert facts["sequences"] == pytest.approx(tokens / 100, rel=0.02)
    assert facts["steps"] == pytest.approx(tokens / 1_000, rel=0.03)


def test_the_disk_holds_one_checkpoint_more_than_are_kept_the_model_and_the_data(model: str, tmp_path: Path) -> None:
    weights = count_weights(TINY)
    spec = request(tmp_path, model, {"text": ["a", "b"]}, keep_checkpoints=4)
    facts = describe_training(spec)
    assert 0 < facts["disk_bytes"] - 12 * weights * 5 - 4 * weights < 4_096
    lora = request(tmp_path, model, {"text": ["a", "b"]}, lora_rank=2, lora_targets=["q_proj"])
    assert count_trained(TINY, lora) == 4 * 2 * (64 + 64)
    assert describe_training(lora)["disk_bytes"] < facts["disk_bytes"] / 3


def test_the_disk_holds_the_best_checkpoint_beside_the_newest_ones(model: str, tmp_path: Path) -> None:
    columns = {"text": ["a", "b"]}
    last = describe_training(request(tmp_path, model, columns))
    best = describe_training(request(tmp_path, model, columns, keep="best", eval_input=tmp_path / "in.parquet"))
    assert best["disk_bytes"] - last["disk_bytes"] == 12 * count_weights(TINY)


def test_what_other_trainings_have_written_is_no_room_of_this_one(model: str, tmp_path: Path) -> None:
    plan = plan_finetune(request(tmp_path, model, {"text": ["a", "b"]}))
    output = TrainingOutput(tmp_path / "out")
    values = {"identity": plan.identity(), "dtype": "float32", "seq_length": 512, "packing": "stream"}
    values |= {"training": training_id(values)}
    output.work(values["training"]).write_request(values)
    written = held_bytes(plan)
    other = output.work("f" * 32)
    other.folder.mkdir()
    other.log.write_bytes(b"x" * 9_999)
    assert held_bytes(plan) == written > 0


@pytest.mark.parametrize("own", [True, False])
def test_a_plan_shows_where_from_starts_and_the_steps_that_are_left(own: bool, model: str, tmp_path: Path) -> None:
    """Also where --from names a training in the output itself, beside which the new one runs."""
    spec = request(tmp_path, model, {"text": ["a" * 60] * 40}, batch_size=1, seq_length=61, output=tmp_path / "first")
    identity = json.loads(json.dumps(plan_finetune(spec).identity()))
    values = {"identity": identity, "dtype": "float32", "seq_length": 61, "packing": "stream", "total_steps": 40}
    values |= {"training": training_id(values)}
    work = TrainingOutput(tmp_path / "first").work(values["training"])
    work.write_request(values)
    write(work.checkpoints, values["training"], 30)
    place = tmp_path / ("first" if own else "out")
    longer = replace(spec, learning_rate=1e-3, from_checkpoint=str(tmp_path / "first"), output=str(place))
    facts = describe_training(longer)
    assert (facts["steps"], facts["steps_left"], facts["start"]["step"]) == (40, 10, 30)
    shown = plan_lines(facts)["from"]
    assert "the checkpoint of step 30 in " in shown
    assert shown.endswith("; 10 steps are left")
    assert "it begins at step 0" in plan_lines(describe_training(replace(longer, seed=1)))["from"]
    with pytest.raises(RequestError, match="give more --epochs or --max-steps"):
        describe_training(replace(longer, epochs=0.5))


@pytest.mark.parametrize("rows", [100, 3_000])
def test_a_plan_shows_rows_tokens_and_share_of_each_source(rows: int, model: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["b" * 40] * 50}), tmp_path / "few.parquet")
    inputs = [tmp_path / "in.parquet", tmp_path / "few.parquet"]
    more = {"input": inputs, "input_weights": [1, 3], "seq_length": 41, "batch_size": 10}
    facts = describe_training(request(tmp_path, model, {"text": ["a" * 19] * rows}, **more))
    first, second = facts["sources"]
    assert (first["rows"], first["tokens"], second["rows"], second["tokens"]) == (rows, 20 * rows, 50, 41 * 50)
    assert facts["tokens"] == first["tokens"] + second["tokens"]
    assert first["share"] == pytest.approx(0.25, abs=0.01)
    assert second["epochs"] == pytest.approx(0.75 * facts["sequences"] / second["sequences"], abs=0.05)
    line = plan_lines(facts)["input 2"]
    assert "few.parquet: 50 rows, " in line
    assert re.search(r"; 7[45]\.\d% of the sequences, ", line)


def test_people_see_the_figures_with_their_units(model: str, tmp_path: Path) -> None:
    lines = plan_lines(describe_training(request(tmp_path, model, {"text": ["a", "b"]}, workers=99)))
    assert lines["steps"] == "1 of 32 sequences (32 epochs)"
    assert "MiB" in lines["model"]
    assert ", optimizer 1.9 MiB, " in lines["worker memory"]
    assert lines["disk"].endswith(" is free")
    notes = describe_training(request(tmp_path, model, {"text": ["a", "b"]}, workers=99))["notes"]
    assert any(note.startswith("99 workers share ") for note in notes)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_refused_with_need_and_room(model: str, tmp_path: Path, small_disk: Path) -> None:
    spec = request(tmp_path, model, {"text": ["a", "b"]}, output=small_disk / "out")
    with pytest.raises(OutputError) as caught:
        check_room(plan_finetune(spec), None)
    sentence = str(caught.value)
    assert sentence.startswith(f"--output {small_disk}/out: the training needs ")
    assert re.search(
        r"\(3 checkpoints of \d\.\d MiB, the model and the data\), and 1\.0 MiB is free; make room", sentence
    )
    with pytest.raises(OutputError, match="3 checkpoints"):
        training_facts(spec, refuses=True)
    assert describe_training(spec)["notes"][-1] == sentence
