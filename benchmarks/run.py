"""Run the benchmark (`make bench`): check outputs, time every engine on every workload, and write a report.

python -m benchmarks.run                                   the whole comparison, on the CPU
python -m benchmarks.run --subset                          takes less than five minutes
python -m benchmarks.run --peer "tirazh dense" --peer openvino --peer vllm     our engine and two others
python -m benchmarks.run --device cuda --shape xl          on a GPU (or 13b), bfloat16, random weights
"""

from __future__ import annotations

import argparse
import gc
import logging
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from benchmarks.attention_speed import measure_attention
from benchmarks.cache_size import measure_cache
from benchmarks.ceilings import Ceiling, measure_ceiling
from benchmarks.check_outputs import Check, check_outputs
from benchmarks.decode_speed import measure_decode
from benchmarks.experiment import Experiment
from benchmarks.figures import Figure, allowed_label_ratio, figure_of
from benchmarks.goals import goals_of
from benchmarks.hog import busy_core, measure_busy
from benchmarks.machine import describe_machine
from benchmarks.model_under_test import SHAPES, ModelUnderTest
from benchmarks.peers import Peer, all_peers
from benchmarks.peers.ctranslate2_ import CTranslate2
from benchmarks.peers.foreign.peer import Foreign
from benchmarks.peers.foreign.worker import WORKERS
from benchmarks.peers.llama_cpp_ import LlamaCpp
from benchmarks.peers.masked_one_at_a_time import MaskedOneAtATime
from benchmarks.peers.ours import Ours
from benchmarks.peers.transformers_generate import TransformersGenerate
from benchmarks.pipeline_speed import measure_idle, measure_pipeline
from benchmarks.report import Report, as_markdown, write_report
from benchmarks.rounds import Patience, run_rounds
from benchmarks.workloads import WORKLOADS, Workload, build_workload
from tirazh.actors.cores import usable_cores
from tirazh.model.layers.dtype_probe import resolve_dtype

HERE = Path(__file__).resolve().parent
_EXPERIMENTS = ("attention", "cache", "decode", "busy", "pipeline", "idle")
_LONG_ON_CPU, _WITH_GPU = ("busy", "pipeline", "idle"), ("decode",)
_SUBSET_ROWS = {
    **{"ragged": 32, "uniform": 16, "labels": 48, "long": 4},
    **{"small": 8, "small-32": 32, "samples": 32, "prefixes": 40},
}
_CHECK_ROWS = {"generate": 8, "labels": 2}
_AT_ALL_DTYPES = ("ragged", "uniform")
# On a CPU the other peers need minutes for each turn on `long`, an hour in all; two peers are enough there.
_ON_LONG = (Ours, TransformersGenerate, MaskedOneAtATime)
_ON_SHARED = (Ours, TransformersGenerate, Foreign)  # prompts that begin with the same tokens: the others share nothing
_SKIPPED = {
    "the other engines, on long": "each turn takes minutes on a CPU, and the goal there compares our own models"
}
_DEFAULT_SLOTS = {"cpu": 64, "cuda": 256}

log = logging.getLogger("benchmarks")


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 when an engine's float32 answers differ without an explanation, else 0."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = _parse(words)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("transformers", "ContinuousBatchingLogger"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    gc.freeze()  # peers collect garbage after every turn; objects of the libraries need no scan
    with tempfile.TemporaryDirectory(prefix="tirazh-bench-") as workdir, busy_core() if options.hog else nullcontext():
        try:
            report = _run(options, Path(workdir), command=shlex.join(["python", "-m", "benchmarks.run", *words]))
        finally:
            WORKERS.end_all()
    write_report(report, options.output)
    print(as_markdown(report))
    print(f"Written to {options.output}: RESULTS.md, results.json, chart.svg")
    return 1 if any(check.is_good is False for check in report.checks) else 0


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--subset", action="store_true", help="fewer rows, one dtype, first settings")
    parser.add_argument(
        "--workload", action="append", choices=[*WORKLOADS, *_EXPERIMENTS], help="may be repeated; default: all"
    )
    parser.add_argument("--repeat", type=int, help="rounds (3, of long 2; 2 with --subset)")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--hog", action="store_true", help="keep one core busy with another process meanwhile")
    parser.add_argument("--samples", type=int, help="rows for a peer that is too slow for the whole workload")
    parser.add_argument(
        "--seconds", type=float, help="time limit of a peer in a round, above which it runs on a sample (12)"
    )
    parser.add_argument("--rows", type=int, help="rows of every workload (default: its own number)")
    parser.add_argument("--shape", choices=list(SHAPES), default="base")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtypes", help="comma-separated, ours first (default: the fastest by a probe, then float32)")
    parser.add_argument("--slots", type=int, help="sequences our engine runs at once (64; 256 on cuda)")
    parser.add_argument(
        "--part-seconds", type=float, default=30.0, help="seconds of work in a part of the workload pipeline"
    )
    parser.add_argument("--idle-rows", default="1000000,10000000", help="row counts of the workload idle")
    parser.add_argument("--no-peers", action="store_true", help="run tirazh only")
    parser.add_argument(
        "--peer", action="append", help="run the engines whose name has this in it, in any case; may be repeated"
    )
    parser.add_argument("--no-check", action="store_true", help="skip the comparison of outputs")
    parser.add_argument("--output", type=Path, help="directory of the report")
    options = parser.parse_args(words)
    _fill_defaults(options)
    return options


