"""Commands on the tasks of a job."""

import sys
from typing import Annotated

import typer

from piecework.cli import refs
from piecework.cli.options import All, JobId, Limit, StageNumber, TaskIndex
from piecework.cli.session import Session, command, group
from piecework.shapes import Task, TaskDetail, TaskState


def list_tasks(
    session: Session,
    job_id: JobId,
    stage: Annotated[int | None, refs.STAGE.option(help="Only tasks of this stage."), refs.STAGE] = None,
    state: Annotated[TaskState | None, typer.Option(help="Only tasks in this state.")] = None,
    everything: All = False,
    limit: Limit = 50,
) -> None:
    """List the tasks of a job."""
    listing = session.client.list_tasks(job_id, stage=stage, state=state)
    session.show_list(listing, everything, limit, lambda tasks: _show_tasks(session, tasks))


def _show_tasks(session: Session, tasks: list[Task]) -> None:
    from piecework import display

    now = session.client.now()
    display.table(
        session.out,
        [">STAGE", ">INDEX", "STATE", ">?ATTEMPTS", "?STARTED", ">?OUTPUT", "~ERROR"],
        (
            (
                task["stage"],
                task["index"],
                display.state(task["state"]),
                task["attempt"],
                display.relative(task["started_at"], now),
                display.size((task["output"] or {}).get("bytes")),
                f"{task['error']['type']}: {task['error']['message']}" if task["error"] else "",
            )
            for task in tasks
        ),
    )


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
                display.relative(attempt["started_at"], now),
                display.duration(attempt["run_seconds"]),
                display.duration(attempt["cpu_seconds"]),
                display.size(attempt["memory_bytes_peak"]),
                display.size(attempt["bytes_in"]),
                display.size(attempt["bytes_out"]),
                display.number(attempt["records_rejected"]),
                attempt["exit_code"],
                f"{attempt['error']['type']}: {attempt['error']['message']}" if attempt["error"] else "",
            )
            for attempt in task["attempts"]
        ),
    )


def logs(
    session: Session,
    job_id: JobId,
    stage: StageNumber,
    index: TaskIndex,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Of this attempt; default: the last that has a log.")
    ] = None,
) -> None:
    """Print what a task's program printed."""
    log = session.client.get_task_log(job_id, stage, index, attempt=attempt)
    text = session.client.read_object(log["url"])
    if session.as_json:
        session.show({**log, "text": text.decode(errors="replace")}, lambda log: None)
    else:
        sys.stdout.buffer.write(text)
        sys.stdout.flush()


def register(app: typer.Typer) -> None:
    command(app, "logs")(logs)
    tasks = group(app, "tasks", "The tasks of a job: `piecework tasks JOB`, `piecework task JOB STAGE INDEX`.")
    command(tasks, "list")(list_tasks)
    command(tasks, "show")(show_task)
    command(tasks, "logs")(logs)
