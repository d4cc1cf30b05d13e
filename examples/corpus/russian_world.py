"""The people and things of Russian stories."""

from __future__ import annotations

import random
from dataclasses import dataclass

from examples.corpus.russian import Person, Phrase, Russian
from examples.corpus.worlds import Draw, World, words

_PLAIN = (  # lists whose items are used as they are
    *("score", "round", "sport_kind", "sport_by", "robot_task", "protest_theme", "prize", "century", "festival"),
    *("journal", "weekday_in", "month_in", "month_gen", "month_of", "season_in", "exhibit", "treaty", "art_theme"),
)


@dataclass(frozen=True, slots=True)
class Worker(Person):
    """A person with a job, in the nominative; the form `job` is the job."""

    job: str


def person(rng: random.Random, gender: str | None = None) -> Person:
    """Return a person with an invented name."""
    gender = gender or rng.choice(("masc", "femn"))
    first = rng.choice(words("ru")["first_masc" if gender == "masc" else "first_femn"])
    return Person(first, rng.choice(words("ru")["surnames"]), gender)


def worker(rng: random.Random, *, men: str, women: str | None) -> Worker:
    """Return a person with a job of the lists `men` and `women`; None means that women have the jobs of men, too."""
    found = person(rng)
    is_man = found.gender == "masc"
    jobs = words("ru")[men if is_man or women is None else women]
    return Worker(found.first, found.surname, found.gender, rng.choice(jobs))


def title(rng: random.Random) -> str:
    """Return the title of a work in quotation marks."""
    return f"«{bare_title(rng)}»"


def bare_title(rng: random.Random) -> str:
    """Return the title of a book or a film: `Старый мост`, `Дом у реки`, `Снег и ветер`."""
    russian = Russian()
    lists = words("ru")
    noun, other = rng.sample(lists["title_noun"], 2)
    kind = rng.randrange(6)
    if kind == 0:
        text = russian.agree(rng.choice(lists["title_adj"]), noun)
    elif kind == 1:
        preposition, case = rng.choice((("у", "gen"), ("без", "gen"), ("за", "ins"), ("под", "ins"), ("над", "ins")))
        text = f"{noun} {preposition} {russian.form(Phrase(other), (case,))}"
    elif kind == 2:
        text = f"{noun} и {other}"
    elif kind == 3:
        text = f"{noun} {russian.form(Phrase(russian.agree(rng.choice(lists['title_adj']), other)), ('gen',))}"
    elif kind == 4:
        whose = rng.choice(("тайна", "возвращение", "песня", "хозяин", "голос", "письма"))
        text = f"{whose} {russian.form(Phrase(other), ('gen',))}"
    else:
        text = noun
    return text[:1].upper() + text[1:]


def _quoted(name: str, noun: str) -> Phrase:
    return Phrase(f"{noun} «{name}»")


def _phrase(kind: str) -> Draw:
    return lambda rng: Phrase(rng.choice(words("ru")[kind]))


RUSSIAN_WORLD = World(
    "ru",
    {
        **{kind: _phrase(kind) for kind in words("ru") if kind not in _PLAIN},
        "club": lambda rng: Phrase(f"«{rng.choice(words('ru')['club_name'])}»"),
        "firm": lambda rng: _quoted(rng.choice(words("ru")["firm_name"]), rng.choice(words("ru")["firm_kind"])),
        "bank": lambda rng: _quoted(rng.choice(words("ru")["firm_name"]), rng.choice(("банк", "банк", "фонд"))),
        "person_any": person,
        "person_masc": lambda rng: person(rng, "masc"),
        "person_femn": lambda rng: person(rng, "femn"),
        "athlete": lambda rng: worker(rng, men="sport_masc", women="sport_femn"),
        "scientist": lambda rng: worker(rng, men="scientist_masc", women=None),
        "artist": lambda rng: worker(rng, men="artist_masc", women="artist_femn"),
        "title": title,
        "bare_title": bare_title,
        "fan": lambda rng: worker(rng, men="job_masc", women="job_femn"),
    },
)
