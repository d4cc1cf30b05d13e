"""The scheduler alone: who gets a slot, when prompts are computed, what a finished sequence leaves.
No torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tirazh.errors import RequestError
from tirazh.model.engine.admission import Admission
from tirazh.model.engine.config import EngineConfig
from tirazh.model.engine.scheduler import MAX_EMPTY_STEPS, MIN_DECODING_PER_PROMPT, ScheduledStep, Scheduler
from tirazh.model.requests import EngineJob, GenerateRequest, Request, SamplingParams, ScoreRequest
from tirazh.model.step import FreshSlot

PREFILL_ROWS, DECODE_ROWS, WINDOW = 64, 8, 16
PREFIX = tuple(range(20))
LABELS = ((1, 2, 3), (1, 4), (5,))  # a trie of two nodes


def make(
    num_slots: int = 3,
    *,
    job: EngineJob | None = None,
    admission: Admission | None = None,
    decode_rows: int = DECODE_ROWS,
) -> Scheduler:
    config = EngineConfig(
        num_slots=num_slots,
        max_length=100,
        num_tokens=50,
        end_token_ids=(),
        prefill_rows=PREFILL_ROWS,
        decode_rows=decode_rows,
    )
    return Scheduler(config, job or EngineJob(), window_size=WINDOW, admission=admission)


def generate(length: int, num_new: int = 4, *, penalty: float = 1.0) -> GenerateRequest:
    sampling = SamplingParams(max_new_tokens=num_new, repetition_penalty=penalty)
    return GenerateRequest(prompt_token_ids=(9,) * length, sampling=sampling, seed=0)


def add(scheduler: Scheduler, *requests: Request) -> None:
    scheduler.add(enumerate(requests))


def next_step(scheduler: Scheduler) -> ScheduledStep:
    scheduler.admit()
    scheduled = scheduler.schedule()
    assert scheduled is not None
    return scheduled


def run_step(scheduler: Scheduler) -> str:
    """Run one step whose tokens are all 1, and say its phase."""
    scheduled = next_step(scheduler)
    for reader in scheduled.readers:
        scheduler.expect_token(reader.slot)
        reader.sequence.num_pending -= 1
        reader.sequence.new_tokens.append(1)
    return scheduled.step.phase


def owners(scheduler: Scheduler) -> list[int | None]:
    return [None if sequence is None else sequence.id for sequence in scheduler.slots]


def test_the_scheduler_runs_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import tirazh.model.engine.scheduler; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_longest_completions_start_first_then_the_longest_prompts() -> None:
    scheduler = make(4)
    add(scheduler, generate(5, 4), generate(9, 4), generate(2, 8), generate(9, 4))
    scheduler.admit()
    assert owners(scheduler) == [2, 1, 3, 0]


def test_requests_that_arrive_later_start_later_whatever_their_length() -> None:
    scheduler = make(1)
    add(scheduler, generate(5, 4))
    scheduler.add([(1, generate(50, 40))])
    scheduler.admit()
    assert owners(scheduler) == [0]


def test_admission_reports_the_prompt_tokens_of_the_sequences_that_got_a_slot() -> None:
    scheduler = make(2)
    add(scheduler, generate(5), generate(7), generate(3))
    assert scheduler.admit() == 12
    assert scheduler.admit() == 0


def test_a_released_slot_is_refilled_by_the_next_admission() -> None:
    scheduler = make(1)
    add(scheduler, generate(5), generate(3))
    first = next_step(scheduler)
    scheduler.release(0, first.readers[0].sequence)
    scheduler.admit()
    assert owners(scheduler) == [1]


def test_a_release_that_comes_late_does_not_touch_the_slot_s_next_owner() -> None:
    scheduler = make(1)
    add(scheduler, generate(5), generate(3))
    sequence = next_step(scheduler).readers[0].sequence
    scheduler.release(0, sequence)
    scheduler.admit()
    scheduler.release(0, sequence)
    assert owners(scheduler) == [1]


def test_a_sequence_frees_its_slot_as_soon_as_its_last_token_is_sampled() -> None:
    scheduler = make(1)
    add(scheduler, generate(5, 2))
    for num_left in (1, 0):
        (reader,) = next_step(scheduler).readers
        scheduler.expect_token(reader.slot)
        assert (reader.sequence.num_remaining, scheduler.has_work) == (num_left, num_left > 0)


def test_memory_limits_how_many_sequences_hold_slots() -> None:
    admission = Admission(3, bytes_of=lambda num_tokens: num_tokens, free_bytes=lambda: 40)
    scheduler = make(3, admission=admission)
    add(scheduler, generate(5, 4), generate(5, 4), generate(5, 4))
    scheduler.admit()
    assert owners(scheduler) == [0, 1, None]
    assert scheduler.has_work


@pytest.mark.parametrize(("num_decoding", "phase"), [(2, "prefill"), (3, "decode")])
def test_a_waiting_prompt_is_computed_when_fewer_than_three_sequences_decode_for_it(
    num_decoding: int, phase: str
) -> None:
    assert MIN_DECODING_PER_PROMPT == 3
    scheduler = make(8)
    add(scheduler, *[generate(5)] * num_decoding)
    assert run_step(scheduler) == "prefill"
    scheduler.add([(9, generate(5))])
    assert run_step(scheduler) == phase


@pytest.mark.parametrize("num_waiting", [1, 2, 4])
def test_waiting_prompts_are_computed_before_they_have_cost_the_rows_of_a_decode_step(num_waiting: int) -> None:
    scheduler = make(20, decode_rows=20)
    add(scheduler, *[generate(4, 60)] * 15)
    assert run_step(scheduler) == "prefill"
    scheduler.add([(90 + index, generate(5, 60)) for index in range(num_waiting)])
    phases = [run_step(scheduler) for _ in range(40)]
    waited = MAX_EMPTY_STEPS * 20 // num_waiting
    assert phases == ["decode"] * waited + ["prefill"] + ["decode"] * (39 - waited)


def test_rows_that_arrive_in_parts_take_about_the_steps_of_one_part() -> None:
    """64 rows of 50 tokens in 4 parts, one step apart: the last part does not wait until the others are done, which
    would take 102 steps."""
    scheduler = make(64, decode_rows=64)
    num_steps = 0
    while num_steps < 4 or scheduler.has_work:
        if num_steps < 4:
            scheduler.add([(16 * num_steps + index, generate(3, 50)) for index in range(16)])
        run_step(scheduler)
        num_steps += 1
    assert num_steps <= 3 + 50 + 4 * MAX_EMPTY_STEPS


def test_a_prompt_waits_anew_after_each_prefill_step() -> None:
    scheduler = make(20, decode_rows=20)
    add(scheduler, *[generate(4, 90)] * 15)
    run_step(scheduler)
    for number in range(2):
        scheduler.add([(90 + number, generate(5, 60))])
        assert [run_step(scheduler) for _ in range(21)] == ["decode"] * 20 + ["prefill"]


def test_prompts_that_fill_a_step_are_computed_beside_any_number_of_decoding_sequences() -> None:
    scheduler = make(8)
    add(scheduler, *[generate(5)] * 6)
    run_step(scheduler)
    scheduler.add([(9, generate(PREFILL_ROWS))])
    assert run_step(scheduler) == "prefill"


def test_a_full_decode_step_runs_before_any_prompt() -> None:
    scheduler = make(DECODE_ROWS + 1)
    add(scheduler, *[generate(5)] * DECODE_ROWS)
    run_step(scheduler)
    scheduler.add([(9, generate(PREFILL_ROWS))])
    assert run_step(scheduler) == "decode"


def test_without_work_there_is_no_step() -> None:
    scheduler = make()
    assert scheduler.admit() == 0
    assert scheduler.schedule() is None
    assert not scheduler.has_work


def test_a_scheduled_chunk_counts_as_cached() -> None:
    scheduler = make(1)
    add(scheduler, generate(70))
    next_step(scheduler)
    (sequence,) = scheduler.slots
    assert sequence is not None
    assert (sequence.num_cached, sequence.num_to_prefill) == (64, 6)


def test_a_prefill_step_grows_to_a_multiple_of_64_rows_where_the_label_trie_needs_it() -> None:
    labels = tuple((first, second, 7) for first in range(10) for second in range(5))  # 10 + 50 nodes
    scheduler = make(1, job=EngineJob(labels=labels))
    add(scheduler, ScoreRequest(prompt_token_ids=(1, 2)))
    assert len(next_step(scheduler).step.token_ids) == 128


def test_a_prompt_s_own_tokens_start_behind_the_shared_prefix() -> None:
    scheduler = make(2, job=EngineJob(prefix_token_ids=PREFIX))
    add(scheduler, GenerateRequest(prompt_token_ids=(*PREFIX, 1), sampling=SamplingParams(), seed=0), generate(5))
    step = next_step(scheduler).step
    assert [(segment.slot, segment.start, segment.length) for segment in step.segments] == [(0, 20, 1), (1, 0, 5)]
    assert step.fresh_slots == (FreshSlot(0, uses_prefix=True), FreshSlot(1, uses_prefix=False))


def test_a_dirty_slot_is_zeroed_once_before_its_next_sequence() -> None:
    scheduler = make(1)
    add(scheduler, *[generate(5)] * 3)
    zeroed = []
    for _ in range(3):
        scheduled = next_step(scheduler)
        zeroed += [fresh.must_zero for fresh in scheduled.step.fresh_slots]
        if len(zeroed) == 1:
            scheduler.mark_dirty(0)
        scheduler.release(0, scheduled.readers[0].sequence)
    assert zeroed == [False, True, False]


def test_all_tokens_are_needed_while_a_sequence_with_a_repetition_penalty_holds_a_slot() -> None:
    scheduler = make(2)
    add(scheduler, generate(5, penalty=1.2), generate(5))
    assert not scheduler.needs_all_tokens
    scheduler.admit()
    assert scheduler.needs_all_tokens


@pytest.mark.parametrize("labels", [((1,), ()), ((1, 2), (1, 2))], ids=["empty", "equal"])
def test_a_job_with_impossible_labels_is_refused(labels: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(RequestError):
        make(job=EngineJob(labels=labels))
