"""Shares faults out over jobs, runs these one after the other, and prints the table."""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from tests.soak.drive import Driver, JobReport
from tests.soak.faults import KINDS, Fault, draw_fault
from tests.soak.job import Job, Place, run_undisturbed
from tests.soak.tally import is_good, table
from tests.soak.world import MAX_PARTS, World, build_world

FAULTS_A_JOB = 5
PARTS_A_FAULT = 10
FIRST_PARTS = 8


def run(options: argparse.Namespace, folder: Path) -> int:
    """The whole soak, in `folder`, which is removed. Returns 0 when all faults came and nothing is amiss, else 1."""
    began = time.monotonic()
    deadline = began + 60 * options.minutes
    world = build_world(folder, seed=options.seed)
    reports: list[JobReport] = []
    try:
        _say(f"{time.monotonic() - began:.0f} s: the cluster is there; undisturbed runs ...")
        kinds = _choose_kinds(options.kinds)
        plans = make_plans(options.faults, kinds, random.Random(options.seed), can_fill=world.has_small_disk)
        for ranks in sorted({2 if place == "ranks" else 1 for place, _ in plans}):
            run_undisturbed(world, ranks, parts=max(choose_parts(faults) for _, faults in plans))
        while plans and time.monotonic() < deadline:
            place, faults = plans.pop(0)
            reports.append(_run_job(world, f"job{len(reports)}", place, faults))
            _tell(reports, began)
            if reports[-1].left:
                plans.append((place, reports[-1].left))
    except KeyboardInterrupt:
        _say("interrupted; what came until now:")
    finally:
        world.close()
    minutes = (time.monotonic() - began) / 60
    text = table(reports, seed=options.seed, minutes=minutes, planned=options.faults)
    print(text)
    if options.output:
        Path(options.output).write_text(text + "\n", encoding="utf-8")
    return 0 if is_good(reports) and sum(len(report.outcomes) for report in reports) >= options.faults else 1


def _choose_kinds(beginnings: list[str] | None) -> list[str]:
    """The kinds whose names begin so; all of them when none is given."""
    return [kind for kind in KINDS if not beginnings or kind.startswith(tuple(beginnings))]


def make_plans(
    faults: int, kinds: list[str], draw: random.Random, *, can_fill: bool
) -> list[tuple[Place, list[Fault]]]:
    """Share `faults` out over the kinds by weight, and over jobs of a few faults each; all of it from `draw`."""
    if not can_fill:
        kinds = [kind for kind in kinds if kind != "disk: full"]
    by_place: dict[Place, list[Fault]] = {}
    for kind in share_out(faults, {name: KINDS[name].weight for name in kinds}):
        places = KINDS[kind].places
        weights = [1 if place == "alone" else 3 for place in places]
        by_place.setdefault(draw.choices(places, weights)[0], []).append(draw_fault(kind, draw))
    plans: list[tuple[Place, list[Fault]]] = []
    for place, drawn in by_place.items():
        draw.shuffle(drawn)
        size = 3 if place == "alone" else FAULTS_A_JOB
        plans += [(place, drawn[first : first + size]) for first in range(0, len(drawn), size)]
    draw.shuffle(plans)
    return plans


def share_out(faults: int, weights: dict[str, int]) -> list[str]:
    """`faults` names, each as often as its weight says, and at least once while there are enough."""
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
    """Enough that something is left to be done when the last fault comes."""
    return min(MAX_PARTS, FIRST_PARTS + PARTS_A_FAULT * len(faults))


def _run_job(world: World, name: str, place: Place, faults: list[Fault]) -> JobReport:
    # A second replica costs its start in every life; it is there where one is to be lost beside another.
    replicas = 2 if any(fault.kind.startswith("replica") for fault in faults) else 1
    job = Job(world, name, place, choose_parts(faults), replicas)
    _say(f"{name}: {place}, {replicas} replicas, {job.parts} parts, {', '.join(fault.kind for fault in faults)}")
    return Driver(world, job, list(faults), _say).run()


def _tell(reports: list[JobReport], began: float) -> None:
    last, faults = reports[-1], sum(len(report.outcomes) for report in reports)
    flaws = f"; FLAWS: {'; '.join(last.flaws)}" if last.flaws else ""
    _say(
        f"{last.job.name}: {len(last.outcomes)} faults, {len(last.job.lives)} lives, {last.seconds:.0f} s{flaws}"
        f" — {faults} faults in {(time.monotonic() - began) / 60:.1f} min"
    )


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
