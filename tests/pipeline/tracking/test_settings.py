"""Which tools record a run."""

from __future__ import annotations

import pytest

from tirazh.errors import RequestError
from tirazh.pipeline.tracking import settings
from tirazh.pipeline.tracking.settings import read_tools


def test_openlineage_is_used_where_the_environment_says_where_events_go() -> None:
    assert read_tools(None, environment={}) == ()
    assert read_tools(None, environment={"OPENLINEAGE_URL": "http://marquez:5000"}) == ("openlineage",)
    assert read_tools(None, environment={"OPENLINEAGE_URL": "http://x", "OPENLINEAGE_DISABLED": "true"}) == ()


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("mlfow", "track must be one of mlflow, wandb, tensorboard, openlineage, not 'mlfow'; did you mean mlflow?"),
        (7, "track must be one of"),
        ("openlineage", "needs OPENLINEAGE_URL"),
    ],
)
def test_a_wrong_tool_is_refused(section: object, says: str) -> None:
    with pytest.raises(RequestError, match=r"^job\.yaml line 4: ") as caught:
        read_tools(section, place="job.yaml line 4: ", environment={})
    assert says in str(caught.value)


def test_a_library_that_is_missing_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"needs the package wandb, .*: pip install 'tirazh\[wandb\]'"):
        read_tools("wandb", environment={})


def test_names_may_be_separated_by_commas_and_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: object())
    assert read_tools("mlflow, wandb,mlflow", environment={}) == ("mlflow", "wandb")
    assert read_tools(["wandb"], environment={}) == ("wandb",)
