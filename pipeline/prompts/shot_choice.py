"""Which few-shot examples of classify are taken, and in which orders they stand.

All choices follow from the seed and the content of the examples; the order of the file has no influence.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, permutations
from typing import Literal

from tirazh.pipeline.input.overrides import hash_63
from tirazh.pipeline.prompts.label_examples import Example

Selection = Literal["balanced", "stratified"]
Labels = tuple[str, ...]
# So few examples have all their orders enumerated: 6! = 720.
_MAX_ENUMERATED = 6


def distinct(examples: Iterable[Example], seed: int) -> list[Example]:
    """Return one of each group of equal examples, in an order drawn by the seed."""
    first = {example.content: example for example in reversed(list(examples))}
    return sorted(first.values(), key=lambda example: _key(seed, "example", example.content))


def choose_shots(drawn: Sequence[Example], count: int, *, selection: Selection, seed: int) -> list[Example]:
    """Choose `count` of the examples `drawn`, which `distinct` returned.

    `balanced` takes the same number of each label, as far as there are so many. `stratified` takes as many of each
    label as its share of the examples (largest remainder). The seed draws the labels that get one more. With
    several questions the choice is balanced over the labels of all of them; a stratum is a combination of labels.
    """
    groups = _Groups(drawn, seed)
    if selection == "balanced":
        return _take_balanced(groups, count)
    return [
        example
        for labels, number in _quotas(groups, count).items()
        for example in islice(groups.waiting[labels], number)
    ]


def choose_by_tokens(
    drawn: Sequence[Example], fits: Callable[[Sequence[Example]], bool], *, selection: Selection, seed: int
) -> list[Example]:
    """Add examples one by one as long as `fits` is true of all together.

    An example that does not fit is passed over for the next one of the same labels. The choice ends when labels of
    which there are examples already have no more that fit, so that no label gets ahead of the others. A label whose
    examples are all too long stays without one.
    """
    groups = _Groups(drawn, seed)
    chosen: list[Example] = []
    while (labels := groups.next_labels(selection, len(chosen))) is not None:
        waiting = groups.waiting[labels]
        while waiting and not fits([*chosen, waiting[0]]):
            waiting.popleft()
        if waiting:
            chosen.append(waiting.popleft())
            groups.count(labels)
        elif groups.taken[labels]:
            break
    return chosen


def orders_of(chosen: Sequence[Example], count: int, seed: int) -> list[list[Example]]:
    """Return `count` different orders of the chosen examples, or all orders if there are fewer. The seed draws them;
    the first one is the same for any `count`."""
    by_content = sorted(chosen, key=lambda example: example.content)
    return [[by_content[place] for place in order] for order in _orders(by_content, count, seed)]


@dataclass(slots=True)
class _Groups:
    """The examples that wait, by their labels, and how often each label was taken for each question."""

    drawn: Sequence[Example]
    seed: int
    waiting: dict[Labels, deque[Example]] = field(default_factory=dict)
    size: dict[Labels, int] = field(default_factory=dict)
    taken: Counter[Labels] = field(default_factory=Counter)
    of_label: Counter[tuple[int, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for example in self.drawn:
            self.waiting.setdefault(example.labels, deque()).append(example)
        # In an order drawn by the seed, so that no label is favoured by its name.
        self.waiting = dict(sorted(self.waiting.items(), key=lambda item: _key(self.seed, "labels", *item[0])))
        self.size = {labels: len(waiting) for labels, waiting in self.waiting.items()}

    def count(self, labels: Labels) -> None:
        """Note that an example of these labels was taken."""
        self.taken[labels] += 1
        self.of_label.update(enumerate(labels))

    def next_labels(self, selection: Selection, total: int) -> Labels | None:
        """The labels of the next example, after `total` were taken; None where no example is left."""
        left = [labels for labels, waiting in self.waiting.items() if waiting]
        if not left:
            return None
        if selection == "balanced":
            return min(left, key=lambda labels: sum(self.of_label[key] for key in enumerate(labels)))
        whole = sum(self.size.values())
        return max(left, key=lambda labels: Fraction(self.size[labels] * (total + 1), whole) - self.taken[labels])


def _take_balanced(groups: _Groups, count: int) -> list[Example]:
    chosen: list[Example] = []
    while len(chosen) < count and (labels := groups.next_labels("balanced", len(chosen))) is not None:
        chosen.append(groups.waiting[labels].popleft())
        groups.count(labels)
    return chosen


def _quotas(groups: _Groups, count: int) -> dict[Labels, int]:
    """How many examples of each labels there are among `count`, by the method of the largest remainder."""
    whole = sum(groups.size.values())
    exact = {labels: Fraction(size * count, whole) for labels, size in groups.size.items()}
    quotas = {labels: math.floor(share) for labels, share in exact.items()}
    missing = min(count, whole) - sum(quotas.values())
    # Sorting is stable: equal remainders stay in the drawn order.
    for labels in sorted(exact, key=lambda labels: quotas[labels] - exact[labels])[:missing]:
        quotas[labels] += 1
    return quotas


def _orders(by_content: Sequence[Example], count: int, seed: int) -> Iterator[tuple[int, ...]]:
    places = range(len(by_content))
    if len(by_content) <= _MAX_ENUMERATED:
        drawn = sorted(
            permutations(places), key=lambda order: _key(seed, "order", *(by_content[each].content for each in order))
        )
        yield from drawn[:count]
        return
    found: set[tuple[int, ...]] = set()
    attempt = 0
    while len(found) < count:
        order = tuple(sorted(places, key=lambda each: _key(seed, f"order {attempt}", by_content[each].content)))
        attempt += 1
        if order not in found:
            found.add(order)
            yield order


def _key(seed: int, purpose: str, *contents: str) -> tuple[int, tuple[str, ...]]:
    """A key that sorts by a hash of the seed and the contents; equal hashes by the contents."""
    joined = "".join(f" {len(content)}:{content}" for content in contents)
    return hash_63(f"{purpose} {seed}{joined}"), contents
