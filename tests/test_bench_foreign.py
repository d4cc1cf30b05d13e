"""Engines of the benchmark in environments of their own: the pipe to their process, and the real ones if present."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.check_outputs import check_outputs
from benchmarks.model_under_test import SHAPES, ModelUnderTest
from benchmarks.peers import Peer, all_peers
from benchmarks.peers.foreign import peer as foreign
from benchmarks.peers.foreign.peer import Foreign, OpenVino, Vllm, VllmOnGpu, outcome_of, turn_of
from benchmarks.peers.foreign.worker import WORKERS, Worker, WorkerError, Workers
from benchmarks.workloads import Row, Workload, build_workload
from tests.conftest import REPOSITORY

TINY = SHAPES["tiny"]
ONE_HEAD = replace(TINY, num_heads=1)  # vLLM has no attention on a CPU for heads of 16 channels
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, or asks the kernel of Linux")
ENGINE = """
import os, time

class Engine:
    def generate(self, *, prompts, num_new):
        print("loaded {", flush=True)
        os.write(1, b"a line of a C library\\n")
        return {"seconds": 0.5, "tokens": [[prompt[-1]] * count for prompt, count in zip(prompts, num_new)]}

    def variables(self):
        return {"variables": sorted(os.environ)}

    def fail(self):
        raise ValueError("no such layer")

    def wait(self, seconds):
        time.sleep(seconds)
        return {}

    def die(self):
        os._exit(3)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Worker]]:
    """Return a function that starts a process with the engine above."""
    (tmp_path / "fake_engine.py").write_text(ENGINE)
    started: list[Worker] = []

    def start() -> Worker:
        environment = {"PYTHONPATH": str(tmp_path)}
        log = tmp_path / "engine.log"
        started.append(Worker(Path(sys.executable), "fake_engine", log=log, environment=environment))
        return started[-1]

    yield start
    for worker in started:
        worker.end()


def test_what_an_engine_prints_goes_to_its_log_and_not_into_the_answer(start: Callable[[], Worker]) -> None:
    worker = start()
    answer = worker.ask("generate", timeout=60, prompts=[[1, 2], [3]], num_new=[2, 1])
    assert answer["tokens"] == [[2, 2], [3]]
    assert answer["seconds"] == 0.5
    assert answer["wall_seconds"] > 0
    printed = worker.log.read_text()
    assert "loaded {" in printed
    assert "a line of a C library" in printed


def test_an_engine_that_fails_in_one_turn_takes_the_next(start: Callable[[], Worker]) -> None:
    worker = start()
    with pytest.raises(WorkerError, match="ValueError: no such layer"):
        worker.ask("fail", timeout=60)
    assert worker.ask("generate", timeout=60, prompts=[[1]], num_new=[1])["tokens"] == [[1]]


def test_an_engine_whose_process_ends_is_reported(start: Callable[[], Worker]) -> None:
    worker = start()
    with pytest.raises(WorkerError, match="die: the process ended"):
        worker.ask("die", timeout=60)
    assert not worker.is_alive
    with pytest.raises(WorkerError, match="ended with code 3"):
        worker.ask("generate", timeout=60, prompts=[[1]], num_new=[1])


def test_an_engine_that_does_not_answer_in_time_is_ended(start: Callable[[], Worker]) -> None:
    worker = start()
    worker.ask("wait", timeout=60, seconds=0)
    with pytest.raises(WorkerError, match="no answer in 0 s"):
        worker.ask("wait", timeout=0.2, seconds=60)
    assert not worker.is_alive


@LINUX
def test_an_engine_is_stopped_between_turns(start: Callable[[], Worker]) -> None:
    worker = start()
    worker.ask("wait", timeout=60, seconds=0)
    _await(lambda: _state(worker.pid) == "T")
    assert worker.ask("generate", timeout=60, prompts=[[1]], num_new=[1])["tokens"] == [[1]]
    _await(lambda: _state(worker.pid) == "T")


def test_an_engine_does_not_inherit_how_our_threads_wait(
    start: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "PYTHONHASHSEED"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("ANOTHER", "1")
    variables = start().ask("variables", timeout=60)["variables"]
    assert "ANOTHER" in variables
    assert not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "PYTHONHASHSEED"} & set(variables)


