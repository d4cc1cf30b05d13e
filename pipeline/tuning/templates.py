"""Built-in prompt templates of `tirazh tune`: neutral ones, in Russian and English, with the list of labels or without.

`TEXT` stands for the text column and `LABELS` for the words of all labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

TEXT, LABELS = "<text>", "<labels>"

RUSSIAN = {
    "topic": f"{TEXT}\nТема:",
    "category": f"{TEXT}\nРубрика:",
    "text-topic": f"Текст: {TEXT}\nТема:",
    "list-topic": f"Темы: {LABELS}.\n\nТекст: {TEXT}\nТема:",
    "question-list": f"Текст: {TEXT}\nВопрос: к какой категории относится текст: {LABELS}?\nОтвет:",
}
ENGLISH = {
    "topic": f"{TEXT}\nTopic:",
    "category": f"{TEXT}\nCategory:",
    "text-topic": f"Text: {TEXT}\nTopic:",
    "list-topic": f"Topics: {LABELS}.\n\nText: {TEXT}\nTopic:",
    "question-list": f"Text: {TEXT}\nQuestion: which category does the text belong to: {LABELS}?\nAnswer:",
}
# What a template would read as its own syntax.
_SYNTAX = ("{{", "{%", "{#", "}}", "%}", "#}")
# A longer list would fill the prompts of short texts.
MAX_LISTED_CHARACTERS = 400


def built_in_templates(words: Sequence[str], *, text_column: str, texts: Sequence[str]) -> Mapping[str, str]:
    """Return the templates of the language of `texts`, by name.

    Those with the list of labels are left out for `words` that are too long together or contain template syntax.
    """
    listed = ", ".join(word.strip() for word in words)
    can_list = len(listed) <= MAX_LISTED_CHARACTERS and not any(mark in listed for mark in _SYNTAX)
    templates = RUSSIAN if is_russian(texts) else ENGLISH
    variable = f"{{{{ {text_column} }}}}" if text_column.isidentifier() else f"{{{{ row[{json.dumps(text_column)}] }}}}"
    return {
        name: template.replace(TEXT, variable).replace(LABELS, listed)
        for name, template in templates.items()
        if can_list or LABELS not in template
    }


def is_russian(texts: Sequence[str]) -> bool:
    """Whether most letters of the texts are Cyrillic."""
    letters = [character for text in texts for character in text[:1_000] if character.isalpha()]
    cyrillic = sum("\u0400" <= character <= "\u04ff" for character in letters)
    return 2 * cyrillic > len(letters)
