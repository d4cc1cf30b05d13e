"""Distributes the faults over jobs, runs the jobs one after the other, and prints the table."""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from tests.soak.drive import Driver, JobReport
from tests.soak.fault import Fault
from tests.soak.faults import KINDS, sample_fault
from tests.soak.job import Job, Place, run_undisturbed
from tests.soak.tally import is_good, table
from tests.soak.world import MAX_PARTS, World, build_world

FAULTS_A_JOB = 5
PARTS_A_FAULT = 10
FIRST_PARTS = 8
_FAULTS_OF_PLACE = {"alone": 3, "budget": 1, "compiler": 1}


def run(options: argparse.Namespace, folder: Path) -> int:
    """Run the soak test in `folder`, which is removed.

    Returns 0 after all faults without a flaw, else 1.
    """
    began = time.monotonic()
    deadline = began + 60 * options.minutes
    world = build_world(folder, seed=options.seed)
    reports: list[JobReport] = []
    try:
        _say(f"{time.monotonic() - began:.0f} s: the cluster has started; runs without faults ...")
        kinds = _choose_kinds(options.kinds)
        plans = make_plans(options.faults, kinds, random.Random(options.seed), can_fill=world.has_small_disk)
        for ranks in sorted({2 if place == "ranks" else 1 for place, _ in plans}):
            run_undisturbed(world, ranks, parts=max(choose_parts(faults) for _, faults in plans))
        while plans and time.monotonic() < deadline:
            place, faults = plans.pop(0)
            reports.append(_run_job(world, f"job{len(reports)}", place, faults))
            _report(reports, began)
            if reports[-1].left:
                plans.append((place, reports[-1].left))
    except KeyboardInterrupt:
        _say("interrupted; the results so far:")
    finally:
        world.close()
    minutes = (time.monotonic() - began) / 60
    text = table(reports, seed=options.seed, minutes=minutes, planned=options.faults)
    print(text)
    if options.output:
        Path(options.output).write_text(text + "\n", encoding="utf-8")
    return 0 if is_good(reports) and sum(len(report.outcomes) for report in reports) >= options.faults else 1


def _choose_kinds(prefixes: list[str] | None) -> list[str]:
    """Return the kinds whose names begin with one of the prefixes, or all when there are none."""
    return [kind for kind in KINDS if not prefixes or kind.startswith(tuple(prefixes))]


def make_plans(faults: int, kinds: list[str], rng: random.Random, *, can_fill: bool) -> list[tuple[Place, list[Fault]]]:
    """Distribute `faults` over the kinds by weight, and over jobs of a few faults each, sampled from `rng`."""
    if not can_fill:
        kinds = [kind for kind in kinds if kind != "disk: full"]
    by_place: dict[Place, list[Fault]] = {}
    for kind in share_out(faults, {name: KINDS[name].weight for name in kinds}):
        places = KINDS[kind].places
        weights = [1 if place == "alone" else 3 for place in places]
        by_place.setdefault(rng.choices(places, weights)[0], []).append(sample_fault(kind, rng))
    plans: list[tuple[Place, list[Fault]]] = []
    for place, sampled in by_place.items():
        rng.shuffle(sampled)
        size = _FAULTS_OF_PLACE.get(place, FAULTS_A_JOB)
        for first in range(0, len(sampled), size):
            plans.append((place, sorted(sampled[first : first + size], key=lambda fault: KINDS[fault.kind].is_last)))
    rng.shuffle(plans)
    return plans


def share_out(faults: int, weights: dict[str, int]) -> list[str]:
    """Return `faults` names in proportion to their weights, each at least once if there are enough faults."""
    names: list[str] = []
    total, done = sum(weights.values()), 0
    for name, weight in weights.items():
        done += weight
        names += [name] * (done * faults // total - len(names))
    missing = [name for name in weights if name not in names]
    most = max(weights, key=lambda name: weights[name])
    for name in missing:
        if most in names and names.count(most) > 1:
            names[names.index(most)] = name
    return names


def choose_parts(faults: list[Fault]) -> int:
    """Return so many parts that some are left when the last fault is injected."""
    more = sum(KINDS[fault.kind].more_parts for fault in faults)
    return min(MAX_PARTS, FIRST_PARTS + PARTS_A_FAULT * len(faults) + more)


def _run_job(world: World, name: str, place: Place, faults: list[Fault]) -> JobReport:
    # A second replica costs its start in every execution, so there is one only where a fault kills
    # a replica.
    replicas = 2 if any(fault.kind.startswith("replica") for fault in faults) else 1
    job = Job(world, name, place, choose_parts(faults), replicas)
    _say(f"{name}: {place}, {replicas} replicas, {job.parts} parts, {', '.join(fault.kind for fault in faults)}")
    return Driver(world, job, list(faults), _say).run()


def _report(reports: list[JobReport], began: float) -> None:
    last, faults = reports[-1], sum(len(report.outcomes) for report in reports)
    flaws = f"; FLAWS: {'; '.join(last.flaws)}" if last.flaws else ""
    _say(
        f"{last.job.name}: {len(last.outcomes)} faults, {len(last.job.lives)} executions, {last.seconds:.0f} s{flaws}"
        f" — {faults} faults in {(time.monotonic() - began) / 60:.1f} min"
    )


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
