"""The section `notify` of a job file."""

from __future__ import annotations

from typing import Any

import pytest

from tirazh.errors import RequestError
from tirazh.pipeline.notify.settings import parse_notifications, public_section, read_notifications

SECRET = "https://hooks.example.com/services/T000/B000/a-very-secret-part"


def test_one_receiver_or_several() -> None:
    (one,) = parse_notifications({"url": SECRET})
    assert one.on == ("success", "failure")
    first, second = parse_notifications([{"url": SECRET, "on": "change"}, {"command": "logger -t 'a job'"}])
    assert first.on == ("change",)
    assert second.command == ("logger", "-t", "a job")
    assert parse_notifications(None) == ()


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"ulr": SECRET}, "notify has no key 'ulr'; did you mean url?"),
        ({"url": SECRET, "on": "sucess"}, "not 'sucess'; did you mean success?"),
        ({"url": SECRET, "on": [True]}, "on must be one of success, failure, change, not 'True'"),
        ({"url": SECRET, "on": []}, "on must be one of success, failure, change"),
        ({"url": "ftp://x/a-very-secret-part"}, "begins with http:// or https://"),
        ({"url": "https:///a-very-secret-part"}, "begins with http:// or https://"),
        ({"url": "http://host:99999/a-very-secret-part"}, "begins with http:// or https://"),
        ({"url": "http://host/a-very-secret-part\nX: y"}, "begins with http:// or https://"),
        ({"url": ["a-very-secret-part"]}, "url must be a text"),
        ({"url": "env:NOT-A-NAME"}, "must name a variable after env:"),
        ({"url": "env:TIRAZH_TEST_NOT_SET"}, "variable TIRAZH_TEST_NOT_SET is not set"),
        ({"url": SECRET, "style": "slak"}, "not 'slak'; did you mean slack?"),
        ({"style": "pagerduty"}, "needs routing_key:"),
        ({"on": "failure"}, "needs url: or command:"),
        ({"command": "logger 'open"}, "command has an open quote"),
        ({"command": [1]}, "command must be a program with its arguments"),
        ("https://hooks/a-very-secret-part", "notify must hold url: or command:"),
    ],
)
def test_a_wrong_section_is_refused_in_one_sentence_without_its_address(section: Any, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_notifications(section, place="job.yaml line 3: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "a-very-secret-part" not in str(caught.value)


def test_an_address_in_a_variable_is_checked_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "a-very-secret-part")
    with pytest.raises(RequestError, match="the value of HOOK must be an address") as caught:
        read_notifications({"url": "env:HOOK"})
    assert "a-very-secret-part" not in str(caught.value)
    monkeypatch.setenv("HOOK", f" {SECRET}\n")
    (found,) = read_notifications({"url": "env:HOOK"})
    assert found.address() == SECRET
    assert "a-very-secret-part" not in repr(found)


@pytest.mark.parametrize(
    ("on", "outcome", "previous", "is_told"),
    [
        ("success", "success", None, True),
        ("success", "failure", None, False),
        ("failure", "interrupted", "success", True),
        ("failure", "success", "failure", False),
        ("change", "success", None, True),
        ("change", "success", "success", False),
        ("change", "success", "failure", True),
        ("change", "failure", "interrupted", False),
        ("change", "failure", "success", True),
        ("change", "failure", "unknown", False),
    ],
)
def test_a_receiver_is_told_about_the_events_it_asks_for(
    on: str, outcome: str, previous: str | None, is_told: bool
) -> None:
    (receiver,) = parse_notifications({"url": SECRET, "on": on})
    assert receiver.wants(outcome, previous) is is_told


def test_a_section_is_public_only_if_it_names_its_secrets_by_variables() -> None:
    public = [{"url": "env:HOOK", "on": ["failure"]}, {"command": ["logger", "-t", "night"]}]
    assert public_section(public) == public
    assert public_section([*public, {"url": SECRET}]) is None
    assert public_section({"command": f"curl {SECRET}"}) is None
    assert public_section({"routing_key": "0123456789abcdef", "style": "pagerduty"}) is None
