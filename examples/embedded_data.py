"""Write the training set of the embedded model: labelled news as `classify` prompts, and plain texts.

    python -m examples.corpus.build --texts 200000 --out corpus.parquet
    python examples/embedded_data.py --data ../shared/data --corpus corpus.parquet --out training-set
    python examples/new_model.py --data training-set/texts.parquet --out seed-model --vocab-size 8192
    tirazh finetune --model seed-model --input training-set/articles.parquet --output reader ...
    tirazh finetune --model reader --input training-set/train.parquet --completion-column completion \
                    --labels training-set/labels.yaml --packing single --output my-model ...

Writes these files; the same `--seed` gives the same files:

- `texts.parquet`: every training text in its final form, for the tokenizer and the initialisation;
- `articles.parquet`: whole articles, for pre-training on text alone;
- `train.parquet`: columns text and completion; the completion is a label, or plain text where `text` is null;
- `last.parquet`, with `--corpus`: the labelled rows and as many generated texts, for the last stage of a training;
- `watch.parquet`: labelled rows held out of training, to monitor it;
- `labels.yaml`: the labels.

A row that shares its id, title or text with a test row, an evaluation prompt or the demo is not
used.
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
COPIES = {"ru_news_lenta": 2, "ru_news_nplus1": 2, "ru_news_ria": 2, "en_news_agnews": 2}
DEMO_ITEMS = Path(__file__).resolve().parent.parent / "jobs/demo_data/news.jsonl"
TOPICS = {
    "economics": ("экономика", "Экономика", "economy", "Business"),
    "sport": ("спорт", "Спорт", "Sports"),
    "science": ("наука", "Наука и техника", "Наука", "Космос", "Технологии", "Гаджеты", "Sci/Tech"),
    "world": ("мир", "Мир", "World"),
    "culture": ("культура", "Культура", "culture"),
}  # the demo's labels: the Russian word, then the sources' categories with the same meaning
TOPIC_ROWS = 900  # of each topic in each language
PROMPT_END = "\nТема:"  # of the default template of `tirazh classify`
LONGEST_PROMPT, LONGEST_TEXT = 420, 700  # characters
ARTICLE_TEXTS, BOOK_TEXTS = 3_000, 600
WATCHED = 40  # one row in 40 is held out of training, to monitor it
Row = tuple[str | None, str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class News:
    """A news item; `text` repeats the title when the source has headlines only."""

    source: str
    title: str
    text: str
    category: str

    def form(self, rng: random.Random) -> str:
        """Return the text for a prompt: the headline, the start of the article, or (most often) both."""
        if self.text == self.title:
            return self.title
        forms = (self.title, self.text, f"{self.title}\n{self.text}")
        longest = LONGEST_PROMPT if rng.random() < 0.5 else rng.randint(LONGEST_PROMPT // 4, LONGEST_PROMPT)
        return rng.choices(forms, (20, 25, 55))[0][:longest].strip()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the training set of the embedded model.")
    parser.add_argument("--data", type=Path, required=True, help="directory of the labelled news and the books")
    parser.add_argument("--out", type=Path, required=True, help="directory that receives the files")
    parser.add_argument("--corpus", type=Path, help="Parquet file of generated texts, which are added as plain texts")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    held_out = read_held_out(options.data)
    news = read_news(options.data, held_out)
    books = read_books(options.data, held_out)
    watched, training = news[::WATCHED], [item for index, item in enumerate(news) if index % WATCHED]
    rows = labelled_rows(training, rng) + topic_rows(training, rng) + plain_rows(training, books, rng)
    last = list(rows)
    if options.corpus is not None:
        generated = corpus_rows(options.corpus)
        rows += generated + window_rows(training, rng)
        last += sample(generated, len(last), rng)
    assert held_out.isdisjoint(part for row in rows for text in row if text for part in (text, *text.split("\n")))
    options.out.mkdir(parents=True, exist_ok=True)
    write_rows(options.out / "train.parquet", rows)
    if options.corpus is not None:
        write_rows(options.out / "last.parquet", last)
    write_rows(options.out / "watch.parquet", [(item.form(rng), item.category) for item in watched])
    read = [text if prompt is None else f"{prompt}{PROMPT_END} {text}" for prompt, text in rows]
    read += [f"{item.title}\n{item.text}"[:LONGEST_TEXT] for item in training] + [book[:LONGEST_TEXT] for book in books]
    pl.DataFrame({"text": read}).write_parquet(options.out / "texts.parquet")
    labels = sorted({item.category for item in news} | TOPICS.keys() | {words[0] for words in TOPICS.values()})
    text = yaml.safe_dump({label: label for label in labels}, allow_unicode=True)
    (options.out / "labels.yaml").write_text(text, encoding="utf-8")
    write_articles(options.out / "articles.parquet", training, books, rng)
    print(f"{len(rows):,} rows to train on, {len(watched):,} to watch, {len(labels)} labels in {options.out}")


def clean(text: str) -> str:
    """Remove the backslashes that stand for line ends in AG News."""
    return text.replace("\\", " ").strip()


def read_held_out(folder: Path) -> set[str]:
    """Return the ids, titles and texts of all items that are used for evaluation only."""
    held_out = {json.loads(line)["text"] for line in DEMO_ITEMS.read_text(encoding="utf-8").splitlines()}
    for source in SOURCES:
        table = pl.read_parquet(folder / f"{source}.test.parquet")
        held_out |= {clean(value) for name in ("id", "title", "text") for value in table[name]}
    prompts = pl.read_parquet(folder / "ru_gen_eval.parquet")
    held_out |= set(prompts["source"].str.strip_prefix("nplus1 ")) | set(prompts["prompt"])
    return held_out


def read_news(folder: Path, held_out: set[str]) -> list[News]:
    """Return the training rows of all sources, without those that repeat a held-out item."""
    news = []
    for source in SOURCES:
        for row in pl.read_parquet(folder / f"{source}.train.parquet").iter_rows(named=True):
            item = News(source, clean(row["title"]), clean(row["text"]), row["category"])
            if held_out.isdisjoint((row["id"], item.title, item.text, *item.text.split("\n"))):
                news.append(item)
    return news


def read_books(folder: Path, held_out: set[str]) -> list[str]:
    """Return whole literary texts, without manuals."""
    books = pl.read_parquet(folder / "ru_text.parquet").filter(pl.col("kind") != "docs")
    return [text for name, text in books.select("id", "text").iter_rows() if name not in held_out]


def labelled_rows(news: Sequence[News], rng: random.Random) -> list[Row]:
    """Return every item with its source's category, in one or two forms (see `COPIES`)."""
    return [(item.form(rng), item.category) for item in news for _ in range(COPIES[item.source])]


