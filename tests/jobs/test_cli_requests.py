"""Wrong command lines, each answered with one sentence on stderr and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from tirazh.jobs.cli import main

NEEDED = ["--input", "in.parquet", "--output", "out"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("generate --top_k 5", "generate has no flag --top_k; did you mean --top-k?"),
        ("generate --n 5", "generate has no flag --n; did you mean --samples?"),
        ("generate --best_of 5", "generate has no flag --best_of; did you mean --samples?"),
        ("generate --num-return-sequences 5", "generate has no flag --num-return-sequences; did you mean --samples?"),
        ("generate --max-tokens 5", "generate has no flag --max-tokens; did you mean --max-new-tokens?"),
        ("generate --topk=5", "generate has no flag --topk; did you mean --top-k?"),
        ("generate --max-new-token 5", "generate has no flag --max-new-token; did you mean --max-new-tokens?"),
        ("classify --top-k 5", "classify has no flag --top-k; --top-k is a flag of `tirazh generate`"),
        ("generate --load-weights-only ckpt", "generate has no flag --load-weights-only; use --model"),
        ("generate --model_name_or_path x", "generate has no flag --model_name_or_path; use --model"),
        ("generate --model-parallel-size 2", "generate has no flag --model-parallel-size; use --tensor-parallel"),
        ("generate --deepspeed_config x", "generate has no flag --deepspeed_config; did you mean --deepspeed-config?"),
        ("generate --fp16", "generate has no flag --fp16; use --dtype float16"),
        ("generate --wibble", "generate has no flag --wibble; `tirazh generate --help` lists them"),
        ("generate prompts.parquet", "generate accepts no argument 'prompts.parquet'; did you mean --input?"),
        ("generate --slots many", "--slots must be an integer, not 'many'"),
        ("generate --temperature hot", "--temperature must be a number, not 'hot'"),
        ("generate --slots", "--slots needs a value"),
        ("generate --input", "--input needs at least one value"),
        (
            "generate --dtype bf16",
            "--dtype must be one of auto, float32, bfloat16, float16, int8, not 'bf16'; did you mean bfloat16?",
        ),
        ("clasify", "there is no command 'clasify'; did you mean classify?"),
        ("--wibble", "the command line has no flag --wibble; `tirazh --help` lists them"),
        ("plan", "plan needs JOB.YAML; see `tirazh plan --help`"),
        ("plan nowhere.yaml", "job file nowhere.yaml does not exist"),
        ("classify", "--labels, --input, --output are missing"),
        (
            "classify --labels sport, economics, culture --slots 2",
            "--labels takes one argument: put it in quotes, as in --labels 'sport, economics, culture'",
        ),
        ("classify --labels a,b economics", "classify accepts no argument 'economics'; did you mean --input?"),
        ("generate --slots 4 --slots 8", "--slots is given twice (4, then 8); give it once"),
        ("classify --calibrate --no-calibrate", "--no-calibrate is given twice (contextual, then False); give it once"),
        (
            "verify out --endpoint-url http://a --endpoint-url http://b",
            "--endpoint-url is given twice (http://a, then http://b); give it once",
        ),
        (
            "verify out --endpoint-url https://a.blob;AccountKey=hunter2",
            "--endpoint-url must hold no password, key or signature, but https://a.blob;AccountKey=[hidden] had one; "
            "set the credentials in the environment",
        ),
        ("submit job.yaml --adress http://x", "submit has no flag --adress; did you mean --address?"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_sentence(
    line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    assert capsys.readouterr() == ("", f"tirazh: {says}\n")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--top-p", "1.5"], "--top-p must be between 0 and 1, not 1.5"),
        (["--slots", "0"], "--slots must be at least 1, not 0"),
        (["--replicas", "8:1"], "--replicas must be an integer from 1 up, or MIN:MAX such as 1:8, not '8:1'"),
        (["--stop", ""], "--stop must not be an empty string"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_sentence(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *NEEDED, *flags]) == 2
    assert capsys.readouterr().err == f"tirazh: {says}\n"


def test_flags_override_the_job_file_and_mistakes_in_it_are_reported_with_their_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("kind: generate\ninput: in.parquet\noutput: out\ntop_k: five\n")
    assert main(["generate", "--config", str(job)]) == 2
    assert capsys.readouterr().err == f"tirazh: {job} line 4: top_k must be an integer, not 'five'\n"
    assert main(["generate", "--config", str(job), "--top-k", "5", "--seed", "x"]) == 2
    assert capsys.readouterr().err == "tirazh: --seed must be an integer, not 'x'\n"
    assert main(["classify", "--config", str(job), "--labels", "a,b"]) == 2
    assert "is a job of kind generate; run `tirazh run" in capsys.readouterr().err


def test_a_command_line_without_arguments_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "classify" in capsys.readouterr().out
