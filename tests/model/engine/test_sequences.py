"""Decode steps and their rows: slots keep their own rows where they can, logits only where they are
requested."""

from __future__ import annotations

import numpy as np

from tests.model.engine.sequence_examples import generating
from tirazh.model.engine.sequences import ActiveSequence, StepBuilder, build_decode_step
from tirazh.model.requests import GenerateRequest, SamplingParams
from tirazh.model.step import FreshSlot, Segment


def test_slot_tokens_are_those_behind_the_shared_prefix() -> None:
    request = GenerateRequest(prompt_token_ids=tuple(range(10)), sampling=SamplingParams(max_new_tokens=5), seed=0)
    sequence = ActiveSequence(
        0, request, tuple(range(10)), 5, num_shared=4, num_cached=7, new_tokens=[1], num_pending=1
    )
    assert sequence.num_slot_tokens == 3 + 2
    assert sequence.max_slot_tokens == 6 + 5


def test_logits_are_requested_of_the_rows_added_last() -> None:
    builder = StepBuilder("prefill", 10)
    builder.add(0, (5, 6, 7), 0)
    builder.request_logits(0, 1)
    builder.add(1, (8, 9), 4)
    builder.request_logits(1, 2)
    assert builder.logit_requests == [(0, slice(0, 1)), (1, slice(1, 3))]
    assert builder.build(()).logit_rows.tolist() == [2, 3, 4]


def test_with_a_row_for_every_slot_a_decode_step_keeps_slots_in_their_rows() -> None:
    decoding = generating(5, cached=5, new_tokens=(7, 8))
    slots = [None, generating(30, cached=16), decoding, decoding]
    builder = build_decode_step(slots, 5)
    assert builder is not None
    step = builder.build((FreshSlot(1, uses_prefix=False),))
    assert step.segments == (Segment(2, 2, 6, 1), Segment(3, 3, 6, 1))
    assert step.token_ids.tolist() == [0, 0, 8, 8, 0]
    assert step.positions.tolist() == [0, 0, 6, 6, 0]
    assert step.logit_rows.tolist() == [2, 3]
    assert builder.logit_requests == [(2, slice(0, 1)), (3, slice(1, 2))]
    assert step.fresh_slots == (FreshSlot(1, uses_prefix=False),)


def test_with_more_sequences_than_rows_those_with_most_remaining_tokens_decode() -> None:
    slots = [None, *(generating(5, cached=5, new_tokens=tuple(range(made))) for made in (3, 1, 2, 1)), generating(30)]
    builder = build_decode_step(slots, 3)
    assert builder is not None
    assert [(segment.slot, segment.row) for segment in builder.build(()).segments] == [(2, 0), (3, 1), (4, 2)]


def test_without_a_decoding_sequence_there_is_no_decode_step() -> None:
    assert build_decode_step([None, generating(30)], 4) is None


def test_a_step_holds_int64_arrays_that_cross_processes() -> None:
    builder = StepBuilder("prefill", 4)
    builder.add(0, (5, 6, 7), 0)
    step = builder.build(())
    assert step.token_ids.dtype == step.positions.dtype == step.logit_rows.dtype == np.int64
