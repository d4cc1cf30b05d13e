"""What `tirazh tune` tries: prompt settings, each with every variant of scoring and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from tirazh.errors import RequestError, did_you_mean
from tirazh.pipeline.spec.classify import Scoring, ShotSelection

GIVEN = "given"  # the prompts of the job as it was given: its template and all of its examples
JOB = "job"  # the template of the job
NO_CALIBRATION, FITTED = "none", "fitted"
CALIBRATIONS = (NO_CALIBRATION, "contextual", "batch", FITTED)
SCORINGS: tuple[Scoring, ...] = get_args(Scoring)
SELECTIONS: tuple[ShotSelection, ...] = get_args(ShotSelection)
DEFAULT_SHOTS = (0, 1, 4, 16)
Choice = TypeVar("Choice", bound=str)
_KEYS = ("template", "shots", "shot_selection", "scoring", "calibrate")
MAX_PROMPTS = 256
MAX_SHOTS = 1_000


@dataclass(frozen=True, slots=True)
class PromptChoice:
    """What decides the prompts. `template` is the text of a template, None for the default one of classify; `name` is
    its name in the table. `shots` examples are taken from the pool. For the prompts of the job as it was given `name`
    is "given", and `shots` None."""

    name: str
    template: str | None
    shots: int | None = 0
    shot_selection: ShotSelection = "balanced"

    def to_dict(self) -> dict[str, Any]:
        """JSON values for the table of trials."""
        values: dict[str, Any] = {"template": self.name, "shots": self.shots}
        return values | ({"shot_selection": self.shot_selection} if self.shots else {})


@dataclass(frozen=True, slots=True)
class ScoreChoice:
    """How scores are computed from what the engine returns. `calibrate` is none, contextual, batch, fitted, or the
    path of a calibration file that the job names."""

    scoring: Scoring = "sum"
    calibrate: str = NO_CALIBRATION

    def to_dict(self) -> dict[str, Any]:
        """JSON values for the table of trials."""
        return {"scoring": self.scoring, "calibrate": self.calibrate}


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Every prompt choice is tried with every score choice. `scores` has no fitted calibration; with `fits` one is
    fitted at the end, for each scoring of the best prompts."""

    prompts: tuple[PromptChoice, ...]
    scores: tuple[ScoreChoice, ...]
    fits: bool

    @property
    def shots(self) -> int:
        """The largest number of shots."""
        return max(prompt.shots or 0 for prompt in self.prompts)


def parse_space(
    value: Any, *, given: PromptChoice, given_score: ScoreChoice, templates: Mapping[str, str]
) -> SearchSpace:
    """Return the space of the setting `search`, or the default one for None.

    `given` and `given_score` are what the job itself does, and always in the space. `templates` are the built-in
    templates by name. Raises RequestError for a value that cannot be used.
    """
    if value is not None and not isinstance(value, Mapping):
        raise RequestError(f"--search must be a mapping with {', '.join(_KEYS)}, not {value!r}")
    asked = dict(value or {})
    for key in asked:
        if key not in _KEYS:
            raise RequestError(
                f"--search has the key {key!r}{did_you_mean(key, _KEYS)}; it may have {', '.join(_KEYS)}"
            )
    selections = _choices(asked, "shot_selection", SELECTIONS, SELECTIONS[:1])
    prompts = [
        PromptChoice(name, template, shots, selection)
        for name, template in _templates(asked, given, templates)
        for shots in _shots(asked)
        for selection in (selections if shots else SELECTIONS[:1])
    ]
    scorings = _choices(asked, "scoring", SCORINGS, SCORINGS)
    calibrations = _choices(asked, "calibrate", CALIBRATIONS, CALIBRATIONS)
    # A fitted calibration needs a trial of its scoring without one.
    computed = [calibrate for calibrate in calibrations if calibrate != FITTED] or [NO_CALIBRATION]
    scores = [ScoreChoice(scoring, calibrate) for calibrate in computed for scoring in scorings]
    space = SearchSpace(
        prompts=tuple(dict.fromkeys([given, *prompts])),
        scores=tuple(dict.fromkeys([given_score, *scores])),
        fits=FITTED in calibrations,
    )
    if len(space.prompts) > MAX_PROMPTS:
        raise RequestError(f"--search gives {len(space.prompts)} prompts to compare; at most {MAX_PROMPTS} are allowed")
    return space


def _templates(
    asked: Mapping[str, Any], given: PromptChoice, templates: Mapping[str, str]
) -> list[tuple[str, str | None]]:
    """The templates of the space by name, each text once. A text that contains `{{` is a template of its own."""
    wanted = _list(asked, "template", [JOB, *templates])
    found: dict[str | None, str] = {}
    for number, each in enumerate(wanted, start=1):
        if not isinstance(each, str) or not each.strip():
            raise RequestError(f"--search template must hold texts, not {each!r}")
        if "{{" in each:
            found.setdefault(each, f"template {number}")
        elif each == JOB:
            found.setdefault(given.template, JOB)
        elif each in templates:
            found.setdefault(templates[each], each)
        else:
            known = (JOB, *templates)
            raise RequestError(
                f"--search template {each!r} is neither a template with {{{{ column }}}} nor one of "
                f"{', '.join(known)}{did_you_mean(each, known)}"
            )
    return [(name, template) for template, name in found.items()]


def _shots(asked: Mapping[str, Any]) -> list[int]:
    values = _list(asked, "shots", list(DEFAULT_SHOTS))
    for each in values:
        if isinstance(each, bool) or not isinstance(each, int) or not 0 <= each <= MAX_SHOTS:
            raise RequestError(f"--search shots must hold integers from 0 to {MAX_SHOTS}, not {each!r}")
    return list(dict.fromkeys(values))


def _choices(asked: Mapping[str, Any], key: str, allowed: Sequence[Choice], default: Sequence[Choice]) -> list[Choice]:
    values: list[Choice] = _list(asked, key, list(default))
    for each in values:
        if each not in allowed:
            raise RequestError(
                f"--search {key} must hold {', '.join(allowed)}, not {each!r}{did_you_mean(str(each), allowed)}"
            )
    return list(dict.fromkeys(values))


def _list(asked: Mapping[str, Any], key: str, default: list[Any]) -> list[Any]:
    """A list of the space; a single value is a list of one."""
    value = asked.get(key)
    if value is None:
        return default
    values = value if isinstance(value, list) else [value]
    if not values:
        raise RequestError(f"--search {key} is an empty list; leave it out for the default")
    return values
