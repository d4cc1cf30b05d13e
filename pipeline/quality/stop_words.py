"""Frequent function words of Russian and English. A text without them is a list or word salad."""

from __future__ import annotations

from functools import cache

from tirazh.pipeline.quality.characters import Hashes
from tirazh.pipeline.quality.words import hashes_of

_WORDS = {
    "ru": """
        и в во не на я с со что а по как но из у за от к ко о об же бы для до или ли если то это этот эта эти этого
        он она они оно мы вы ты его ее их ему ей им мне нам вам так только уже еще при без над под про через между
        после перед который которая которое которые которых которого был была было были быть есть нет чтобы когда
        где все всех всего свой своей своих также потому поэтому более тем там тут здесь может чем ни да сам
    """,
    "en": """
        the a an and or but not of to in on at by for from with as is are was were be been being has have had do
        does did will would can could should may might this that these those it its he she they we you i his her
        their our your him them who which what when where while if than then so there after before over under into
        out up about no more most all also such only other some any s t
    """,
}


@cache
def stop_words(language: str | None) -> Hashes:
    """The sorted hashes of the stop words of `ru`, of `en`, or with None of both."""
    texts = _WORDS.values() if language is None else [_WORDS[language]]
    return hashes_of(word for text in texts for word in text.split())
