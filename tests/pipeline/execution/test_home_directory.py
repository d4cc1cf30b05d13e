"""What is set for a user without a home directory, without a name, or with a home that cannot be written to."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from tirazh.pipeline.execution import home_directory
from tirazh.pipeline.execution.home_directory import complete_environment, private_directory


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The directory of temporary files."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_user_with_a_name_and_a_home_gets_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "anna")
    environment: dict[str, str] = {}
    complete_environment(environment)
    assert environment == {}


def test_a_user_without_an_entry_in_the_password_file_gets_a_home_and_a_name(
    monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(home_directory.getpass, "getuser", lambda: {}["uid not found"])
    environment: dict[str, str] = {}
    complete_environment(environment)
    home = Path(environment["HOME"])
    assert home.parent == temporary
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert environment == {"HOME": str(home), "USER": f"uid{os.geteuid()}"}


def test_a_home_that_cannot_be_written_to_keeps_its_name_and_gets_caches_and_a_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/sys"))
    environment = {"HF_HOME": "/models"}
    complete_environment(environment)
    assert "HOME" not in environment
    assert environment["HF_HOME"] == "/models"
    assert Path(environment["TRITON_CACHE_DIR"]).parent == private_directory()
    token = Path(environment["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    first = token.read_text()
    assert len(first) == 64
    complete_environment(environment | {"RAY_AUTH_TOKEN_PATH": ""})
    assert token.read_text() == first


@pytest.mark.parametrize("given", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "given"}])
def test_a_token_is_written_only_where_one_is_needed(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/sys"))
    environment = dict(given)
    complete_environment(environment)
    assert "RAY_AUTH_TOKEN_PATH" not in environment


def test_a_directory_that_another_user_may_read_is_not_used(temporary: Path) -> None:
    taken = temporary / f"tirazh-home-{os.geteuid()}"
    taken.mkdir()
    taken.chmod(0o755)
    assert private_directory() != taken
