"""Which tools a run is recorded in: the section `track` of a job file or --track, and OpenLineage's environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from tirazh.errors import RequestError, did_you_mean

TOOLS = ("mlflow", "wandb", "tensorboard", "openlineage")
_MODULES = {"mlflow": "mlflow", "wandb": "wandb", "tensorboard": "tensorboard"}
_LINEAGE_VARIABLES = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT__TYPE")


def read_tools(section: Any, *, place: str = "", environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the names of the tools, each once.

    `section` is a name, names separated by commas, or a list of names; `place` is shown before a message.
    `environment` (default: that of this process) adds openlineage where it says where events go. Raises RequestError
    for an unknown name and for a library that is not installed.
    """
    found = list(tools_of(section, place=place))
    for name in found:
        module = _MODULES.get(name)
        if module is not None and find_spec(module) is None:
            raise RequestError(
                f"{place}track {name} needs the package {module}, which is not installed where the job runs: "
                f"pip install 'tirazh[{name}]'"
            )
    if _has_lineage(os.environ if environment is None else environment):
        found.append("openlineage")
    elif "openlineage" in found:
        raise RequestError(f"{place}track openlineage needs OPENLINEAGE_URL, or another setting of where events go")
    return tuple(dict.fromkeys(found))


def tools_of(section: Any, *, place: str = "") -> tuple[str, ...]:
    """The names in a section, on a machine that does not run the job: nothing need be installed."""
    names = section.split(",") if isinstance(section, str) else [] if section is None else section
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise RequestError(f"{place}track must be one of {', '.join(TOOLS)}, or a list of these")
    for name in map(str.strip, names):
        if name not in TOOLS:
            hint = did_you_mean(name, TOOLS)
            raise RequestError(f"{place}track must be one of {', '.join(TOOLS)}, not {name!r}{hint}")
    return tuple(map(str.strip, names))


def _has_lineage(environment: Mapping[str, str]) -> bool:
    is_off = environment.get("OPENLINEAGE_DISABLED", "").lower() in ("true", "1")
    return not is_off and any(environment.get(name) for name in _LINEAGE_VARIABLES)
