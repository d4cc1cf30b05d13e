"""Rules of the code base: sizes, names, public names, links, and what documents state about the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import yaml

import tirazh
from tirazh import TirazhError, errors
from tirazh.jobs.job_files.job_file import spec_from_file
from tirazh.jobs.settings import settings_of
from tirazh.pipeline import schema
from tirazh.pipeline.spec import ClassifySpec, EmbedSpec, FilterSpec, GenerateSpec, StepsSpec, flag_name

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("tirazh", "jobs", "pipeline", "actors", "model")
SOURCES = sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py"))
OTHER_PYTHON = sorted(
    path for folder in ("tests", "benchmarks", "examples") for path in (REPOSITORY / folder).rglob("*.py")
)
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "core", "manager", "misc", "base"}
SLOW_LIBRARIES = ["torch", "ray", "deepspeed", "transformers"]
# A driver starts Ray; what computes is in other processes.
NOT_IN_A_DRIVER = ["torch", "deepspeed", "transformers", "scipy", "sympy", "pandas", "sklearn", "matplotlib", "triton"]
KEYS_ARE_NOT_COLUMNS = {"schema.py", "console.py", "results.py", "responses.py"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_FOLDER_MODULES = 24
MAX_SHARED_PREFIX = 3
SPECS = (ClassifySpec, GenerateSpec, EmbedSpec, StepsSpec, FilterSpec)
SPEC_FIELDS = {"name", *(setting.name for spec in SPECS for setting in fields(spec))}
KEYS_ARE_NOT_COLUMNS |= {"evaluation_text.py", "evaluation_section.py", "section.py"}
# Flags of the commands that are not settings of a job.
OTHER_FLAGS = {
    *("set", "fail-on", "price-per-hour"),
    *("notify-url", "notify-command", "notify-on", "track"),
    *(
        "config",
        "dry-run",
        "json",
        "verbose",
        "quiet",
        "follow",
        "against",
        "help",
        "version",
        "no-calibrate",
        "no-append",
    ),
    *("image", "max-age"),
}


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [*SOURCES, *OTHER_PYTHON], ids=name_of)
def test_a_file_is_short_and_its_name_is_specific(path: Path) -> None:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    assert not VAGUE_NAMES & set(parts), f"{name_of(path)}: the name is not specific"
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_FILE_LINES, f"{name_of(path)} has {lines} lines: split it by subject"


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES}), ids=name_of)
def test_a_folder_has_few_modules_and_no_prefix_that_needs_a_subfolder(folder: Path) -> None:
    names = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    assert len(names) <= MAX_FOLDER_MODULES, f"{name_of(folder)} holds {len(names)} modules: group some in a folder"
    prefixes = Counter(name.split("_")[0] for name in names)
    repeated = sorted(prefix for prefix, count in prefixes.items() if count > MAX_SHARED_PREFIX)
    assert not repeated, f"{name_of(folder)}: modules that begin with {repeated} belong in a folder of their own"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_functions_are_short_and_modules_have_docstrings(path: Path) -> None:
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{name_of(path)} has no module docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{name_of(path)}:{node.lineno} {node.name}: {lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_file_holds_a_note_about_unfinished_work(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    marks = ("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error", "XX" + "X")
    assert [mark for mark in marks if re.search(rf"\b{mark}\b", text)] == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name not in KEYS_ARE_NOT_COLUMNS], ids=name_of)
def test_names_of_added_columns_are_written_in_one_place(path: Path) -> None:
    """Only schema.py spells `row["completion"]` and the like; keys of a manifest may have the same names."""
    columns = {value for name, value in vars(schema).items() if name.isupper() and isinstance(value, str)}
    columns -= {schema.LABELS}  # a setting has the same name
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            if "manifest" in ast.unparse(node.value):
                continue
            where = f"{name_of(path)}:{node.lineno}"
            assert node.slice.value not in columns, f"{where}: write schema.{str(node.slice.value).upper()}"


def test_the_public_names_are_these_and_exist() -> None:
    functions = {"classify", "finetune", "generate", "load_pretrained", "plan", "preview", "report", "run", "score"}
    functions |= {"verify", "embed", "evaluate", "tune", "calibrate", "relabel"}
    types = {"Evaluation", "JobPlan", "Manifest", "ModelSettings", "Preview", "TrainingManifest", "Verification"}
    types |= {"FittedCalibration", "Report", "Tuning"}
    tree = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, TirazhError)}
    assert set(tirazh.__all__) == functions | types | tree
    assert len(tirazh.__all__) == len(set(tirazh.__all__))
    for name in tirazh.__all__:
        assert callable(getattr(tirazh, name))
        assert name in dir(tirazh)
    with pytest.raises(AttributeError, match="no attribute 'clasify'"):
        tirazh.clasify  # type: ignore[attr-defined]  # noqa: B018 - raises


def test_an_error_can_be_caught_by_its_public_name() -> None:
    for name in ("RequestError", "CheckpointError", "InputError", "OutputError"):
        assert issubclass(getattr(tirazh, name), tirazh.RequestError)
    for name in ("JobError", "ReplicaError", "StorageError"):
        assert issubclass(getattr(tirazh, name), tirazh.JobError)
    with pytest.raises(tirazh.RequestError):
        tirazh.generate(input=[], output="out")


@pytest.mark.parametrize(
    ("code", "slow"),
    [
        ("import tirazh", [*SLOW_LIBRARIES, "pyarrow", "polars", "yaml", "rich"]),
        ("import tirazh; tirazh.classify, tirazh.Manifest, tirazh.RequestError", SLOW_LIBRARIES),
        ("import tirazh.pipeline.spec", SLOW_LIBRARIES),
        ("from tirazh.jobs.cli import main; main(['--help'])", SLOW_LIBRARIES),
        ("from tirazh.jobs.cli import main; main(['generate', '--help'])", SLOW_LIBRARIES),
        ("import tirazh.jobs.run, tirazh.pipeline.build, tirazh.actors.replica", NOT_IN_A_DRIVER),
    ],
    ids=["import tirazh", "public names", "the spec", "tirazh --help", "tirazh generate --help", "driver of a job"],
)
def test_the_import_and_the_help_load_no_slow_library(code: str, slow: list[str]) -> None:
    watched = f"import sys; print([name for name in {slow} if name in sys.modules])"
    program = f"try:\n    {code}\nexcept SystemExit as end:\n    assert not end.code, end.code\n{watched}"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_relative_links_in_documents_have_a_target(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{name_of(path)} links to {target}, which does not exist"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_files_that_documents_name_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    folders = "|".join((*FOLDERS, "tests", "docs", "examples", "deploy", "benchmarks"))
    for named in re.findall(rf"`((?:{folders})/[\w./-]+\.\w+)`", text):
        assert (REPOSITORY / named).exists(), f"{name_of(path)} names {named}, which does not exist"


def test_every_key_of_a_job_file_is_documented_and_no_other() -> None:
    text = (REPOSITORY / "docs/job-files.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)) - {"kind"}
    assert documented == SPEC_FIELDS


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_flags_that_documents_show_exist(path: Path) -> None:
    """Except where a document shows a refused command, after a `$`."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for kind, words in re.findall(r"(?<!\$ )tirazh (classify|generate|score|embed|finetune) ([^`\n]*)", text):
        known = {flag_name(name).removeprefix("--") for name in settings_of(kind)} | OTHER_FLAGS
        unknown = {flag for flag in re.findall(r"--([a-z][a-z-]+)", words) if flag not in known}
        assert not unknown, f"{name_of(path)} shows flags that {kind} does not have: {unknown}"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "examples").glob("*.yaml")), ids=name_of)
def test_sample_job_files_are_valid_jobs(path: Path) -> None:
    spec = spec_from_file(path)
    assert spec.input
    assert spec.output


@pytest.mark.parametrize("path", sorted((REPOSITORY / "deploy").glob("*.yaml")), ids=name_of)
def test_manifests_are_readable_yaml(path: Path) -> None:
    assert {"apiVersion", "kind", "metadata", "spec"} <= set(yaml.safe_load(path.read_text(encoding="utf-8")))
