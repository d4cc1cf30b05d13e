"""The figure lines in the log of a submitted job."""

from __future__ import annotations

import io
import json

from tirazh.jobs.cluster.job_log import (
    MARK,
    LoggedProgress,
    LoggedTraining,
    LogPrinter,
    last_figures,
    stopped_text,
    text_of,
)
from tirazh.pipeline.execution.metrics import ProgressEvent
from tirazh.pipeline.finetune.progress import TrainingProgress


def event(rows: int, *, safe: int = 0) -> ProgressEvent:
    return ProgressEvent(
        **{"rows_done": rows, "rows_total": 728, "rows_resumed": 0, "parts_done": safe // 10, "parts_total": 76},
        **{"error_rows": 1, "prompt_tokens": 1000, "completion_tokens": 0, "replicas": 2, "rows_safe": safe},
        elapsed_s=10.0,
    )


def test_a_driver_prints_figures_every_ten_seconds_and_at_its_end() -> None:
    stream, now = io.StringIO(), [100.0]
    with LoggedProgress("quiet", stream=stream, clock=lambda: now[0]) as display:
        display.show(event(10))
        display.show(event(20))
        now[0] += 10
        display.show(event(133, safe=120))
        display.show(event(140, safe=130))
    lines = [json.loads(line.removeprefix(MARK)) for line in stream.getvalue().splitlines()]
    assert [line["rows"] for line in lines] == [10, 133, 140]
    found = last_figures(stream.getvalue())
    assert (found["rows_safe"], found["parts"], found["errors"], found["tokens_per_s"]) == (130, 13, 1, 100.0)
    assert found["eta_s"] == 42.0
    assert display.interrupted().startswith("stopped: 140 rows answered, 130 safe in 13 of 76 parts")


def test_the_last_whole_line_counts_after_the_driver_was_killed() -> None:
    log = f'{MARK}{{"state": "ready"}}\n{MARK}{{"rows": 5}}\ntext\n{MARK}{{"rows": 6, "par'
    assert last_figures(log) == {"state": "ready", "rows": 5}
    assert last_figures("text\n") == {}
    assert stopped_text({}) == "stopped before the first row was answered"


def test_people_see_the_log_without_figures_and_each_line_once() -> None:
    printed: list[str] = []
    printer = LogPrinter(printed.append)
    printer.show(f"one\n{MARK}{{}}\ntw")
    printer.show(f"one\n{MARK}{{}}\ntwo\n{MARK[:8]}")
    printer.show(f"one\n{MARK}{{}}\ntwo\n{MARK}{{}}\nend", is_all=True)
    assert "".join(printed) == "one\ntwo\nend" == text_of(f"one\n{MARK}{{}}\ntwo\nend")
    assert text_of("\x1b[33m(raylet)\x1b[0m WARNING\n") == "(raylet) WARNING\n"


def test_the_driver_of_a_training_prints_its_steps_and_which_of_them_is_saved() -> None:
    stream, saved = io.StringIO(), [0]
    step = {
        "loss": 0.50138,
        "tokens_per_s": 264.04,
        "elapsed_s": 9.0,
        "eta_s": 61.04,
        "figures": {"perplexity": 1.46822},
    }
    with LoggedTraining("quiet", stream=stream, saved_step=lambda: saved[0]) as display:
        assert display.interrupted() == "stopped before the first step; `tirazh resume` starts it again"
        display.show(TrainingProgress(step=4, total_steps=60, **step))
        display.show(TrainingProgress(step=13, total_steps=60, **step))
        saved[0] = 13
        assert display.interrupted() == (
            "stopped at step 13 of 60: the checkpoint of step 13 is saved; `tirazh resume` goes on from it"
        )
    assert json.loads(stream.getvalue().splitlines()[0].removeprefix(MARK))["steps_saved"] == 0
    found = last_figures(stream.getvalue())
    assert found.pop("time")
    assert found == {
        **{"steps": 13, "steps_saved": 13, "steps_total": 60, "loss": 0.5014, "evaluation": {"perplexity": 1.4682}},
        **{"eta_s": 61.0, "tokens_per_s": 264.0},
    }
