"""Other kinds of texts than plain news: topic lines, few-shot layouts, dialogues, recommendations and JSON.

The layouts are those of the example jobs in `examples/ru` and `examples/en`, and of some others like them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from examples.corpus.news import TOPICS, News, make_news
from examples.corpus.patterns import Language, sentence
from examples.corpus.worlds import FOLDER, World

# English topic → its word, by language.
TOPIC_WORDS = {
    "ru": {"sport": "спорт", "economics": "экономика", "science": "наука", "world": "мир", "culture": "культура"},
    "en": {topic: topic for topic in TOPICS},
}
# (before a text, before its topic): layouts of topic lines.
LAYOUTS = {
    "ru": (("Новость: ", "Категория: "), ("Текст: ", "Тема: "), ("", "Тема: "), ("Заметка: ", "Рубрика: ")),
    "en": (("News: ", "Category: "), ("Text: ", "Topic: "), ("", "Тема: "), ("Article: ", "Section: ")),
}
_STYLES = {"ru": ("сухо", "живо", "коротко", "просто"), "en": ("dry", "lively", "short", "plain")}
_JSON_HEADS = {
    "ru": ("Тема: {topic}. Стиль: {style}.\nНовость:", "Тема: {topic}\nJSON:", "Новость в виде JSON, тема: {topic}.\n"),
    "en": ("Topic: {topic}. Style: {style}.\nNews:", "Topic: {topic}\nJSON:", "A news item as JSON, topic: {topic}.\n"),
}


@dataclass(frozen=True)
class Maker:
    """Makes texts in one language."""

    world: World
    language: Language
    rng: random.Random

    @property
    def name(self) -> str:
        """The name of the language: "ru" or "en"."""
        return self.world.language

    def news(self, topic: str | None = None, *, details: int | None = None) -> News:
        """Make a news item; of any topic without one."""
        return make_news(topic or self.rng.choice(TOPICS), self.world, self.language, self.rng, details=details)

    def article(self) -> str:
        """Return a news item as running text: with its title, or without."""
        news = self.news()
        return self.rng.choice((news.text, news.text, f"{news.title}\n{news.text}", f"{news.title}\n\n{news.text}"))

    def topic_lines(self) -> str:
        """Return one to six news items with their topics, in one layout: a few-shot prompt with its answers."""
        text, label = self.rng.choice(LAYOUTS[self.name])
        number = self.rng.choice((1, 1, 2, 3, 4, 6))
        gap = self.rng.choice(("\n", "\n\n")) if number > 1 else "\n"
        items = [self.news(details=self.rng.choice((0, 0, 1))) for _ in range(number)]
        lines = [f"{text}{news.text}\n{label}{TOPIC_WORDS[self.name][news.topic]}" for news in items]
        return gap.join(lines)

    def titles(self) -> str:
        """Return articles by topic and title, as the steps of `examples/*/steps.yaml` ask for them."""
        news = self.news()
        topic = TOPIC_WORDS[self.name][news.topic]
        heads = ("Тема", "Заголовок", "Текст") if self.name == "ru" else ("Topic", "Title", "Text")
        return f"{heads[0]}: {topic}\n{heads[1]}: {news.title}\n{heads[2]}: {news.text}"

    def dialogue(self) -> str:
        """Return a talk with one to three questions and answers, with its system turn or without."""
        content = _dialogues(self.name)
        talk = self.rng.choice(content["talks"])
        values = self.world.draw_all(talk["slots"], self.rng)
        lines = []
        if self.rng.random() < 0.75:
            lines.append(f"system: {self.rng.choice(content['systems'][talk['system']])}")
        turns = talk["turns"]
        for turn in turns[: self.rng.randint(1, len(turns))]:
            asked = self.rng.randrange(len(turn["ask"]))
            lines.append(f"user: {sentence(turn['ask'][asked], values, self.language, self.rng)}")
            answers = turn["answer"]
            chosen = answers[asked] if len(answers) == len(turn["ask"]) else self.rng.choice(answers)
            lines.append(f"assistant: {sentence(chosen, values, self.language, self.rng)}")
        return "\n".join(lines)

    def recommendation(self) -> str:
        """Return one to three people with the titles that they like best."""
        lines = [self._likes() for _ in range(self.rng.choice((1, 1, 2, 3)))]
        return "\n".join(lines)

    def json_items(self) -> str:
        """Return a prompt, and a news item or a person as a JSON object."""
        if self.rng.random() < 0.3:
            return self._json_person()
        news = self.news(details=self.rng.choice((0, 1)))
        topic = TOPIC_WORDS[self.name][news.topic]
        head = self.rng.choice(_JSON_HEADS[self.name]).format(topic=topic, style=self.rng.choice(_STYLES[self.name]))
        fields = {"title": news.title, "body": news.text, "category": topic}
        if self.rng.random() < 0.3:
            del fields["category"]
        gap = "" if head.endswith("\n") else " "
        return f"{head}{gap}{json.dumps(fields, ensure_ascii=False)}"

    def _likes(self) -> str:
        person = self.world.draw("fan", self.rng)
        titles = [str(self.world.draw("bare_title", self.rng)) for _ in range(self.rng.choice((2, 3, 3, 3, 4)))]
        age = self.rng.randint(18, 79)
        if self.name == "ru":
            listed = ", ".join(f"«{title}»" for title in titles)
            years = self.language.count(age, "год")
            what = self.rng.choice(("фильмы", "книги", "песни", "спектакли"))
            who = f"{self.language.form(person, ('job',)).capitalize()} {self.language.form(person, ('first',))}"
            return f"{who}, {years}, больше всего любит {what}: {listed}."
        what = self.rng.choice(("films", "books", "songs", "plays"))
        who = f"{self.language.form(person, ('first',))} the {self.language.form(person, ('job',))}"
        return f"{who}, {age}, likes these {what} best: {', '.join(titles)}."

    def _json_person(self) -> str:
        person = self.world.draw("fan", self.rng)
        city = self.language.form(self.world.draw("city", self.rng), ())
        fields: dict[str, Any] = {
            "name": self.language.form(person, ()),
            "age": self.rng.randint(18, 79),
            "city": city,
            "job": self.language.form(person, ("job",)),
        }
        if self.rng.random() < 0.5:
            fields["likes"] = [str(self.world.draw("bare_title", self.rng)) for _ in range(self.rng.randint(1, 3))]
        head = "Человек в виде JSON:" if self.name == "ru" else "A person as JSON:"
        return f"{head} {json.dumps(fields, ensure_ascii=False)}"


@cache
def _dialogues(language: str) -> Mapping[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / language / "dialogues.yaml").read_text(encoding="utf-8"))
    return found
