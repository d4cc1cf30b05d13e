"""What a submitted job sends to the cluster."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.jobs.cluster.servers import spec
from tirazh.errors import RequestError
from tirazh.jobs.cluster.working_dir import with_absolute_paths, write_working_dir
from tirazh.jobs.job_files.job_file import spec_from_file
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.spec import GenerateSpec


def test_the_working_directory_holds_only_the_package_and_the_job_file(tmp_path: Path) -> None:
    job = spec(stop=("\n\n",))
    write_working_dir(replace(job, address="auto"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tirazh", "job.yaml", "needs.json"}
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]
    assert (tmp_path / "tirazh/jobs/cli.py").is_file()
    assert not list(tmp_path.rglob("__pycache__"))
    assert spec_from_file(tmp_path / "job.yaml") == job  # and so without the address


def test_the_embedded_weights_are_shipped_only_to_jobs_that_use_them(tmp_path: Path) -> None:
    write_working_dir(spec(model="s3://models/xl"), tmp_path / "other")
    assert (tmp_path / "other/tirazh/model").is_dir()
    assert not (tmp_path / "other/tirazh/model/embedded").exists()
    write_working_dir(spec(), tmp_path / "embedded")
    assert (tmp_path / "embedded/tirazh/model/embedded/model.safetensors").is_file()


def test_local_paths_become_absolute_and_uris_stay() -> None:
    job = with_absolute_paths(spec(input=("news/*.parquet", "s3://in/"), output="out"))
    assert job.input == (f"{os.getcwd()}/news/*.parquet", "s3://in/")
    assert (job.output, job.model) == (f"{os.getcwd()}/out", "embedded")


def test_a_password_in_a_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(RequestError) as caught:
        spec(endpoint_url="http://user:hunter2@minio:9000")
    assert "http://minio:9000 contains a password" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_short_lists_are_sent_within_the_job_and_long_ones_by_their_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "topics.txt").write_text("sport\nscience\n")
    (tmp_path / "cities.csv").write_text("name,people\nА,3\nБ,1\n")
    (tmp_path / "many.csv").write_text("id\n" + "".join(f"{number}\n" for number in range(1_001)))
    vary = {
        "topic": "topics.txt",
        "city": {"values": "cities.csv", "weights": "people"},
        "many": "many.csv#id",
        "far": "s3://bucket/list.txt",
        "mood": {"calm": 3, "angry": 1},
    }
    sent = with_absolute_paths(GenerateSpec(output="out", vary=vary, rows=5, template="{{ topic }}"))
    assert isinstance(sent, GenerateSpec)
    assert sent.vary == vary | {
        "topic": ["sport", "science"],
        "city": {"values": ["А", "Б"], "weights": [3.0, 1.0]},
        "many": f"{tmp_path}/many.csv#id",
    }


def test_the_machines_need_what_tirazh_requires_and_the_package_of_each_address(tmp_path: Path) -> None:
    write_working_dir(spec(output="gs://night/out"), tmp_path)
    needs = json.loads((tmp_path / "needs.json").read_text())
    assert needs["requirements"]["ray"].startswith("<2.61")
    assert {"pyarrow", "torch", "s3fs", "gcsfs"} <= needs["requirements"].keys()
    assert "pytest" not in needs["requirements"]


def test_a_training_is_sent_with_absolute_paths_and_what_its_adapters_need(tmp_path: Path) -> None:
    job = FinetuneSpec(input=("news/*.parquet",), eval_input=("s3://in/",), output="out", tokenizer="tok", lora_rank=4)
    sent = with_absolute_paths(job)
    assert isinstance(sent, FinetuneSpec)
    assert (sent.input, sent.eval_input) == ((f"{os.getcwd()}/news/*.parquet",), ("s3://in/",))
    assert (sent.output, sent.tokenizer, sent.model) == (f"{os.getcwd()}/out", f"{os.getcwd()}/tok", "embedded")
    write_working_dir(sent, tmp_path)
    assert yaml.safe_load((tmp_path / "job.yaml").read_text())["kind"] == "finetune"
    assert "peft" in json.loads((tmp_path / "needs.json").read_text())["requirements"]
