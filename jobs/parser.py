"""An argparse parser that raises RequestError with one helpful sentence for a wrong command line."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from typing import Any, NoReturn

from tirazh.errors import RequestError, did_you_mean
from tirazh.jobs.flags import former_flag, owner_of
from tirazh.jobs.given_once import StoreOnce
from tirazh.jobs.settings import OTHER_NAMES
from tirazh.pipeline.settings import flag_name


class Parser(argparse.ArgumentParser):
    """Raises RequestError where argparse would print its usage and exit.

    Does not accept abbreviated flags.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)
        for name in (None, "store"):
            self.register("action", name, StoreOnce)

    def error(self, message: str) -> NoReturn:
        raise RequestError(_reworded(message, self.prog.split()[-1]))

    def flags(self) -> list[str]:
        """Return every long flag of this parser."""
        return [text for action in self._actions for text in action.option_strings if text.startswith("--")]


def parse(parser: Parser, commands: dict[str, Parser], argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line. Raises RequestError for unknown commands, flags and values."""
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        hint = did_you_mean(argv[0], commands) or f"; the commands are {', '.join(commands)}"
        raise RequestError(f"there is no command {argv[0]!r}{hint}")
    options, rest = parser.parse_known_args(argv)
    command = options.command
    if rest:
        raise RequestError(_unknown(rest[0], command, commands.get(command, parser), argv))
    if command is None:
        raise RequestError(f"no command was named; the commands are {', '.join(commands)}")
    return options


def _unknown(text: str, command: str | None, parser: Parser, argv: Sequence[str]) -> str:
    """Return the message for an argument that the command does not accept."""
    name = command or "the command line"
    if not text.startswith("-"):
        flag, value = _values_around(text, argv)
        if value:
            return f"{flag} takes one argument: put it in quotes, as in {flag} {shlex.quote(value)}"
        hint = "; did you mean --input?" if "--input" in parser.flags() else ""
        return f"{name} accepts no argument {text!r}{hint}"
    flag = text.split("=", 1)[0]
    # ru-gpts and transformers write flags with underscores.
    normalised = "--" + flag.lstrip("-").replace("_", "-").lower()
    if former_flag(normalised, command) is not None and normalised not in parser.flags():
        return f"{name} has no flag {flag}; {former_flag(normalised, command)}"
    other_name = OTHER_NAMES.get(normalised.removeprefix("--").replace("-", "_"), "")
    is_known = flag_name(other_name) in parser.flags()
    hint = f"; did you mean {flag_name(other_name)}?" if is_known else did_you_mean(normalised, parser.flags())
    if normalised not in parser.flags() and owner_of(normalised):
        hint = f"; {normalised} is a flag of `tirazh {owner_of(normalised)}`"
    lists = "tirazh --help" if command is None else f"tirazh {command} --help"
    return f"{name} has no flag {flag}{hint or f'; `{lists}` lists them'}"


def _values_around(text: str, argv: Sequence[str]) -> tuple[str, str]:
    """Return the flag before `text` and the words between this flag and the next, or two empty strings.

    The words are empty if the value of the flag does not end with a comma: then `text` does not belong to it.
    """
    at = list(argv).index(text)
    start = next((index for index in range(at - 1, -1, -1) if argv[index].startswith("--")), None)
    if start is None or not argv[at - 1].endswith(","):
        return "", ""
    end = next((index for index in range(at, len(argv)) if argv[index].startswith("-")), len(argv))
    flag, _, value = argv[start].partition("=")
    return flag, " ".join(filter(None, (value, *argv[start + 1 : end])))


def _reworded(message: str, command: str) -> str:
    """Reword a message of argparse."""
    flag, _, problem = message.removeprefix("argument ").partition(": ")
    flag = flag.split("/")[0]  # argparse names every spelling: "-q/--quiet"
    if message.startswith("the following arguments are required"):
        return f"{command} needs {problem}; see `tirazh {command} --help`"
    if problem == "expected one argument":
        return f"{flag} needs a value"
    if problem == "expected at least one argument":
        return f"{flag} needs at least one value"
    if match := re.fullmatch(r"invalid (\w+) value: (.*)", problem):
        return f"{flag} must be of type {match[1]}, not {match[2]}"
    return f"{flag} {problem}" if message.startswith("argument ") else message
