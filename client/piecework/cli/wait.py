"""`piecework wait`: for scripts that go on when jobs have ended."""

import math
import time
from typing import Annotated

import typer

from piecework.cli import exits
from piecework.cli.jobs import reasons_of, tell_state
from piecework.cli.options import JobIds, parse_seconds
from piecework.cli.session import Session, command
from piecework.shapes import Job

CODES = {"succeeded": exits.OK, "cancelled": exits.CANCELLED, "failed": exits.JOB_FAILED}


def wait(
    session: Session,
    job_ids: JobIds,
    timeout: Annotated[
        float | None,
        typer.Option(parser=parse_seconds, metavar="DURATION", help="For all of them: 90s, 2h. Else for ever."),
    ] = None,
) -> None:
    """Wait until jobs have ended, without showing their progress.

    Exits with 0 if all have succeeded, 1 if one has failed, else 7 if one was cancelled, and 124 if the time was over.
    """
    from piecework.watch import wait_for_job

    deadline = math.inf if timeout is None else time.monotonic() + timeout
    ended: list[Job] = []
    try:
        for job_id in job_ids:
            job = wait_for_job(session.client, job_id, timeout_seconds=deadline - time.monotonic())
            ended.append(job)
            _tell(session, job)
    except TimeoutError as error:
        session.complain(str(error))
        raise typer.Exit(exits.TIMED_OUT) from error
    except KeyboardInterrupt as interrupt:
        session.note("no longer waiting; the jobs go on")
        raise typer.Exit(exits.INTERRUPTED) from interrupt
    session.show({"items": ended, "next_cursor": None}, lambda _: None)
    codes = [CODES[job["state"]] for job in ended]
    raise typer.Exit(min((code for code in codes if code), default=exits.OK))


def _tell(session: Session, job: Job) -> None:
    if session.prints_tables:
        tell_state(job)
    if job["state"] != "succeeded":
        for line in reasons_of(session, job):
            session.complain(line)


def register(app: typer.Typer) -> None:
    command(app, "wait")(wait)
