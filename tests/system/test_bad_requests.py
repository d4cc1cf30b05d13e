"""Wrong requests through the command line: one sentence that names the problem, exit code 2, nothing written."""

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
class RequestFolder:
    """A good request in a folder of its own, which a test makes wrong."""

    path: Path
    model: str

    @property
    def output(self) -> Path:
        return self.path / "out"

    def write(self, name: str, **columns: list[object]) -> str:
        pq.write_table(pa.table(columns), self.path / name)
        return str(self.path / name)

    def request(self, **changes: str | None) -> list[str]:
        flags = {"input": str(self.path / "good.parquet"), "output": str(self.output), "model": self.model}
        flags |= changes
        return ["generate", *(text for name, value in flags.items() if value for text in (f"--{name}", value))]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: str) -> RequestFolder:
    folder = RequestFolder(tmp_path, tiny_model)
    folder.write("good.parquet", id=[1, 2], prompt=["one", "two"])
    return folder


def no_such_file(folder: RequestFolder) -> tuple[list[str], str]:
    return folder.request(input=str(folder.path / "nothing-*.parquet")), "nothing-*.parquet"


def no_parquet(folder: RequestFolder) -> tuple[list[str], str]:
    (folder.path / "text.parquet").write_text("id,prompt\n1,one\n")
    return folder.request(input=str(folder.path / "text.parquet")), "text.parquet"


def a_file_cut_short(folder: RequestFolder) -> tuple[list[str], str]:
    data = (folder.path / "good.parquet").read_bytes()
    (folder.path / "short.parquet").write_bytes(data[: len(data) // 2])
    return folder.request(input=str(folder.path / "short.parquet")), "short.parquet"


def no_such_column(folder: RequestFolder) -> tuple[list[str], str]:
    return folder.request(**{"prompt-column": "promt"}), "did you mean prompt?"


def a_column_of_numbers(folder: RequestFolder) -> tuple[list[str], str]:
    return folder.request(**{"prompt-column": "id"}), "'id'"


def a_column_in_the_way(folder: RequestFolder) -> tuple[list[str], str]:
    taken = folder.write("taken.parquet", prompt=["one"], completion=["mine"])
    return folder.request(input=taken), "--prefix"


def no_rows(folder: RequestFolder) -> tuple[list[str], str]:
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), folder.path / "empty.parquet")
    return folder.request(input=str(folder.path / "empty.parquet")), "no rows"


def a_template_with_an_unknown_column(folder: RequestFolder) -> tuple[list[str], str]:
    return folder.request(template="News: {{ tittle }}"), "tittle"


def no_such_model(folder: RequestFolder) -> tuple[list[str], str]:
    return folder.request(model=str(folder.path / "no-model")), "no-model"


def a_model_cut_short(folder: RequestFolder) -> tuple[list[str], str]:
    broken = shutil.copytree(folder.model, folder.path / "broken")
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    return folder.request(model=str(broken)), "model.safetensors"


def a_model_without_a_tokenizer(folder: RequestFolder) -> tuple[list[str], str]:
    mute = shutil.copytree(folder.model, folder.path / "mute")
    (mute / "tokenizer.json").unlink()
    return folder.request(model=str(mute)), "--tokenizer"


def ranks_that_do_not_divide_the_heads(folder: RequestFolder) -> tuple[list[str], str]:
    return folder.request(**{"tensor-parallel": "3"}), "4"


def a_sequence_longer_than_the_positions(folder: RequestFolder) -> tuple[list[str], str]:
    return folder.request(**{"seq-length": "100000"}), "512"


def more_new_tokens_than_a_sequence_holds(folder: RequestFolder) -> tuple[list[str], str]:
    return folder.request(**{"max-new-tokens": "600"}), "512"


def an_output_inside_the_input(folder: RequestFolder) -> tuple[list[str], str]:
    return folder.request(input=str(folder.path), output=str(folder.path / "out")), "inside"


def an_output_that_holds_something_else(folder: RequestFolder) -> tuple[list[str], str]:
    folder.output.mkdir()
    (folder.output / "part-00000-of-00001.parquet").write_bytes(b"data of another program")
    return folder.request(), str(folder.output)


def a_misspelt_flag(folder: RequestFolder) -> tuple[list[str], str]:
    return [*folder.request(), "--temprature", "0.5"], "--temperature"


def a_flag_of_the_original(folder: RequestFolder) -> tuple[list[str], str]:
    return [*folder.request(), "--model-parallel-size", "2"], "--tensor-parallel"


def a_number_out_of_range(folder: RequestFolder) -> tuple[list[str], str]:
    return folder.request(**{"top-p": "1.5"}), "--top-p must be between 0 and 1"


def a_job_file_with_a_wrong_key(folder: RequestFolder) -> tuple[list[str], str]:
    (folder.path / "job.yaml").write_text("kind: generate\nimput: x\n")
    return ["generate", "--config", str(folder.path / "job.yaml")], "line 2"


BAD = (
    *(no_such_file, no_parquet, a_file_cut_short, no_such_column, a_column_of_numbers, a_column_in_the_way, no_rows),
    *(a_template_with_an_unknown_column, no_such_model, a_model_cut_short, a_model_without_a_tokenizer),
    *(ranks_that_do_not_divide_the_heads, a_sequence_longer_than_the_positions, more_new_tokens_than_a_sequence_holds),
    *(an_output_inside_the_input, an_output_that_holds_something_else, a_misspelt_flag, a_flag_of_the_original),
    *(a_number_out_of_range, a_job_file_with_a_wrong_key),
)


@pytest.mark.parametrize("make_wrong", BAD, ids=lambda make_wrong: make_wrong.__name__)
def test_a_wrong_request_ends_in_one_sentence_and_writes_nothing(
    make_wrong: Callable[[RequestFolder], tuple[list[str], str]],
    folder: RequestFolder,
    capsys: pytest.CaptureFixture[str],
) -> None:
    request, says = make_wrong(folder)
    before = sorted(folder.path.rglob("*"))
    code = main(request)
    out, err = capsys.readouterr()
    assert_one_sentence((code, err), exit_code=2, says=says)
    assert out == ""
    assert sorted(folder.path.rglob("*")) == before


def test_a_ru_gpts_checkpoint_without_a_sparse_mode_is_refused(
    folder: RequestFolder, golden_dir: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(golden_dir / "xl_alternating_mp1", folder.path / "xl")
    heads = json.loads((copy / "model_args.json").read_text())
    for name in ("model_args.json", "deepspeed_config.json"):
        (copy / name).unlink()
    number = next(str(value) for name, value in heads.items() if name.replace("-", "_") == "num_attention_heads")
    flags = {"num-attention-heads": number, "tokenizer": tiny_model}
    code = main(folder.request(model=str(copy), **flags))
    assert_one_sentence((code, capsys.readouterr().err), exit_code=2, says="sparse")
