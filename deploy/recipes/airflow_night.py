"""Airflow 3: label the news of every day on a Ray cluster.

Put this file into the folder of DAGs. The worker needs `tirazh` on its PATH, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN.
"""

import os
import subprocess
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

JOB = os.environ.get("TIRAZH_JOB", "/srv/tirazh/nightly.yaml")
ADDRESS = os.environ.get("TIRAZH_ADDRESS", "http://head:8265")


@dag(schedule="30 1 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1)
def tirazh_night() -> None:
    @task(retries=3, retry_delay=timedelta(minutes=5), execution_timeout=timedelta(hours=10))
    def label(**context: Any) -> None:
        """Submit the job of the day before the run, or follow it if it runs already."""
        night = (context["dag_run"].run_after - timedelta(days=1)).date()
        command = ["tirazh", "submit", JOB, "--set", f"date={night}", "--address", ADDRESS, "--follow"]
        code = subprocess.run(command, check=False).returncode
        if code == 2:  # the request is wrong: another try gives the same
            raise AirflowFailException("the request is wrong; the log has the sentence of tirazh")
        if code:
            raise AirflowException(f"tirazh ended with exit code {code}")

    label()


night = tirazh_night()

if __name__ == "__main__":
    raise SystemExit(0 if night.test().state == "success" else 1)
