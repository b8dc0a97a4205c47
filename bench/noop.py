"""No-op tasks a second: from the submission to every task's state known, all of it durable in Postgres."""

import time
from datetime import datetime
from typing import Any

from piecework import Client

POLL_SECONDS = 0.2
TERMINAL = ("succeeded", "failed", "cancelled")


def run_noop_job(client: Client, tasks: int) -> dict[str, Any]:
    """Run an array job of no-op tasks; its seconds by the database's clock."""
    spec = {"name": f"noop-{tasks}", "input": {"type": "range", "count": tasks}, "stages": [{"processor": "noop"}]}
    job = client.submit_job(spec)
    while job["state"] not in TERMINAL:
        time.sleep(POLL_SECONDS)
        job = client.get_job(job["job_id"])
    progress = job["stages"][0]["progress"]
    if job["state"] != "succeeded" or progress["succeeded"] != tasks:
        raise SystemExit(f"the no-op job of {tasks} tasks ended as {job['state']}: {progress}")
    seconds = (_time(job["finished_at"]) - _time(job["created_at"])).total_seconds()
    return {"tasks": tasks, "seconds": round(seconds, 3), "tasks_per_second": round(tasks / seconds)}


def start_latency(client: Client) -> float:
    """Seconds from a one-task job's submission to the start of its task, on an idle grid."""
    spec = {"name": "latency", "input": {"type": "range", "count": 1}, "stages": [{"processor": "noop"}]}
    job = client.submit_job(spec)
    while job["state"] not in TERMINAL:
        time.sleep(0.01)
        job = client.get_job(job["job_id"])
    task = client.get_task(job["job_id"], 0, 0)
    return (_time(task["started_at"]) - _time(job["created_at"])).total_seconds()


def _time(text: Any) -> datetime:
    return datetime.fromisoformat(str(text))
