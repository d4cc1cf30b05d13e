"""Lay out the training set of the embedded model: labelled news as `classify` asks for them, and texts to go on with.

    python examples/embedded_data.py --data ../shared/data --out training-set
    python examples/new_model.py --data training-set/texts.parquet --out seed-model --vocab-size 8192
    tirazh finetune --model seed-model --input training-set/articles.parquet --output reader ...
    tirazh finetune --model reader --input training-set/train.parquet --completion-column completion \
                    --labels training-set/labels.yaml --packing single --output my-model ...

Writes `texts.parquet` (all that is read, as it is read: for the tokenizer and the first weights), `articles.parquet`
(whole ones, to learn to go on with), `train.parquet` (columns text, completion: a label, or a text of its own where
`text` is null), `watch.parquet` (labels of rows that are kept out) and `labels.yaml`. The same `--seed` gives the same
files. No row is taken that has an id, a title or a text in common with a held-out row, an evaluation's or the demo's.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import polars as pl
import yaml
from english_culture import culture_item

SOURCES = ("ru_news_lenta", "ru_news_nplus1", "ru_news_ria", "en_news_agnews")
COPIES = {"ru_news_lenta": 2, "ru_news_nplus1": 1, "ru_news_ria": 2, "en_news_agnews": 2}
DEMO_ITEMS = Path(__file__).resolve().parent.parent / "jobs/demo_data/news.jsonl"
TOPICS = {
    "economics": ("экономика", "Экономика", "economy", "Business"),
    "sport": ("спорт", "Спорт", "Sports"),
    "science": ("наука", "Наука и техника", "Наука", "Космос", "Технологии", "Гаджеты", "Sci/Tech"),
    "world": ("мир", "Мир", "World"),
    "culture": ("культура", "Культура", "culture"),
}  # the demo's labels: their Russian words, then the sources' categories that mean the same
TOPIC_ROWS = 900  # of each topic in each language
PROMPT_END = "\nТема:"  # of the default template of `tirazh classify`
LONGEST_PROMPT, LONGEST_TEXT = 420, 700  # characters
ARTICLE_TEXTS, BOOK_TEXTS = 3_000, 600
WATCHED = 40  # one row in so many is kept out of the training, to watch it
Row = tuple[str | None, str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class News:
    """One item; `text` is the title again where a source has headlines only."""

    source: str
    title: str
    text: str
    category: str

    def form(self, rng: random.Random) -> str:
        """As a prompt's text: the headline, the beginning of the article, or, most often, one behind the other."""
        if self.text == self.title:
            return self.title
        forms = (self.title, self.text, f"{self.title}\n{self.text}")
        longest = LONGEST_PROMPT if rng.random() < 0.5 else rng.randint(LONGEST_PROMPT // 4, LONGEST_PROMPT)
        return rng.choices(forms, (20, 25, 55))[0][:longest].strip()


def main() -> None:
    parser = argparse.ArgumentParser(description="Lay out the training set of the embedded model.")
    parser.add_argument("--data", type=Path, required=True, help="directory of the labelled news and the books")
    parser.add_argument("--out", type=Path, required=True, help="directory that receives the files")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    held_out = read_held_out(options.data)
    news = read_news(options.data, held_out)
    books = read_books(options.data, held_out)
    watched, taught = news[::WATCHED], [item for place, item in enumerate(news) if place % WATCHED]
    rows = labelled_rows(taught, rng) + topic_rows(taught, rng) + plain_rows(taught, books, rng)
    assert held_out.isdisjoint(part for row in rows for text in row if text for part in (text, *text.split("\n")))
    options.out.mkdir(parents=True, exist_ok=True)
    write_rows(options.out / "train.parquet", rows)
    write_rows(options.out / "watch.parquet", [(item.form(rng), item.category) for item in watched])
    read = [text if prompt is None else f"{prompt}{PROMPT_END} {text}" for prompt, text in rows]
    read += [f"{item.title}\n{item.text}"[:LONGEST_TEXT] for item in taught] + [book[:LONGEST_TEXT] for book in books]
    pl.DataFrame({"text": read}).write_parquet(options.out / "texts.parquet")
    labels = sorted({item.category for item in news} | TOPICS.keys() | {words[0] for words in TOPICS.values()})
    text = yaml.safe_dump({label: label for label in labels}, allow_unicode=True)
    (options.out / "labels.yaml").write_text(text, encoding="utf-8")
    write_articles(options.out / "articles.parquet", taught, books, rng)
    print(f"{len(rows):,} rows to train on, {len(watched):,} to watch, {len(labels)} labels in {options.out}")


def clean(text: str) -> str:
    """Without the backslashes that stand for line ends in AG News."""
    return text.replace("\\", " ").strip()


def read_held_out(folder: Path) -> set[str]:
    """Ids, titles and texts of all that is only measured on."""
    held_out = {json.loads(line)["text"] for line in DEMO_ITEMS.read_text(encoding="utf-8").splitlines()}
    for source in SOURCES:
        table = pl.read_parquet(folder / f"{source}.test.parquet")
        held_out |= {clean(value) for name in ("id", "title", "text") for value in table[name]}
    prompts = pl.read_parquet(folder / "ru_gen_eval.parquet")
    held_out |= set(prompts["source"].str.strip_prefix("nplus1 ")) | set(prompts["prompt"])
    return held_out


def read_news(folder: Path, held_out: set[str]) -> list[News]:
    """The training rows of all sources, but those that something held out repeats."""
    news = []
    for source in SOURCES:
        for row in pl.read_parquet(folder / f"{source}.train.parquet").iter_rows(named=True):
            item = News(source, clean(row["title"]), clean(row["text"]), row["category"])
            if held_out.isdisjoint((row["id"], item.title, item.text, *item.text.split("\n"))):
                news.append(item)
    return news


def read_books(folder: Path, held_out: set[str]) -> list[str]:
    """Literature, whole pieces; manuals are left out."""
    books = pl.read_parquet(folder / "ru_text.parquet").filter(pl.col("kind") != "docs")
    return [text for name, text in books.select("id", "text").iter_rows() if name not in held_out]


def labelled_rows(news: Sequence[News], rng: random.Random) -> list[Row]:
    """Every item with its source's own category, in as many forms as the source needs."""
    return [(item.form(rng), item.category) for item in news for _ in range(COPIES[item.source])]


def topic_rows(news: Sequence[News], rng: random.Random) -> list[Row]:
    """Items with the demo's labels, drawn evenly over languages and topics; the words in either language."""
    rows: list[Row] = []
    for topic, (russian, *categories) in TOPICS.items():
        for language in ("ru", "en"):
            items = [item for item in news if item.category in categories and item.source.startswith(language)]
            for _ in range(TOPIC_ROWS):
                # No English source has this category.
                is_composed = (topic, language) == ("culture", "en")
                text = culture_item(rng) if is_composed else rng.choice(items).form(rng)
                rows.append((text, rng.choice((topic, russian))))
    return rows


def plain_rows(news: Sequence[News], books: Sequence[str], rng: random.Random) -> list[Row]:
    """Beginnings of articles, and pieces of books, to be continued; no prompt stands before them."""
    articles = [item for item in news if item.text != item.title and item.source.startswith("ru")]
    rows: list[Row] = [(None, item.text[:LONGEST_TEXT]) for item in some(articles, ARTICLE_TEXTS, rng)]
    for book in some(books, BOOK_TEXTS, rng):
        begin = book.find("\n", rng.randrange(len(book))) + 1  # at a paragraph
        rows.append((None, book[begin : begin + LONGEST_TEXT].strip() or book[:LONGEST_TEXT]))
    return rows


def some(values: Sequence[T], count: int, rng: random.Random) -> list[T]:
    """So many of them at random, or all where there are no more."""
    return rng.sample(values, min(count, len(values)))


def write_articles(path: Path, news: Sequence[News], books: Sequence[str], rng: random.Random) -> None:
    """Whole articles and pieces of books, for a first training on text alone."""
    articles = [f"{item.title}\n{item.text}" for item in news if item.text != item.title]
    pl.DataFrame({"text": [*articles, *some(books, BOOK_TEXTS, rng)]}).write_parquet(path)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    pl.DataFrame(list(rows), schema={"text": pl.String, "completion": pl.String}, orient="row").write_parquet(path)


if __name__ == "__main__":
    main()
