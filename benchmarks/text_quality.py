"""What a small model writes: words, sentences, repetition and forms, measured on its own completions.

    python -m benchmarks.text_quality --model embedded --corpus corpus.parquet --out table.md

The prompts are the beginnings of texts that `examples.corpus` makes from another seed than the corpus, and those of
`tirazh demo`. Completions are sampled at temperature 0.8 and top-p 0.95. Measured are, for each language:

- the share of words that a large word list has (pymorphy3 for Russian, wordfreq for English);
- the share of completions, cut at their last whole sentence, that end in `.`, `!` or `?`;
- the share of 4-grams of words that occur more than once in the same text;
- the share of distinct sentences, and of 13-grams of words that the corpus has as well;
- the share of dialogues, recommendations, JSON objects and few-shot answers that have their form.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import polars as pl

LANGUAGES = ("ru", "en")
_WORD = re.compile(r"[a-zа-яё]+(?:['’-][a-zа-яё]+)*", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_END = re.compile(r"[.!?][»\"”)]?$")
_SEED = 1_000_003  # not that of any corpus


@dataclass(frozen=True, kw_only=True, slots=True)
class TextShares:
    """Shares of one set of texts, from 0 to 1."""

    known_words: float
    ended_sentences: float
    repeated_4_grams: float
    distinct_sentences: float
    shared_13_grams: float


def text_shares(texts: Sequence[str], *, is_word: Callable[[str], bool], corpus: Iterable[str]) -> TextShares:
    """Measure texts against a word list, and against the texts that a model was trained on."""
    words = [[word.lower() for word in _WORD.findall(text)] for text in texts]
    all_words = [word for each in words for word in each]
    sentences = [sentence for text in texts for sentence in _SENTENCE.split(text.strip()) if sentence]
    # The last sentence of a completion may be cut by the limit of its tokens.
    whole = [sentence for text in texts for sentence in _SENTENCE.split(text.strip())[:-1]]
    last = [_SENTENCE.split(text.strip())[-1] for text in texts if text.strip()]
    grams = [_grams(each, 13) for each in words]
    wanted = {gram for each in grams for gram in each}
    found = wanted & {gram for text in corpus for gram in _grams(_lower_words(text), 13) if gram in wanted}
    return TextShares(
        known_words=_share(sum(map(is_word, all_words)), len(all_words)),
        ended_sentences=_share(len(whole) + sum(bool(_END.search(each)) for each in last), len(whole) + len(last)),
        repeated_4_grams=_mean([_repeated(_grams(each, 4)) for each in words if len(each) >= 4]),
        distinct_sentences=_share(len(set(sentences)), len(sentences)),
        shared_13_grams=_share(sum(gram in found for each in grams for gram in each), sum(map(len, grams))),
    )


def word_list(language: str) -> Callable[[str], bool]:
    """Return whether a lower-case word is in a large word list. Raises ImportError without its package."""
    if language == "ru":
        import pymorphy3

        analyzer = pymorphy3.MorphAnalyzer()
        return lambda word: bool(analyzer.word_is_known(word))
    import wordfreq

    known = wordfreq.get_frequency_dict("en", wordlist="large")
    return lambda word: word in known or word.removesuffix("'s") in known


def has_turns(dialogue: str) -> bool:
    """Whether all lines behind the prompt are turns, and no one answers himself."""
    roles = [line.split(": ", 1)[0] for line in dialogue.strip().split("\n")]
    is_known = set(roles) <= {"system", "user", "assistant"}
    return is_known and all(one != other for one, other in itertools.pairwise(roles))


def is_title_list(text: str, language: str) -> bool:
    """Whether a completion is a list of titles: in quotation marks in Russian, with capitals in English."""
    line = text.strip().split("\n")[0].rstrip(".")
    items = [item.strip() for item in line.split(", ")]
    if language == "ru":
        return bool(items) and all(re.fullmatch(r"«[^«»]{2,40}»", item) for item in items)
    return bool(items) and all(re.fullmatch(r"[A-Z][A-Za-z' ]{1,40}", item) for item in items)


def is_json(text: str) -> bool:
    """Whether the first line of a completion is a JSON object."""
    try:
        return isinstance(json.loads(text.strip().split("\n")[0]), dict)
    except ValueError:
        return False


def prompts(language: str, kind: str, number: int) -> list[str]:
    """Return beginnings of texts of a kind that no corpus has: the model has to go on."""
    from examples.corpus.build import makers

    rng = random.Random(_SEED)
    make = makers(language, rng)[kind]
    found: list[str] = []
    while len(found) < number:
        cut = _cut(make(), kind, rng)
        if cut is not None:
            found.append(cut)
    return found


def _cut(text: str, kind: str, rng: random.Random) -> str | None:
    """The part of a text that is the prompt; None if it has none."""
    if kind == "dialogue":
        return text[: text.rindex("assistant: ") + len("assistant:")]
    if kind == "recommendation":
        lines = text.split("\n")
        return "\n".join([*lines[:-1], lines[-1][: lines[-1].index(": ") + 1]]) if len(lines) > 1 else None
    if kind == "json_items":
        # Without the brace: the tokenizer has one token for it and the quotation mark behind it.
        return text[: text.index("{")].rstrip(" ")
    if kind == "topic_lines":
        return text[: text.rindex(": ") + 1] if text.count(": ") >= 4 else None
    words = text.split(" ")
    return " ".join(words[: rng.randint(3, 6)]) if len(words) > 12 else None


def complete(model: str, asked: Sequence[str], *, max_new_tokens: int, seed: int) -> list[str]:
    """Return a completion of every prompt, sampled at temperature 0.8 and top-p 0.95."""
    import tirazh

    with tempfile.TemporaryDirectory() as folder:
        tirazh.generate(
            input=pl.DataFrame({"number": range(len(asked)), "prompt": list(asked)}),
            output=f"{folder}/out",
            model=model,
            max_new_tokens=max_new_tokens,
            temperature=0.8,
            top_p=0.95,
            seed=seed,
        )
        made = pl.read_parquet(f"{folder}/out/*.parquet").sort("number")["completion"]
    return [text or "" for text in made]


def _lower_words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _grams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


def _repeated(grams: Sequence[tuple[str, ...]]) -> float:
    return 1 - len(set(grams)) / len(grams)


def _share(count: int, total: int) -> float:
    return count / total if total else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _forms(
    model: str, language: str, number: int, seed: int, *, show: Callable[[str, Sequence[str]], object]
) -> dict[str, float]:
    """The shares of completions that have the form of their kind. `show` receives each kind and its texts."""
    from examples.corpus.items import TOPIC_WORDS

    made = {
        kind: (asked, complete(model, asked, max_new_tokens=120 if kind == "json_items" else 40, seed=seed))
        for kind in ("dialogue", "recommendation", "json_items", "topic_lines")
        for asked in [prompts(language, kind, number)]
    }
    for kind, (asked, texts) in made.items():
        show(f"{language} {kind}", [f"{prompt}⟶{text}" for prompt, text in zip(asked, texts, strict=True)])
    dialogues = [has_turns(prompt + text) for prompt, text in zip(*made["dialogue"], strict=True)]
    labels = set(TOPIC_WORDS[language].values())
    return {
        "dialogue": _share(sum(dialogues), number),
        "recommendation": _share(sum(is_title_list(text, language) for text in made["recommendation"][1]), number),
        "json": _share(sum(is_json(text) for text in made["json_items"][1]), number),
        "few_shot": _share(
            sum(text.strip().split("\n")[0] in labels for text in made["topic_lines"][1]),
            number,
        ),
    }


def main() -> None:
    """Measure a model and write a table in Markdown."""
    parser = argparse.ArgumentParser(description="Measure what a small model writes.")
    parser.add_argument("--model", default="embedded", help="model directory")
    parser.add_argument("--corpus", type=Path, help="Parquet file of the texts that the model was trained on")
    parser.add_argument(
        "--number", type=int, default=200, help="continuations of each language; half of it of each form"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=0, help="texts of each kind to print, the first ones drawn")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    corpus = pl.read_parquet(options.corpus) if options.corpus else None
    lines = ["| figure | " + " | ".join(LANGUAGES) + " |", "|---|" + "---|" * len(LANGUAGES)]
    columns = []

    def show(kind: str, texts: Sequence[str]) -> None:
        for text in texts[: options.samples]:
            print(f"[{kind}] {text}")

    for language in LANGUAGES:
        asked = prompts(language, "article", options.number)
        made = complete(options.model, asked, max_new_tokens=200, seed=options.seed)
        known = corpus.filter(pl.col("language") == language)["text"].to_list() if corpus is not None else []
        show(f"{language} article", [f"{prompt}⟶{text}" for prompt, text in zip(asked, made, strict=True)])
        shares = text_shares(
            [f"{prompt}{text}" for prompt, text in zip(asked, made, strict=True)],
            is_word=word_list(language),
            corpus=known,
        )
        values = {field.name: getattr(shares, field.name) for field in fields(shares)}
        columns.append(values | _forms(options.model, language, options.number // 2, options.seed, show=show))
    for name in columns[0]:
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(f"{each[name]:.1%}" for each in columns) + " |")
    text = "\n".join(lines) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
