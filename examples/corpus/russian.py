"""Russian morphology for patterns, by the dictionary of pymorphy3 (`pip install pymorphy3`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import pymorphy3

CASES = {"gen": "gent", "dat": "datv", "acc": "accs", "ins": "ablt", "loc": "loct"}
_PRONOUNS = {
    "masc": {"он": "он", "его": "его", "ему": "ему", "им": "им", "нём": "нём", "сам": "сам", "который": "который"},
    "femn": {"он": "она", "его": "её", "ему": "ей", "им": "ей", "нём": "ней", "сам": "сама", "который": "которая"},
    "neut": {"он": "оно", "его": "его", "ему": "ему", "им": "им", "нём": "нём", "сам": "само", "который": "которое"},
    "plur": {"он": "они", "его": "их", "ему": "им", "им": "ими", "нём": "них", "сам": "сами", "который": "которые"},
}
_ANALYZER = pymorphy3.MorphAnalyzer()


@dataclass(frozen=True, slots=True)
class Person:
    """A first name and a surname (in its masculine form), and a gender: "masc" or "femn"."""

    first: str
    surname: str
    gender: str


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun with its adjectives before it; what follows the noun does not change."""

    text: str


class Russian:
    """The `Language` of Russian patterns."""

    def form(self, value: object, path: tuple[str, ...]) -> str:
        """Return a value in a case (`gen`, `dat`, `acc`, `ins`, `loc`), a surname (`last`) or a pronoun (`он`)."""
        if path == ("job",):
            return str(getattr(value, "job", ""))
        if isinstance(value, Person):
            return _person(value, path)
        if isinstance(value, Phrase):
            if path and path[0] in _PRONOUNS["masc"]:
                return _PRONOUNS[_gender(value)][path[0]]
            return _phrase(value.text, path[0] if path else None)
        if path:
            raise KeyError(f"{value!r} has no form {path}")
        return str(value)

    def agree(self, adjective: str, noun: str) -> str:
        """Return an adjective (in the masculine) with a noun, both in the nominative."""
        found = _noun(noun)
        grammemes = {"nomn", "plur"} if found.tag.number == "plur" else {"nomn", "sing", _noun_gender(found)}
        return f"{_inflect(_parse(adjective, 'ADJF', 'PRTF'), adjective, grammemes)} {noun}"

    def count(self, number: object, noun: str) -> str:
        """Return a number with its noun: `5 матчей`."""
        if not isinstance(number, int):
            raise KeyError(f"{number!r} is no number")
        return f"{_digits(number)} {_counted(noun, number)}"

    def verb(self, lemma: str, value: object) -> str:
        """Return a verb in the past, with `+` in the present or future, with `*` as a short passive participle."""
        gender = value.gender if isinstance(value, Person) else _gender(value)
        return _verb(lemma, gender)

    def polish(self, text: str) -> str:
        """Return a sentence with `об`, `во` and `со` where the next word needs them."""
        text = re.sub(r"\b([Оо]) (?=[«]?[аэиоуАЭИОУ])", r"\1б ", text)
        text = re.sub(r"\b([Вв]) (?=[вфВФ][бвгджзклмнпрстфхцчшщ])", r"\1о ", text)
        return re.sub(r"\b([Сс]) (?=[сзСЗ][бвгджзклмнпрстфхцчшщ])", r"\1о ", text)


def _digits(number: int) -> str:
    return f"{number:,}".replace(",", " ") if number >= 10_000 else str(number)


# Nouns whose form after a number is another word, or no noun in the dictionary: one, few, many.
_COUNTED = {
    "человек": ("человек", "человека", "человек"),
    "ребёнок": ("ребёнок", "ребёнка", "детей"),
    "рабочий": ("рабочий", "рабочих", "рабочих"),
    "год": ("год", "года", "лет"),
    "раз": ("раз", "раза", "раз"),
}


@cache
def _counted(noun: str, number: int) -> str:
    many = 11 <= number % 100 <= 14 or not 1 <= number % 10 <= 4
    place = 2 if many else 0 if number % 10 == 1 else 1
    if noun in _COUNTED:
        return _COUNTED[noun][place]
    if noun.endswith(".gen"):
        return _genitive(noun.removesuffix(".gen"), number)
    *before, word = noun.split(" ")
    head = _noun(word)
    counted = head.make_agree_with_number(number).word
    adjective = {"nomn", "sing", _noun_gender(head)} if place == 0 else {"gent", "plur"}
    return " ".join([*(_inflect(_parse(each, "ADJF", "PRTF"), each, adjective) for each in before), counted])


