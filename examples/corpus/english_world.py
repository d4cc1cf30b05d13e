"""The people and things of English stories."""

from __future__ import annotations

import random

from examples.corpus.english import Noun, Person
from examples.corpus.worlds import Draw, World, words

_NOUNS = (
    *("animal", "plant", "planet", "instrument", "organ", "museum", "disaster", "world_place", "find", "art_work"),
    *("thing_home", "goods", "minister"),
)


def person(rng: random.Random, *, jobs: str | None = None, gender: str | None = None) -> Person:
    """Return a person with an invented name, with a job of the list `jobs`."""
    gender = gender or rng.choice(("masc", "femn"))
    first = rng.choice(words("en")["first_masc" if gender == "masc" else "first_femn"])
    job = rng.choice(words("en")[jobs]) if jobs else ""
    return Person(first, rng.choice(words("en")["surnames"]), gender, job)


def title(rng: random.Random) -> str:
    """Return the title of a book or a film: `The Old Bridge`, `House by the River`, `Snow and Wind`."""
    lists = words("en")
    noun, other = rng.sample(lists["title_noun"], 2)
    adjective = rng.choice(lists["title_adj"])
    forms = (
        f"the {adjective} {noun}",
        f"{adjective} {noun}",
        f"{noun} {rng.choice(('by', 'under', 'behind', 'above'))} the {other}",
        f"{noun} and {other}",
        f"the {noun} of the {other}",
        f"{rng.choice(('letters from', 'the secret of', 'the road to', 'a song for'))} the {noun}",
        f"the {noun}",
    )
    small = ("by", "the", "of", "and", "a", "under", "behind", "above", "to", "for", "from")
    each = rng.choice(forms).split(" ")
    return " ".join(word if word in small and place else word.capitalize() for place, word in enumerate(each))


def _draw(name: str) -> Draw:
    return lambda rng: Noun(rng.choice(words("en")[name]))


def _club(rng: random.Random) -> str:
    return f"{rng.choice(words('en')['city'])} {rng.choice(words('en')['club_name'])}"


ENGLISH_WORLD = World(
    "en",
    {
        **{name: _draw(name) for name in _NOUNS},
        "club": _club,
        "firm": lambda rng: f"{rng.choice(words('en')['firm_name'])} {rng.choice(words('en')['firm_kind'])}",
        "bank": lambda rng: f"{rng.choice(words('en')['firm_name'])} Bank",
        "person_any": person,
        "athlete": lambda rng: person(rng, jobs="athlete"),
        "scientist": lambda rng: person(rng, jobs="scientist"),
        "artist": lambda rng: person(rng, jobs="artist"),
        "fan": lambda rng: person(rng, jobs="job"),
        "title": title,
        "bare_title": title,
        "institute": lambda rng: f"the University of {rng.choice(words('en')['city'])}",
    },
)