@LINUX
def test_an_engine_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Even when that process is killed while the engine is stopped."""
    (tmp_path / "fake_engine.py").write_text(ENGINE)
    program = (
        "import os, sys; from pathlib import Path; from benchmarks.peers.foreign.worker import Worker\n"
        f"worker = Worker(Path(sys.executable), 'fake_engine', log=Path({str(tmp_path / 'log')!r}),"
        f" environment={{'PYTHONPATH': {str(tmp_path)!r}}})\n"
        "worker.ask('wait', timeout=60, seconds=0); print(worker.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    pid = int(done.stdout.split()[-1])
    _await(lambda: _state(pid) in ("", "Z"))


def test_the_engine_that_was_not_used_for_longest_ends_first(tmp_path: Path) -> None:
    (tmp_path / "fake_engine.py").write_text(ENGINE)
    workers = Workers(most=2)

    def of(engine: str, options: int = 0) -> Worker:
        variables = {"PYTHONPATH": str(tmp_path)}
        python, log = Path(sys.executable), tmp_path / "log"
        return workers.worker(engine, options, python, "fake_engine", log=log, environment=variables)

    first, second = of("first"), of("second")
    assert of("first") is first
    third = of("third")
    assert [worker.is_alive for worker in (first, second, third)] == [True, False, True]
    assert of("second") is not second
    assert of("second", options=1) is not of("second", options=2)
    workers.end_all()
    assert not any(worker.is_alive for worker in (first, second, third))


TOKENS = st.lists(st.integers(0, 50_000), min_size=1, max_size=5).map(tuple)


@given(prompts=st.lists(TOKENS, min_size=1, max_size=4), num_new=st.integers(1, 4))
def test_a_turn_has_the_workloads_token_ids_and_counts(prompts: list[tuple[int, ...]], num_new: int) -> None:
    rows = tuple(Row(prompt, num_new + index) for index, prompt in enumerate(prompts))
    workload = Workload(name="ragged", kind="generate", rows=rows)
    call, arguments = turn_of(workload)
    sent = json.loads(json.dumps(arguments))
    assert call == "generate"
    assert sent["prompts"] == [list(row.prompt) for row in rows]
    made = [[7] * count for count in sent["num_new"]]
    outcome = outcome_of(workload, {"seconds": 1.5, "tokens": made})
    assert (outcome.seconds, outcome.tokens) == (1.5, [(7,) * row.num_new for row in rows])


def test_an_answer_of_another_length_is_refused() -> None:
    generate = Workload(name="ragged", kind="generate", rows=(Row((1,), 2),))
    with pytest.raises(ValueError, match="more or fewer tokens"):
        outcome_of(generate, {"seconds": 1, "tokens": [[1]]})
    labels = Workload(name="labels", kind="labels", rows=(Row((1, 2)),), prefix=(1,), labels=((3,), (4, 5)))
    assert turn_of(labels) == ("score", {"prompts": [(1, 2)], "num_prefix": 1, "labels": ((3,), (4, 5))})
    assert outcome_of(labels, {"seconds": 1, "scores": [[-1.0, -2]]}).scores == [(-1.0, -2.0)]
    with pytest.raises(ValueError, match="one score per row and label"):
        outcome_of(labels, {"seconds": 1, "scores": [[-1.0]]})


@pytest.mark.parametrize("kind", [OpenVino, Vllm])
def test_an_engine_without_its_environment_says_how_to_get_it(
    kind: type[Foreign], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "ENVIRONMENTS", tmp_path)
    assert kind("float32").why_absent() == f"no environment .bench/{kind.folder} (make bench-peers)"
    assert kind("float32", device="cuda").why_absent() == "compared on a CPU only"
    on_gpu = VllmOnGpu("bfloat16", device="cuda")
    assert on_gpu.why_absent() == "no environment .bench/vllm-gpu (make bench-peers-gpu)"
    assert VllmOnGpu("float32").why_absent() == "compared on a GPU only"


def test_each_device_has_its_own_engines_to_compare_with() -> None:
    def engines(device: str) -> list[type[Peer]]:
        peers = all_peers(["bfloat16", "float32"], slots=4, device=device)
        assert len({peer.name for peer in peers}) == len(peers)
        return [type(peer) for peer in peers if isinstance(peer, Foreign)]

    assert engines("cpu") == [OpenVino] * 3 + [Vllm] * 2
    assert engines("cuda") == [VllmOnGpu] * 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_vllm_is_told_its_device_and_what_was_chosen_for_it(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))  # it is in another environment
    worker = importlib.import_module("benchmarks.peers.foreign.vllm_worker")
    peer = {"cpu": Vllm, "cuda": VllmOnGpu}[device]("float32", device=device)
    asked = {"model": "", "dtype": "float32", "threads": 1, "caches_prefixes": True, **peer.more()}
    assert inspect.signature(worker.Engine.open).bind(None, **asked).arguments.get("device", "cpu") == device
    chosen = worker.engine_settings(device=device, caches_prefixes=True)
    assert chosen["enable_prefix_caching"] is True
    assert ("block_size" in chosen, "gpu_memory_utilization" in chosen) == (device == "cpu", device == "cuda")
    assert any(name.startswith("VLLM_CPU") for name in peer.environment()) == (device == "cpu")


def test_an_engine_on_a_gpu_ends_with_its_turn_and_leaves_its_memory(start: Callable[[], Worker]) -> None:
    peer, on_cpu = VllmOnGpu("float32", device="cuda"), Vllm("float32")
    peer.model, on_cpu.model = workers = start(), start()
    peer.close()
    on_cpu.close()
    assert [worker.is_alive for worker in workers] == [False, True]
    VllmOnGpu("float32", device="cuda").close()  # nothing was opened


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", [OpenVino, Vllm])
def test_a_real_engine_has_our_answers_in_float32(kind: type[Foreign], tmp_path: Path) -> None:
    """Greedy tokens of rows of many lengths, and label scores of prompts at every place of a cache block."""
    peer = kind("float32")
    if reason := peer.why_absent():
        pytest.skip(reason)
    under_test = ModelUnderTest(ONE_HEAD, tmp_path)
    torch.set_num_threads(1)
    ragged, labels = build_workload("ragged", TINY, num_rows=6), build_workload("labels", TINY, num_rows=1)
    words = np.random.default_rng(0)
    texts = [tuple(words.integers(0, TINY.vocab_size, 10 + length).tolist()) for length in range(34)]
    rows = tuple(Row(labels.prefix + text) for text in texts)
    try:
        for workload in (ragged, replace(labels, rows=rows)):
            (check,) = check_outputs([peer], workload, under_test)
            assert check.is_good, check
            assert check.num_rows == len(workload.rows)
    finally:
        WORKERS.end_all()


def _state(pid: int) -> str:
    """Return the letter that the kernel has for a process's state; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _await(is_true: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < until
        time.sleep(0.01)
