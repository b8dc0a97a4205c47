"""The outputs of a job's tasks, in the order of the tasks, read by pages: as rows, and as sources to join."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

from asyncpg import Record

from services.contract.location import Location
from services.contract.task_output import StoredObject, TaskOutput
from services.platform.database import Database
from services.scheduler.merges.concatenate import Extent
from services.scheduler.merges.crc32 import encode
from services.scheduler.merges.lines import END_BYTES_MAX

ROWS_PER_PAGE = 5000

_OUTPUTS = """
    SELECT stage, index, attempt, source_of(input) AS source, output FROM tasks
    WHERE job_id = $1 AND (stage, index) > ($2, $3) AND stage <= $4 AND state = 'succeeded'
    ORDER BY stage, index LIMIT $5"""

_EXTENT = """
    SELECT count(*) AS sources, coalesce(sum((output #>> $4)::bigint), 0)::bigint AS bytes,
        coalesce(bool_and(output #> $5 ? 'missing_end'), false) AS text
    FROM tasks
    WHERE job_id = $1 AND stage BETWEEN $2 AND $3 AND state = 'succeeded' AND (output #>> $4)::bigint > 0"""

Stages = tuple[int, int]  # the first and the last
Facts = dict[str, Any]


async def succeeded_pages(
    database: Database, job_id: UUID, first_stage: int, last_stage: int, *, after: int = -1
) -> AsyncIterator[list[Record]]:
    """`stage, index, attempt, source, output` of the succeeded tasks of these stages, in order; no page is empty.

    They begin `after` this index of the first stage.
    """
    stage, index = first_stage, after
    while rows := await database.fetch(_OUTPUTS, job_id, stage, index, last_stage, ROWS_PER_PAGE):
        yield rows
        stage, index = rows[-1]["stage"], rows[-1]["index"]


async def succeeded_tasks(database: Database, job_id: UUID, first_stage: int, last_stage: int) -> AsyncIterator[Record]:
    """The rows of these pages."""
    async for page in succeeded_pages(database, job_id, first_stage, last_stage):
        for row in page:
            yield row


@dataclass(frozen=True, slots=True)
class Objects:
    """One object of each task's output, if it is there; in the JSON its size is at `path`."""

    path: tuple[str, ...]
    of: Callable[[TaskOutput], StoredObject | None]


OUTPUTS = Objects(("bytes",), lambda output: output.object)
REJECTS = Objects(("rejects_bytes",), lambda output: output.rejects)


def further_outputs(name: str) -> Objects:
    """Those that the processor declares under this name."""
    return Objects(("files", name, "bytes"), lambda output: output.files.get(name))


@dataclass(frozen=True, slots=True)
class Measured:
    """How many objects there are and how large they are together, and whether all are text."""

    extent: Extent
    all_text: bool


async def measure(database: Database, job_id: UUID, stages: Stages, objects: Objects) -> Measured:
    [row] = await database.fetch(_EXTENT, job_id, *stages, objects.path, objects.path[:-1])
    return Measured(Extent(row["sources"], row["bytes"], END_BYTES_MAX), row["text"])


async def read_objects(
    database: Database, job_id: UUID, stages: Stages, objects: Objects
) -> AsyncIterator[StoredObject]:
    """These objects in the order of the tasks, but empty ones."""
    async for task in succeeded_tasks(database, job_id, *stages):
        object_ = objects.of(TaskOutput.from_json(task["output"]))
        if object_ is not None and object_.bytes:
            yield object_


def file_facts(location: Location, size: int, crc32: int | None, name: str | None = None) -> Facts:
    """A file as results and manifest name it."""
    return {
        "name": name or PurePosixPath(location.key).name,
        "uri": location.uri,
        "bytes": size,
        "checksum_crc32": None if crc32 is None else encode(crc32),
    }
