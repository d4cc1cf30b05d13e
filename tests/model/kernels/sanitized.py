"""Runs pytest on kernels that are compiled with AddressSanitizer and UndefinedBehaviorSanitizer for one architecture:
`python -m tests.model.kernels.sanitized ARCHITECTURE TESTS...`, with the sanitizers' libraries in LD_PRELOAD."""

from __future__ import annotations

import sys

import pytest

from tirazh.model.kernels import build, compiler

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g1")


def main(architecture: str, tests: list[str]) -> int:
    compiler.OPTIONS = ("-O1", f"-march={architecture}", *SANITIZERS, "-fPIC", "-std=gnu11", "-shared")
    build.prepare_kernels()
    versions = build.kernel_versions()["kernels"]
    print(versions)
    if "torch" in versions:
        return 1
    return int(pytest.main(["-q", "-x", "-s", "-p", "no:cacheprovider", "-m", "not slow and not gpu", *tests]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
