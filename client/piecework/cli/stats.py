"""`piecework stats`: the statistics of a job."""

from collections.abc import Callable
from typing import cast

import typer

from piecework.cli.options import JobId
from piecework.cli.session import Session, command
from piecework.shapes import JobStats, SlotTime, StageStats, TimeSpent

STRAGGLERS_SHOWN = 5


def stats(session: Session, job_id: JobId) -> None:
    """Show a job's rates, durations, retries and volumes, by stage."""
    session.show(session.client.get_job_stats(job_id), lambda job: _show(session, job))


def _show(session: Session, job: JobStats) -> None:
    from piecework import display

    display.facts(
        session.out,
        [
            ("job", job["job_id"]),
            ("name", job["name"]),
            ("state", display.state(job["state"])),
            ("tasks", f"{job['progress']['succeeded']:,} of {job['progress']['tasks']:,} succeeded"),
            ("elapsed", display.duration(job["elapsed_seconds"])),
            ("rate", f"{display.number(job['rate_per_second'])}/s" if job["rate_per_second"] else None),
            ("time left", display.duration(job["seconds_left"]) if job["seconds_left"] else None),
        ],
    )
    print()
    display.table(
        session.out,
        ["STAGE", *(f">{stage['name']}" for stage in job["stages"])],
        ((name, *(render(stage) for stage in job["stages"])) for name, render in _rows().items()),
    )
    show_time_spent(session, job)
    for stage in job["stages"]:
        for straggler in stage["stragglers"][:STRAGGLERS_SHOWN]:
            runs = display.duration(straggler["running_seconds"])
            print(f"straggler: task {stage['stage']} {straggler['index']} runs {runs} on {straggler['worker_id']}")


def _rows() -> dict[str, Callable[[StageStats], str]]:
    """What is known of a stage, under the name that people see."""
    from piecework.display import duration, number, size

    return {
        "state": lambda stage: stage["state"],
        "tasks": lambda stage: number(stage["tasks"]),
        "succeeded": lambda stage: number(stage["progress"]["succeeded"]),
        "failed": lambda stage: number(stage["progress"]["failed"]),
        "cancelled": lambda stage: number(stage["progress"]["cancelled"]),
        "rate": lambda stage: f"{number(stage['rate_per_second'])}/s",
        "time left": lambda stage: duration(stage["seconds_left"] or None),
        "task p50": lambda stage: duration(stage["duration_seconds"]["p50"]),
        "task p95": lambda stage: duration(stage["duration_seconds"]["p95"]),
        "task p99": lambda stage: duration(stage["duration_seconds"]["p99"]),
        "task max": lambda stage: duration(stage["duration_seconds"]["max"]),
        "unsuccessful": lambda stage: _causes(stage),
        "retries": lambda stage: number(stage["retries"]),
        "read": lambda stage: size(stage["bytes_in"]),
        "written": lambda stage: size(stage["bytes_out"]),
        "records in": lambda stage: number(stage["records_in"]),
        "records out": lambda stage: number(stage["records_out"]),
        "rejected": lambda stage: number(stage["records_rejected"]),
        "worker time": lambda stage: duration(stage["worker_seconds"]),
        "of it fetching": lambda stage: duration(_seconds(stage.get("slot_time")).get("fetching")),
        "of it running": lambda stage: duration(_seconds(stage.get("slot_time")).get("running")),
        "of it putting": lambda stage: duration(_seconds(stage.get("slot_time")).get("putting")),
        "of it in vain": lambda stage: duration(_seconds(stage.get("slot_time")).get("unsuccessful")),
        "CPU time": lambda stage: duration(stage["cpu_seconds"]),
        "peak memory": lambda stage: size(stage["memory_bytes_peak"]),
    }


def _seconds(spent: TimeSpent | SlotTime | None) -> dict[str, float]:
    """By phase; nothing if the server is older and does not tell."""
    return cast(dict[str, float], spent or {})


def show_time_spent(session: Session, job: JobStats) -> None:
    """Where the time of a job that has ended went, by phase and by stage; what took no time is left out."""
    from piecework.display import duration, table

    of_job = _seconds(job.get("time_spent"))
    total = sum(of_job.values())
    if not total:
        return
    print()
    table(
        session.out,
        ["TIME", ">JOB", ">SHARE", *(f">{stage['name']}" for stage in job["stages"])],
        (
            (
                phase,
                duration(seconds),
                f"{seconds / total:.0%}",
                *(duration(_seconds(stage["time_spent"]).get(phase) or None) for stage in job["stages"]),
            )
            for phase, seconds in of_job.items()
            if seconds
        ),
    )


def _causes(stage: StageStats) -> str:
    causes = stage["unsuccessful_attempts"].items()
    return ", ".join(f"{count:,} {cause}" for cause, count in causes if count) or "0"


def register(app: typer.Typer) -> None:
    command(app, "stats")(stats)
