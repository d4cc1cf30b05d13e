"""Dagster: an asset with a partition for every day, labelled on a Ray cluster.

`dagster dev -f dagster_night.py` shows it. The process needs `tirazh` on its PATH, RAY_AUTH_MODE=token and
RAY_AUTH_TOKEN.
"""

import os
import subprocess

import dagster

JOB = os.environ.get("TIRAZH_JOB", "/srv/tirazh/nightly.yaml")
ADDRESS = os.environ.get("TIRAZH_ADDRESS", "http://head:8265")
DAYS = dagster.DailyPartitionsDefinition(start_date="2026-01-01", timezone="UTC")


@dagster.asset(partitions_def=DAYS, retry_policy=dagster.RetryPolicy(max_retries=3, delay=300))
def labelled_news(context: dagster.AssetExecutionContext) -> None:
    """The news of a day with their labels."""
    command = ["tirazh", "submit", JOB, "--set", f"date={context.partition_key}", "--address", ADDRESS, "--follow"]
    code = subprocess.run(command, check=False).returncode
    if code:
        # 2: the request is wrong, and another try gives the same.
        raise dagster.Failure(
            f"tirazh ended with exit code {code}; its sentence is in the log", allow_retries=code != 2
        )


job = dagster.define_asset_job("tirazh_night", selection=[labelled_news])
every_night = dagster.build_schedule_from_partitioned_job(job, hour_of_day=1, minute_of_hour=30)  # of the day before
definitions = dagster.Definitions(assets=[labelled_news], jobs=[job], schedules=[every_night])

if __name__ == "__main__":
    day = DAYS.get_last_partition_key()  # yesterday
    raise SystemExit(0 if dagster.materialize([labelled_news], partition_key=day).success else 1)
