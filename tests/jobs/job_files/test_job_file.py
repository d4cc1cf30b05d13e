"""Job files: YAML with the names of the flags; mistakes are named with their line."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tirazh.errors import RequestError
from tirazh.jobs.job_files.job_file import spec_from_file
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec

HEAD = "kind: generate\ninput: in.parquet\noutput: out\n"


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "job.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def sentence(folder: Path, text: str | bytes) -> str:
    path = write(folder, text)
    with pytest.raises(RequestError) as caught:
        spec_from_file(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "job.yaml")


def test_a_job_file_gives_the_spec_with_the_same_values(tmp_path: Path) -> None:
    text = (
        "kind: classify\ninput: [a.parquet, b/]\noutput: s3://night/out\nlabels: {economics: экономика, sport: спорт}\n"
    )
    spec = spec_from_file(write(tmp_path, text + "calibrate: true\nlimit:\n"))
    assert isinstance(spec, ClassifySpec)
    assert spec.input == (str(tmp_path / "a.parquet"), str(tmp_path / "b"))
    assert spec.output == "s3://night/out"
    assert spec.labels == {"economics": "экономика", "sport": "спорт"}
    assert spec.calibrate
    assert spec.limit is None


def test_yaml_reads_no_and_dates_as_strings(tmp_path: Path) -> None:
    text = "kind: classify\ninput: in.parquet\noutput: 2026-11-24\nreplicas: 1:8\nlabels: [yes, no, on]\n"
    spec = spec_from_file(write(tmp_path, text))
    assert isinstance(spec, ClassifySpec)
    assert Path(spec.output) == tmp_path / "2026-11-24"
    assert (spec.replicas, list(spec.labels)) == ("1:8", ["yes", "no", "on"])


def test_yaml_reads_numbers_as_numbers(tmp_path: Path) -> None:
    spec = spec_from_file(write(tmp_path, HEAD + "temperature: 1e-1\ntop_p: .5\nseed: -7\ntop_k: 010\n"))
    assert isinstance(spec, GenerateSpec)
    assert (spec.temperature, spec.top_p, spec.seed, spec.top_k) == (0.1, 0.5, -7, 10)


def test_a_labels_file_is_relative_to_the_job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    (tmp_path / "labels.yaml").write_text("[a, b]")
    spec = spec_from_file(write(tmp_path, "kind: classify\ninput: in.parquet\noutput: out\nlabels: labels.yaml\n"))
    assert isinstance(spec, ClassifySpec)
    assert spec.labels == {"a": "a", "b": "b"}


def test_lists_of_vary_are_relative_to_the_job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    for name in ("topics.txt", "people.csv"):
        (tmp_path / name).write_text("a\n")
    text = (
        "kind: generate\noutput: out\nper_cell: 2\ntemplate: '{{ topic }}'\nvary:\n  topic: topics.txt\n"
        "  style: [plain, a.txt]\n"
        "  persona: people.csv#name\n  city: {values: people.csv#city, weights: w}\n  mood: {calm: 3}\n  far: s3://b/a.txt\n"
        "  gone: gone.txt\n"
    )
    spec = spec_from_file(write(tmp_path, text))
    assert isinstance(spec, GenerateSpec)
    assert spec.vary == {
        "topic": str(tmp_path / "topics.txt"),
        "style": ["plain", "a.txt"],
        "persona": f"{tmp_path / 'people.csv'}#name",
        "city": {"values": f"{tmp_path / 'people.csv'}#city", "weights": "w"},
        "mood": {"calm": 3},
        "far": "s3://b/a.txt",
        "gone": str(tmp_path / "gone.txt"),
    }
    (tmp_path / "vary.yaml").write_text("topic: [a, b]\n")
    beside = spec_from_file(write(tmp_path, "kind: generate\noutput: out\nrows: 2\nvary: vary.yaml\n"))
    assert isinstance(beside, GenerateSpec)
    assert beside.vary == {"topic": ["a", "b"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + "top_kk: 5\n", "job.yaml line 4: generate has no setting 'top_kk'; did you mean top_k?"),
        (HEAD + "\n# a comment\ntop_k: five\n", "job.yaml line 6: top_k must be an integer, not 'five'"),
        (HEAD + "labels: [a, b]\n", "job.yaml line 4: labels is a setting of kind: classify, "
            "but this is a generate job"),
        (HEAD + "seed: 1\nseed: 2\n", "job.yaml line 5: duplicate key seed"),
        (HEAD + "top_p: [1\n", "job.yaml is not valid YAML at line 5, column 1: "
            "did not find expected ',' or ']'"),
        ("input: in.parquet\n", "job.yaml has no kind; add a line such as kind: generate (classify, generate, score, "
            "embed, steps)"),
        ("kind: clasify\n", "job.yaml line 1: kind must be one of classify, generate, score, embed, finetune, "
            "steps, not "
            "'clasify'; did you mean classify?"),
        ("kind: [a]\n", "job.yaml line 1: kind must be one of classify, generate, score, embed, finetune, "
            "steps, not ['a']"),
        ("kind: classify\n", "--labels, --input, --output are missing"),
        ("- a\n- b\n", "job.yaml must be a mapping of settings (input: ..., output: ...)"),
        ("", "job.yaml is empty"),
        (b"kind: \xff\xfe\n", "job file job.yaml is not UTF-8 text"),
        ("kind: generate\x00\n", "job.yaml is not valid YAML: it holds control characters"),
        ("kind: !!python/object:os.system x\n", "job.yaml line 1: only plain values are allowed, without tags (!...)"),
    ],
)  # fmt: skip
def test_a_wrong_job_file_is_refused_with_its_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    assert sentence(tmp_path, text) == says


def test_a_missing_job_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^job file nowhere\.yaml does not exist$"):
        spec_from_file("nowhere.yaml")
    with pytest.raises(RequestError, match=r"is a directory; name a YAML file$"):
        spec_from_file(tmp_path)


def test_a_labels_file_of_the_largest_size_is_read_in_seconds(tmp_path: Path) -> None:
    """PyYAML's own scanner would take minutes on a busy machine."""
    labels = ", ".join(f"label {number}" for number in range(79_000))
    path = write(tmp_path, f"kind: classify\ninput: a\noutput: b\nlabels: [{labels}]\n")
    assert (1 << 20) - 100_000 < path.stat().st_size <= 1 << 20
    began = time.process_time()
    spec = spec_from_file(path)
    assert time.process_time() - began < 10
    assert isinstance(spec, ClassifySpec)
    assert len(spec.labels) == 79_000


def test_a_job_file_above_one_mebibyte_is_refused(tmp_path: Path) -> None:
    assert "is larger than 1 MiB" in sentence(tmp_path, HEAD + "#" * (1 << 20))


def test_job_files_are_read_the_same_without_libyaml(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "top_k: 7\nstop: [a, 'b: c']\n# end\n")
    code = (
        "import sys, yaml\nyaml.__with_libyaml__ = False\nfrom tirazh.jobs.job_files.job_file import spec_from_file\n"
        "from tirazh.jobs.yaml_values import yaml_text\nassert not hasattr(yaml_text, 'CParser')\n"
        "print(spec_from_file(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(spec_from_file(path))
