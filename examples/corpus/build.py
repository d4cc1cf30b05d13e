"""Write a corpus of generated texts as Parquet, for the training of a small model that writes simple sentences.

    pip install pymorphy3
    python -m examples.corpus.build --texts 400000 --out corpus.parquet

Each row has `language` ("ru" or "en"), `kind` and `text`. The same seed gives the same rows, and a text is there
once only. Names, numbers and events are invented.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import polars as pl

from examples.corpus.english import English
from examples.corpus.english_world import ENGLISH_WORLD
from examples.corpus.items import Maker
from examples.corpus.russian import Russian
from examples.corpus.russian_world import RUSSIAN_WORLD

# kind → its share of the texts.
SHARES = {
    "article": 0.45,
    "topic_lines": 0.15,
    "titles": 0.08,
    "dialogue": 0.12,
    "recommendation": 0.1,
    "json_items": 0.1,
}
_ATTEMPTS = 50


def makers(language: str, rng: random.Random) -> Mapping[str, Callable[[], str]]:
    """Return the functions that make a text of each kind in a language."""
    maker = Maker(RUSSIAN_WORLD, Russian(), rng) if language == "ru" else Maker(ENGLISH_WORLD, English(), rng)
    return {kind: getattr(maker, kind) for kind in SHARES}


def texts(number: int, *, seed: int = 0, languages: tuple[str, ...] = ("ru", "en")) -> Iterator[tuple[str, str, str]]:
    """Yield `number` distinct texts as (language, kind, text), of all languages and kinds in a random order.

    Raises ValueError if so many distinct texts of a kind cannot be made.
    """
    rng = random.Random(seed)
    make = {language: makers(language, rng) for language in languages}
    seen: set[str] = set()
    kinds = rng.choices(list(SHARES), list(SHARES.values()), k=number)
    for kind in kinds:
        language = rng.choice(languages)
        for _ in range(_ATTEMPTS):
            text = make[language][kind]()
            if text not in seen:
                break
        else:
            raise ValueError(f"no more distinct texts of the kind {kind} in {language!r}; ask for fewer texts")
        seen.add(text)
        yield language, kind, text


def main() -> None:
    """Write the corpus and print how many texts and characters it has of each kind."""
    parser = argparse.ArgumentParser(description="Write a corpus of generated Russian and English texts.")
    parser.add_argument("--texts", type=int, default=400_000, help="number of texts")
    parser.add_argument("--out", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = list(texts(options.texts, seed=options.seed))
    table = pl.DataFrame(rows, schema={"language": pl.String, "kind": pl.String, "text": pl.String}, orient="row")
    table.write_parquet(options.out)
    characters: Counter[str] = Counter()
    for language, kind, text in rows:
        characters[f"{language} {kind}"] += len(text)
    for name, count in sorted(characters.items()):
        print(f"{name}: {count:,} characters")


if __name__ == "__main__":
    main()
