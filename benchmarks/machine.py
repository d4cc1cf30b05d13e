"""Describe the machine and the library versions of a run for the report."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_LIBRARIES = ("torch", "transformers", "ctranslate2", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """`load_average` is that of the minute before the run, so it does not contain our own work."""

    processor: str
    num_cores: int
    num_threads: int
    memory_gib: float
    instructions: str
    gpu: str
    system: str
    python: str
    load_average: float
    libraries: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe_machine() -> Machine:
    """Describe this machine. The processor's name and instructions come from /proc/cpuinfo, if there is one."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=_cpu_field("model name") or platform.processor() or platform.machine(),
        num_cores=os.cpu_count() or 1,
        num_threads=torch.get_num_threads(),
        memory_gib=round(pages / 2**30, 1),
        instructions=", ".join(_wide_instructions()) or "none of AVX-512, AMX",
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        load_average=os.getloadavg()[0],
        libraries={name: version for name in _LIBRARIES if (version := _version(name))},
    )


def _cpu_field(name: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _wide_instructions() -> list[str]:
    flags = set(_cpu_field("flags").split())
    return [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if flag in flags]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
