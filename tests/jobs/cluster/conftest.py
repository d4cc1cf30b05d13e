"""Keeps the records of submitted jobs apart from those of the person who runs the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.jobs.cluster.servers import Server


@pytest.fixture(scope="session", autouse=True)
def records_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """A job server in this process."""
    server = Server()
    for module in ("submit", "following"):
        monkeypatch.setattr(f"tirazh.jobs.cluster.{module}.connect", lambda address: server)
    monkeypatch.setattr("tirazh.jobs.cluster.following.POLL_S", 0)
    return server
