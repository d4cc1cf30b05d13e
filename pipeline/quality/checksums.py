"""The checksums of bank cards, SNILS and INN. Digits are ASCII; other characters are ignored."""

from __future__ import annotations

_FIRST_INN_WEIGHTS = (7, 2, 4, 10, 3, 5, 9, 4, 6, 8)
_SECOND_INN_WEIGHTS = (3, *_FIRST_INN_WEIGHTS)
_COMPANY_WEIGHTS = (2, 4, 10, 3, 5, 9, 4, 6, 8)
# SNILS up to this number have no checksum.
_FIRST_CHECKED_SNILS = 1_001_998


def is_card(text: str) -> bool:
    """Whether the digits are the number of a bank card: 13 to 19 digits, an issuer, Luhn's checksum (ISO/IEC 7812)."""
    digits = digits_of(text)
    if not 13 <= len(digits) <= 19 or not _is_issuer(digits):
        return False
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_snils(text: str) -> bool:
    """Whether the 11 digits are a SNILS: nine digits weighted 9 to 1, modulo 101 (100 counts as 0)."""
    digits = digits_of(text)
    number = int("".join(map(str, digits[:9])) or 0)
    weighted = sum(digit * weight for digit, weight in zip(digits, range(9, 0, -1), strict=False))
    return len(digits) == 11 and number > _FIRST_CHECKED_SNILS and weighted % 101 % 100 == digits[9] * 10 + digits[10]


def is_inn(text: str) -> bool:
    """Whether the digits are an INN of a company (10 digits) or of a person (12), by their check digits modulo 11."""
    digits = digits_of(text)
    if len(set(digits)) < 2:
        return False
    if len(digits) == 10:
        return _inn_digit(digits, _COMPANY_WEIGHTS) == digits[9]
    is_person = len(digits) == 12 and _inn_digit(digits, _FIRST_INN_WEIGHTS) == digits[10]
    return is_person and _inn_digit(digits, _SECOND_INN_WEIGHTS) == digits[11]


def digits_of(text: str) -> list[int]:
    """The ASCII digits of a text."""
    return [int(character) for character in text if "0" <= character <= "9"]


def _is_issuer(digits: list[int]) -> bool:
    """Visa, Mastercard, Mir, American Express, Maestro, UnionPay, Discover."""
    two, four = 10 * digits[0] + digits[1], int("".join(map(str, digits[:4])))
    return (
        digits[0] == 4
        or two in (34, 37, 50, *range(51, 59), 60, 62, 63, 65, 67)
        or 2200 <= four <= 2204
        or (2221 <= four <= 2720)
    )


def _inn_digit(digits: list[int], weights: tuple[int, ...]) -> int:
    return sum(digit * weight for digit, weight in zip(digits, weights, strict=False)) % 11 % 10