def _fill_defaults(options: argparse.Namespace) -> None:
    is_published = not options.subset and not options.hog and options.shape == "base" and options.device == "cpu"
    options.output = options.output or (HERE if is_published else HERE.parent / "build" / "bench")
    options.seconds = options.seconds or (5.0 if options.subset else 12.0)
    options.slots = options.slots or _DEFAULT_SLOTS[options.device]
    if not options.workload:
        has_gpu = options.device == "cuda"
        skipped = (() if has_gpu else _WITH_GPU) + (_LONG_ON_CPU if has_gpu or options.subset else ())
        options.workload = [*WORKLOADS, *(name for name in _EXPERIMENTS if name not in skipped)]
    if options.dtypes is None:
        fastest = resolve_dtype(options.device)
        is_short = options.subset or options.device == "cuda"
        options.dtypes = fastest if is_short else ",".join(dict.fromkeys([fastest, "float32"]))
    options.dtypes = options.dtypes.split(",")


def _run(options: argparse.Namespace, workdir: Path, *, command: str) -> Report:
    begin, machine = time.monotonic(), describe_machine()
    under_test = ModelUnderTest(SHAPES[options.shape], workdir, device=options.device)
    peers, absent = _present(all_peers(options.dtypes, slots=options.slots, device=options.device), options)
    workloads = [_workload(name, options) for name in options.workload if name in WORKLOADS]
    dtypes = list(dict.fromkeys([*(dtype for dtype in options.dtypes if dtype != "int8"), "float32"]))
    ceilings: list[Ceiling] = []

    def measure(dtype: str) -> Ceiling:
        """Measure now. A dtype without a ceiling of its own (int8) is compared with that of float32."""
        known = dtype if dtype in dtypes else "float32"
        ceilings.append(measure_ceiling(known, options.device, seconds=min(1.0, options.seconds)))
        return ceilings[-1]

    first = measure(options.dtypes[0])
    checks = [] if options.no_check else _check(options, workloads, under_test, peers)
    turns = []
    for workload in workloads:
        fit = [peer for peer in peers if peer.takes(workload) and _is_wanted(peer, workload, options)]
        turns += run_rounds(fit, workload, under_test, _patience(workload, options), measure)
    experiments = [
        _experiment(name, options, under_test, first, peers) for name in options.workload if name in _EXPERIMENTS
    ]
    shape = under_test.shape
    figures: list[Figure] = [figure_of(turn, shape, slots=options.slots) for turn in turns]
    labels = next((workload for workload in workloads if workload.kind == "labels"), None)
    return Report(
        command=command,
        commit=_commit(),
        shape=options.shape,
        device=options.device,
        machine=machine,
        ceilings=ceilings,
        checks=checks,
        figures=figures,
        goals=goals_of(
            figures,
            allowed_label_ratio=allowed_label_ratio(labels, shape) if labels else None,
            is_on_gpu=options.device == "cuda",
        ),
        experiments=experiments,
        minutes=(time.monotonic() - begin) / 60,
        absent=absent,
    )


