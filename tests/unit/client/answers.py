"""Whole answers of the services, for the scripted one: a test changes what matters to it."""

from typing import Any

JOB_ID = "01970000-0000-7000-8000-00000000000a"
WORKER_ID = "01970000-0000-7000-8000-00000000000b"
TIME = "2026-01-31T17:00:00.123456Z"
LATER = "2026-01-31T17:03:05.123456Z"

NO_TASKS = dict.fromkeys(("waiting", "ready", "queued", "running", "succeeded", "failed", "cancelled"), 0)


def stage(
    number: int = 0, name: str = "clean", state: str = "running", task_count: int | None = 4, **progress: int
) -> Any:
    return {
        "stage": number,
        "name": name,
        "kind": "map",
        "processor": f"{name}@1",
        "pool": "default",
        "state": state,
        "task_count": task_count,
        "planned": task_count is not None,
        "seconds_left": None,
        "slowed": False,
        "reasons": [],
        "columns": {},
        "records": dict.fromkeys(("in", "out", "rejected", "filtered", "added"), 0) | {"balanced": None},
        "progress": NO_TASKS | progress,
        "started_at": TIME,
        "finished_at": LATER if state == "succeeded" else None,
        "result": None,
    }


def job(state: str = "running", stages: list[Any] | None = None, **fields: Any) -> Any:
    return {
        "job_id": JOB_ID,
        "name": "flights",
        "state": state,
        "priority": 0,
        "share": "default",
        "labels": {},
        "schedule_id": None,
        "trigger_id": None,
        "run_at": None,
        "created_at": TIME,
        "created_by": "anna",
        "hold": False,
        "interim_deleted_at": None,
        "results_deleted_at": None,
        "deleted_at": None,
        "started_at": TIME,
        "finished_at": LATER if state in ("succeeded", "failed", "cancelled") else None,
        "error": None,
        "spec": {
            "input": {"type": "range", "count": 4},
            "stages": [{"processor": "clean"}],
            "merge": {"type": "none"},
        },
        "stages": [stage()] if stages is None else stages,
        "predecessors": [],
        "reasons": [],
        "warnings": [],
        **fields,
    }


def job_summary(number: int = 0, **fields: Any) -> Any:
    summary = job(job_id=f"01970000-0000-7000-8000-{number:012}", **fields)
    del summary["spec"], summary["stages"], summary["predecessors"], summary["warnings"]
    return summary | {"progress": {"tasks": 4, "succeeded": 3, "failed": 1}}


def task(index: int = 0, state: str = "succeeded", **fields: Any) -> Any:
    return {
        "stage": 0,
        "index": index,
        "state": state,
        "attempt": 1,
        "failures": 0,
        "losses": 0,
        "processor": "noop@1",
        "worker_id": WORKER_ID,
        "ready_at": None,
        "queued_at": TIME,
        "started_at": TIME,
        "finished_at": LATER,
        "input": {"type": "index", "count": 4},
        "output": {"uri": "s3://b/out", "bytes": 1536},
        "error": None,
        "source": None,
        **fields,
    }


ATTEMPT = {
    "job_id": JOB_ID,
    "stage": 0,
    "index": 0,
    "attempt": 1,
    "worker_id": WORKER_ID,
    "processor": "noop@1",
    "pool": "default",
    "outcome": "failed",
    "started_at": TIME,
    "finished_at": LATER,
    "run_seconds": 12.5,
    "exit_code": 3,
    "error": {"type": "exit_code", "message": "the command ended with exit code 3"},
    "bytes_in": 1_048_576,
    "bytes_out": 0,
    "records_in": 10,
    "records_out": 0,
    "records_rejected": 2,
    "records_filtered": 0,
    "records_added": 0,
    "cpu_seconds": 11.0,
    "memory_bytes_peak": 67_108_864,
    "log": "s3://b/log.txt",
    "reused_from": None,
}

# Its output was lost after it had succeeded.
LOST = ATTEMPT | {
    "outcome": "succeeded",
    "exit_code": 0,
    "error": {"type": "output_lost", "message": "task 1/2 could not read s3://b/out: the task runs again"},
}
