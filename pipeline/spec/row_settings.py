"""Checks of the settings of `generate` about single rows: the columns that are kept, and their examples."""

from __future__ import annotations

from collections.abc import Sequence

from tirazh.errors import RequestError, did_you_mean
from tirazh.pipeline.schema import KEEPABLE


def check_keep(names: Sequence[str]) -> None:
    """Raise RequestError for a name in --keep that cannot be kept."""
    for name in names:
        if name not in KEEPABLE:
            raise RequestError(
                f"--keep may contain {' and '.join(KEEPABLE)}, not {name!r}{did_you_mean(name, KEEPABLE)}; the columns "
                "of the input are always kept"
            )


def check_examples(examples: str | None, shots: int, *, has_template: bool) -> None:
    """Raise RequestError for --examples without --shots or the other way round, and for both without a template."""
    if shots < 0:
        raise RequestError(f"--shots must be at least 0, not {shots}")
    if shots and examples is None:
        raise RequestError(f"--shots {shots} needs --examples FILE.parquet, from which every row draws its examples")
    if examples is not None and not shots:
        raise RequestError("--examples needs --shots K, the number of examples that every row draws from the file")
    if shots and not has_template:
        raise RequestError(
            "--examples needs a --template with a place for them, such as '{% for example in examples %}"
            "{{ example.text }}{% endfor %}'"
        )
