"""What a spec names is resolved once for a run: storage, URIs, the template, the examples and the model."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tirazh.pipeline
from tests.pipeline.without_ray import run_without_ray
from tirazh.errors import RequestError
from tirazh.pipeline import resolve
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
    run_job(spec)
    assert sorted(calls) == ["examples", "model", "storage", "template"]


def test_a_storage_is_made_once_per_entry_point() -> None:
    folder = Path(tirazh.pipeline.__file__).parent
    makers = []
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Storage":
                makers.append(path.relative_to(folder).as_posix())
    assert sorted(makers) == ["finetune/plan.py", "output/ledger.py", "output/report.py", "resolve.py"]


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
