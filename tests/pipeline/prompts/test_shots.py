"""Few-shot examples of generate: every row draws its own by its seed, and never itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.without_ray import run_without_ray
from tirazh.errors import InputError, OutputError, RequestError
from tirazh.pipeline.build import run_job, set_up_prompts
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.prompts.encode import PromptStep
from tirazh.pipeline.prompts.shots import choose
from tirazh.pipeline.spec import GenerateSpec

TEMPLATE = "Заголовки:\n{% for e in examples %}{{ e.topic }}: {{ e.title }}\n{% endfor %}{{ topic }}:"
TITLES = {"topic": [f"t{n}" for n in range(9)], "title": [f"title {n}" for n in range(9)], "id": range(9)}


@pytest.fixture
def spec(write_input: Callable[..., Path], tmp_path: Path, model_dir: Path, monkeypatch: Any) -> GenerateSpec:
    run_without_ray(monkeypatch)
    write_input("a.parquet", topic=["t0", "t1", "x", "y", "x"])
    pq.write_table(pa.table(TITLES), tmp_path / "examples.parquet")
    return GenerateSpec(
        input=(str(tmp_path / "in"),),
        output=str(tmp_path / "out"),
        model=str(model_dir),
        template=TEMPLATE,
        examples=str(tmp_path / "examples.parquet"),
        shots=3,
        max_new_tokens=4,
        keep=("prompt", "seed"),
        dtype="float32",
        part_rows=2,
    )


def prompts_of(spec: GenerateSpec) -> list[str]:
    run_job(spec)
    return [
        row["prompt"] for path in sorted(Path(spec.output).glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def examples_in(prompt: str) -> list[str]:
    return prompt.split("\n")[1:-1]


def test_every_row_draws_its_own_examples_and_never_itself(spec: GenerateSpec) -> None:
    prompts = prompts_of(spec)
    drawn = [examples_in(prompt) for prompt in prompts]
    assert [len(set(examples)) for examples in drawn] == [3] * 5
    assert len({tuple(examples) for examples in drawn}) == 5
    assert prompts[0].endswith("\nt0:")
    assert not any("t0:" in example for example in drawn[0])
    assert not any("t1:" in example for example in drawn[1])


def test_the_draw_depends_on_the_seed_and_the_content_of_the_file_only(spec: GenerateSpec, tmp_path: Path) -> None:
    first = prompts_of(spec)
    pq.write_table(pa.table({**TITLES, "more": [0] * 9}), tmp_path / "other.parquet", compression="none")
    other = {"examples": str(tmp_path / "other.parquet"), "output": str(tmp_path / "other"), "part_rows": 5}
    assert prompts_of(replace(spec, **other)) == first
    assert prompts_of(replace(spec, seed=1, output=str(tmp_path / "seed"))) != first


def test_greedy_rows_of_one_prompt_draw_different_examples(spec: GenerateSpec) -> None:
    prompts = prompts_of(replace(spec, temperature=0.0))
    assert examples_in(prompts[2]) != examples_in(prompts[4])


def test_another_examples_file_is_another_job(spec: GenerateSpec, tmp_path: Path) -> None:
    run_job(spec)
    pq.write_table(pa.table({**TITLES, "title": ["other"] * 9}), tmp_path / "examples.parquet")
    with pytest.raises(OutputError, match="the --examples file has changed"):
        run_job(spec)


def test_the_shared_prefix_ends_where_examples_begin(spec: GenerateSpec) -> None:
    long = replace(spec, template="Список заголовков новостей экономики и спорта. " * 3 + TEMPLATE)
    prepared = set_up_prompts(long, plan_job(long))
    prefix = prepared.engine_job.prefix_token_ids
    assert len(prefix) >= 16
    table = pa.table({"topic": ["a", "b"], "__tirazh_repetition": pa.array([0, 0], pa.int32())})
    for ids in PromptStep(prepared.config)(table).column("__tirazh_prompt_ids").to_pylist():
        assert tuple(ids[: len(prefix)]) == prefix


def test_a_row_with_too_few_other_examples_is_an_error_of_its_own(spec: GenerateSpec) -> None:
    run_job(replace(spec, shots=9, max_error_rate=0.5))
    rows = [row for path in sorted(Path(spec.output).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert rows[0]["error"] == "--examples has 8 rows besides this one, fewer than --shots 9"
    assert rows[2]["error"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 0}, "--examples needs --shots K"),
        ({"examples": None}, "--shots 3 needs --examples FILE"),
        ({"shots": -1}, "--shots must be at least 0, not -1"),
        ({"template": None, "prompt_column": "topic"}, "--examples needs a --template with a place for them"),
    ],
)
def test_one_without_the_other_is_refused(spec: GenerateSpec, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        replace(spec, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 10}, "has 9 rows, fewer than --shots 10"),
        ({"template": "{{ topic }}"}, "--template does not use the examples; go over them"),
        ({"template": "{{ topic }}{{ examples }}"}, "uses the examples as 'examples', which holds list<"),
        ({"template": "{{ topic }}{% for e in examples %}{{ e.titel }}{% endfor %}"}, "'titel' .*did you mean title"),
        (
            {"template": "{{ topic }}{% for e in examples %}{{ e.x }}{% endfor %}", "examples": None, "shots": 0},
            "--template uses 'examples'; give --examples FILE.parquet and --shots K",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_the_job_starts(
    spec: GenerateSpec, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_job(replace(spec, **changes))


def test_an_example_without_a_value_is_refused(spec: GenerateSpec, tmp_path: Path) -> None:
    pq.write_table(pa.table({**TITLES, "title": ["a", None, *"cdefghi"]}), tmp_path / "examples.parquet")
    with pytest.raises(InputError, match=r"examples.parquet, row 2: column 'title' is null; correct the row"):
        run_job(spec)


def test_an_input_column_called_examples_is_refused(spec: GenerateSpec, write_input: Callable[..., Path]) -> None:
    write_input("a.parquet", topic=["a"], examples=["b"])
    with pytest.raises(InputError, match="the input has a column 'examples'"):
        run_job(spec)


@given(st.integers(0, 2**63 - 1), st.integers(1, 50), st.data())
def test_all_that_are_drawn_are_different(seed: int, size: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, size))
    chosen = choose(seed, size, count)
    assert len(set(chosen)) == count
    assert set(chosen) <= set(range(size))
    assert choose(seed, size, size)[:count] == chosen


def test_every_example_is_as_likely_in_every_place() -> None:
    counts = Counter((place, number) for seed in range(5_000) for place, number in enumerate(choose(seed, 5, 3)))
    assert len(counts) == 15
    assert all(850 < count < 1_150 for count in counts.values())
