"""Engines are chosen by name: the registered ones, or a module by its explicit prefix."""

from __future__ import annotations

import pytest

from tests.actors import fakes
from tirazh.actors import echo
from tirazh.actors.engine_module import load_engine_module
from tirazh.actors.messages import ReplicaConfig
from tirazh.errors import RequestError


def test_a_registered_engine_is_loaded_by_its_name() -> None:
    assert load_engine_module("echo") is echo


def test_a_module_is_loaded_only_behind_its_prefix() -> None:
    assert load_engine_module(ReplicaConfig(model="none", engine="module:tests.actors.fakes").engine) is fakes


@pytest.mark.parametrize("name", ["tests.actors.fakes", "os", "ecko"])
def test_an_engine_that_is_not_registered_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=f"engine must be model, echo or module:NAME, not '{name}'"):
        ReplicaConfig(model="none", engine=name)
