"""Where one output is lost others may be, and all can be made again at once: so those beside it are looked at."""

from asyncpg import Record

from services.contract.location import Location
from services.contract.task_output import StoredObject, TaskOutput
from services.engine.attempt import LostOutput
from services.platform.concurrency import map_at_most
from services.platform.s3_faults import LOST, S3_ERRORS, fault_of
from services.scheduler.loop import Context
from services.scheduler.merges.outputs import succeeded_pages

_LOOKS_AT_ONCE = 32


async def find_lost(context: Context, job: Record, location: Location) -> list[LostOutput]:
    """The outputs of the stages up to `job`'s that are lost, in a page of tasks from the maker of `location` on.

    Empty if no task has made that.
    """
    maker = context.settings.layout.maker(job["job_id"], location)
    if maker is None or maker.index < 0:
        return []
    first = LostOutput(maker.stage, maker.index, maker.attempt, location.uri)
    pages = succeeded_pages(context.database, job["job_id"], maker.stage, maker.stage, after=maker.index)
    tasks: list[Record] = await anext(pages, [])
    made = [(task, object_) for task in tasks for object_ in _objects(TaskOutput.from_json(task["output"]))]

    async def is_lost(made: tuple[Record, StoredObject]) -> bool:
        _, object_ = made
        condition = {} if object_.etag is None else {"IfMatch": object_.etag}
        try:
            await context.aws.s3.head_object(Bucket=object_.location.bucket, Key=object_.location.key, **condition)
        except S3_ERRORS as error:
            return fault_of(error) in LOST
        return False

    looked = await map_at_most(_LOOKS_AT_ONCE, is_lost, made)
    beside = [
        LostOutput(maker.stage, task["index"], task["attempt"], object_.location.uri)
        for (task, object_), lost in zip(made, looked, strict=True)
        if lost
    ]
    return [first, *beside]


def _objects(output: TaskOutput) -> list[StoredObject]:
    """What a merge reads of a task's output."""
    return [object_ for object_ in (output.object, *output.files.values(), output.rejects) if object_]
