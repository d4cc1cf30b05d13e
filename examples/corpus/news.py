"""Short news: a story about the same people and things, with a title, a lead, details and an end."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from examples.corpus.patterns import Language, sentence
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
    values = world.draw_all(story["slots"], rng)
    for name, kind in _COMMON[world.language].items():
        if name not in values:
            values[name] = world.draw(kind, rng)
    number = rng.choice((0, 1, 1, 2, 2, 3, 4)) if details is None else details
    body = rng.sample(story["body"], min(number, len(story["body"])))
    chosen = [rng.choice(story["lead"]), *body, *([rng.choice(story["end"])] if rng.random() < 0.4 else [])]
    text = " ".join(sentence(pattern, values, language, rng) for pattern in chosen)
    return News(topic, sentence(rng.choice(story["title"]), values, language, rng), text)


def patterns_of(language: str, topic: str) -> list[tuple[Mapping[str, Any], str]]:
    """Return every pattern of a topic with its story."""
    return [
        (story, pattern)
        for story in stories(language, topic)
        for part in ("title", "lead", "body", "end")
        for pattern in story[part]
    ]
