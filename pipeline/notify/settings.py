"""The section `notify` of a job file: who is told about the end of a run, and when.

An address gives access to whoever knows it, so it is a secret: messages of this module never show it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from tirazh.errors import RequestError, did_you_mean
from tirazh.pipeline.storage.secrets import holds_secret

EVENTS = ("success", "failure", "change")
STYLES = ("generic", "slack", "healthchecks", "pagerduty", "alertmanager")
KEYS = ("url", "command", "on", "style", "routing_key")
DEFAULT_EVENTS = ("success", "failure")
ENVIRONMENT = "env:"
_PAGERDUTY = "https://events.pagerduty.com/v2/enqueue"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Secret:
    """A value as the job file gives it: the value itself, or `env:NAME` for that of an environment variable."""

    text: str = field(repr=False)

    @property
    def is_reference(self) -> bool:
        """Whether the text names a variable, so that it may be shown."""
        return self.text.startswith(ENVIRONMENT)

    def read(self) -> str:
        """Return the value. Raises RequestError if the variable is not set."""
        if not self.is_reference:
            return self.text
        name = self.text.removeprefix(ENVIRONMENT)
        value = os.environ.get(name, "").strip()
        if not value:
            raise RequestError(f"notify: the environment variable {name} is not set on the machine that runs the job")
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Notification:
    """One receiver. It has a `url`, a `command` or both; `style` is that of the body, None to derive it from the url.

    `on` are the events of `EVENTS` that it is told about. `routing_key` is the integration key of PagerDuty.
    """

    url: Secret | None = None
    command: tuple[str, ...] = field(default=(), repr=False)
    on: tuple[str, ...] = DEFAULT_EVENTS
    style: str | None = None
    routing_key: Secret | None = None

    def wants(self, outcome: str, previous: str | None) -> bool:
        """Whether it is told about a run that ended with `outcome` after one that ended with `previous`.

        None for `previous`: there was no earlier run, or how it ended is not known; this counts as a change.
        """
        is_success = outcome == "success"
        if ("success" if is_success else "failure") in self.on:
            return True
        return "change" in self.on and (previous is None or is_success != (previous == "success"))

    def address(self) -> str | None:
        """The address to send to. Raises RequestError if its variable is not set or holds no address."""
        if self.url is None:
            return None
        address = self.url.read()
        if self.url.is_reference:
            _check_address(address, f"notify: the value of {self.url.text.removeprefix(ENVIRONMENT)}")
        return address


def read_notifications(section: Any, *, place: str = "") -> tuple[Notification, ...]:
    """Return the receivers of a section: a mapping, or a list of mappings.

    `place` is shown before a message, such as "job.yaml line 3: ". Raises RequestError for anything unknown, and for
    a variable that is not set.
    """
    found = parse_notifications(section, place=place)
    for each in found:
        each.address()
        if each.routing_key is not None:
            each.routing_key.read()
    return found


def parse_notifications(section: Any, *, place: str = "") -> tuple[Notification, ...]:
    """Like `read_notifications`, for a machine that does not run the job: variables need not be set."""
    if section is None:
        return ()
    entries = section if isinstance(section, Sequence) and not isinstance(section, str) else [section]
    return tuple(_parse(entry, place) for entry in entries)


def public_section(section: Any) -> Any | None:
    """Return the section if it holds no secret, else None: one of whose addresses or commands may be one."""
    for each in parse_notifications(section):
        secrets = [secret for secret in (each.url, each.routing_key) if secret is not None]
        if not all(secret.is_reference for secret in secrets):
            return None
        if any("://" in word or holds_secret(word) for word in each.command):
            return None
    return section


def _parse(entry: Any, place: str) -> Notification:
    if not isinstance(entry, Mapping):
        raise RequestError(f"{place}notify must hold url: or command:, such as {{url: env:SLACK_URL, on: [failure]}}")
    for key in entry:
        if key not in KEYS:
            hint = did_you_mean(str(key), KEYS) or f"; it has {', '.join(KEYS)}"
            raise RequestError(f"{place}notify has no key {str(key)!r}{hint}")
    url = _secret(entry.get("url"), "url", place)
    command = _command(entry.get("command"), place)
    style = _style(entry.get("style"), place)
    routing_key = _secret(entry.get("routing_key"), "routing_key", place)
    if url is None and (style == "pagerduty" or routing_key is not None):
        url = Secret(_PAGERDUTY)
    if url is None and not command:
        raise RequestError(f"{place}notify needs url: or command:")
    if url is not None and not url.is_reference:
        _check_address(url.text, f"{place}notify: url")
    if style == "pagerduty" and routing_key is None:
        raise RequestError(f"{place}notify: style pagerduty needs routing_key:, the integration key of the service")
    return Notification(
        url=url, command=command, on=_events(entry.get("on"), place), style=style, routing_key=routing_key
    )


def _events(value: Any, place: str) -> tuple[str, ...]:
    if value is None:
        return DEFAULT_EVENTS
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, Sequence) or not values:
        raise RequestError(f"{place}notify: on must be one of {', '.join(EVENTS)}, or a list of these")
    for each in values:
        if each not in EVENTS:
            hint = did_you_mean(str(each), EVENTS)
            raise RequestError(f"{place}notify: on must be one of {', '.join(EVENTS)}, not {str(each)!r}{hint}")
    return tuple(dict.fromkeys(values))


def _style(value: Any, place: str) -> str | None:
    if value is not None and value not in STYLES:
        hint = did_you_mean(str(value), STYLES)
        raise RequestError(f"{place}notify: style must be one of {', '.join(STYLES)}, not {str(value)!r}{hint}")
    return None if value is None else str(value)


def _secret(value: Any, name: str, place: str) -> Secret | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise RequestError(f"{place}notify: {name} must be a text, such as env:SLACK_URL")
    secret = Secret(value.strip())
    if secret.is_reference and not _VARIABLE.fullmatch(secret.text.removeprefix(ENVIRONMENT)):
        raise RequestError(f"{place}notify: {name} must name a variable after env:, such as env:SLACK_URL")
    return secret


def _command(value: Any, place: str) -> tuple[str, ...]:
    if value is None:
        return ()
    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        raise RequestError(f"{place}notify: command has an open quote: {error}") from None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
        raise RequestError(f"{place}notify: command must be a program with its arguments, as a text or a list of texts")
    return tuple(words)


def _check_address(address: str, what: str) -> None:
    """Raise RequestError, which never shows the address, unless it begins with http:// or https://."""
    try:
        split = urlsplit(address)
        has_port = split.port is None or split.port > 0
    except ValueError:
        split, has_port = SplitResult("", "", "", "", ""), False
    is_clean = address.isprintable() and not any(map(str.isspace, address))
    if split.scheme not in ("http", "https") or not split.hostname or not has_port or not is_clean:
        raise RequestError(f"{what} must be an address that begins with http:// or https://, or env:NAME")