def _is_wanted(peer: Peer, workload: Workload, options: argparse.Namespace) -> bool:
    """The longest workloads run at the first dtype only, except engines in C++, which may not support it, and int8."""
    if workload.name == "long" and options.device == "cpu" and not isinstance(peer, _ON_LONG):
        return False
    if workload.group > 1 and not isinstance(peer, _ON_SHARED):
        return False
    is_main = peer.dtype in (options.dtypes[0], "int8")
    return workload.name in _AT_ALL_DTYPES or is_main or isinstance(peer, CTranslate2 | LlamaCpp)


def _is_int8(peer: Peer) -> bool:
    """Whether it is our engine in 8 bits, which runs beside that of the first dtype."""
    return isinstance(peer, Ours) and peer.dtype == "int8"


def _patience(workload: Workload, options: argparse.Namespace) -> Patience:
    rounds = 2 if options.subset or workload.name == "long" else 3
    return Patience(
        repeat=options.repeat or rounds,
        seconds=options.seconds,
        samples=options.samples,
        is_quick=options.subset,
    )


def _experiment(
    name: str, options: argparse.Namespace, under_test: ModelUnderTest, ceiling: Ceiling, peers: Sequence[Peer]
) -> Experiment:
    log.info("%s", name)
    begin, dtype = time.monotonic(), options.dtypes[0]
    match name:
        case "attention":
            seconds = min(2.0, options.seconds)
            experiment = measure_attention(under_test.shape, options.dtypes, options.device, seconds=seconds)
        case "cache":
            experiment = measure_cache(under_test.shape)
        case "decode":
            experiment = measure_decode(under_test, dtype, ceiling)
        case "busy":
            ours = Ours(dtype, "dense", slots=options.slots)
            raced = [ours, *(peer for peer in peers if isinstance(peer, Foreign) and peer.dtype in (dtype, "int8"))]
            repeat = _patience(workload := _workload("uniform", options), options).repeat
            experiment = measure_busy(under_test, workload, raced, repeat=repeat)
        case "pipeline":
            experiment = measure_pipeline(
                under_test, dtype=dtype, slots=options.slots, threads=options.threads, part_seconds=options.part_seconds
            )
        case _:
            row_counts = [int(word) for word in options.idle_rows.split(",")]
            experiment = measure_idle(under_test.workdir, row_counts=row_counts)
    log.info("%s: %.0f s", name, time.monotonic() - begin)
    return experiment


def _present(peers: list[Peer], options: argparse.Namespace) -> tuple[list[Peer], dict[str, str]]:
    """Return the peers that can run here, and the reasons why the others cannot."""
    if options.no_peers:
        peers = [peer for peer in peers if isinstance(peer, Ours)]
    if options.peer:
        peers = [peer for peer in peers if any(word.lower() in peer.name.lower() for word in options.peer)]
    if options.subset:
        peers = [peer for peer in peers if peer.dtype in options.dtypes or _is_int8(peer)]
    reasons = {peer.name: reason for peer in peers if (reason := peer.why_absent())}
    skipped = _SKIPPED if options.device == "cpu" and not options.no_peers and "long" in options.workload else {}
    return [peer for peer in peers if peer.name not in reasons], reasons | skipped


def _workload(name: str, options: argparse.Namespace) -> Workload:
    workload = build_workload(name, SHAPES[options.shape], num_rows=options.rows)
    return workload.sample(_SUBSET_ROWS[name]) if options.subset else workload


def _check(
    options: argparse.Namespace, workloads: list[Workload], under_test: ModelUnderTest, peers: list[Peer]
) -> list[Check]:
    """Check one workload of each kind, always in float32, and in narrower dtypes for information."""
    exact, _ = _present(all_peers(["float32"], slots=_CHECK_ROWS["generate"], device=options.device), options)
    unique = {peer.name: peer for peer in [*exact, *peers]}.values()
    checks: list[Check] = []
    for workload in {workload.kind: workload for workload in reversed(workloads)}.values():
        fit = [peer for peer in unique if peer.takes(workload)]
        checks += check_outputs(fit, workload.sample(_CHECK_ROWS[workload.kind]), under_test)
    for check in checks:
        log.info(
            "%s, %s: %d of %d equal; %s", check.workload, check.peer, check.num_equal, check.num_rows, check.remark
        )
    return checks


def _commit() -> str:
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
