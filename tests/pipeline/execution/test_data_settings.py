"""The settings of Ray Data belong to a run, and the caller's come back when the last run has ended."""

from __future__ import annotations

import logging
import threading

from ray.data import DataContext

from tirazh.pipeline.execution.data_settings import building, data_settings


def test_runs_that_overlap_restore_the_settings_of_the_caller() -> None:
    before, level = DataContext.get_current(), logging.getLogger("ray.data").level
    first, second = data_settings(), data_settings()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not DataContext.get_current().enable_progress_bars
    second.__exit__(None, None, None)
    assert DataContext.get_current() is before
    assert logging.getLogger("ray.data").level == level


def test_a_graph_takes_the_settings_of_the_run_of_its_thread() -> None:
    with data_settings() as own:
        own.set_config("run", "first")

        def second_run() -> None:
            with data_settings() as other, building():
                other.set_config("run", "second")

        thread = threading.Thread(target=second_run)
        thread.start()
        thread.join()
        with building():
            assert DataContext.get_current().get_config("run") == "first"
        assert own.get_config("run") == "first"
