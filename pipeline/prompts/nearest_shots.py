"""Few-shot examples that are nearest to a row's text, by the cosine of TF-IDF vectors.

The terms are groups of 3 to 5 characters inside words. Russian inflection changes the ends of words, so forms of a
word share most of their groups, whereas as whole words they would have nothing in common; no stemmer is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

_CHARACTERS = (3, 5)
# So many numbers of a table of similarities are held at once: 16 MiB.
_MAX_SIMILARITIES = 1 << 21
# The last bits of a similarity may differ between kinds of CPUs; those that are equal so far count as equal.
_DECIMALS = 9
# The beginning of a text says its subject; more of it takes time.
_MAX_CHARACTERS = 1 << 13
# The vectors of so many characters take some hundred MB in every process that makes prompts.
MAX_ALL_CHARACTERS = 8_000_000


@dataclass(frozen=True, slots=True)
class NearestShots:
    """The examples from which every row takes the `count` nearest.

    `texts` are the texts to classify, `written` the examples as they stand in a prompt, in an order that follows from
    their content; of examples that are equally near, the first ones are taken. `separator` follows every example.
    """

    count: int
    texts: tuple[str, ...]
    written: tuple[str, ...] = field(repr=False)
    separator: str

    @property
    def num_characters(self) -> int:
        """The characters of all texts that are compared."""
        return sum(min(len(text), _MAX_CHARACTERS) for text in self.texts)

    def choose(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the indices of the examples for each text, the nearest last. An example with the same text is never
        taken. What is chosen for a text does not depend on the other texts."""
        index = _index(self)
        rows = max(1, _MAX_SIMILARITIES // len(self.texts))
        return [
            chosen
            for start in range(0, len(texts), rows)
            for chosen in self._choose(index, texts[start : start + rows])
        ]

    def head(self, chosen: Sequence[int]) -> str:
        """The text of the chosen examples before a prompt."""
        return "".join(self.written[each] + self.separator for each in chosen)

    def _choose(self, index: _Index, texts: Sequence[str]) -> list[list[int]]:
        vectors = index.vectorizer.transform([text[:_MAX_CHARACTERS] for text in texts])
        similarities_NE = np.round((vectors @ index.vectors.T).toarray(), _DECIMALS)
        found = []
        for text, similarities_E in zip(texts, similarities_NE, strict=True):
            similarities_E[index.places.get(text, [])] = -1
            own = len(index.places.get(text, []))
            count = min(self.count, len(self.texts) - own)
            order = np.argsort(-similarities_E, kind="stable")[:count]
            found.append([int(each) for each in order[::-1]])
        return found


@dataclass(frozen=True, slots=True)
class _Index:
    """`vectors` are those of the examples, `places` the indices of the examples by their text."""

    vectorizer: TfidfVectorizer
    vectors: Any
    places: dict[str, list[int]]


@lru_cache(maxsize=2)
def _index(shots: NearestShots) -> _Index:
    """Fit the vectors on the examples, once in every process."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=_CHARACTERS, sublinear_tf=True)
    vectors = vectorizer.fit_transform([text[:_MAX_CHARACTERS] for text in shots.texts])
    places: dict[str, list[int]] = {}
    for place, text in enumerate(shots.texts):
        places.setdefault(text, []).append(place)
    return _Index(vectorizer, vectors, places)