def _genitive(noun: str, number: int) -> str:
    """A counted noun in the genitive: `в течение 5 недель`, `хватит 21 дня`."""
    if number % 10 == 1 and number % 100 != 11:
        return _phrase(noun, "gen")
    return _COUNTED[noun][2] if noun in _COUNTED else str(_noun(noun).inflect({"gent", "plur"}).word)


@cache
def _verb(lemma: str, gender: str) -> str:
    mark = lemma[-1] if lemma[-1] in "+*" else ""
    *before, word = lemma.removesuffix(mark).split(" ")
    parsed = next(each for each in _ANALYZER.parse(word) if each.tag.POS == "INFN")
    number = {"plur"} if gender == "plur" else {"sing"}
    agreed = {"plur"} if gender == "plur" else {"sing", gender}
    if mark == "*":
        found = parsed.inflect({"PRTS", "past", *agreed})
    elif mark == "+":
        tense = "futr" if "perf" in parsed.tag else "pres"
        found = parsed.inflect({"3per", tense, *number})
    else:
        found = parsed.inflect({"past", *agreed})
    if found is None:
        raise KeyError(f"no form of {lemma!r} for {gender}")
    return " ".join([*before, found.word])


def _person(person: Person, path: tuple[str, ...]) -> str:
    pronouns = _PRONOUNS[person.gender]
    if path and path[0] in pronouns:
        return pronouns[path[0]]
    parts = {"last": False, "first": True}
    only = next((name for name in path if name in parts), None)
    case = next((name for name in path if name in CASES), None)
    first = _name(person.first, "Name", person.gender, case)
    last = _name(person.surname, "Surn", person.gender, case)
    return last if only == "last" else first if only == "first" else f"{first} {last}"


@cache
def _name(name: str, kind: str, gender: str, case: str | None) -> str:
    for parsed in _ANALYZER.parse(name):
        if kind in parsed.tag and (kind == "Surn" or parsed.tag.gender == gender):
            found = parsed.inflect({CASES.get(case or "", "nomn"), "sing", gender})
            if found is not None:
                return str(found.word).capitalize()
    raise KeyError(f"{name!r} is no {kind}")


@cache
def _phrase(text: str, case: str | None) -> str:
    if case is None:
        return text
    words = text.split(" ")
    head = _head(text)
    noun = _noun(words[head])
    number = "plur" if noun.tag.number == "plur" else "sing"
    gender = noun.tag.gender or "masc"
    wanted = CASES[case]
    words[head] = _inflect(noun, words[head], {wanted, number})
    for index in range(head):
        adjective = _parse(_bare(words[index]), "ADJF", "PRTF", "ADJS")
        if adjective is None:
            continue
        grammemes = {wanted, "plur"} if number == "plur" else {wanted, "sing", gender}
        if wanted == "accs" and (number == "plur" or gender == "masc"):
            grammemes.add("anim" if "anim" in noun.tag else "inan")
        words[index] = _inflect(adjective, words[index], grammemes)
    return " ".join(words)


@cache
def _head(text: str) -> int:
    words = text.split(" ")
    for index, word in enumerate(words):
        if _parse(_bare(word), "ADJF", "PRTF") is None or index == len(words) - 1:
            return index
    return 0


@cache
def _gender(value: object) -> str:
    if not isinstance(value, Phrase):
        raise KeyError(f"{value!r} has no gender")
    noun = _noun(value.text.split(" ")[_head(value.text)])
    return "plur" if noun.tag.number == "plur" else _noun_gender(noun)


def _noun_gender(noun: Any) -> str:
    return str(noun.tag.gender or "masc")


@cache
def _noun(word: str) -> Any:
    parsed = [each for each in _ANALYZER.parse(_bare(word)) if each.tag.POS == "NOUN" and "nomn" in each.tag]
    if not parsed:
        raise KeyError(f"{word!r} is no noun in the nominative")
    return parsed[0]


@cache
def _parse(word: str, *kinds: str) -> Any:
    for each in _ANALYZER.parse(word):
        if each.tag.POS in kinds and (each.tag.case in (None, "nomn")):
            return each
    return None


def _inflect(parsed: Any, word: str, grammemes: set[str]) -> str:
    found = parsed.inflect(grammemes)
    if found is None and "anim" in grammemes | {"inan"}:
        found = parsed.inflect(grammemes - {"anim", "inan"})
    if found is None:
        raise KeyError(f"no form {sorted(grammemes)} of {word!r}")
    bare = _bare(word)
    shaped = found.word.capitalize() if bare[:1].isupper() else found.word
    return word.replace(bare, shaped)


def _bare(word: str) -> str:
    return word.strip("«»")
