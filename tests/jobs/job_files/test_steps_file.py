"""Job files of several steps: what a step inherits, and that a spec survives the way to a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tirazh
from tirazh.errors import RequestError
from tirazh.jobs.cluster.submit import job_text, with_absolute_paths
from tirazh.jobs.job_files.job_file import spec_from_file
from tirazh.jobs.job_files.steps_file import build_steps_spec
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, StepsSpec

STEPS: list[dict[str, Any]] = [
    {"name": "title", "kind": "generate", "template": "{{ topic }}", "filters": [{"min_chars": 3}]},
    {"name": "section", "kind": "classify", "text_column": "title_completion", "labels": ["a", "b"]},
    {"name": "good", "kind": "filter", "dedup": "near"},
]


def build(**changed: Any) -> StepsSpec:
    values = {"input": "in.parquet", "output": "out", "seed": 7, "dtype": "float32", "steps": STEPS}
    return build_steps_spec(values | changed)


def test_settings_at_the_top_are_those_of_every_step_that_has_them() -> None:
    title, section, _ = (step.spec for step in build().steps)
    assert isinstance(title, GenerateSpec)
    assert isinstance(section, ClassifySpec)
    assert (title.seed, title.dtype, section.dtype) == (7, "float32", "float32")


def test_the_columns_of_a_step_begin_with_its_name_unless_it_has_a_prefix() -> None:
    steps = [STEPS[0], {**STEPS[1], "prefix": "by_"}]
    assert [step.spec.prefix for step in build(steps=steps).steps if hasattr(step.spec, "prefix")] == ["title_", "by_"]


def test_each_step_reads_the_output_of_the_step_before() -> None:
    title, section, _ = (step.spec for step in build().steps)
    assert isinstance(title, GenerateSpec)
    assert isinstance(section, ClassifySpec)
    assert title.input == ("in.parquet",)
    assert section.input == ("out/_tirazh/steps/01-title",)


def test_a_spec_is_the_same_after_it_was_sent_to_a_cluster() -> None:
    spec = with_absolute_paths(build(columns=["title_completion"]))
    values = json.loads(json.dumps(job_text(spec)))
    assert (
        with_absolute_paths(build_steps_spec({name: value for name, value in values.items() if name != "kind"})) == spec
    )


def test_a_job_file_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("kind: steps\noutput: out\nmodle: x\nsteps:\n  - {name: a, kind: generate}\n")
    with pytest.raises(RequestError, match=r"job\.yaml line 3: no step has a setting 'modle'; did you mean model"):
        spec_from_file(path)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([], "steps is empty"),
        ("title", "steps must be a list"),
        ([{"kind": "generate"}], "step 1 has no name"),
        ([{"name": "a"}], "step 'a' has no kind"),
        ([STEPS[2]], "the first step cannot be a filter"),
        ([STEPS[0], {"name": "f", "kind": "filter"}], "at least one of filters, pii, dedup and against"),
        (
            [STEPS[0], {**STEPS[2], "dropped": "inline"}, {**STEPS[2], "name": "g"}],
            "inline is possible in the last step",
        ),
    ],
)
def test_wrong_steps_are_refused(steps: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        build(steps=steps)


def test_run_takes_a_mapping_with_the_keys_of_a_job_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not exist"):
        tirazh.run(
            {"kind": "steps", "input": str(tmp_path / "in.parquet"), "output": str(tmp_path / "o"), "steps": STEPS}
        )
