"""Commands on the tasks of a job."""

from datetime import datetime
from typing import Annotated, Literal

import typer

from piecework.cli import refs
from piecework.cli.options import All, JobId, Limit, StageNumber, TaskIndex
from piecework.cli.session import Session, command, group
from piecework.shapes import Attempt, Failures, Task, TaskDetail, TaskState


def list_tasks(
    session: Session,
    job_id: JobId,
    stage: Annotated[int | None, refs.STAGE.option(help="Only tasks of this stage."), refs.STAGE] = None,
    state: Annotated[TaskState | None, typer.Option(help="Only tasks in this state.")] = None,
    error: Annotated[
        str | None, typer.Option(metavar="KIND", help="Only tasks that have failed so: see `piecework failures`.")
    ] = None,
    slowest: Annotated[
        bool, typer.Option("--slowest", help="Those that took longest first, if a second or more.")
    ] = False,
    everything: All = False,
    limit: Limit = 50,
) -> None:
    """List the tasks of a job."""
    sort: Literal["slowest"] | None = "slowest" if slowest else None
    listing = session.client.list_tasks(job_id, stage=stage, state=state, error=error, sort=sort)
    session.show_list(listing, everything, limit, lambda tasks: _show_tasks(session, tasks))


def list_failures(
    session: Session,
    job_id: JobId,
    stage: Annotated[int | None, refs.STAGE.option(help="Only those of this stage."), refs.STAGE] = None,
) -> None:
    """List the kinds of a job's failures, the most frequent first."""
    found = session.client.list_failures(job_id, stage=stage)
    session.show(found, lambda found: _show_failures(session, found))
    if not found["complete"]:
        session.note("there are more failed attempts than were looked at: --stage tells those of one stage")


def _show_failures(session: Session, found: Failures) -> None:
    from piecework import display

    now = session.client.now()
    display.table(
        session.out,
        ["KIND", ">TASKS", ">?ATTEMPTS", "?LAST", ">STAGE", ">INDEX", "~SOURCE", "~ERROR"],
        (
            (
                kind["fingerprint"],
                display.number(kind["tasks"]),
                display.number(kind["attempts"]),
                display.relative(kind["last_at"], now),
                kind["stage"],
                kind["index"],
                kind["source"]["uri"] if kind["source"] else "-",
                f"{kind['error']['type']}: {kind['error']['message']}",
            )
            for kind in found["items"]
        ),
    )


def _show_tasks(session: Session, tasks: list[Task]) -> None:
    from piecework import display

    now = session.client.now()
    display.table(
        session.out,
        [
            ">STAGE",
            ">INDEX",
            "STATE",
            "~SOURCE",
            ">?ATTEMPTS",
            ">?TOOK",
            "?STARTED",
            ">?OUTPUT",
            "?WORKER",
            "~ERROR",
        ],
        (
            (
                task["stage"],
                task["index"],
                display.state(task["state"]),
                describe_source(task),
                task["attempt"],
                display.duration(_seconds(task, now)),
                display.relative(task["started_at"], now),
                display.size((task["output"] or {}).get("bytes")),
                task["worker_id"],
                f"{task['error']['type']}: {task['error']['message']}" if task["error"] else "",
            )
            for task in tasks
        ),
    )


def describe_source(task: Task) -> str:
    """What of the job's input the task works on, in short: `s3://photos/cat.png`, an item's value, or nothing."""
    import json

    match task.get("source"), task["input"]:  # an older server does not tell the source
        case {"uri": uri, "part": int(part)}, _:
            return f"{uri} part {part}"
        case {"uri": uri, "objects": int(count)}, _ if count > 1:
            return f"{uri} and {count - 1} more"
        case {"uri": uri}, _:
            return str(uri)
        case _, {"type": "item", "value": value}:
            return json.dumps(value, ensure_ascii=False)
    return "-"


def _seconds(task: Task, now: datetime) -> float | None:
    """How long the last attempt took, or runs already."""
    from piecework.display import parse_time

    if task["started_at"] is None or not (task["finished_at"] or task["state"] == "running"):
        return None
    ended = parse_time(task["finished_at"]) if task["finished_at"] else now
    return max(0.0, (ended - parse_time(task["started_at"])).total_seconds())


def show_task(session: Session, job_id: JobId, stage: StageNumber, index: TaskIndex) -> None:
    """Show a task and its attempts."""
    session.show(session.client.get_task(job_id, stage, index), lambda task: _show_task(session, task))


def _show_task(session: Session, task: TaskDetail) -> None:
    import json

    from piecework import display

    now = session.client.now()
    display.facts(
        session.out,
        [
            ("task", f"{task['stage']} {task['index']}"),
            ("state", display.state(task["state"])),
            ("failures", task["failures"] or None),
            ("workers lost", task["losses"] or None),
            ("error", f"{task['error']['type']}: {task['error']['message']}" if task["error"] else None),
            ("source", describe_source(task)),
            ("input", json.dumps(task["input"])),
            ("output", json.dumps(task["output"]) if task["output"] else None),
            ("worker", task["worker_id"]),
            ("started", display.moment(task["started_at"], now)),
            ("finished", display.moment(task["finished_at"], now)),
        ],
    )
    print()
    display.table(
        session.out,
        [
            ">ATTEMPT",
            "OUTCOME",
            "~?PROCESSOR",
            "?STARTED",
            ">TOOK",
            ">?CPU",
            ">?MEMORY",
            ">?IN",
            ">?OUT",
            ">?REJECTED",
            ">?EXIT",
            "~ERROR",
        ],
        (
            (
                attempt["attempt"],
                display.state(attempt["outcome"]),
                attempt.get("processor"),  # an older server does not tell
                display.relative(attempt["started_at"], now),
                display.duration(attempt["run_seconds"]),
                display.duration(attempt["cpu_seconds"]),
                display.size(attempt["memory_bytes_peak"]),
                display.size(attempt["bytes_in"]),
                display.size(attempt["bytes_out"]),
                display.number(attempt["records_rejected"]),
                attempt["exit_code"],
                _remark(attempt),
            )
            for attempt in task["attempts"]
        ),
    )


def _remark(attempt: Attempt) -> str:
    """Why it failed, or where its output comes from."""
    if (maker := attempt.get("reused_from")) is not None:  # an older server does not tell
        return f"reused: made by task {maker['stage']} {maker['index']} of {maker['job_id']}"
    return f"{attempt['error']['type']}: {attempt['error']['message']}" if attempt["error"] else ""


def register(app: typer.Typer) -> None:
    command(app, "failures")(list_failures)
    tasks = group(app, "tasks", "The tasks of a job: `piecework tasks JOB`, `piecework task JOB STAGE INDEX`.")
    command(tasks, "list")(list_tasks)
    command(tasks, "show")(show_task)
