"""Commands on open jobs: append items, close, and follow the values that tasks leave."""

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from piecework.cli import exits
from piecework.cli.options import JobId
from piecework.cli.session import Session, command
from piecework.errors import InputError

CHUNK_ITEMS = 1_000


def append(
    session: Session,
    job_id: JobId,
    file: Annotated[
        typer.FileText, typer.Argument(metavar="FILE", help="An item a line, as JSON; - for standard input.")
    ],
    close: Annotated[bool, typer.Option("--close", help="Then close the job.")] = False,
) -> None:
    """Append items to an open job, one whose input is {type: stream}."""
    from piecework.calls.open_job import chunks_of, with_room

    appended = session.client.append_items(job_id, 0, [])  # a chunk that is there, or an empty one: it tells the next
    for items in chunks_of(_items(file), CHUNK_ITEMS):
        appended = with_room(session.client.append_items, job_id, appended["chunks"], items)
    if close:
        session.client.close_job(job_id)
    session.show(appended, lambda appended: print(f"{job_id} {appended['items']} items"))


def _items(file: Any) -> Iterator[Any]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise InputError(f"{file.name}: line {number} is not JSON: {error}") from error


def close(session: Session, job_id: JobId) -> None:
    """Close an open job: it ends when its tasks have ended."""
    job = session.client.close_job(job_id)
    session.show(job, lambda job: print(f"{job['job_id']} {job['state']}"))


def values(
    session: Session,
    job_id: JobId,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on where this command said that it ended.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more until the job has ended.")] = False,
) -> None:
    """Print the values of tasks, or their errors, as JSON lines in the order in which the tasks ended."""
    from piecework.calls.values import values_of

    client = session.client
    try:
        for portion in values_of(client, str(job_id), after) if follow else client.stream_values(job_id, after=after):
            for value in portion["values"]:
                print(json.dumps(value))
            sys.stdout.flush()
            after = portion["after"]
    except KeyboardInterrupt as interrupt:
        session.note(f"the job goes on; read up to --after {after}")
        raise typer.Exit(exits.INTERRUPTED) from interrupt
    session.note(f"read up to --after {after}")


def register(app: typer.Typer) -> None:
    command(app, "append")(append)
    command(app, "close")(close)
    command(app, "values")(values)