def topic_rows(news: Sequence[News], rng: random.Random) -> list[Row]:
    """Return items with the demo's labels in Russian or English, sampled evenly over languages and topics."""
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
    """Return the starts of articles and excerpts of books, without a prompt."""
    articles = [item for item in news if item.text != item.title and item.source.startswith("ru")]
    rows: list[Row] = [(None, item.text[:LONGEST_TEXT]) for item in sample(articles, ARTICLE_TEXTS, rng)]
    for book in sample(books, BOOK_TEXTS, rng):
        start = book.find("\n", rng.randrange(len(book))) + 1  # the start of a paragraph
        rows.append((None, book[start : start + LONGEST_TEXT].strip() or book[:LONGEST_TEXT]))
    return rows


def corpus_rows(path: Path) -> list[Row]:
    """Return the generated texts (`examples/corpus`) as plain texts."""
    return [(None, text) for text in pl.read_parquet(path)["text"]]


def window_rows(news: Sequence[News], rng: random.Random) -> list[Row]:
    """Return every article in windows of at most LONGEST_TEXT characters, so that all of its text is read once."""
    rows: list[Row] = []
    for item in news:
        start = 0
        while start < len(item.text) and item.text != item.title:
            length = rng.randint(LONGEST_TEXT // 2, LONGEST_TEXT)
            end = item.text.find(" ", start + length)
            window = item.text[start : end if end > 0 else len(item.text)].strip()
            rows.append((None, window))
            start = end + 1 if end > 0 else len(item.text)
    return rows


def sample(values: Sequence[T], count: int, rng: random.Random) -> list[T]:
    """Sample `count` values without replacement, or all when there are fewer."""
    return rng.sample(values, min(count, len(values)))


def write_articles(path: Path, news: Sequence[News], books: Sequence[str], rng: random.Random) -> None:
    """Write whole articles and books, for pre-training on text alone."""
    articles = [f"{item.title}\n{item.text}" for item in news if item.text != item.title]
    pl.DataFrame({"text": [*articles, *sample(books, BOOK_TEXTS, rng)]}).write_parquet(path)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    pl.DataFrame(list(rows), schema={"text": pl.String, "completion": pl.String}, orient="row").write_parquet(path)


if __name__ == "__main__":
    main()
