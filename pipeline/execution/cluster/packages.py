"""Compares the Python and the packages of a cluster's machines with those that a job needs.

Imports the standard library alone: it must run where packages are missing, the driver's machine included.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from importlib import metadata

# Results, or what machines send to each other, depend on the version of these.
SAME_EVERYWHERE = ("ray", "torch", "deepspeed", "transformers", "tokenizers", "pyarrow", "numpy")
_MOST_NAMED = 6
_HOW = (
    "install them on all machines (in a source tree: `pip install -c constraints.txt .`), or send them with the job: "
    "`runtime_env: {pip: [...]}` in the job file, or `tirazh submit --image IMAGE`"
)


def find_problem(needs: dict[str, object]) -> str | None:
    """Return a sentence about what this machine lacks, or None.

    `needs` has `python` (such as "3.11", of the submitter) and `requirements` (such as
    {"pyarrow": ">=26"}).
    """
    here, wanted = f"{sys.version_info[0]}.{sys.version_info[1]}", needs.get("python")
    if wanted and wanted != here:
        return python_sentence(machine_name(), here, str(wanted))
    requirements = needs.get("requirements")
    pairs = list(requirements.items()) if isinstance(requirements, dict) else []
    wrong = [each for each in (_wrong(name, versions) for name, versions in pairs) if each]
    missing = [name for name, found, _ in wrong if found is None]
    others = [f"{name} {found} (the job needs {wants})" for name, found, wants in wrong if found is not None]
    if not wrong:
        return None
    parts = ([f"has no {_listed(missing)}"] if missing else []) + ([f"has {_listed(others)}"] if others else [])
    return f"{machine_name()} of the cluster {' and '.join(parts)}: {_HOW}"


def python_sentence(machine: str, found: str, wanted: str) -> str:
    """Return the sentence about a machine whose Python is another one than that of the submitter."""
    return (
        f"{machine} of the cluster runs Python {found} as `python`, and the job was submitted from Python {wanted}: "
        f"submit it from Python {found}, or start Ray on all machines with Python {wanted} first on the PATH"
    )


def describe_node(address: str = "", names: Sequence[str] = SAME_EVERYWHERE) -> dict[str, str]:
    """Return `machine`, `python`, and the version of each package of `names`, "" if it is missing.

    `address` is the machine's IP address.
    """
    versions = {name: _public(_version(name) or "") for name in names}
    return {"machine": machine_name(address), "python": f"{sys.version_info[0]}.{sys.version_info[1]}", **versions}


def compare_nodes(driver: dict[str, str], other: dict[str, str]) -> str | None:
    """Return a sentence about the first difference of a machine from that of the driver, or None."""
    names = [name for name in driver if name != "machine"]
    different = [name for name in names if driver.get(name) != other.get(name)]
    if not different:
        return None
    missing = [name for name in different if not other.get(name)]
    if missing:
        return f"{other['machine']} of the cluster has no {_listed(missing)}: {_HOW}"
    name = different[0]
    shown = "Python" if name == "python" else name
    return (
        f"{other['machine']} of the cluster has {shown} {other[name]}, and the driver's {driver['machine']} has "
        f"{driver.get(name) or 'none'}: install the same version on all machines"
    )


def machine_name(address: str = "") -> str:
    """Return how a sentence names this machine; `address` is its IP address."""
    return f"machine {socket.gethostname()}{f' ({address})' if address else ''}"


def _wrong(name: str, versions: str) -> tuple[str, str | None, str] | None:
    """Return name, version and wanted versions of a package that is not as needed. The version is None if missing."""
    found = _version(name)
    if found is None:
        return name, None, versions
    try:
        from packaging.specifiers import SpecifierSet  # ray needs it
    except ImportError:
        return None
    return None if SpecifierSet(versions).contains(found, prereleases=True) else (name, found, versions)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _public(version: str) -> str:
    """Return a version without its local part: a machine with GPUs has another build of torch."""
    return version.partition("+")[0]


def _listed(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    if len(names) <= _MOST_NAMED:
        return f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more packages"
