"""The learning rate: it rises to its peak once, falls to its floor in the last step, and is that of transformers."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from tirazh.model.training.config import OptimizerConfig, default_warmup_steps

PEAK, FLOOR = 1e-3, 1e-4
Falling = Literal["linear", "cosine"]
falling = st.sampled_from(("linear", "cosine"))


def rates(config: OptimizerConfig, total_steps: int) -> list[float]:
    return [config.rate(step, total_steps) for step in range(total_steps)]


def config_of(schedule: Falling, warmup: int, floor: float = FLOOR) -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=PEAK, min_learning_rate=floor, schedule=schedule, warmup_steps=warmup, weight_decay=0.0
    )


@given(falling, st.integers(2, 400), st.data())
def test_the_peak_is_one_step_and_the_floor_is_the_last(schedule: Falling, total: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, total - 1))
    found = rates(config_of(schedule, warmup), total)
    assert [step for step, rate in enumerate(found) if rate >= PEAK] == [max(1, warmup) - 1]
    assert found[-1] == pytest.approx(FLOOR, abs=1e-15)
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)


@given(falling, st.integers(2, 400), st.data())
def test_with_a_floor_of_0_every_step_changes_weights(schedule: Falling, total: int, data: st.DataObject) -> None:
    """The floor comes right after the last step: the rates fall to it as those of a schedule of one step more."""
    warmup = data.draw(st.integers(0, total - 1))
    config = config_of(schedule, warmup, floor=0.0)
    found = rates(config, total)
    assert min(found) > 0
    assert [step for step, rate in enumerate(found) if rate >= PEAK] == [max(1, warmup) - 1]
    assert config.rate(total, total) == pytest.approx(0.0, abs=1e-18)
    assert found[-1] <= (PEAK / (total + 1 - max(1, warmup))) * (1 + 1e-9)


@given(falling, st.integers(1, 50))
def test_a_training_that_is_all_warm_up_ends_at_its_peak(schedule: Falling, total: int) -> None:
    found = rates(config_of(schedule, total), total)
    assert found == sorted(found)
    assert found[-1] == PEAK


@pytest.mark.parametrize(("schedule", "theirs"), [
    ("linear", get_linear_schedule_with_warmup),
    ("cosine", get_cosine_schedule_with_warmup),
])  # fmt: skip
@pytest.mark.parametrize(("warmup", "total"), [(1, 2), (3, 12), (10, 100), (11, 12)])
def test_the_rates_are_those_of_transformers_for_one_step_more(
    schedule: Falling, theirs: object, warmup: int, total: int
) -> None:
    """Its first step has rate 0 and changes nothing; ours begins with its second, and ends with its last."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    scheduler = theirs(optimizer, warmup, total + 1)  # type: ignore[operator]
    expected = []
    for _ in range(total):
        optimizer.step()
        scheduler.step()
        expected.append(optimizer.param_groups[0]["lr"])
    assert rates(config_of(schedule, warmup, floor=0.0), total) == pytest.approx(expected, abs=1e-12)


def test_twelve_steps_with_three_of_warm_up() -> None:
    found = [round(1e4 * rate, 2) for rate in rates(config_of("linear", 3), 12)]
    assert found == [3.33, 6.67, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]


@given(st.integers(1, 10_000))
def test_every_training_of_some_steps_has_a_warm_up_by_default(total: int) -> None:
    warmup = default_warmup_steps(total)
    assert 1 <= warmup <= max(1, total - 1)
    assert (warmup >= 2) == (total > 10)
    if total >= 1000:
        assert warmup == max(10, -(-total // 100))
