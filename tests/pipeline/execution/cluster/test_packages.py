"""The Python and the packages of a machine, compared with what a job needs and with the driver's machine."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tirazh.pipeline.execution.cluster.packages import compare_nodes, describe_node, find_problem

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_a_machine_that_has_everything_is_accepted() -> None:
    assert find_problem({"python": PYTHON, "requirements": {"ray": ">=2", "pyarrow": ""}}) is None
    assert find_problem({}) is None
    assert compare_nodes(describe_node(), describe_node()) is None


@pytest.mark.parametrize(
    ("requirements", "says"),
    [
        ({"no-such-package": ">=1"}, "has no no-such-package: install"),
        ({"ray": "<1"}, "has ray .* (the job needs <1): install"),
        ({"a-a": "", "b-b": "", "ray": "<1"}, "has no a-a and b-b and has ray .* (the job needs <1)"),
        ({f"no-{number}": "" for number in range(9)}, "has no no-0, no-1, no-2, no-3, no-4, no-5 and 3 more packages"),
    ],
)
def test_missing_and_other_packages_are_named_with_the_machine(requirements: dict[str, str], says: str) -> None:
    found = find_problem({"python": PYTHON, "requirements": requirements})
    assert found is not None
    assert found.startswith("machine ")
    pattern = says.replace("(", r"\(").replace(")", r"\)")
    assert re.search(pattern, found), found


def test_another_python_is_named() -> None:
    found = find_problem({"python": "3.99", "requirements": {}})
    assert f"of the cluster runs Python {PYTHON} as `python`, and the job was submitted from Python 3.99" in str(found)


def test_the_first_difference_of_a_machine_from_the_drivers_is_named() -> None:
    driver = describe_node() | {"machine": "machine head", "torch": "2.13.0"}
    other = driver | {"machine": "machine gpu-7"}
    assert compare_nodes(driver, other | {"torch": "2.14.0"}) == (
        "machine gpu-7 of the cluster has torch 2.14.0, and the driver's machine head has 2.13.0: "
        "install the same version on all machines"
    )
    assert "gpu-7 of the cluster has no torch and pyarrow" in str(
        compare_nodes(driver, other | {"torch": "", "pyarrow": ""})
    )
    assert "gpu-7 of the cluster has Python 3.99" in str(compare_nodes(driver, other | {"python": "3.99"}))


def test_the_check_runs_where_no_package_is_installed() -> None:
    """`-S` leaves out all installed packages."""
    code = "import sys; sys.path.insert(0, '.'); from tirazh.pipeline.execution.cluster.packages import find_problem; "
    code += "print(find_problem({'requirements': {'ray': '>=2', 'pyarrow': ''}}))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "has no ray and pyarrow: install them on all machines" in done.stdout, done.stderr
