"""The benchmark of training plans: its line has the ratios, and its memory is that of training workers alone."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.training_plan_accuracy import CASES, Outcome, _worker_peak, _write_dense_model, line_of
from tirazh.jobs.settings import build_finetune_spec
from tirazh.model.checkpoints.directory import describe
from tirazh.model.config import ModelSettings


def test_a_line_has_what_was_planned_and_measured_with_the_ratios() -> None:
    line = line_of(Outcome("LoRA", 20, 1000 << 20, 1100 << 20, 60.0, 90.0))
    assert "memory 1,000 MiB planned, 1,100 MiB measured (1.10x)" in line
    assert "time 60 s planned, 90 s measured (1.50x)" in line


def test_a_process_that_is_no_worker_has_no_peak() -> None:
    assert _worker_peak(os.getpid()) == 0
    assert _worker_peak(1 << 30) == 0


def test_the_cases_are_valid_trainings_and_the_dense_model_is_one(tmp_path: Path) -> None:
    for case in CASES:
        assert build_finetune_spec({"input": "a", "output": "b"} | case.settings)
    _write_dense_model(tmp_path / "dense")
    config = describe(str(tmp_path / "dense"), ModelSettings()).config
    assert config is not None
    assert config.sparse_mode == "none"
