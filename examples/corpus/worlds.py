"""Draws values for the slots of a story, so that all sentences of a story are about the same things."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
_YEARS = ((1951, 1999), (2025, 2032))  # they are not rounded, and have no separator of thousands
_RANGE = re.compile(r"(\d+)-(\d+)")
Draw = Callable[[random.Random], object]


@cache
def words(language: str) -> Mapping[str, tuple[str, ...]]:
    """Return the lists of words of a language. A list has commas between its items, or spaces where it has no comma."""
    lists: dict[str, str] = yaml.safe_load((FOLDER / language / "words.yaml").read_text(encoding="utf-8"))
    return {name: tuple(_items(text)) for name, text in lists.items()}


def _items(text: str) -> list[str]:
    separated = text.split(",") if "," in text else text.split()
    return [item.strip() for item in separated]


@dataclass(frozen=True)
class World:
    """Where the values of slots come from: `kinds` draw a value, other names are lists of words."""

    language: str
    kinds: Mapping[str, Draw]

    def draw(self, kind: str, rng: random.Random) -> object:
        """Return a value of a kind: of `kinds`, an integer of a range such as `2-9`, or an item of a list of words."""
        if kind in self.kinds:
            return self.kinds[kind](rng)
        bounds = _RANGE.fullmatch(kind)
        if bounds:
            low, high = int(bounds[1]), int(bounds[2])
            number = rng.randint(low, high)
            return number if (low, high) in _YEARS else round_number(number, rng)
        return rng.choice(words(self.language)[kind])

    def draw_all(self, slots: Mapping[str, str], rng: random.Random) -> dict[str, object]:
        """Return a value of every slot. Slots of the same kind have different values."""
        values: dict[str, object] = {}
        for name, kind in slots.items():
            value = self.draw(str(kind), rng)
            for _ in range(20):
                if isinstance(value, int) or value not in values.values():
                    break
                value = self.draw(str(kind), rng)
            values[name] = value
        return values


def round_number(number: int, rng: random.Random) -> int:
    """Return a large number rounded, as news do most of the time."""
    if number < 200 or rng.random() < 0.3:
        return number
    step = int(10 ** (len(str(number)) - 2))
    return number // step * step
