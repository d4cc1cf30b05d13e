"""The arguments of the commands for jobs on a cluster."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tirazh.jobs.flags import plain_address


def add_cluster_flags(by_name: Mapping[str, argparse.ArgumentParser]) -> None:
    """Declare the arguments of submit, status, logs, stop and resume."""
    by_name["submit"].add_argument("job", metavar="JOB.YAML", help="job file: kind, input, output, ...")
    by_name["submit"].add_argument("--image", metavar="IMAGE", help="container image in which the job runs (podman)")
    by_name["status"].add_argument(
        "id", nargs="?", metavar="ID", help="job id that submit printed, or an output directory (default: all jobs)"
    )
    for name in ("logs", "stop", "resume"):
        by_name[name].add_argument("id", metavar="ID", help="job id that submit printed")
    by_name["status"].add_argument(
        "--max-age", metavar="AGE", help="of an output: exit with 1 if its last success is older, e.g. 26h"
    )
    by_name["status"].add_argument(
        "--endpoint-url", type=plain_address, help="of an output: URL of an S3-compatible server or an Azure emulator"
    )
    for name in ("submit", "status", "logs", "stop", "resume"):
        by_name[name].add_argument("--address", metavar="URL", help="job server of the cluster, e.g. http://head:8265")
    for name in ("submit", "logs", "resume"):
        by_name[name].add_argument("--follow", action="store_true", help="print the log until the job ends")
