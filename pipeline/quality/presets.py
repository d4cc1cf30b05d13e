"""The presets of `filters:`: thresholds for short texts, from titles to articles.

Names and ideas are those of Gopher (Rae et al. 2021, appendix A1.1), C4 (Raffel et al. 2020) and FineWeb (Penedo et al.
2024). Their thresholds are for web pages: Gopher drops every text of fewer than 50 words. These are set so that at most
1 % of human titles, paragraphs and articles fail (`tests/pipeline/quality/test_presets.py`).
"""

from __future__ import annotations

from typing import Any

_SHORT: dict[str, Any] = {
    "finished": True,
    "min_chars": 8,
    "min_words": 2,
    "max_uppercase": 0.6,
    "max_symbols": 0.1,
    "max_non_letters": 0.5,
    "max_duplicate_lines": 0.3,
    "max_repeated_ngrams": {"n": 3, "share": 0.2},
    "max_top_ngram": {"n": 2, "share": 0.3},
    "no_placeholder": True,
}

PRESETS: dict[str, dict[str, Any]] = {
    "short-ru": {
        **_SHORT,
        "language": "ru",
        "mean_word_length": [3, 12],
        "min_stop_words": {"language": "ru", "share": 0.05, "from_words": 30},
    },
    "short-en": {
        **_SHORT,
        "language": "en",
        "mean_word_length": [2.5, 12],
        "min_stop_words": {"language": "en", "share": 0.1, "from_words": 30},
    },
}
