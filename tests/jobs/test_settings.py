"""Values of flags, YAML and Python become a checked spec, or a RequestError with one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tirazh.errors import RequestError
from tirazh.jobs.cli import main
from tirazh.jobs.settings import build_spec, settings_of
from tirazh.pipeline.spec import SPECS, ClassifySpec, GenerateSpec

NEEDED = {"input": "news.parquet", "output": "out"}


def sentence(kind: str, **values: Any) -> str:
    with pytest.raises(RequestError) as caught:
        build_spec(kind, NEEDED | values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_field_of_the_specs_has_a_setting_type_and_a_help_text() -> None:
    for kind in SPECS:
        for setting in settings_of(kind).values():
            assert setting.help, f"{kind}.{setting.name} has no help"
            assert (setting.type == "labels") == (setting.name == "labels")


def test_a_single_path_becomes_a_list_of_one() -> None:
    spec = build_spec("generate", {"input": Path("a.parquet"), "output": Path("out")})
    assert spec.input == ("a.parquet",)
    assert spec.output == "out"


def test_an_integer_is_accepted_for_a_number_and_for_replicas() -> None:
    spec = build_spec("generate", NEEDED | {"temperature": 1, "replicas": 4})
    assert isinstance(spec, GenerateSpec)
    assert (spec.temperature, spec.replicas) == (1.0, "4")


@pytest.mark.parametrize(
    "labels",
    [
        "economics,sport",
        "economics, sport,",
        ["economics", "sport"],
        ("economics", "sport"),
        {"economics": None, "sport": "sport"},
    ],
    ids=["commas", "commas-and-spaces", "list", "tuple", "mapping"],
)
def test_labels_are_accepted_as_string_list_and_mapping(labels: Any) -> None:
    spec = build_spec("classify", NEEDED | {"labels": labels})
    assert isinstance(spec, ClassifySpec)
    assert spec.labels == {"economics": "economics", "sport": "sport"}


def test_labels_may_have_words_that_differ_from_their_names() -> None:
    spec = build_spec("classify", NEEDED | {"labels": {"economics": "экономика", 5: "пять"}})
    assert isinstance(spec, ClassifySpec)
    assert spec.labels == {"economics": "экономика", "5": "пять"}


def test_priors_are_a_word_a_column_shares_or_a_file_with_shares(tmp_path: Path) -> None:
    shares = {"a": 0.75, "b": 0.25}
    (tmp_path / "shares.json").write_text(json.dumps(shares), encoding="utf-8")
    given = ["balanced", "column:shares", shares, "{a: 0.75, b: 0.25}", str(tmp_path / "shares.json")]
    specs = [build_spec("classify", NEEDED | {"labels": "a,b", "priors": value}) for value in given]
    assert [spec.to_dict()["priors"] for spec in specs] == ["balanced", "column:shares", shares, shares, shares]


def test_labels_are_read_from_a_yaml_file(tmp_path: Path) -> None:
    for text in ("- economics\n- no\n", "economics:\nno: no\n"):
        path = tmp_path / "labels.yaml"
        path.write_text(text, encoding="utf-8")
        spec = build_spec("classify", NEEDED | {"labels": str(path)})
        assert isinstance(spec, ClassifySpec)
        assert spec.labels == {"economics": "economics", "no": "no"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"top_kk": 5}, "generate has no setting 'top_kk'; did you mean top_k?"),
        ({"n": 4}, "generate has no setting 'n'; did you mean samples?"),
        ({"best_of": 4}, "generate has no setting 'best_of'; did you mean samples?"),
        ({"num_return_sequences": 4}, "generate has no setting 'num_return_sequences'; did you mean samples?"),
        ({"max_tokens": 4}, "generate has no setting 'max_tokens'; did you mean max_new_tokens?"),
        ({"response_format": {}}, "generate has no setting 'response_format'; did you mean schema?"),
        ({"min_q": 4}, "generate has no setting 'min_q'; did you mean min_p?"),
        ({"logprobs": 4}, "generate has no setting 'logprobs'"),
        ({"top-k": 5}, "generate has no setting 'top-k'; did you mean top_k?"),
        ({"abstain_below": 0.5}, "abstain_below is a setting of kind: classify, but this is a generate job"),
        ({"top_k": "5"}, "top_k must be an integer, not '5'"),
        ({"top_k": 5.0}, "top_k must be an integer, not 5.0"),
        ({"top_k": True}, "top_k must be an integer, not True"),
        ({"temperature": "hot"}, "temperature must be a number, not 'hot'"),
        ({"overwrite": "yes"}, "overwrite must be true or false, not 'yes'"),
        ({"template": 5}, "template must be a string, not 5"),
        ({"stop": {"a": "b"}}, "stop must be a string or a list of strings, not {'a': 'b'}"),
        ({"input": [1]}, "input must hold strings only, not 1"),
        (
            {"dtype": "bf16"},
            "dtype must be one of auto, float32, bfloat16, float16, int8, not 'bf16'; did you mean bfloat16?",
        ),
        ({"replicas": 1.5}, "replicas must be a string, not 1.5"),
        (
            {"top_k": None, "output": None},
            "--output is missing: output directory for the Parquet files, the manifest and the report",
        ),
    ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(values: dict[str, Any], says: str) -> None:
    assert sentence("generate", **values) == says


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ("economics", "--labels needs at least two labels, not 1"),
        ("a,b,a", "labels names 'a' twice"),
        ([True, "b"], "labels must be strings, not True; put it in quotes"),
        (7, "labels must be a list, a mapping or the path of a YAML file, not 7"),
        ("missing.yaml", "labels file missing.yaml does not exist"),
    ],
)
def test_wrong_labels_are_refused_in_one_sentence(labels: Any, says: str) -> None:
    assert sentence("classify", labels=labels) == says


def test_missing_settings_are_named() -> None:
    with pytest.raises(RequestError, match=r"^--labels, --input, --output are missing$"):
        build_spec("classify", {})


def test_the_gold_column_stands_with_the_evaluation_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", "--help"]) == 0
    group = capsys.readouterr().out.partition("evaluation options")[2].partition("execution options")[0]
    assert "--gold-column" in group
