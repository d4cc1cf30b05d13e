"""What a spec names is resolved once for a run: storage, URIs, the template, the examples and the model."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tirazh.pipeline
from tests.pipeline.without_ray import run_without_ray
from tirazh.errors import RequestError
from tirazh.jobs.cluster.submit import job_name, with_absolute_paths
from tirazh.pipeline import build, resolve
from tirazh.pipeline.build import run_job
from tirazh.pipeline.prompts.template import PromptTemplate
from tirazh.pipeline.resolve import resolve_job
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec
from tirazh.pipeline.storage.filesystem import Storage


@pytest.fixture
def spec(write_input: Callable[..., Path], tmp_path: Path, model_dir: Path) -> ClassifySpec:
    write_input("a.parquet", text=["x y z"] * 4)
    pq.write_table(pa.table({"text": ["a"], "label": ["sport"]}), tmp_path / "few.parquet")
    return ClassifySpec(
        input=(str(tmp_path / "in"),),
        output=str(tmp_path / "out"),
        model=str(model_dir),
        labels={"sport": "sport", "economics": "economics"},
        template="News: {{ text }}",
        examples=str(tmp_path / "few.parquet"),
        dtype="float32",
    )


def test_a_run_compiles_its_template_once_and_reads_model_and_examples_once(
    spec: ClassifySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_without_ray(monkeypatch)
    calls: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            return function(*arguments, **named)

        return call

    read = Storage.read
    monkeypatch.setattr(PromptTemplate, "__init__", counted("template", PromptTemplate.__init__))
    monkeypatch.setattr(resolve, "describe", counted("model", resolve.describe))
    monkeypatch.setattr(resolve, "Storage", counted("storage", Storage))
    monkeypatch.setattr(
        Storage,
        "read",
        lambda self, uri: (calls.append("examples") if uri.endswith("few.parquet") else None, read(self, uri))[1],
    )
    monkeypatch.setattr(build, "begin_forecast", lambda *arguments: None)  # it makes prompts of its own, in a thread
    run_job(spec)
    # The page finds the columns of the template that the manifest names.
    assert sorted(calls) == ["examples", "model", "storage", "template", "template"]


def test_a_storage_is_made_once_per_entry_point() -> None:
    folder = Path(tirazh.pipeline.__file__).parent
    makers = []
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Storage":
                makers.append(path.relative_to(folder).as_posix())
    assert sorted(makers) == [
        "drift/run.py",
        "execution/cluster/checks.py",
        "execution/cluster/checks.py",
        "finetune/cluster_checks.py",
        "finetune/cluster_checks.py",  # for the directory of the training on this machine's disk
        "finetune/plan.py",
        "gold/read.py",
        "history/prune.py",
        "history/recorder.py",
        "model_cache/remote_model.py",
        "notify/run_files.py",
        "notify/run_files.py",
        "output/report.py",
        "output/verify.py",
        "output/verify.py",
        "relabel/command.py",
        "relabel/fit.py",
        "resolve.py",
        "steps/dry_run.py",
        "steps/plan.py",
        "steps/run.py",
        "steps/verify.py",
        "steps/verify.py",
        "trained_task.py",
    ]


def test_inputs_and_output_become_absolute(tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = GenerateSpec(input=("in/", "s3://bucket/more/"), output="out/", model=str(model_dir))
    job = resolve_job(spec)
    assert job.inputs == (f"{tmp_path}/in", "s3://bucket/more")
    assert job.output == f"{tmp_path}/out"
    assert job.examples is None


def test_an_address_of_an_unknown_scheme_is_refused(model_dir: Path) -> None:
    with pytest.raises(RequestError, match="ftp://"):
        resolve_job(GenerateSpec(input=("ftp://host/in",), output="out", model=str(model_dir)))


@pytest.mark.parametrize(
    ("settings", "columns", "text_variable"),
    [
        ({}, {"text": "body"}, "text"),
        ({"template": "{{ title }}: {{ body }}"}, {"title": "title", "body": "body"}, "body"),
        ({"template": "{{ title }}"}, {"title": "title"}, "title"),
    ],
    ids=["default template", "with the text column", "without the text column"],
)
def test_template_variables_are_columns_and_the_text_column_may_be_truncated(
    settings: dict[str, Any], columns: dict[str, str], text_variable: str, model_dir: Path
) -> None:
    spec = GenerateSpec(input=("in",), output="out", model=str(model_dir), prompt_column="body", **settings)
    source = resolve_job(spec).source
    assert (dict(source.columns), source.text_variable) == (columns, text_variable)


def test_a_template_is_pickled_as_its_source() -> None:
    template = pickle.loads(pickle.dumps(PromptTemplate("{{ a|upper }}!")))
    assert template.source == "{{ a|upper }}!"
    assert template.render({"a": "x"}) == "X!"


SAME_JOB: dict[str, dict[str, Any]] = {
    "relative path": {"input": ("in",)},
    "slash at the end": {"input": ("in/",)},
    "./": {"input": ("./in",)},
    "..": {"input": ("in/../in",)},
    "~": {"input": ("~/in",)},
    "named twice": {"input": ("in", "./in")},
    "model directory": {"model": "model"},
    "examples": {"examples": "./few.parquet"},
    "default template": {"template": "{{ text }}\nТема:"},
    "truncate": {"truncate": "right"},
    "sequence length of the model": {"seq_length": 256},
    "tokenizer of the model": {"tokenizer": "model/"},
    "attention of the model": {"sparse_mode": "none", "num_attention_heads": 2, "fix_sparsity_layout": 1},
}
OTHER_JOB: dict[str, dict[str, Any]] = {
    "input": {"input": ("in/a.parquet",)},
    "template": {"template": "{{ text }}\nКласс:"},
    "truncate": {"truncate": "left"},
    "sequence length": {"seq_length": 255},
    "calibrate": {"calibrate": "contextual"},
}


@pytest.fixture
def plain_spec(spec: ClassifySpec, tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> ClassifySpec:
    """`spec` without a template; its files are also reached from the current directory and from HOME."""
    (tmp_path / "model").mkdir()
    for file in model_dir.iterdir():
        (tmp_path / "model" / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return replace(spec, template=None, model=str(tmp_path / "model"))


@pytest.mark.parametrize("changes", SAME_JOB.values(), ids=SAME_JOB.keys())
def test_a_job_that_is_written_differently_is_the_same_job(plain_spec: ClassifySpec, changes: dict[str, Any]) -> None:
    assert resolve_job(replace(plain_spec, **changes)).identity == resolve_job(plain_spec).identity


@pytest.mark.parametrize("changes", OTHER_JOB.values(), ids=OTHER_JOB.keys())
def test_a_setting_that_changes_the_rows_makes_another_job(plain_spec: ClassifySpec, changes: dict[str, Any]) -> None:
    assert resolve_job(replace(plain_spec, **changes)).identity != resolve_job(plain_spec).identity


def test_a_relative_path_means_another_job_in_another_directory(
    plain_spec: ClassifySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relative = replace(plain_spec, input=("in",))
    before = relative.fingerprint()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert relative.fingerprint() != before


def test_two_names_of_one_scheme_name_the_same_object(model_dir: Path) -> None:
    first, second = (
        resolve_job(GenerateSpec(input=(f"{scheme}://bucket/in/",), output="out", model=str(model_dir)))
        for scheme in ("s3", "s3a")
    )
    assert (first.inputs, first.identity) == (second.inputs, second.identity)


def test_a_submitted_job_is_the_job_that_was_started_here_with_relative_paths(plain_spec: ClassifySpec) -> None:
    relative = replace(plain_spec, input=("in/",), model="./model", examples="few.parquet", output="out")
    submitted = with_absolute_paths(relative)
    assert submitted.fingerprint() == relative.fingerprint()
    assert resolve_job(submitted).identity == resolve_job(relative).identity
    assert job_name(submitted) == job_name(replace(submitted, input=(f"{submitted.input[0]}/",)))


def test_a_prompt_column_beside_a_template_names_only_the_text_that_may_be_truncated(model_dir: Path) -> None:
    def identity(**settings: Any) -> dict[str, Any]:
        return resolve_job(GenerateSpec(input=("in",), output="out", model=str(model_dir), **settings)).identity

    assert identity(template="{{ a }} {{ b }}") == identity(template="{{ a }} {{ b }}", prompt_column="a")
    assert identity(template="{{ a }} {{ b }}") != identity(template="{{ a }} {{ b }}", prompt_column="b")
    assert identity(template="{{ body }}", prompt_column="body") == identity(prompt_column="body")
    assert identity(prompt_column="body") != identity()


def test_a_default_template_that_is_spelled_out_gives_the_same_errors(model_dir: Path) -> None:
    default, spelled_out = (
        resolve_job(GenerateSpec(input=("in",), output="out", model=str(model_dir), template=template)).source
        for template in (None, "{{ prompt }}")
    )
    assert default.template.source == spelled_out.template.source
    assert replace(default, template=spelled_out.template) == spelled_out
