"""`piecework retry`: a job that has ended runs again, as a whole, in part, with newer code."""

from collections.abc import Iterator
from typing import Annotated
from uuid import UUID

import typer

from piecework.cli import names, refs
from piecework.cli.jobs import change_each, tell_state
from piecework.cli.options import JobIds
from piecework.cli.session import Session, command
from piecework.errors import InputError
from piecework.shapes import Job

TASKS_MAX = 10_000  # as many as one retry may name


def retry(
    session: Session,
    job_ids: JobIds,
    latest: Annotated[
        bool, typer.Option("--latest", help="With the newest versions of the processors that run again.")
    ] = False,
    processors: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="NAME@VERSION",
            autocompletion=names.processors,
            help="With this version of a processor; may be repeated.",
        ),
    ] = None,
    stage: Annotated[
        str | None, refs.STAGE.option(help="All of this stage, by name or number, and what comes after it.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="Of the stage only these, and what has not succeeded: 3,10-19."),
    ] = None,
    only_failed: Annotated[
        bool, typer.Option("--only-failed", help="Of the stage only the tasks that have not succeeded.")
    ] = False,
    accept_changed: Annotated[
        bool, typer.Option("--accept-changed", help="Take input objects that were replaced as they are now.")
    ] = False,
) -> None:
    """Run what has not succeeded of jobs again.

    Tasks that have succeeded are kept, unless you name their stage. A job runs the versions of its processors that it
    has had so far, unless you say --latest or --with.
    """
    wanted = None if tasks is None else list(_numbers(tasks))

    def change(job_id: UUID) -> Job:
        return session.client.retry_job(
            job_id,
            stage=int(stage) if stage is not None and stage.isdecimal() else stage,
            tasks=wanted,
            only_failed=only_failed,
            latest=latest,
            processors=processors or (),
            accept_changed=accept_changed,
        )

    def tell(job: Job) -> None:
        tell_state(job)
        used = ", ".join(stage["processor"] for stage in job["stages"] if stage["state"] in ("running", "waiting"))
        if used and not (latest or processors):
            session.note(f"it runs {used}, as before; --latest takes the newest versions")

    change_each(session, job_ids, change, tell)


def _numbers(text: str) -> Iterator[int]:
    """`3,10-19`: each of them. Raises InputError."""
    found = 0
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InputError(f"--tasks: write numbers and ranges, such as 3,10-19 (got {text!r})")
        numbers = range(int(first), int(last if dash else first) + 1)
        found += len(numbers)
        if not numbers or found > TASKS_MAX:
            what = "ends before it begins" if not numbers else f"names more than {TASKS_MAX:,} tasks"
            raise InputError(f"--tasks: {part.strip()!r} {what}")
        yield from numbers


def register(app: typer.Typer) -> None:
    command(app, "retry")(retry)
