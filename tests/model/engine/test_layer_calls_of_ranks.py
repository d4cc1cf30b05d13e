"""Ranks whose layers run by prepared calls give the bits that ranks which run torch's modules give."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from torch import Tensor

from tests.distributed import RankPool, own_place
from tests.model.engine.layer_call_cases import (
    KINDS,
    Kind,
    Steps,
    any_steps,
    are_equal,
    modules,
    packed_model,
    skip_without_kernels,
)
from tirazh.model.engine.layer_calls import can_prepare


def logits_of_rank(kind: Kind, steps: Steps, prepared_ranks: tuple[int, ...]) -> list[Tensor]:
    """In a rank: the logits of all steps, where these ranks run prepared calls and the others modules."""
    place = own_place()
    model = packed_model(kind, place.rank, place.world_size)
    assert can_prepare(model.model)
    if place.rank in prepared_ranks:
        return steps.logits(model)
    with modules():
        return steps.logits(model)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_prepared_calls_give_the_bits_of_the_modules(two_ranks: RankPool, kind: Kind) -> None:
    skip_without_kernels(kind)

    @settings(max_examples=3, deadline=None)
    @given(any_steps())
    def check(steps: Steps) -> None:
        expected = two_ranks.run(logits_of_rank, kind, steps, ())
        assert are_equal(*expected)
        for prepared in two_ranks.run(logits_of_rank, kind, steps, (0, 1)):
            assert are_equal(prepared, expected[0])

    check()


@pytest.mark.parametrize("kind", KINDS[::3], ids=str)
def test_a_rank_that_runs_modules_works_beside_one_that_runs_calls(two_ranks: RankPool, kind: Kind) -> None:
    skip_without_kernels(kind)
    steps = Steps(lengths=(3, 40, 70), num_prefix=16, num_threads=1, seed=0)
    mixed, alike = (two_ranks.run(logits_of_rank, kind, steps, ranks) for ranks in ((0,), (0, 1)))
    assert are_equal(mixed[0], alike[0])
    assert are_equal(mixed[1], alike[0])
