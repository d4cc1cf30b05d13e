"""Generates English news items about culture from sentence patterns.

No English source of the embedded model's training set has this category.
"""

from __future__ import annotations

import random

WORDS = {
    "who": "actress actor director novelist poet painter composer conductor pianist guitarist singer playwright "
    "choreographer photographer sculptor cellist screenwriter dancer rapper architect",
    "art": "novel film movie play opera ballet album musical painting documentary book poem comedy drama sculpture "
    "thriller memoir song symphony cartoon",
    "adj": "acclaimed controversial long-awaited debut latest forgotten award-winning intimate ambitious low-budget "
    "classic modern",
    "n": "two three four six seven 12 20 30 40 50 80 100",
}
PHRASES = {
    "place": "London,Paris,New York,Berlin,Los Angeles,Venice,Madrid,Chicago,Vienna,Toronto,Dublin,Rome,Edinburgh,"
    "Hollywood,Broadway,Cannes",
    "venue": "gallery,museum,opera house,theater,concert hall,cinema,festival,library,art school,film studio",
    "subject": "a family secret,wartime love,a small fishing town,growing up poor,a jazz trumpeter,an aging magician,"
    "two brothers,a village school,the life of a saint,lost friendship,a seaside hotel,immigrant cooks",
}
CHOICES = {name: words.split() for name, words in WORDS.items()} | {
    name: phrases.split(",") for name, phrases in PHRASES.items()
}
PATTERNS = """\
The {who}'s {adj} {art} about {subject} opened to rave reviews in {place}.
A {venue} in {place} will show {n} works by the {adj} {who} starting next week.
The {adj} {art} topped the box office for a second weekend, studios said.
Critics called the {who}'s new {art} the best of the year.
The {who} will publish a {art} about {subject} this autumn.
The {venue} says that its stolen {art} has been found in {place} after {n} years.
An exhibition of drawings and prints at the {place} {venue} drew record crowds.
The jury of the {place} {venue} gave its top award to a {adj} {art}.
The band will release a {adj} live album and tour {n} cities with a string section.
A {adj} {art} set in {place} was nominated for {n} awards, including best actress.
The {who}, whose {art} sold a million copies, signed a deal for a sequel.
The {venue} has hired a new artistic director, a former {who} from {place}.
A manuscript of a {art} by a 19th century {who} sold at auction in {place} for a record sum.
Fans lined up outside the {venue} to see the {who} premiere a {art} about {subject}.
The orchestra opened its season in {place} with a {adj} program of chamber music.
A stage version of the {adj} {art} begins its run in {place} in March.
The {who} says the {art} was inspired by {subject}.
Readers voted the {art} about {subject} the favorite book of the decade.
Restorers at a {place} {venue} have cleaned a Renaissance painting hidden for {n} years.
The {who} will play the lead in a remake of the {adj} {art}.
A poetry prize went to a {who} from {place} for verses about {subject}.
Television viewers gave the {adj} drama about {subject} its highest ratings.
The {place} ballet will dance a {adj} version of a fairy tale with sets by a {who}.
The {venue} marks {n} years with a retrospective of a {adj} {who}.
Two actors and a {who} will read from the {adj} {art} at the {place} {venue}.
The soundtrack of the {art} about {subject} was recorded with a choir in {place}.
The {who} was honored at the {place} film awards on Sunday night.
The new wing of the {place} {venue} opens with paintings lent by {n} collectors.""".split("\n")


def culture_item(rng: random.Random) -> str:
    """Return an item of one or two sentences."""
    return " ".join(_sentence(rng) for _ in range(rng.choice((1, 2))))


def _sentence(rng: random.Random) -> str:
    return rng.choice(PATTERNS).format_map({name: rng.choice(words) for name, words in CHOICES.items()})
