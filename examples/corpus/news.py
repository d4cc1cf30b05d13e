"""Short news: a story about the same people and things, with a title, a lead, details and an end."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from examples.corpus.patterns import Language, sentence, slots_of
from examples.corpus.worlds import FOLDER, World

TOPICS = ("sport", "economics", "science", "world", "culture")
# Slots that every story has.
_COMMON = {
    "ru": {"when": "weekday_in", "month_in": "month_in", "month_of": "month_of"},
    "en": {"when": "weekday", "month": "month"},
}


@dataclass(frozen=True, slots=True)
class News:
    """A news item. `topic` is the English name of its topic."""

    topic: str
    title: str
    text: str


@cache
def stories(language: str, topic: str) -> Sequence[Mapping[str, Any]]:
    """Return the stories of a topic: each has `slots`, and patterns in `title`, `lead`, `body` and `end`."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / language / f"{topic}.yaml").read_text(encoding="utf-8"))
    return tuple(found["stories"])


def make_news(topic: str, world: World, language: Language, rng: random.Random, *, details: int | None = None) -> News:
    """Make a news item with `details` sentences between the lead and the end (at random: none to four)."""
    story = rng.choice(stories(world.language, topic))
    shared = common(world.language)
    values = {name: world.draw(kind, rng) for name, kind in _COMMON[world.language].items()}
    values |= world.draw_all(shared["slots"], rng) | world.draw_all(story["slots"], rng)

    def say(pattern: str) -> str:
        return sentence(pattern, values, language, rng)

    number = rng.choice((0, 1, 1, 2, 2, 3, 4)) if details is None else details
    lead = rng.choice(story["lead"])
    if rng.random() < 0.4:
        lead = lead.removesuffix(".") + rng.choice(shared["sources"])
    chosen = [lead, *_sample([*story["body"], *rng.sample(shared["quotes"], 2)], number, rng)]
    if rng.random() < 0.3:
        chosen += _sample(story["end"], 1, rng)
    return News(topic, say(rng.choice(story["title"])), " ".join(map(say, chosen)))


@cache
def common(language: str) -> Mapping[str, Any]:
    """Return what may be added to any story: `slots`, and patterns in `sources` and `quotes`."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / language / "common.yaml").read_text(encoding="utf-8"))
    return found


def _sample(patterns: Sequence[str], number: int, rng: random.Random) -> list[str]:
    """Choose different patterns. One without slots gives few different sentences, so it is chosen seldom."""
    keys = {pattern: rng.random() ** (1 / _weight(pattern)) for pattern in patterns}
    return sorted(patterns, key=lambda pattern: -keys[pattern])[:number]


@cache
def _weight(pattern: str) -> float:
    return (0.06, 0.5, 1.0)[min(2, len(slots_of(pattern)))]


def patterns_of(language: str, topic: str) -> list[tuple[Mapping[str, Any], str]]:
    """Return every pattern of a topic with its story."""
    return [
        (story, pattern)
        for story in stories(language, topic)
        for part in ("title", "lead", "body", "end")
        for pattern in story[part]
    ]
