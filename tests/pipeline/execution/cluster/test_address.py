"""A cluster that does not answer, or rejects the token, is told in one sentence within seconds."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tirazh.errors import RequestError
from tirazh.pipeline.execution.cluster import address as cluster_address
from tirazh.pipeline.execution.cluster.address import check_answers, is_cluster, locate
from tirazh.pipeline.execution.cluster.token import ClusterToken, find_token, rejection

SECRET = "a-secret-of-this-test"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def silent_port() -> Iterator[str]:
    """A port that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_refused_connection_is_told_at_once(scheme: str, closed_port: str) -> None:
    started = time.monotonic()
    with pytest.raises(RequestError, match=rf"no Ray cluster answers at {scheme}{closed_port}: connection refused"):
        check_answers(scheme + closed_port)
    assert time.monotonic() - started < 10


def test_the_address_of_the_variable_is_checked_too(closed_port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", closed_port)
    with pytest.raises(RequestError, match=f"at {closed_port}: connection refused"):
        check_answers(None)


def test_a_server_that_never_answers_is_told_after_the_timeout(
    silent_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_address, "ANSWER_TIMEOUT_S", 1.0)
    with pytest.raises(RequestError, match=f"no Ray cluster answers at {silent_port}: no answer within 1 s"):
        check_answers(silent_port)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("head:6379", "head", 6379), ("ray://head:10001", "head", 10001), ("ray://head", "head", 10001)],
)
def test_host_and_port_of_an_address(address: str, host: str, port: int) -> None:
    assert locate(address)[2:] == (host, port)


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:port"])
def test_another_form_of_address_is_refused(address: str) -> None:
    with pytest.raises(RequestError, match=f"--address {address} must be host:port"):
        locate(address)


def test_the_job_server_is_not_the_cluster() -> None:
    with pytest.raises(RequestError, match="tirazh submit"):
        check_answers("http://head:8265")


def test_local_names_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [is_cluster(None), is_cluster("local"), is_cluster("auto"), is_cluster("head:6379")] == [
        *(False, False, True, True)
    ]
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert is_cluster(None)


def test_three_reasons_for_a_rejection_are_three_sentences() -> None:
    sentences = {
        rejection("head:6379", token)
        for token in (
            ClusterToken(None, "none", is_sent=False),
            ClusterToken(SECRET, "RAY_AUTH_TOKEN", is_sent=False),
            ClusterToken(SECRET, "RAY_AUTH_TOKEN", is_sent=True),
        )
    }
    assert len(sentences) == 3
    assert all(SECRET not in sentence and "RAY_AUTH_" in sentence for sentence in sentences)
    assert SECRET not in repr(ClusterToken(SECRET, "RAY_AUTH_TOKEN", is_sent=True))


def test_the_token_is_found_where_ray_looks_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_token().value is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("default\n")
    assert find_token() == ClusterToken("default", str(tmp_path / ".ray/auth_token"), is_sent=False)
    assert find_token(is_auto=True).is_sent
    (tmp_path / "named").write_text("named")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "named"))
    assert find_token().value == "named"
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert find_token() == ClusterToken(SECRET, "RAY_AUTH_TOKEN", is_sent=True)


def test_a_token_file_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "missing"))
    with pytest.raises(RequestError, match=r"RAY_AUTH_TOKEN_PATH names .*missing, and there is no such file"):
        find_token()
    (tmp_path / "missing").touch()
    with pytest.raises(RequestError, match="which is empty"):
        find_token()


def test_an_error_of_the_question_itself_is_not_taken_for_a_silent_cluster() -> None:
    def ask() -> str | None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cluster_address._within(30.0, ask)
