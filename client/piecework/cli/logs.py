"""What the programs of tasks have printed."""

import sys
import time
from typing import Annotated, Any
from uuid import UUID

import typer

from piecework.cli import refs
from piecework.cli.options import JobId
from piecework.cli.session import Session, command
from piecework.cli.tasks import describe_source
from piecework.errors import InputError, NotFound, TransferError
from piecework.shapes import Task, TaskLog

FAILED_SHOWN = 5
LOOK_SECONDS = 2.0  # between looks at a log that is followed
ENDED = ("succeeded", "failed", "cancelled")


def logs(
    session: Session,
    job_id: JobId,
    stage: Annotated[int | None, refs.STAGE.argument(), refs.STAGE] = None,
    index: Annotated[int | None, typer.Argument(metavar="INDEX", min=0, help="Index of the task, from 0.")] = None,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Of this attempt; default: the last that has a log.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print what a task prints until it ends.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Of at most this many failed tasks.")] = FAILED_SHOWN,
) -> None:
    """Print what a task's program printed; of a job, or a stage of it, what the failed tasks printed."""
    if follow:
        if stage is None or index is None or attempt is not None or session.as_json:
            raise InputError("--follow: name one task, by STAGE and INDEX, without --attempt and --json")
        _follow(session, job_id, stage, index)
        return
    if stage is not None and index is not None:
        log, text = _read(session, job_id, stage, index, attempt)
        if session.as_json:
            session.show({**log, "text": text.decode(errors="replace")}, lambda log: None)
        else:
            _write(text)
        return
    if attempt is not None:
        raise InputError("--attempt: name the task that it is of, by STAGE and INDEX")
    page = session.client.list_tasks(job_id, stage=stage, state="failed").page(limit)
    found = [(task, *_read_if_any(session, job_id, task)) for task in page["items"]]
    if session.as_json:
        logs = [{**log, "task": task, "text": text.decode(errors="replace")} for task, log, text in found]
        session.show({"items": logs}, lambda logs: None)
        return
    for number, (task, log, text) in enumerate(found):
        _write(("\n" if number else "").encode() + f"==> {_heading(task)} <==\n".encode())
        _write(text if log else b"[no log: nothing was printed]\n")
    if not found:
        session.note("no task has failed; name one to see its log: piecework logs JOB STAGE INDEX")
    if page["next_cursor"]:
        session.note(f"more than {limit} tasks have failed: --limit shows more, `piecework failures` their kinds")


def _follow(session: Session, job_id: UUID, stage: int, index: int) -> None:
    """Print the logs of the task's attempts, from the one that runs on, as they grow."""
    attempt, printed = None, b""
    while True:
        over = session.client.get_task(job_id, stage, index)["state"] in ENDED
        try:
            log = session.client.get_task_log(job_id, stage, index, live=True)
        except NotFound:
            if over:
                session.note("the task has ended" + ("" if printed else ", and printed nothing"))
                return
        else:
            if attempt not in (None, log["attempt"]):
                session.note(f"attempt {log['attempt']}")
                printed = b""
            attempt = log["attempt"]
            text = _read_live(session, log)
            _write(_news(printed, text))
            printed = text or printed
            if over and not log.get("running"):
                return
        time.sleep(LOOK_SECONDS)


def _read_live(session: Session, log: TaskLog) -> bytes:
    """What was printed so far, which may be nothing yet."""
    try:
        return session.client.read_object(log["url"])
    except TransferError:
        if not log.get("running"):
            raise
        return b""


def _news(printed: bytes, text: bytes) -> bytes:
    """What of the log was not printed yet; of one whose middle is left out, what follows the last lines."""
    if text.startswith(printed):
        return text[len(printed) :]
    last = printed[-256:]
    found = text.rfind(last)
    return text if found < 0 else text[found + len(last) :]


def _read(session: Session, job_id: UUID, stage: int, index: int, attempt: int | None) -> tuple[dict[str, Any], bytes]:
    log = session.client.get_task_log(job_id, stage, index, attempt=attempt)
    return {**log}, session.client.read_object(log["url"])


def _read_if_any(session: Session, job_id: UUID, task: Task) -> tuple[dict[str, Any], bytes]:
    try:
        return _read(session, job_id, task["stage"], task["index"], None)
    except NotFound:
        return {}, b""


def _heading(task: Task) -> str:
    error = f": {task['error']['type']}: {' '.join(task['error']['message'].split())}" if task["error"] else ""
    source = "" if (of := describe_source(task)) == "-" else f" of {of}"
    return f"task {task['stage']} {task['index']}{source}{error}"


def _write(text: bytes) -> None:
    sys.stdout.buffer.write(text)
    sys.stdout.flush()


def register(app: typer.Typer) -> None:
    command(app, "logs")(logs)
