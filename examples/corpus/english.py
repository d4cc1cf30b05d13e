"""English morphology for patterns: articles, plurals, possessives and verbs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

_IRREGULAR = {
    "child": "children", "person": "people", "man": "men", "woman": "women", "foot": "feet", "goose": "geese",
    "mouse": "mice", "wolf": "wolves", "fish": "fish", "sheep": "sheep", "deer": "deer", "salmon": "salmon",
    "match": "matches", "day": "days", "percent": "percent", "million": "million", "billion": "billion",
    "thousand": "thousand", "staff": "staff", "leaf": "leaves", "half": "halves", "moose": "moose",
}  # fmt: skip
_BE = {"is": ("is", "are"), "was": ("was", "were"), "has": ("has", "have"), "does": ("does", "do")}
_PRONOUNS = {
    "masc": {"he": "he", "his": "his", "him": "him"},
    "femn": {"he": "she", "his": "her", "him": "her"},
    "thing": {"he": "it", "his": "its", "him": "it"},
}
_SOUNDS_LIKE_A = re.compile(r"(?:uni|use|euro|one)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Person:
    """A first name, a surname, a gender ("masc" or "femn") and a job, which may be empty."""

    first: str
    surname: str
    gender: str
    job: str = ""


@dataclass(frozen=True, slots=True)
class Noun:
    """A common noun, with adjectives before it. `is_plural` nouns have no article and take plural verbs."""

    text: str
    is_plural: bool = False


class English:
    """The `Language` of English patterns."""

    def form(self, value: object, path: tuple[str, ...]) -> str:
        """Return a value as `last`, `first`, `job`, `he`/`his`/`him`, `a` (with an article), `s` (plural) or `pos`."""
        text = _bare(value, path)
        for name in path:
            if name == "a":
                text = _with_article(text)
            elif name == "s":
                text = plural(text)
            elif name == "pos":
                text = f"{text}'" if text.endswith("s") else f"{text}'s"
            elif name not in ("last", "first", "job", "he", "his", "him"):
                raise KeyError(f"{value!r} has no form {name}")
        return text

    def count(self, number: object, noun: str) -> str:
        """Return a number with its noun: `5 matches`."""
        if not isinstance(number, int):
            raise KeyError(f"{number!r} is no number")
        return f"{number:,} {noun if number == 1 else plural(noun)}"

    def verb(self, lemma: str, value: object) -> str:
        """Return `is`, `was`, `has` or `does`, or a verb in the present with its `s`, for one thing or several."""
        is_plural = isinstance(value, Noun) and value.is_plural
        if lemma in _BE:
            return _BE[lemma][is_plural]
        if is_plural:
            return lemma
        return f"{lemma}es" if lemma.endswith(("s", "sh", "ch", "x", "o")) else f"{lemma}s"

    def polish(self, text: str) -> str:
        """Return the text as it is."""
        return text


@cache
def plural(noun: str) -> str:
    """Return the plural of a noun; only its last word changes."""
    *before, word = noun.split(" ")
    if word in _IRREGULAR:
        made = _IRREGULAR[word]
    elif word.endswith("y") and word[-2:-1] not in "aeiou":
        made = f"{word[:-1]}ies"
    elif word.endswith(("s", "sh", "ch", "x", "z")):
        made = f"{word}es"
    else:
        made = f"{word}s"
    return " ".join([*before, made])


def _with_article(text: str) -> str:
    vowel = text[:1].lower() in "aeiou" and not _SOUNDS_LIKE_A.match(text)
    return f"{'an' if vowel or text.startswith('hour') else 'a'} {text}"


def _bare(value: object, path: tuple[str, ...]) -> str:
    pronoun = next((name for name in path if name in ("he", "his", "him")), None)
    if isinstance(value, Person):
        if pronoun is not None:
            return _PRONOUNS[value.gender][pronoun]
        if "job" in path:
            return value.job
        return value.surname if "last" in path else value.first if "first" in path else f"{value.first} {value.surname}"
    if pronoun is not None:
        return _PRONOUNS["thing"][pronoun]
    return (
        value.text
        if isinstance(value, Noun)
        else f"{value:,}"
        if isinstance(value, int) and not 1950 < value < 2033
        else str(value)
    )
