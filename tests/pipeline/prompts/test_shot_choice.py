"""Which examples are taken: by the seed and their content, never by their place in the file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline.prompts.label_examples import Example
from tirazh.pipeline.prompts.shot_choice import Selection, choose_by_tokens, choose_shots, distinct, orders_of

LABELS = ("sport", "economics", "culture")
labels = st.lists(st.sampled_from(LABELS), min_size=1, max_size=40)
seeds = st.integers(0, 1000)


def make_examples(labels: Sequence[str], *more: Sequence[str]) -> list[Example]:
    """One example for each label; all texts are different."""
    rows = list(zip(labels, *more, strict=True))
    return [
        Example(n, f"text {n}", row, f"text {n}\nТема: {row[0]}", f"text {n}") for n, row in enumerate(rows, start=1)
    ]


def count_labels(chosen: Sequence[Example], question: int = 0) -> Counter[str]:
    return Counter(example.labels[question] for example in chosen)


def contents(examples: Sequence[Example]) -> list[str]:
    return [example.content for example in examples]


@given(labels, st.integers(1, 40), seeds)
def test_balanced_takes_the_same_number_of_each_label_as_far_as_there_are_so_many(
    labels: list[str], count: int, seed: int
) -> None:
    drawn = distinct(make_examples(labels), seed)
    counts = count_labels(choose_shots(drawn, count, selection="balanced", seed=seed))
    assert counts.total() == min(count, len(labels))
    most = max(counts.values())
    # A label has fewer only because all of its examples are taken, or because the last round ends.
    assert all(counts[label] >= min(most - 1, there) for label, there in Counter(labels).items())


@given(labels, st.integers(1, 40), seeds)
def test_stratified_gives_each_label_its_share_up_to_one_example(labels: list[str], count: int, seed: int) -> None:
    drawn = distinct(make_examples(labels), seed)
    counts = count_labels(choose_shots(drawn, count, selection="stratified", seed=seed))
    taken = min(count, len(labels))
    assert counts.total() == taken
    for label, there in Counter(labels).items():
        share = taken * there / len(labels)
        assert math.floor(share) <= counts[label] <= math.ceil(share)


def test_the_largest_remainders_get_the_examples_that_are_left() -> None:
    drawn = distinct(make_examples(["sport"] * 6 + ["economics"] * 3 + ["culture"] * 1), 0)
    assert count_labels(choose_shots(drawn, 4, selection="stratified", seed=0)) == {"sport": 3, "economics": 1}
    assert count_labels(choose_shots(drawn, 5, selection="stratified", seed=0)).total() == 5


@given(labels, st.integers(1, 20), seeds, st.sampled_from(["balanced", "stratified"]), st.randoms())
def test_another_order_of_the_file_and_repeated_rows_give_the_same_choice_and_the_same_orders(
    labels: list[str], count: int, seed: int, selection: Selection, random: Random
) -> None:
    examples = make_examples(labels)
    shuffled = random.sample([*examples, examples[0]], len(examples) + 1)
    first, second = (
        choose_shots(distinct(each, seed), count, selection=selection, seed=seed) for each in (examples, shuffled)
    )
    assert contents(first) == contents(second)
    first_orders, second_orders = (list(map(contents, orders_of(each, 3, seed))) for each in (first, second))
    assert first_orders == second_orders


@given(st.integers(0, 9), st.integers(1, 64), seeds)
def test_all_orders_are_different_as_long_as_there_are_so_many(size: int, count: int, seed: int) -> None:
    chosen = make_examples(["sport"] * size)
    orders = [tuple(contents(order)) for order in orders_of(chosen, count, seed)]
    assert len(orders) == len(set(orders)) == min(count, math.factorial(size))
    assert all(sorted(order) == sorted(contents(chosen)) for order in orders)
    assert orders[0] == tuple(contents(orders_of(chosen, 1, seed)[0]))


def test_the_seed_changes_the_choice_the_orders_and_the_label_that_gets_one_more() -> None:
    examples = make_examples(["sport", "economics", "culture"] * 10)

    def choices(count: int) -> list[list[Example]]:
        return [choose_shots(distinct(examples, seed), count, selection="balanced", seed=seed) for seed in range(30)]

    assert len({tuple(sorted(contents(chosen))) for chosen in choices(6)}) > 25
    assert len({tuple(contents(orders_of(examples, 1, seed)[0])) for seed in range(30)}) == 30
    assert {chosen[0].labels for chosen in choices(1)} == {("sport",), ("economics",), ("culture",)}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), min_size=1, max_size=30), seeds)
def test_several_questions_are_balanced_together(rows: list[tuple[str, str]], seed: int) -> None:
    examples = make_examples([row[0] for row in rows], [row[1] for row in rows])
    chosen = choose_shots(distinct(examples, seed), 2, selection="balanced", seed=seed)
    if {("a", "x"), ("b", "y")} <= set(rows):
        assert count_labels(chosen, 0).total() == len(chosen) == 2
        assert (
            max(count_labels(chosen, 0)["a"], count_labels(chosen, 0)["b"]) + max(count_labels(chosen, 1).values()) <= 3
        )


@given(labels, st.integers(1, 60), seeds, st.sampled_from(["balanced", "stratified"]), st.data())
def test_a_budget_is_filled_and_never_passed(
    labels: list[str], budget: int, seed: int, selection: Selection, data: st.DataObject
) -> None:
    examples = make_examples(labels)
    sizes = {each.content: data.draw(st.integers(1, 20)) for each in examples}

    def fits(some: Sequence[Example]) -> bool:
        return sum(sizes[each.content] for each in some) <= budget

    chosen = choose_by_tokens(distinct(examples, seed), fits, selection=selection, seed=seed)
    assert fits(chosen)
    assert len(set(contents(chosen))) == len(chosen)
    assert chosen or not any(fits([each]) for each in examples)
    if max(sizes.values()) == min(sizes.values()) and selection == "balanced":
        assert len(chosen) == min(len(examples), budget // sizes[examples[0].content])


def test_an_example_that_does_not_fit_is_passed_over_for_another_of_its_label() -> None:
    examples = make_examples(["sport", "economics", "sport", "economics"])
    sizes = {"text 1": 9, "text 2": 2, "text 3": 2, "text 4": 9}

    def fits(some: Sequence[Example]) -> bool:
        return sum(sizes[each.content] for each in some) <= 5

    for seed in range(10):
        chosen = choose_by_tokens(distinct(examples, seed), fits, selection="balanced", seed=seed)
        assert sorted(contents(chosen)) == ["text 2", "text 3"]
