"""A Python that has `ray[default]` and what it requires, and nothing else: links into the packages of this one."""

from __future__ import annotations

import re
import sys
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def make_plain_python(folder: Path) -> Path:
    """Make it in `folder`, and return its executable."""
    venv.create(folder, symlinks=True, with_pip=False)
    packages = next(folder.glob("lib/python*/site-packages"))
    for name in sorted(_closure("ray[default]")):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (packages / top).exists():
                (packages / top).symlink_to(source)
    return folder / "bin" / "python"


def _closure(text: str) -> set[str]:
    """The names of a requirement and of everything that it requires."""
    found: set[str] = set()
    left = [Requirement(text)]
    while left:
        requirement = left.pop()
        key = f"{_plain(requirement.name)}[{','.join(sorted(requirement.extras))}]"
        if key in found:
            continue
        try:
            requires = metadata.requires(requirement.name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(key)
        for each in map(Requirement, requires):
            extras = requirement.extras or {""}
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                left.append(each)
    return {key.partition("[")[0] for key in found}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    print(make_plain_python(Path(sys.argv[1])))
