"""Figures about generated texts: repeated texts, distinct n-grams, and texts that look like JSON but are not.

Everything is counted over a sample, and told as such.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# Texts that begin like JSON are checked if they are at least this share of all.
_LIKELY_JSON = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFigures:
    """`texts` were sampled; `distinct` of them differ. `distinct_2` is the number of different word pairs divided
    by all word pairs (Li et al. 2016), None without pairs. `json_texts` begin like JSON, and `json_valid` of them
    parse.
    """

    texts: int
    distinct: int
    distinct_2: float | None
    json_texts: int
    json_valid: int

    @property
    def repeated(self) -> int:
        """Texts that equal an earlier one."""
        return self.texts - self.distinct

    @property
    def looks_like_json(self) -> bool:
        """Whether JSON seems to have been wanted."""
        return self.texts > 0 and self.json_texts >= _LIKELY_JSON * self.texts


def count_texts(texts: Sequence[str]) -> TextFigures:
    """Count the figures of some texts."""
    pairs: Counter[tuple[str, str]] = Counter()
    for text in texts:
        pairs.update(pairwise(text.casefold().split()))
    begins = [text for text in texts if text.lstrip()[:1] in ("{", "[")]
    return TextFigures(
        texts=len(texts),
        distinct=len({" ".join(text.casefold().split()) for text in texts}),
        distinct_2=len(pairs) / pairs.total() if pairs else None,
        json_texts=len(begins),
        json_valid=sum(map(_is_json, begins)),
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
