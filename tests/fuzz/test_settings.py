"""Settings of wrong types and out of range, from Python and from the command line."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.ending import attempt, refusal
from tirazh.jobs.cli import build_parser
from tirazh.jobs.commands import spec_from_options
from tirazh.jobs.parser import parse
from tirazh.jobs.settings import build_spec, settings_of
from tirazh.pipeline.spec import SPECS, JobSpec

VALID = {
    "classify": {"input": "a.parquet", "output": "out", "labels": "a,b"},
    "generate": {"input": "a.parquet", "output": "out"},
    "score": {"input": "a.parquet", "output": "out"},
    "embed": {"input": "a.parquet", "output": "out"},
}
WRONG: dict[str, list[object]] = {
    "string": [7, 1.5, True, b"bytes", ["a"], {"a": "b"}, object(), "a\0b", "\ud800", "\udc80name"],
    "integer": ["7", 1.5, True, b"7", [7], 10**5_000, -(10**5_000), -1, float("nan"), float("inf"), "x" * 9_999],
    "number": ["0.5", True, [1], float("nan"), 10**5_000, b"1", None.__class__],
    "boolean": ["true", 1, 0, [True], "yes"],
    "list": [7, b"a", [b"a"], [7], [["a"]], {"a"}, ["a\0"], ["\udcff"]],
    "structure": [b"a", object(), {True: 1}, {"a": {1.5}}, [b"a"], "no.yaml", "{a: [", "&a [*a]"],
    "labels": [
        7,
        [],
        ["a"],
        ["a", "a"],
        {"a": ""},
        [None, "b"],
        {"a": "x", "b": "x"},
        "",
        ",",
        "a",
        "a\0,b",
        "no.yaml",
    ],
}
CASES = [
    (kind, setting.name, index)
    for kind in SPECS
    for setting in settings_of(kind).values()
    for index in range(len(WRONG[setting.type]))
    # The settings that both kinds of job share are tried once.
    if kind == "classify" or setting.name not in settings_of("classify")
]


@pytest.mark.parametrize(("kind", "name", "index"), CASES)
def test_a_setting_of_a_wrong_type_is_refused(kind: str, name: str, index: int) -> None:
    value = WRONG[settings_of(kind)[name].type][index]
    given_value = repr(value) if not isinstance(value, int) else f"{value.bit_length()} bits"
    sentence = attempt("settings", (name, given_value), lambda: build_spec(kind, VALID[kind] | {name: value}))
    if settings_of(kind)[name].bare is not None and isinstance(value, bool):
        return  # `calibrate: true` is the flag without a value
    if value not in (-1, "7", "0.5"):  # `seed: -1` is valid; so is a string of digits for a string setting
        assert sentence or isinstance(value, float) or (name == "replicas" and value == 7), (name, given_value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("samples", 10**9), ("slots", 10**12), ("threads", 10**9), ("tensor_parallel", 10**9), ("top_k", -1)),
        *(
            ("replicas", "1:"),
            ("replicas", "-1"),
            ("replicas", "1:2:3"),
            ("replicas", "9" * 5_000),
            ("replicas", "٣:١"),
        ),
        *(("temperature", -0.1), ("temperature", float("inf")), ("top_p", 1.1), ("repetition_penalty", 0)),
        *(("max_new_tokens", 0), ("seed", 2**63), ("stop", [""]), ("prefix", "a/b"), ("prefix", "../x"), ("limit", 0)),
        *(("input", "s3://me:hunter2@bucket/x"), ("output", "https://b/x?X-Amz-Signature=hunter2"), ("model", "")),
        *(("endpoint_url", "http://me:hunter2@minio:9000"), ("address", "ray://me:hunter2@head:10001"), ("output", "")),
        *(("input", []), ("input", [""]), ("dtype", "float8"), ("device", "tpu"), ("truncate", "middle")),
    ],
)
def test_a_setting_out_of_range_is_refused_without_printing_a_secret(name: str, value: object) -> None:
    sentence = refusal("settings", (name, value), lambda: build_spec("generate", VALID["generate"] | {name: value}))
    assert "hunter2" not in sentence


def command_line(*arguments: str) -> JobSpec:
    parser, by_name = build_parser()
    options = parse(parser, by_name, ["generate", *arguments])
    return spec_from_options("generate", options)


FLAGS: list[list[str]] = [
    *(
        [f"--{word}"]
        for word in ("", "-", "=", "input", "limit", "=x", "inputs", "\x1b[31m", "limit=", "\ud800", "l" * 9_999)
    ),
    *([["--limit", text][1]] for text in ("x", "\0", "'", "$(id)", "`id`", "../../x", "-1")),
    *(["--limit", text] for text in ("x", "1e9", "0x10", "9" * 5_000, "", "1_000_000_000_000_000_000_000", "nan")),
    *(["--temperature", text] for text in ("x", "nan", "-inf", "1e999", "", "0x1p9", "1,5")),
    *(["--replicas", text] for text in ("", "x", "1:", ":1", "0", "1-2", "9" * 99)),
    *(
        ["--stop"],
        ["--stop", ""],
        ["--input"],
        ["--dtype", "float9"],
        ["--config"],
        ["--config", "no.yaml"],
        ["--config", ""],
    ),
    *(["--config", "/dev/null"], ["--config", "/"], ["--config", "\0"], ["--labels", "a,b"], ["--no-overwrite", "x"]),
]


@pytest.mark.parametrize("arguments", FLAGS, ids=lambda words: " ".join(words).encode("ascii", "replace")[:40].decode())
def test_a_bad_flag_is_refused(arguments: list[str]) -> None:
    refusal("command lines", arguments, lambda: command_line("--input", "a", "--output", "b", *arguments))


@given(words=st.lists(st.text(max_size=12) | st.sampled_from(["--limit", "--stop", "--input", "7", "-v"]), max_size=5))
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_any_command_line_works_or_is_refused(words: list[str]) -> None:
    with suppress(SystemExit):  # --help exits
        attempt("command lines", words, lambda: command_line(*words))


@given(
    name=st.sampled_from(sorted(settings_of("generate"))),
    value=st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text() | st.integers()),
)
@settings(max_examples=200)
def test_any_value_of_any_setting_works_or_is_refused(name: str, value: object) -> None:
    attempt("settings", (name, value), lambda: build_spec("generate", VALID["generate"] | {name: value}))


def test_a_label_list_longer_than_a_file_name_is_not_read_as_a_path(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        f"kind: classify\ninput: a\noutput: b\nlabels: {','.join(map(str, range(500)))}\n"
    )
    from tirazh.jobs.job_files.job_file import spec_from_file

    spec = spec_from_file(os.fspath(tmp_path / "job.yaml"))
    assert len(spec.to_dict()["labels"]) == 500
