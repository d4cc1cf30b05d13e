"""The `runtime_env:` of a job file, as Ray takes it, and `--image`: what the cluster's machines install for a job."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from tirazh.errors import RequestError

# `submit` sets these itself.
_OURS = {
    "working_dir": "it holds tirazh and the job file",
    "py_modules": "tirazh comes with the working directory; send other packages with pip or uv",
    "excludes": "it belongs to working_dir, which `submit` makes",
}
_KNOWN = (
    *("pip", "uv", "conda", "env_vars", "py_executable", "image_uri", "container", "config", "nsight", "java_jars"),
    "worker_process_setup_hook",
)
# Their text is the name of a file, beside the job file.
_FILES: dict[str, tuple[str, ...]] = {"pip": ("",), "uv": ("",), "conda": (".yml", ".yaml")}
_IN_IMAGE = ("image_uri", "container")


def read_runtime_env(value: Any, *, image: str | None = None, place: str = "", directory: str = "") -> dict[str, Any]:
    """Check the section `runtime_env:` of a job file, and add `--image`.

    `place` is how a sentence begins, and `directory` that of the job file: `pip: requirements.txt` lies in it.
    Values of `env_vars` may be secrets, so no message holds one. Raises RequestError.
    """
    if value is not None and not isinstance(value, Mapping):
        raise RequestError(f"{place}runtime_env must be a mapping as Ray takes it, such as `pip: [sentencepiece]`")
    found = {str(name): each for name, each in (value or {}).items()}
    for name in found:
        if name in _OURS:
            raise RequestError(f"{place}runtime_env must not have {name}: {_OURS[name]}")
        if name not in _KNOWN:
            close = get_close_matches(name, _KNOWN, n=1)
            hint = f"; did you mean {close[0]}?" if close else f" ({', '.join(_KNOWN)})"
            raise RequestError(f"{place}runtime_env has no field {name}{hint}")
    if image is not None:
        if found.get("image_uri", image) != image:
            raise RequestError(f"{place}runtime_env has the image_uri {found['image_uri']}, and --image names another")
        found["image_uri"] = image
    if "env_vars" in found:
        found["env_vars"] = _variables(found["env_vars"], place)
    others = sorted(found.keys() - {*_IN_IMAGE, "env_vars", "config"})
    if in_image(found) and others:
        raise RequestError(
            f"{place}runtime_env has an image, with which Ray accepts no {others[0]}: put it into the image"
        )
    _check_json(found, place)
    return {name: _beside(name, each, directory) for name, each in found.items()}


def in_image(runtime_env: Mapping[str, Any]) -> bool:
    """Whether the job runs in a container image, to which Ray sends no working directory."""
    return any(runtime_env.get(name) for name in _IN_IMAGE)


def without_values(runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy without the values of `env_vars`, which may be secrets: each is None."""
    shown = dict(runtime_env)
    if "env_vars" in shown:
        shown["env_vars"] = dict.fromkeys(shown["env_vars"])
    return shown


def _variables(value: Any, place: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise RequestError(f"{place}env_vars of runtime_env must be a mapping of names and texts")
    for name, text in value.items():
        if not isinstance(name, str) or isinstance(text, bool) or not isinstance(text, str | int | float):
            raise RequestError(f"{place}env_vars of runtime_env: {name} must be a text; put its value in quotes")
        if name.startswith("TIRAZH_") or name == "RAY_JOB_STOP_WAIT_TIME_S":
            raise RequestError(f"{place}env_vars of runtime_env must not have {name}: `submit` sets it")
    return {name: str(text) for name, text in value.items()}


def _beside(name: str, value: Any, directory: str) -> Any:
    ending = _FILES.get(name)
    is_file = ending is not None and isinstance(value, str) and value.endswith(ending)
    return os.path.abspath(os.path.join(directory, value)) if is_file else value


def _check_json(value: Mapping[str, Any], place: str) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        raise RequestError(f"{place}runtime_env must hold only texts, numbers, lists and mappings") from None
