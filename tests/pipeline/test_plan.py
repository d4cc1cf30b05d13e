"""Planning: what a job will do, what it refuses, and the plan that is written down."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from tirazh.errors import CheckpointError, InputError, OutputError, RequestError
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import choose_target, read_plan, write_plan
from tirazh.pipeline.plan import Plan, plan_job, with_dtype
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec
from tirazh.pipeline.storage.filesystem import Storage

LABELS = {"sport": "спорт", "economics": "экономика"}
Write = Callable[..., Path]
MakeSpec = Callable[..., GenerateSpec]


@pytest.fixture
def generate(tmp_path: Path, model_dir: Path) -> MakeSpec:
    def make(**settings: Any) -> GenerateSpec:
        paths = {"input": (str(tmp_path / "in"),), "output": str(tmp_path / "out"), "model": str(model_dir)}
        return GenerateSpec(**{**paths, "max_new_tokens": 8, **settings})

    return make


@pytest.fixture
def classify(tmp_path: Path, model_dir: Path) -> Callable[..., ClassifySpec]:
    def make(**settings: Any) -> ClassifySpec:
        paths = {"input": (str(tmp_path / "in"),), "output": str(tmp_path / "out"), "model": str(model_dir)}
        return ClassifySpec(**{**paths, "labels": LABELS, **settings})

    return make


@pytest.fixture
def output(tmp_path: Path) -> OutputFiles:
    return OutputFiles(Storage(), str(tmp_path / "out"))


def write_news(write_input: Write, *, files: int = 3, rows: int = 500) -> None:
    for number in range(files):
        write_input(f"{number}.parquet", prompt=[f"новость {n} " * 20 for n in range(rows)], row_group_size=200)


def test_a_plan_names_every_part_and_covers_every_row(write_input: Write, generate: MakeSpec) -> None:
    write_news(write_input)
    plan = plan_job(generate())
    assert plan.rows == 1_500
    assert sum(part.rows for part in plan.parts) == 1_500
    total = len(plan.parts)
    assert [part.name for part in plan.parts] == [
        f"part-{n:05d}-of-{total:05d}-{plan.id[:8]}.parquet" for n in range(total)
    ]


def test_parts_do_not_depend_on_the_order_of_the_file_listing(
    write_input: Write, generate: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_news(write_input)
    before = plan_job(generate()).parts
    walk = Storage.walk

    def shuffled(self: Storage, directory: str) -> list[Any]:
        files = walk(self, directory)
        random.Random(7).shuffle(files)
        return files

    monkeypatch.setattr(Storage, "walk", shuffled)
    assert plan_job(generate()).parts == before


def test_execution_settings_do_not_change_the_parts(write_input: Write, generate: MakeSpec) -> None:
    write_news(write_input)
    assert plan_job(generate()).parts == plan_job(generate(replicas="1:8", slots=4, threads=2)).parts


def test_limit_may_end_the_plan_inside_a_file(write_input: Write, generate: MakeSpec) -> None:
    write_news(write_input)
    plan = plan_job(generate(limit=701, part_rows=300))
    assert [(part.file.key, part.start, part.stop) for part in plan.parts] == [
        ("0.parquet", 0, 300),
        ("0.parquet", 300, 500),
        ("1.parquet", 0, 201),
    ]


def test_an_input_without_rows_is_refused(write_input: Write, generate: MakeSpec) -> None:
    write_input("empty.parquet", prompt=pa.array([], pa.string()))
    with pytest.raises(InputError, match="the input has no rows"):
        plan_job(generate())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prompt_column": "promt"}, r"no column 'promt' \(--prompt-column\); did you mean prompt"),
        ({"prompt_column": "id"}, "must contain strings, not int64"),
        ({"template": "{{ promt }}"}, "uses 'promt', which is not a column of the input; did you mean prompt"),
        ({"template": "Once upon a time"}, "uses no column"),
        ({"template": "{{ tags }}"}, "column 'tags', which holds list"),
    ],
    ids=["missing", "type", "template", "constant", "nested"],
)
def test_columns_that_are_missing_or_not_text_are_refused(
    write_input: Write, generate: MakeSpec, settings: dict[str, Any], sentence: str
) -> None:
    write_input("a.parquet", prompt=["x"], id=[1], tags=[["t"]])
    with pytest.raises(InputError, match=sentence):
        plan_job(generate(**settings))


def test_a_template_must_use_the_text_column(write_input: Write, classify: Callable[..., ClassifySpec]) -> None:
    write_input("a.parquet", text=["x"], title=["y"])
    with pytest.raises(InputError, match="does not use the text column 'text'"):
        plan_job(classify(template="{{ title }}"))


def test_an_input_column_with_the_name_of_an_output_column_is_refused_and_prefix_suggested(
    write_input: Write, generate: MakeSpec
) -> None:
    write_input("a.parquet", prompt=["x"], completion=["y"])
    with pytest.raises(InputError, match=r"already has a column 'completion'.*--prefix"):
        plan_job(generate())
    assert plan_job(generate(prefix="tirazh_")).rows == 1


def test_numeric_columns_named_like_sampling_settings_override_them(write_input: Write, generate: MakeSpec) -> None:
    write_input("a.parquet", prompt=["x"], temperature=[0.5], seed=["not a number"])
    assert plan_job(generate()).overrides == ("temperature",)


def test_a_sequence_length_above_the_model_context_length_is_refused(write_input: Write, generate: MakeSpec) -> None:
    write_input("a.parquet", prompt=["x"])
    assert plan_job(generate()).seq_length == 256
    with pytest.raises(RequestError, match="--seq-length 4096 is more than the model's 256 positions"):
        plan_job(generate(seq_length=4096))


def test_a_tensor_parallel_size_that_does_not_divide_the_heads_is_refused(
    write_input: Write, generate: MakeSpec
) -> None:
    write_input("a.parquet", prompt=["x"])
    with pytest.raises(RequestError, match="--tensor-parallel 3 does not divide the model's 2 attention heads"):
        plan_job(generate(tensor_parallel=3))


def write_foreign(folder: Path, model_dir: Path, model_type: str) -> Path:
    """A tiny model of transformers with 128 positions and 4 heads, and the tokenizer of `model_dir`."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 300}
    config = AutoConfig.for_model(model_type, num_attention_heads=4, max_position_embeddings=128, rotary_dim=2, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").symlink_to(model_dir / "tokenizer.json")
    return folder


def test_a_foreign_model_is_checked_by_the_positions_and_heads_of_its_config(
    write_input: Write, generate: MakeSpec, model_dir: Path, tmp_path: Path
) -> None:
    foreign = write_foreign(tmp_path / "foreign", model_dir, "gpt_neox")
    write_input("a.parquet", prompt=["x"])
    plan = plan_job(generate(model=str(foreign)))
    assert plan.model is not None
    assert (plan.model.kind, plan.seq_length) == ("transformers", 128)
    with pytest.raises(RequestError, match="--seq-length 256 is more than the model's 128 positions"):
        plan_job(generate(model=str(foreign), seq_length=256))
    with pytest.raises(RequestError, match="--tensor-parallel 3 does not divide the model's 4 attention heads"):
        plan_job(generate(model=str(foreign), tensor_parallel=3))


@pytest.mark.parametrize(
    ("model_type", "tensor_parallel", "message"),
    [
        ("gptj", 1, "a model of model_type gptj cannot be run: its code computes attention by itself"),
        ("olmo2", 2, "a model of model_type olmo2 cannot be split over --tensor-parallel 2 ranks"),
    ],
)
def test_a_model_that_the_engine_cannot_run_is_refused(
    generate: MakeSpec, model_dir: Path, tmp_path: Path, model_type: str, tensor_parallel: int, message: str
) -> None:
    foreign = write_foreign(tmp_path / "foreign", model_dir, model_type)
    with pytest.raises(RequestError, match=message):  # before the input is listed
        plan_job(generate(model=str(foreign), tensor_parallel=tensor_parallel))


def test_an_output_inside_the_input_is_refused(write_input: Write, generate: MakeSpec, tmp_path: Path) -> None:
    write_input("a.parquet", prompt=["x"])
    with pytest.raises(OutputError, match="lies inside the input"):
        plan_job(generate(output=str(tmp_path / "in/out")))


def test_a_missing_model_directory_is_refused(write_input: Write, generate: MakeSpec) -> None:
    write_input("a.parquet", prompt=["x"])
    with pytest.raises(CheckpointError):
        plan_job(generate(model="/no/such/model"))


def test_a_stored_plan_is_read_back_unchanged(write_input: Write, generate: MakeSpec, output: OutputFiles) -> None:
    write_news(write_input)
    plan = with_dtype(plan_job(generate()), "bfloat16")
    write_plan(output, plan)
    assert read_plan(output) == replace(plan, resolved=None)


def test_the_same_job_follows_the_stored_plan(write_input: Write, generate: MakeSpec, output: OutputFiles) -> None:
    write_news(write_input)
    write_plan(output, with_dtype(plan_job(generate(part_rows=100)), "bfloat16"))
    plan = choose_target(output, plan_job(generate(part_rows=77, replicas="3")), overwrite=False).plan
    assert plan.dtype == "bfloat16"
    assert {part.rows for part in plan.parts} == {100}


def test_another_job_is_refused_and_the_differing_settings_are_named(
    write_input: Write, generate: MakeSpec, output: OutputFiles
) -> None:
    write_news(write_input)
    write_plan(output, plan_job(generate()))
    with pytest.raises(OutputError, match=r"another job: --seed, --temperature differ; .*--overwrite"):
        choose_target(output, plan_job(generate(temperature=0.5, seed=3)), overwrite=False)


def test_an_input_file_with_another_number_of_rows_is_refused(
    write_input: Write, generate: MakeSpec, output: OutputFiles
) -> None:
    write_news(write_input)
    write_plan(output, plan_job(generate()))
    path = write_input("1.parquet", prompt=["another"])
    with pytest.raises(OutputError, match=f"{path} has changed since the job started: it has 1 rows instead of"):
        choose_target(output, plan_job(generate()), overwrite=False)


def test_changed_model_weights_are_refused(write_input: Write, generate: MakeSpec, output: OutputFiles) -> None:
    write_news(write_input)
    write_plan(output, plan_job(generate()))
    with pytest.raises(OutputError, match="have changed"):
        choose_target(output, replace(plan_job(generate()), model_fingerprint="0" * 16), overwrite=False)


def test_overwrite_of_another_job_writes_to_the_staged_output(
    write_input: Write, generate: MakeSpec, output: OutputFiles
) -> None:
    write_news(write_input)
    write_plan(output, plan_job(generate()))
    new = plan_job(generate(seed=3))
    target = choose_target(output, new, overwrite=True)
    assert (target.output, target.plan, target.is_stored, target.is_staged) == (output.staged, new, False, True)


def test_overwrite_resumes_a_staged_job_and_no_other(
    write_input: Write, generate: MakeSpec, output: OutputFiles
) -> None:
    write_news(write_input)
    write_plan(output, plan_job(generate()))
    write_plan(output.staged, plan_job(generate(seed=3)))
    assert choose_target(output, plan_job(generate(seed=3)), overwrite=True).is_stored
    assert not choose_target(output, plan_job(generate(seed=4)), overwrite=True).is_stored


def test_a_staged_output_does_not_change_what_a_run_without_overwrite_does(
    write_input: Write, generate: MakeSpec, output: OutputFiles
) -> None:
    write_news(write_input)
    write_plan(output, plan_job(generate()))
    write_plan(output.staged, plan_job(generate(seed=3)))
    assert choose_target(output, plan_job(generate()), overwrite=False).output == output
    with pytest.raises(OutputError, match="another job: --seed differs"):
        choose_target(output, plan_job(generate(seed=3)), overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_same_job_resumes_its_output(
    write_input: Write, generate: MakeSpec, output: OutputFiles, overwrite: bool
) -> None:
    """A submitted job that is restarted has the same flags and must not start again from the beginning."""
    write_news(write_input)
    plan = plan_job(generate())
    write_plan(output, plan)
    target = choose_target(output, plan, overwrite=overwrite)
    assert (target.output, target.plan.id, target.is_stored) == (output, plan.id, True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_that_tirazh_did_not_write_are_never_removed(
    write_input: Write, generate: MakeSpec, output: OutputFiles, tmp_path: Path, overwrite: bool
) -> None:
    write_news(write_input)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/part-00000-of-00001.parquet").write_bytes(b"theirs")
    with pytest.raises(OutputError, match="contains files that tirazh did not write"):
        choose_target(output, plan_job(generate()), overwrite=overwrite)
    assert (tmp_path / "out/part-00000-of-00001.parquet").read_bytes() == b"theirs"


def test_a_damaged_plan_is_named_in_the_error(
    write_input: Write, generate: MakeSpec, output: OutputFiles, tmp_path: Path
) -> None:
    write_news(write_input)
    (tmp_path / "out/_tirazh").mkdir(parents=True)
    (tmp_path / "out/_tirazh/plan.json").write_text('{"format": 1')
    with pytest.raises(OutputError, match=r"plan\.json is damaged .* give --overwrite"):
        choose_target(output, plan_job(generate()), overwrite=False)
    assert choose_target(output, plan_job(generate()), overwrite=True).is_staged


def test_a_plan_with_another_id_than_that_of_its_content_is_damaged(
    write_input: Write, generate: MakeSpec, output: OutputFiles
) -> None:
    write_news(write_input)
    plan = plan_job(generate())
    write_plan(output, plan)
    path = Path(output.own("plan.json"))
    path.write_text(
        path.read_text().replace('"dtype": "auto",\n "seq_length": 256', '"dtype": "float32",\n "seq_length": 256')
    )
    with pytest.raises(OutputError, match="its plan id is not that of its content"):
        choose_target(output, plan, overwrite=False)


def test_an_output_of_the_earlier_format_is_named_and_may_be_replaced(
    write_input: Write, generate: MakeSpec, output: OutputFiles
) -> None:
    write_news(write_input)
    write_plan(output, plan_job(generate()))
    path = Path(output.own("plan.json"))
    path.write_text(path.read_text().replace('"format": 4', '"format": 3'))
    with pytest.raises(OutputError, match=r"was written by an earlier version of tirazh.*give --overwrite"):
        choose_target(output, plan_job(generate()), overwrite=False)
    assert choose_target(output, plan_job(generate()), overwrite=True).is_staged


def test_a_stored_plan_is_never_replaced(write_input: Write, generate: MakeSpec, output: OutputFiles) -> None:
    write_news(write_input)
    stored = with_dtype(plan_job(generate(part_rows=100)), "bfloat16")
    assert write_plan(output, stored) == stored
    assert write_plan(output, plan_job(generate(part_rows=77))).id == stored.id
    with pytest.raises(OutputError, match="taken by another job"):
        write_plan(output, plan_job(generate(seed=3)))
    assert read_plan(output) == replace(stored, resolved=None)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: with_dtype(plan, "bfloat16"),
        lambda plan: replace(plan, seq_length=128),
        lambda plan: replace(plan, model_fingerprint="0"),
        lambda plan: replace(plan, examples_sha256="0"),
        lambda plan: replace(plan, identity=plan.identity | {"seed": 7}),
        lambda plan: replace(plan, overrides=("seed",)),
        lambda plan: replace(plan, files=plan.files[:1]),
        lambda plan: replace(plan, files=(replace(plan.files[0], cuts=(0, 500)), *plan.files[1:])),
        lambda plan: replace(
            plan, files=(replace(plan.files[0], file=replace(plan.files[0].file, version="2")), *plan.files[1:])
        ),
    ],
    ids=["dtype", "seq_length", "model", "examples", "setting", "overrides", "files", "cuts", "version"],
)
def test_the_plan_id_depends_on_everything_that_determines_rows_and_files(
    write_input: Write, generate: MakeSpec, change: Callable[[Plan], Plan]
) -> None:
    write_news(write_input)
    plan = plan_job(generate(part_rows=100))
    assert plan.id == plan_job(generate(part_rows=100, replicas="3", max_error_rate=0.5)).id
    assert len(plan.id) == 32
    changed = change(plan)
    assert changed.id != plan.id
    assert not {part.name for part in changed.parts} & {part.name for part in plan.parts}


def test_a_plan_that_continues_a_stored_one_keeps_its_id(write_input: Write, generate: MakeSpec) -> None:
    write_news(write_input)
    plan = plan_job(generate())
    files = (replace(plan.files[0], file=replace(plan.files[0].file, version="2")), *plan.files[1:])
    assert replace(plan, files=files, stored_id=plan.id).parts[0].name == plan.parts[0].name


def test_the_texts_of_a_conversation_are_counted(write_input: Write, generate: MakeSpec) -> None:
    words = [" ".join(f"{row}-{word}" for word in range(200)) for row in range(50)]
    template = "{% for turn in messages %}{{ turn.content }}{% endfor %}"
    write_input("a.parquet", messages=[[{"role": "user", "content": text}] for text in words])
    nested = plan_job(generate(template=template)).estimated_tokens
    assert nested > sum(map(len, words)) / 4
