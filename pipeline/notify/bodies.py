"""The request that a receiver understands: Slack, Healthchecks, PagerDuty, Alertmanager, or any that takes JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tirazh.pipeline.notify.message import RunMessage
from tirazh.pipeline.notify.settings import Notification

_SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")
_HEALTHCHECKS_HOSTS = ("hc-ping.com", "healthchecks.io")
_PAGERDUTY_HOST = "pagerduty.com"
_ALERTS = "/api/v2/alerts"
_MAX_SUMMARY = 1_024  # PagerDuty refuses longer ones


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What is posted. The address is a secret."""

    address: str = field(repr=False)
    body: bytes = field(repr=False)


def make_request(notification: Notification, message: RunMessage) -> HttpRequest | None:
    """Return the request for a receiver, or None if it has a command only.

    Raises RequestError for a variable that is not set.
    """
    address = notification.address()
    if address is None:
        return None
    style = notification.style or style_of(address)
    if style == "healthchecks" and not message.is_success:
        address = _with_suffix(address, "fail")
    key = notification.routing_key.read() if notification.routing_key is not None else ""
    bodies: dict[str, Any] = {
        "slack": {"text": escape_slack(message.text + (f" · {message.report}" if message.report else ""))},
        "pagerduty": _pagerduty(message, key),
        "alertmanager": _alerts(message),
    }
    return HttpRequest(address, to_json(bodies.get(style, message.to_dict())))


def style_of(address: str) -> str:
    """The style that belongs to an address; "generic" for an unknown one."""
    split = urlsplit(address)
    host = (split.hostname or "").lower()
    if host in _SLACK_HOSTS:
        return "slack"
    if host in _HEALTHCHECKS_HOSTS or host.endswith(tuple(f".{each}" for each in _HEALTHCHECKS_HOSTS)):
        return "healthchecks"
    if host.endswith(_PAGERDUTY_HOST):
        return "pagerduty"
    return "alertmanager" if split.path.rstrip("/").endswith(_ALERTS) else "generic"


def escape_slack(text: str) -> str:
    """Escape the three characters with which Slack marks links and mentions."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def to_json(body: Any) -> bytes:
    """Serialise a body; text in any script stays readable."""
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def _with_suffix(address: str, suffix: str) -> str:
    split = urlsplit(address)
    return urlunsplit(split._replace(path=f"{split.path.rstrip('/')}/{suffix}"))


def _pagerduty(message: RunMessage, routing_key: str) -> dict[str, Any]:
    """An event of the Events API v2. A success resolves the incident that a failure of the same output opened."""
    return {
        "routing_key": routing_key,
        "event_action": "resolve" if message.is_success else "trigger",
        "dedup_key": f"tirazh-{hashlib.sha256(f'{message.kind} {message.output}'.encode()).hexdigest()[:32]}",
        "payload": {
            "summary": message.text[:_MAX_SUMMARY],
            "source": message.to_dict()["host"],
            "severity": "info" if message.is_success else "error",
            "timestamp": message.end,
            "component": "tirazh",
            "group": message.output,
            "class": message.kind,
            "custom_details": message.to_dict(),
        },
    }


def _alerts(message: RunMessage) -> list[dict[str, Any]]:
    """An alert as Prometheus sends it. A success ends the alert of the same output."""
    alert: dict[str, Any] = {
        "labels": {
            "alertname": "TirazhRunFailed",
            "severity": "error",
            "kind": message.kind,
            "output": message.output,
        },
        "annotations": {"summary": message.text, "exit_code": str(message.exit_code), "outcome": message.outcome},
        "startsAt": message.begin,
    }
    if message.is_success:
        alert["endsAt"] = message.end
    return [alert]
