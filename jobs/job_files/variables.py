"""Variables of a job file: `{{ date }}`, `{{ yesterday }}`, those of `vars:` and those of `--set`.

They are replaced in the settings of `SUBSTITUTED` only, which name places, columns and machines. A template, a regular
expression or a label is never touched: their `{{ }}` belong to Jinja or to the text. A value is put in as it is: there
are no expressions, and a value that holds `{{ }}` itself is not replaced again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from tirazh.errors import RequestError, did_you_mean
from tirazh.jobs.yaml_values.labels import FILE_SUFFIXES

# The settings in which variables are replaced: paths and addresses, names of columns, and the prefix of new ones.
SUBSTITUTED = (
    *("input", "output", "model", "tokenizer", "deepspeed_config", "examples", "against", "calibrate"),
    *("eval_input", "label_input", "address", "endpoint_url"),
    *("prefix", "key", "text_column", "prompt_column", "completion_column", "label_column", "gold_column"),
    "schema_column",
)
# Settings that hold a file's path or the value itself: variables are replaced in the path alone.
FILE_OR_VALUE = ("labels", "questions", "priors", "vary", "schema", "filters", "dedup", "logit_bias", "search")
_LIST_SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
DAYS = ("date", "yesterday")
BUILT_IN = (*DAYS, "timezone")
_DIRECTIVES = ("%Y", "%m", "%d")
_PLACE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_INSIDE = re.compile(r"\s*(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*(?::(?P<format>[^{}]*?))?\s*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Variables:
    """The values of all variables by name. `given` are the names that `--set` gave."""

    values: Mapping[str, str]
    given: frozenset[str] = frozenset()

    def replace(self, text: str, *, place: str = "") -> str:
        """Replace every `{{ name }}` in a text. Raises RequestError for an unknown name and for anything else in it."""

        def value_of(match: re.Match[str]) -> str:
            inside = _INSIDE.fullmatch(match[1])
            if inside is None:
                raise RequestError(f"{place}{match[0]!r} is not a variable; write {{{{ date }}}} or {{{{ name }}}}")
            return self._value(inside["name"], inside["format"], place)

        replaced = _PLACE.sub(value_of, text)
        if "{{" in _PLACE.sub("", text):
            raise RequestError(f"{place}{text!r} has {{{{ without }}}}; write {{{{ date }}}} or {{{{ name }}}}")
        return replaced

    def refuse_unused(self, used: Collection[str]) -> None:
        """Raise RequestError for a name of `--set` that no text used: it would change nothing."""
        for name in sorted(self.given - {*used, *BUILT_IN}):
            hint = did_you_mean(name, {*used, *BUILT_IN}) or "; no setting of the job uses it"
            raise RequestError(f"--set {name}: there is no variable {name}{hint}")

    def _value(self, name: str, form: str | None, place: str) -> str:
        if name not in self.values:
            hint = did_you_mean(name, self.values) or f"; give it with --set {name}=VALUE"
            raise RequestError(f"{place}there is no variable {name}{hint}")
        return self.values[name] if form is None else _formatted(name, self.values[name], form, place)


def names_in(text: str) -> set[str]:
    """The names of the variables that a text uses."""
    found = map(_INSIDE.fullmatch, _PLACE.findall(text))
    return {match["name"] for match in found if match is not None}


def parse_set(text: str) -> tuple[str, str]:
    """Parse the value of `--set`, `name=value`. Raises RequestError."""
    name, sign, value = text.partition("=")
    if not sign or _NAME.fullmatch(name.strip()) is None:
        raise RequestError(f"--set must be NAME=VALUE, such as date=2026-11-23, not {text!r}")
    return name.strip(), value


def make_variables(
    section: Any, given: Sequence[str] = (), *, place: str = "", now: Callable[[], datetime] | None = None
) -> Variables:
    """The variables of a job: those built in, of `vars:` (`section`), and of `--set` (`given`), which overrides both.

    A value of `vars:` may use the days and the values before it. Raises RequestError for anything that is no variable.
    """
    chosen = _chosen(given)
    declared = _declared(section, place)
    zone = chosen.get("timezone", declared.get("timezone", "UTC"))
    days = _days(declared | chosen, zone, now or (lambda: datetime.now(UTC)))
    values: dict[str, str] = {"timezone": zone, **days}
    for name, text in declared.items():
        if name not in BUILT_IN:
            values[name] = chosen.get(name) or Variables(values=values).replace(text, place=f"{place}vars: {name}: ")
    return Variables(
        values=values | {name: chosen[name] for name in chosen if name not in BUILT_IN}, given=frozenset(chosen)
    )


def map_texts(name: str, value: Any, change: Callable[[str], str]) -> Any:
    """Apply `change` to the texts of the setting `name` in which variables are replaced; leave the others."""
    if name in SUBSTITUTED:
        if isinstance(value, list | tuple):
            return [change(item) if isinstance(item, str) else item for item in value]
        return change(value) if isinstance(value, str) else value
    if name not in FILE_OR_VALUE:
        return value
    if name == "vary" and isinstance(value, Mapping):
        return {key: _map_list(item, change) for key, item in value.items()}
    return change(value) if _is_file(value, FILE_SUFFIXES) else value


def _map_list(value: Any, change: Callable[[str], str]) -> Any:
    """A value of `vary` with its file changed: `FILE`, `FILE#COLUMN` or `{values: FILE, …}`."""
    if isinstance(value, Mapping) and _is_file(value.get("values"), _LIST_SUFFIXES):
        return {**value, "values": change(value["values"])}
    return change(value) if _is_file(value, _LIST_SUFFIXES) else value


def _is_file(value: Any, suffixes: tuple[str, ...]) -> bool:
    return isinstance(value, str) and "\n" not in value and value.partition("#")[0].lower().endswith(suffixes)


def _chosen(given: Sequence[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for text in given:
        name, value = parse_set(text)
        if chosen.setdefault(name, value) != value:
            raise RequestError(f"--set {name} is given twice ({chosen[name]}, then {value}); give it once")
    return chosen


def _declared(section: Any, place: str) -> dict[str, str]:
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise RequestError(f"{place}vars must be a mapping of names to values, such as {{region: ru}}")
    for name, value in section.items():
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise RequestError(f"{place}vars: {name!r} is not a name; use letters, digits and _")
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise RequestError(f"{place}vars: {name} must be a text or a number, not {value!r}")
    return {name: str(value) for name, value in section.items()}


def _days(chosen: Mapping[str, str], zone: str, now: Callable[[], datetime]) -> dict[str, str]:
    """`date` and `yesterday`: one of them may be given, and the other follows from it."""
    given = {name: _day(name, chosen[name]) for name in DAYS if name in chosen}
    today = given.get("date") or (given["yesterday"] + timedelta(days=1) if given else _today(zone, now))
    before = today - timedelta(days=1)
    if given.get("yesterday", before) != before:
        raise RequestError(f"date is {today} and yesterday {given['yesterday']}; give one of them")
    _today(zone, now)  # refuses an unknown zone, also where the day is given
    return {"date": today.isoformat(), "yesterday": before.isoformat()}


def _day(name: str, text: str) -> date:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.isoformat() != text or found == date.min or found == date.max:
        raise RequestError(f"{name} must be a day such as 2026-11-23, not {text!r}")
    return found


def _today(zone: str, now: Callable[[], datetime]) -> date:
    try:
        return now().astimezone(UTC if zone == "UTC" else ZoneInfo(zone)).date()
    except (ZoneInfoNotFoundError, ValueError, OSError):
        hint = did_you_mean(zone, available_timezones()) or ", such as Europe/Moscow"
        raise RequestError(f"timezone: there is no time zone {zone!r}{hint}") from None


def _formatted(name: str, value: str, form: str, place: str) -> str:
    """A day in another form: `{{ date:%Y/%m/%d }}`."""
    wanted = re.findall(r"%.?", form)
    if name not in DAYS or not wanted or any(each not in _DIRECTIVES for each in wanted):
        raise RequestError(
            f"{place}{{{{ {name}:{form} }}}}: only a day has a form, of {', '.join(_DIRECTIVES)}, as in "
            "{{ date:%Y/%m/%d }}"
        )
    day = date.fromisoformat(value)
    parts = {"%Y": f"{day.year:04}", "%m": f"{day.month:02}", "%d": f"{day.day:02}"}
    return re.sub(r"%.", lambda match: parts[match[0]], form)
