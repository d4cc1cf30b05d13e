"""Ray's own limit on the start of its node is replaced by a longer one, for as long as Ray starts."""

from __future__ import annotations

import os

import pytest
import ray

from tirazh.pipeline.execution import start_timeout as module
from tirazh.pipeline.execution.start_timeout import start_timeout


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The nodes that Ray was asked for; each is registered at the fourth question."""
    found: list[str] = []

    def get_node(address: str, node: str) -> dict[str, str]:
        found.append(node)
        if len(found) < 4:
            raise RuntimeError("no such node")
        return {"node": node, "address": address}

    monkeypatch.setattr(ray._private.services, "get_node", get_node)
    monkeypatch.setattr(module, "_PAUSE_S", 0.0)
    return found


def test_a_node_that_is_not_registered_yet_is_waited_for(asked: list[str]) -> None:
    with start_timeout(60):
        assert ray._private.services.get_node("here", node="first") == {"node": "first", "address": "here"}
    assert asked == ["first"] * 4


def test_after_the_limit_the_error_is_that_of_ray(asked: list[str]) -> None:
    with start_timeout(0), pytest.raises(RuntimeError, match="no such node"):
        ray._private.services.get_node("here", "first")
    assert asked == ["first"]


def test_behind_the_block_everything_is_as_before(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_agent_register_timeout_ms", raising=False)
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "7")
    before, own = dict(os.environ), ray._private.services.get_node
    with start_timeout(120):
        assert os.environ["RAY_agent_register_timeout_ms"] == "120000"
        assert os.environ["RAY_worker_register_timeout_seconds"] == "7"
    assert (dict(os.environ), ray._private.services.get_node) == (before, own)
