"""Delivery to real receivers: a server on this machine, and programs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.notify.test_bodies import FAILED
from tests.receivers import receiver
from tirazh.pipeline.notify.deliver import TIMEOUT_S, deliver
from tirazh.pipeline.notify.settings import Notification, parse_notifications


def deliver_all(*sections: dict[str, object]) -> list[str]:
    receivers: list[Notification] = [each for section in sections for each in parse_notifications(section)]
    return deliver(receivers, lambda: FAILED).wait()


def test_each_receiver_gets_one_message() -> None:
    with receiver() as one, receiver() as other:
        assert deliver_all({"url": one.url}, {"url": f"{other.url}/x", "style": "slack"}) == []
        assert [len(each.posted) for each in (one, other)] == [1, 1]
        assert one.headers[0]["Content-Type"].startswith("application/json")


@pytest.mark.parametrize("status", [404, 500, 302])
def test_a_receiver_that_refuses_is_one_problem_and_gets_no_second_message(status: int) -> None:
    with receiver(status=status) as refusing:
        assert deliver_all({"url": refusing.url}) == [
            f"the receiver was not told: it answered with the HTTP status {status}"
        ]
        assert len(refusing.posted) == 1


def test_a_receiver_that_hangs_does_not_hold_up_the_others_or_the_run() -> None:
    begin = time.monotonic()
    with receiver(delay_s=60) as hanging, receiver() as good:
        (problem,) = deliver_all({"url": hanging.url}, {"url": good.url})
        took = time.monotonic() - begin
        assert len(good.posted) == 1
    assert problem == f"receiver 1 of 2 was not told: no answer within {TIMEOUT_S:g} s"
    assert took < 30  # not 60; a busy machine may take more than the limit


def test_a_place_where_nothing_answers_is_named_without_its_address() -> None:
    with receiver() as closed:
        url = f"{closed.url}/a-very-secret-part"
    assert deliver_all({"url": url}) == ["the receiver was not told: nothing answers at its address"]


def test_a_command_gets_the_body_on_stdin_and_the_values_in_variables(tmp_path: Path) -> None:
    program = tmp_path / "tell.py"
    program.write_text(
        "import json, os, sys\n"
        "found = {name: value for name, value in os.environ.items() if name.startswith('TIRAZH_')}\n"
        "json.dump([json.load(sys.stdin), found], open(sys.argv[1], 'w'))\n"
    )
    assert deliver_all({"command": [sys.executable, str(program), str(tmp_path / "told.json")]}) == []
    body, variables = json.loads((tmp_path / "told.json").read_text())
    assert body["sentence"] == variables["TIRAZH_SENTENCE"] == FAILED.sentence
    assert (variables["TIRAZH_OUTCOME"], variables["TIRAZH_EXIT_CODE"], variables["TIRAZH_ROWS"]) == (
        "failure",
        "1",
        "25",
    )
    assert variables["TIRAZH_REPLICA_DEATHS"] == ""


def test_no_shell_sees_the_text_of_a_message(tmp_path: Path) -> None:
    assert deliver_all({"command": f"echo $(touch {tmp_path}/made)"}) == []
    assert not (tmp_path / "made").exists()


def test_a_command_that_fails_or_does_not_exist_is_a_problem() -> None:
    assert deliver_all({"command": "false"}) == [
        "the receiver (the command false) was not told: it ended with the exit code 1"
    ]
    (problem,) = deliver_all({"command": "/no/such/program"})
    assert problem.endswith("it could not be started: No such file or directory")


def test_a_command_that_hangs_is_ended() -> None:
    begin = time.monotonic()
    (problem,) = deliver_all({"command": "sleep 60"})
    assert "no answer within" in problem
    assert time.monotonic() - begin < 30
