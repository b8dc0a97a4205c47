"""Outputs of earlier jobs for the tasks of a chunk: copied within S3 before the tasks are made.

A copy is the task's own, so it stays when the earlier job is deleted, and is made again by running the task if it is
lost. What is gone, or no longer what was written, is not reused: its task runs. A copy that is left of a plan which did
not count, as after a crash, is overwritten by the next one: no attempt that runs has its name.
"""

from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from asyncpg import Record
from botocore.exceptions import ClientError

from services.contract.location import Location
from services.contract.states import RECORD_COUNTS
from services.contract.task_output import StoredObject, TaskOutput
from services.engine import reuse
from services.engine.reuse import ATTEMPT, Stage
from services.engine.transitions import reuse_outputs
from services.inputs.chunk import Chunk
from services.platform.concurrency import map_at_most
from services.platform.database import Connection
from services.platform.multipart import PART_BYTES_MAX
from services.platform.s3_faults import LOST, fault_of
from services.scheduler.loop import Context

COPIES_AT_ONCE = 32

_COUNTED = ("bytes_in", "bytes_out", *RECORD_COUNTS)


@dataclass(frozen=True, slots=True)
class Reused:
    """The keys of a chunk's tasks, by stage and index, and what tasks of each stage take over."""

    keys: dict[tuple[int, int], bytes] = field(default_factory=dict)
    taken: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    async def save(self, connection: Connection, job_id: UUID) -> None:
        """Inside the transaction that has made the tasks."""
        await reuse.save_keys(connection, job_id, self.keys)
        for stage in sorted(self.taken):
            await reuse_outputs(connection, job_id, stage, self.taken[stage])


async def find_reused(context: Context, job_id: UUID, first: int, chunk: Chunk) -> Reused:
    """Copy what earlier jobs have made for the tasks of the chunk, of which the first has the index `first`."""
    stages = await reuse.read_stages(context.database, job_id)
    keys = {
        first + place: reuse.task_keys(stages, value, first + place)
        for place, value in enumerate(chunk.inputs * chunk.repeat)
    }
    wanted = [key for of_task in keys.values() for key in of_task]
    made = await reuse.find_made(context.database, wanted) if wanted else {}
    found = Reused(
        {(stage.number, index): key for index, each in keys.items() for stage, key in zip(stages, each, strict=False)}
    )

    async def take(index: int) -> None:
        """Stage after stage, as far as the task has been done before."""
        for stage, key in zip(stages, keys[index], strict=False):
            if key not in made or (taken := await _take(context, job_id, stage, index, made[key])) is None:
                return
            found.taken.setdefault(stage.number, []).append(taken)

    await map_at_most(COPIES_AT_ONCE, take, [index for index, each in keys.items() if each and each[0] in made])
    return found


async def _take(context: Context, job_id: UUID, stage: Stage, index: int, made: Record) -> dict[str, Any] | None:
    """What the task takes over; None if some of it can't be had."""
    output = TaskOutput.from_json(made["output"])

    async def copy(source: StoredObject) -> StoredObject:
        layout = context.settings.layout
        if (name := layout.filename(made["job_id"], source.location)) is None:
            raise _Gone
        target = layout.attempt(job_id, stage.number, index, ATTEMPT, name, interim=stage.interim)
        etag = await _copy(context.aws.s3, source, target)
        return replace(source, location=target, etag=etag)

    try:
        own = replace(
            output,
            object=output.object and await copy(output.object),
            rejects=output.rejects and await copy(output.rejects),
            files={name: await copy(file) for name, file in output.files.items()},
        )
    except _Gone:
        return None
    maker = {name: made[name] for name in ("stage", "index", "attempt")}
    return {
        "index": index,
        "output": own.to_json(),
        "reused_from": {"job_id": str(made["job_id"]), **maker},
        **{name: made[name] for name in _COUNTED},
    }


class _Gone(Exception):
    """The object is gone, has changed, is too large to be copied at once, or is not where attempts write."""


async def _copy(s3: Any, source: StoredObject, target: Location) -> str:
    """Copy an object as it was written; returns the ETag of the copy. Raises _Gone, and what else the client raises."""
    if source.bytes > PART_BYTES_MAX:
        raise _Gone
    origin = {"Bucket": source.location.bucket, "Key": source.location.key}
    condition = {} if source.etag is None else {"CopySourceIfMatch": source.etag}
    try:
        answer = await s3.copy_object(Bucket=target.bucket, Key=target.key, CopySource=origin, **condition)
    except ClientError as error:
        if fault_of(error) in LOST:
            raise _Gone from error
        raise
    etag: str = answer["CopyObjectResult"]["ETag"]
    return etag
