"""A job file means the same job from every working directory: its relative paths are relative to the file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tirazh.errors import RequestError
from tirazh.jobs.cluster.submit import job_name, with_absolute_paths
from tirazh.jobs.job_files.job_file import spec_from_file
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.spec import ClassifySpec

JOB = "kind: classify\ninput: news/*.parquet\noutput: ../labelled/night\nlabels: labels.yaml\nexamples: few.parquet\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a job file and its files."""
    jobs = tmp_path / "jobs"
    (jobs / "news").mkdir(parents=True)
    pq.write_table(pa.table({"text": ["a", "b"]}), jobs / "news" / "a.parquet")
    pq.write_table(pa.table({"text": ["c", "d"], "label": ["x", "y"]}), jobs / "few.parquet")
    (jobs / "labels.yaml").write_text("[x, y]")
    (jobs / "job.yaml").write_text(JOB + "shots: 2\n")
    return jobs


def test_three_working_directories_give_one_job_and_one_plan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for place, name in (
        (folder, "job.yaml"),
        (folder.parent, "jobs/job.yaml"),
        (Path("/"), str(folder / "news/../job.yaml")),
    ):
        monkeypatch.chdir(place)
        spec = spec_from_file(name)
        assert isinstance(spec, ClassifySpec)
        found.append((job_name(with_absolute_paths(spec)), plan_job(spec).id, spec.output, spec.input))
    assert found[0] == found[1] == found[2]
    assert found[0][2:] == (str(folder.parent / "labelled/night"), (str(folder / "news/*.parquet"),))


def test_addresses_absolute_paths_and_the_embedded_model_stay_as_they_are(folder: Path) -> None:
    (folder / "job.yaml").write_text(
        "kind: classify\nmodel: embedded\ninput: [s3://b/a, /data/a.parquet, ~/a, file:///a/b]\noutput: gs://b/out\n"
        "labels: a.yaml, b\ncalibrate: contextual\n"
    )
    spec = spec_from_file(folder / "job.yaml")
    assert isinstance(spec, ClassifySpec)
    assert spec.input == ("s3://b/a", "/data/a.parquet", "~/a", "file:///a/b")
    assert (spec.model, spec.output, spec.calibrate) == ("embedded", "gs://b/out", "contextual")
    assert list(spec.labels or ()) == ["a.yaml", "b"]


@pytest.mark.parametrize(
    ("line", "made", "says"),
    [
        ("input: in.parquet", "in.parquet", "line 2: input in.parquet is relative to the job file"),
        ("input: [in/*.parquet]", "in/a.parquet", "write ../here/in/*.parquet or the absolute path"),
        ("model: ours", "ours", "line 2: model ours is relative to the job file, where it does not exist"),
        ("output: night", "night/_tirazh/plan.json", "line 2: output night is relative to the job file"),
    ],
)
def test_a_path_that_only_the_working_directory_has_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, line: str, made: str, says: str
) -> None:
    here = folder.parent / "here"
    (here / made).parent.mkdir(parents=True)
    (here / made).touch()
    monkeypatch.chdir(here)
    (folder / "job.yaml").write_text(f"kind: classify\n{line}\nlabels: [a, b]\n")
    with pytest.raises(RequestError) as caught:
        spec_from_file(folder / "job.yaml")
    assert says in str(caught.value)


def test_an_output_that_does_not_exist_anywhere_is_beside_the_job_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "night").mkdir()  # no output of a job
    (folder / "job.yaml").write_text("kind: classify\ninput: news\noutput: night\nlabels: [a, b]\n")
    assert spec_from_file(folder / "job.yaml").output == str(folder / "night")
