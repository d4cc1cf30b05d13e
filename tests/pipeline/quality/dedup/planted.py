"""Texts with planted near-duplicates, and a slow and obvious deduplication to compare with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from tirazh.pipeline.quality.dedup.signatures import normalise


def news_texts(folder: Path, *, seed: int) -> list[str]:
    """6,757 Russian and English texts of 20 to 110 words."""
    chance = random.Random(seed)
    wanted = {"ru_news_nplus1.train": 2200, "en_news_agnews.train": 2000, "ru_news_ria.train": 500, "ru_text": 2057}
    texts = []
    for name, count in wanted.items():
        found = pq.read_table(folder / f"{name}.parquet", columns=["text"]).column(0).to_pylist()
        chance.shuffle(found)
        chosen = [text.split() for text in found if len(text.split()) >= 20][:count]
        texts += [" ".join(words[: chance.randint(20, 110)]) for words in chosen]
    return texts


def plant(texts: Sequence[str], count: int, *, seed: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Add `count` variants, with up to a fifth of their words replaced, another ending, or a run of words cut.

    Returns all texts, and (original, variant) as indices of them.
    """
    chance = random.Random(seed)
    vocabulary = [word for text in texts for word in text.split()]
    result, pairs = [*texts], []
    for _ in range(count):
        original = chance.randrange(len(texts))
        pairs.append((original, len(result)))
        result.append(_variant(texts[original].split(), vocabulary, chance))
    return result, pairs


def _variant(words: list[str], vocabulary: list[str], chance: random.Random) -> str:
    changed = round(len(words) * chance.random() * 0.2)
    start = {"replace": 0, "end": len(words) - changed, "cut": chance.randrange(len(words) - changed + 1)}
    kind = chance.choice(sorted(start))
    if kind == "replace":
        for place in chance.sample(range(len(words)), changed):
            words[place] = chance.choice(vocabulary)
        return " ".join(words)
    new = chance.choices(vocabulary, k=changed) if kind == "end" else []
    return " ".join([*words[: start[kind]], *new, *words[start[kind] + changed :]])


def similarity(one: str, other: str) -> float:
    """The Jaccard similarity of two texts: of the sets of their character 12-grams."""
    first, second = _ngrams(one), _ngrams(other)
    return len(first & second) / max(1, len(first | second))


def _ngrams(text: str) -> set[str]:
    text = normalise(text)
    return {text[start : start + 12] for start in range(len(text) - 11)}
