"""What users get wrong, through the command line: one sentence that names the thing, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.system.command import assert_one_sentence
from tirazh.jobs.cli import main


@dataclass(frozen=True)
class Desk:
    """A good request in a folder of its own, for a test to spoil."""

    folder: Path
    model: str

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def write(self, name: str, **columns: list[object]) -> str:
        pq.write_table(pa.table(columns), self.folder / name)
        return str(self.folder / name)

    def request(self, **changes: str | None) -> list[str]:
        flags = {"input": str(self.folder / "good.parquet"), "output": str(self.output), "model": self.model}
        flags |= changes
        return ["generate", *(text for name, value in flags.items() if value for text in (f"--{name}", value))]


@pytest.fixture
def desk(tmp_path: Path, tiny_model: str) -> Desk:
    desk = Desk(tmp_path, tiny_model)
    desk.write("good.parquet", id=[1, 2], prompt=["one", "two"])
    return desk


def no_such_file(desk: Desk) -> tuple[list[str], str]:
    return desk.request(input=str(desk.folder / "nothing-*.parquet")), "nothing-*.parquet"


def no_parquet(desk: Desk) -> tuple[list[str], str]:
    (desk.folder / "text.parquet").write_text("id,prompt\n1,one\n")
    return desk.request(input=str(desk.folder / "text.parquet")), "text.parquet"


def a_file_cut_short(desk: Desk) -> tuple[list[str], str]:
    whole = (desk.folder / "good.parquet").read_bytes()
    (desk.folder / "short.parquet").write_bytes(whole[: len(whole) // 2])
    return desk.request(input=str(desk.folder / "short.parquet")), "short.parquet"


def no_such_column(desk: Desk) -> tuple[list[str], str]:
    return desk.request(**{"prompt-column": "promt"}), "'prompt'"


def a_column_of_numbers(desk: Desk) -> tuple[list[str], str]:
    return desk.request(**{"prompt-column": "id"}), "'id'"


def a_column_in_the_way(desk: Desk) -> tuple[list[str], str]:
    taken = desk.write("taken.parquet", prompt=["one"], completion=["mine"])
    return desk.request(input=taken), "--prefix"


def no_rows(desk: Desk) -> tuple[list[str], str]:
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), desk.folder / "empty.parquet")
    return desk.request(input=str(desk.folder / "empty.parquet")), "no rows"


def a_template_with_an_unknown_column(desk: Desk) -> tuple[list[str], str]:
    return desk.request(template="News: {{ tittle }}"), "tittle"


def no_such_model(desk: Desk) -> tuple[list[str], str]:
    return desk.request(model=str(desk.folder / "no-model")), "no-model"


def a_model_cut_short(desk: Desk) -> tuple[list[str], str]:
    broken = shutil.copytree(desk.model, desk.folder / "broken")
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    return desk.request(model=str(broken)), "model.safetensors"


def a_model_without_a_tokenizer(desk: Desk) -> tuple[list[str], str]:
    mute = shutil.copytree(desk.model, desk.folder / "mute")
    (mute / "tokenizer.json").unlink()
    return desk.request(model=str(mute)), "--tokenizer"


def ranks_that_do_not_divide_the_heads(desk: Desk) -> tuple[list[str], str]:
    return desk.request(**{"tensor-parallel": "3"}), "4"


def a_sequence_longer_than_the_positions(desk: Desk) -> tuple[list[str], str]:
    return desk.request(**{"seq-length": "100000"}), "512"


def more_new_tokens_than_a_sequence_holds(desk: Desk) -> tuple[list[str], str]:
    return desk.request(**{"max-new-tokens": "600"}), "512"


def an_output_inside_the_input(desk: Desk) -> tuple[list[str], str]:
    return desk.request(input=str(desk.folder), output=str(desk.folder / "out")), "inside"


def an_output_that_holds_something_else(desk: Desk) -> tuple[list[str], str]:
    desk.output.mkdir()
    (desk.output / "part-00000-of-00001.parquet").write_bytes(b"someone's work")
    return desk.request(), str(desk.output)


def a_misspelt_flag(desk: Desk) -> tuple[list[str], str]:
    return [*desk.request(), "--temprature", "0.5"], "--temperature"


def a_flag_of_the_original(desk: Desk) -> tuple[list[str], str]:
    return [*desk.request(), "--model-parallel-size", "2"], "--tensor-parallel"


def a_number_out_of_range(desk: Desk) -> tuple[list[str], str]:
    return desk.request(**{"top-p": "1.5"}), "top_p"


def a_job_file_with_a_wrong_key(desk: Desk) -> tuple[list[str], str]:
    (desk.folder / "job.yaml").write_text("kind: generate\nimput: x\n")
    return ["generate", "--config", str(desk.folder / "job.yaml")], "line 2"


BAD = (
    *(no_such_file, no_parquet, a_file_cut_short, no_such_column, a_column_of_numbers, a_column_in_the_way, no_rows),
    *(a_template_with_an_unknown_column, no_such_model, a_model_cut_short, a_model_without_a_tokenizer),
    *(ranks_that_do_not_divide_the_heads, a_sequence_longer_than_the_positions, more_new_tokens_than_a_sequence_holds),
    *(an_output_inside_the_input, an_output_that_holds_something_else, a_misspelt_flag, a_flag_of_the_original),
    *(a_number_out_of_range, a_job_file_with_a_wrong_key),
)


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_a_wrong_request_ends_in_one_sentence_and_writes_nothing(
    spoil: Callable[[Desk], tuple[list[str], str]], desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    request, says = spoil(desk)
    before = sorted(desk.folder.rglob("*"))
    code = main(request)
    out, err = capsys.readouterr()
    assert_one_sentence((code, err), exit_code=2, says=says)
    assert out == ""
    assert sorted(desk.folder.rglob("*")) == before


def test_a_ru_gpts_checkpoint_without_a_sparse_mode_is_refused(
    desk: Desk, golden_dir: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(golden_dir / "xl_alternating_mp1", desk.folder / "xl")
    heads = json.loads((copy / "model_args.json").read_text())
    for name in ("model_args.json", "deepspeed_config.json"):
        (copy / name).unlink()
    number = next(str(value) for name, value in heads.items() if name.replace("-", "_") == "num_attention_heads")
    flags = {"num-attention-heads": number, "tokenizer": tiny_model}
    code = main(desk.request(model=str(copy), **flags))
    assert_one_sentence((code, capsys.readouterr().err), exit_code=2, says="sparse")
