"""Actions of argparse that refuse a flag which is given twice: argparse itself would silently take the last."""

from __future__ import annotations

import argparse
from typing import Any


class StoreOnce(argparse._StoreAction):
    """Stores the value of a flag."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *rest: Any) -> None:
        if self.option_strings:
            _refuse_another(self, namespace, rest[0])
        super().__call__(parser, namespace, *rest)


class BooleanOnce(argparse.BooleanOptionalAction):
    """Stores true for `--flag` and false for `--no-flag`."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *rest: Any) -> None:
        _refuse_another(self, namespace, not str(rest[1]).startswith("--no-"))
        super().__call__(parser, namespace, *rest)


class DisableOnce(argparse._StoreFalseAction):
    """Stores false for `--no-flag`, which takes back a flag that has an optional value."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *rest: Any) -> None:
        _refuse_another(self, namespace, False)
        super().__call__(parser, namespace, *rest)


def _refuse_another(action: argparse.Action, namespace: argparse.Namespace, value: Any) -> None:
    """Raise ArgumentError if the flag was given before with another value."""
    before = getattr(namespace, action.dest, action.default)
    if before is not action.default and before != value:
        raise argparse.ArgumentError(action, f"is given twice ({before}, then {value}); give it once")
