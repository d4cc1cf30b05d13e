"""The Python functions list the settings of the specs, to people, to editors and to type checkers."""

from __future__ import annotations

import inspect
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Required, Union, get_args, get_origin, get_type_hints

import pytest

import tirazh
from tirazh.jobs.api.keywords import ClassifySettings, FinetuneSettings, GenerateSettings
from tirazh.jobs.settings import KINDS, settings_of

REPOSITORY = Path(__file__).resolve().parents[3]
FUNCTIONS = {
    "classify": (tirazh.classify, ClassifySettings),
    "generate": (tirazh.generate, GenerateSettings),
    "finetune": (tirazh.finetune, FinetuneSettings),
}


def arms(hint: Any) -> set[Any]:
    """The members of a union, each without its type arguments; every value of a Literal is a member."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    found: set[Any] = set()
    for member in members:
        if get_origin(member) is Literal:
            found |= set(get_args(member))
        else:
            origin = get_origin(member) or member
            found.add(Sequence if origin is tuple else origin)
    return found


def test_the_signature_begins_with_input_output_and_the_other_required_settings() -> None:
    assert list(inspect.signature(tirazh.classify).parameters)[:3] == ["input", "output", "labels"]


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_the_signature_lists_every_setting_with_the_default_of_the_spec(kind: str) -> None:
    parameters = dict(inspect.signature(FUNCTIONS[kind][0]).parameters)
    assert parameters.pop("progress").default == "quiet"
    assert set(parameters) == {each.name for each in fields(KINDS[kind])}
    for setting in settings_of(kind).values():
        is_needed = setting.is_required and setting.required_unless is None
        default = inspect.Parameter.empty if is_needed else setting.default
        assert parameters[setting.name].default == default
        assert parameters[setting.name].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_the_types_accept_what_the_spec_accepts(kind: str) -> None:
    hints, spec_hints = get_type_hints(FUNCTIONS[kind][1]), get_type_hints(KINDS[kind])
    declared = get_type_hints(FUNCTIONS[kind][1], include_extras=True)
    assert set(hints) == set(spec_hints)
    for name, setting in settings_of(kind).items():
        accepted, expected = arms(hints[name]), arms(spec_hints[name])
        if setting.choices:
            expected = {*setting.choices, *(expected & {type(None)})}
            assert accepted == expected, name
        if setting.type == "labels":
            assert Mapping in accepted
        assert expected <= accepted, name
        is_needed = setting.is_required and setting.required_unless is None
        assert (get_origin(declared[name]) is Required) == is_needed, name


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_the_docstring_explains_every_setting_and_the_errors(kind: str) -> None:
    text = inspect.getdoc(FUNCTIONS[kind][0]) or ""
    for part in ("Args:", "Returns:", "Raises:", "Settings:"):
        assert part in text
    for setting in settings_of(kind).values():
        assert f"{setting.name}: {setting.help}" in text


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mypy") is None, reason="needs mypy, which the extra `check` installs")
def test_a_type_checker_finds_a_misspelt_setting(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import tirazh\n"
        "try:\n"
        '    made = tirazh.generate(input="in.parquet", output="out", tempereture=0.5)\n'
        "except tirazh.RequestError as error:\n"
        "    print(error.exit_code, made.rows + 1, made.row)\n"
        'tirazh.plan("classify", input="in.parquet", output="out", labels=["a", "b"], dtype="bf16")\n'
        "tirazh.clasify\n"
    )
    command = (sys.executable, "-m", "mypy", "--config-file=", f"--cache-dir={tmp_path / 'cache'}", str(script))
    done = subprocess.run(
        [*command, "--follow-imports=silent", "--ignore-missing-imports"],
        env={"MYPYPATH": str(REPOSITORY), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line.removeprefix(f"{script}:") for line in done.stdout.splitlines() if ": error: " in line]
    assert [error.split(":")[0] for error in errors] == ["3", "5", "6", "7"], done.stdout + done.stderr
    assert 'Unexpected keyword argument "tempereture"' in errors[0]
    assert '"Manifest" has no attribute "row"' in errors[1]
    assert "has no attribute" in errors[3]
