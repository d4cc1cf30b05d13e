"""Masks personal data: e-mail addresses, telephone numbers, bank cards, Russian documents and IP addresses.

A find is replaced with its kind, such as `<email>`. Every pattern is bounded, so its time is linear in the text.
Standard library only, so that a spec can check its kinds.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tirazh.errors import RequestError, did_you_mean
from tirazh.pipeline.quality.checksums import is_card, is_inn, is_snils

_GAP = "[ \u00a0\u2009\u202f‑–-]"
_BREAK = "[ \u00a0\u2009\u202f]"
_MAX_PASSES = 100
# Words before four numbers that are no address.
_NO_IP = r"(?<!верси[яию]\s)(?<!version\s)(?<!раздел\s)(?<!раздел[аеу]\s)(?<!section\s)"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
_RUN = re.compile(r"[0-9]+")
# Numbers are searched only around groups of digits with at most `_MAX_GAP` characters between two of them, so most of a
# text is not looked at. The context before holds a word such as "паспорт", the characters after are for look-ahead.
_MIN_DIGITS, _MAX_GAP, _CONTEXT, _LOOK_AHEAD = 7, 12, 64, 4
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', flags=re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Kind:
    """`patterns` find candidates, of which the group `value`, or all of it, is replaced if `is_valid` says so.

    A text in which `hint` is not found has none. Without a hint it is a kind of number.
    """

    patterns: tuple[re.Pattern[str], ...]
    hint: re.Pattern[str] | None = None
    is_valid: Callable[[str], bool] = lambda found: True


def _compiled(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, flags=re.IGNORECASE) for pattern in patterns)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    # `Bad::Face` in a program is a valid IPv6 address too.
    return ":" not in text or (len([group for group in text.split(":") if group]) >= 3 and any(map(str.isdigit, text)))


def _has_phone_length(text: str) -> bool:
    return 8 <= sum(map(str.isdigit, text)) <= 15


def _is_series(text: str) -> bool:
    """Whether ten digits begin with a region and the year of the form (1997 to 2035), as in a Russian passport."""
    digits = "".join(filter(str.isdigit, text))
    return len(digits) != 10 or (digits[:2] != "00" and not 35 < int(digits[2:4]) < 97)


# In the order in which they are applied: what has a checksum goes before what looks like a telephone number.
_KINDS: dict[str, _Kind] = {
    "email": _Kind(
        _compiled(r"(?<!\w)(?<!\w[.+'-])\w[\w.+'-]{0,63}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?!\w)"),
        hint=re.compile("@"),
    ),
    "ip": _Kind(
        _compiled(
            rf"{_NO_IP}(?<![\w.])(?:{_OCTET}\.){{3}}{_OCTET}(?!\w|\.\w)",
            r"(?<![\w:.])[0-9a-f:]{6,39}(?![\w:])",
        ),
        hint=re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|:[0-9A-Fa-f]{0,4}:"),
        is_valid=_is_ip,
    ),
    "card": _Kind(
        _compiled(
            r"(?<![\w+])[2-6][0-9]{14,15}(?!\w)",
            rf"(?<![\w+])[2-6][0-9]{{3}}(?:{_GAP}[0-9]{{4}}){{3}}{_GAP}[0-9]{{1,3}}(?!\w)",
            rf"(?<![\w+])[2-6][0-9]{{3}}(?:{_GAP}[0-9]{{4}}){{3}}(?!\w)",
            rf"(?<![\w+])3[47][0-9]{{2}}{_GAP}[0-9]{{6}}{_GAP}[0-9]{{5}}(?!\w)",
        ),
        is_valid=is_card,
    ),
    "snils": _Kind(
        _compiled(
            rf"(?<![\w+-])[0-9]{{3}}{_GAP}[0-9]{{3}}{_GAP}[0-9]{{3}}{_GAP}[0-9]{{2}}(?!\w|-[0-9])",
            r"(?<!\w)снилс[^0-9\n<]{0,20}(?P<value>[0-9]{11})(?!\w)",
        ),
        is_valid=is_snils,
    ),
    "inn": _Kind(
        _compiled(
            r"(?<![\w+])[0-9]{12}(?!\w)",
            r"(?<!\w)(?:инн|inn)[^0-9\n<]{0,20}(?P<value>[0-9]{10}|[0-9]{12})(?!\w)",
        ),
        is_valid=is_inn,
    ),
    "passport": _Kind(
        _compiled(
            rf"(?:паспорт|сери[яию]|passport)[^0-9\n<]{{0,40}}(?P<value>[0-9]{{2}}{_GAP}?[0-9]{{2}},?{_BREAK}?"
            rf"(?:№|n|номер|no\.?)?{_BREAK}?[0-9]{{6}})(?!\w)",
            rf"(?<!\w)(?<![0-9]{_GAP})[0-9]{{2}}{_BREAK}[0-9]{{2}}{_BREAK}(?:№{_BREAK}?)?[0-9]{{6}}(?!\w|{_GAP}[0-9])",
            rf"(?<!\w)[0-9]{{4}}{_BREAK}?№{_BREAK}?[0-9]{{6}}(?!\w)",
            rf"(?:паспорт|passport)[^0-9\n<]{{0,40}}(?P<value>[0-9]{{2}}{_BREAK}?(?:№{_BREAK}?)?[0-9]{{7}})(?!\w)",
        ),
        is_valid=_is_series,
    ),
    "phone": _Kind(
        _compiled(
            rf"(?<![\w+])(?:\+7|8|7){_GAP}?\(?[3489][0-9]{{2}}\)?{_GAP}?[0-9]{{3}}{_GAP}?[0-9]{{2}}{_GAP}?[0-9]{{2}}(?!\w)",
            rf"\([0-9]{{3,5}}\){_BREAK}?[0-9]{{1,3}}-[0-9]{{2}}-[0-9]{{2}}(?!\w|-[0-9])",
            r"(?<![\w+])\+[1-9][0-9 \u00a0().‑–-]{6,22}[0-9](?!\w)",
            rf"(?<![\w-])(?:\([2-9][0-9]{{2}}\){_BREAK}?|[2-9][0-9]{{2}}[.-])[2-9][0-9]{{2}}[.-][0-9]{{4}}(?!\w|[.-][0-9])",
        ),
        is_valid=lambda found: found[0] != "+" or _has_phone_length(found),
    ),
}
PII_KINDS = ("email", "phone", "card", "snils", "inn", "passport", "ip")


def parse_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """Check the setting `pii` and return its kinds in the order in which they are applied. Raises RequestError."""
    for kind in kinds:
        if kind not in _KINDS:
            close = did_you_mean(kind, PII_KINDS) or f"; the kinds are {', '.join(PII_KINDS)}"
            raise RequestError(f"--pii: there is no kind {kind!r}{close}")
    return tuple(kind for kind in _KINDS if kind in kinds)


def mask_texts(texts: Sequence[str | None], kinds: Sequence[str]) -> tuple[list[str | None], dict[str, int]]:
    """Mask the kinds (see `parse_kinds`) in each text; returns the texts and the number of masks of each kind."""
    counts = dict.fromkeys(kinds, 0)
    return [None if text is None else _mask(text, kinds, counts) for text in texts], counts


def mask_json_strings(texts: Sequence[str | None], kinds: Sequence[str]) -> tuple[list[str | None], dict[str, int]]:
    """As `mask_texts`, for texts in JSON: they stay JSON, because only their strings are masked.

    A text that is not JSON is masked as a whole.
    """
    counts = dict.fromkeys(kinds, 0)

    def mask_literal(found: re.Match[str]) -> str:
        value = json.loads(found[0], strict=False)
        masked = _mask(value, kinds, counts)
        has_surrogates = any("\ud800" <= character <= "\udfff" for character in masked)
        return found[0] if masked == value else json.dumps(masked, ensure_ascii=has_surrogates)

    def mask_one(text: str) -> str:
        masked = _mask(text, kinds, dict.fromkeys(kinds, 0))
        if masked == text and "\\" not in text:  # an escape may hide the start of a number
            return text
        return _JSON_STRING.sub(mask_literal, text) if _is_json(text) else _mask(text, kinds, counts)

    return [None if text is None else mask_one(text) for text in texts], counts


def _mask(text: str, kinds: Sequence[str], counts: dict[str, int]) -> str:
    """Mask until nothing is found: a mask may end what hid its neighbour."""
    for _ in range(_MAX_PASSES):
        before = text
        for name in kinds:
            hint = _KINDS[name].hint
            if hint is not None and hint.search(text):
                text = _mask_kind(text, name, counts)
        text = _mask_numbers(text, [name for name in kinds if _KINDS[name].hint is None], counts)
        if text == before:
            break
    return text


def _mask_numbers(text: str, names: Sequence[str], counts: dict[str, int]) -> str:
    """Mask the kinds of numbers, in the parts of the text that have enough digits."""
    done, pieces = 0, []
    for start, end in _numbers_in(text) if names else ():
        piece = text[start:end]
        for name in names:
            piece = _mask_kind(piece, name, counts)
        pieces += [text[done:start], piece]
        done = end
    return "".join([*pieces, text[done:]]) if pieces else text


def _numbers_in(text: str) -> list[tuple[int, int]]:
    """The parts of a text around groups of digits that are close together and have at least `_MIN_DIGITS` digits."""
    groups: list[list[int]] = []  # start, end and number of digits
    for run in _RUN.finditer(text):
        start, end = run.span()
        if groups and start - groups[-1][1] <= _MAX_GAP:
            groups[-1][1] = end
            groups[-1][2] += end - start
        else:
            groups.append([start, end, end - start])
    parts: list[tuple[int, int]] = []
    for start, end, digits in groups:
        if digits < _MIN_DIGITS:
            continue
        first, last = max(0, start - _CONTEXT), min(len(text), end + _LOOK_AHEAD)
        if parts and first <= parts[-1][1]:
            first = parts.pop()[0]
        parts.append((first, last))
    return parts


def _mask_kind(text: str, name: str, counts: dict[str, int]) -> str:
    kind = _KINDS[name]

    def replace(found: re.Match[str]) -> str:
        value = found["value"] if "value" in found.re.groupindex else found[0]
        if not kind.is_valid(value):
            return found[0]
        counts[name] += 1
        return f"{found[0][: len(found[0]) - len(value)]}<{name}>"  # a value ends its match

    for pattern in kind.patterns:
        text = pattern.sub(replace, text)
    return text


def _is_json(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True
