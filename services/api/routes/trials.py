"""A task for running it elsewhere: on its author's machine."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query

from services.api.connections import Api, Connections
from services.api.links import read_link
from services.api.routes.tasks import StageNumber, TaskIndex
from services.api.security import Viewer
from services.api.shapes.trials import Trial, TrialObject
from services.api.strict_json import StrictRoute
from services.contract.location import Location
from services.contract.task_output import ListedOutput
from services.engine.ownership import require_job
from services.engine.stages import StageGone, StageUnreadable
from services.engine.trials import OBJECTS_MAX, find_trial
from services.platform.problems import conflict, problems
from services.platform.routes import JobId

router = APIRouter(prefix="/jobs/{job_id}/tasks", tags=["tasks"], route_class=StrictRoute, responses=problems(404, 409))

_LISTING_BYTES_MAX = 4 << 20


@router.get("/{stage}/{index}/trial", operation_id="get_task_trial", summary="Get a task for running it elsewhere")
async def get_task_trial(
    caller: Viewer,
    api: Api,
    job_id: JobId,
    stage: StageNumber,
    index: TaskIndex,
    processor: Annotated[
        str | None,
        Query(
            pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@[1-9][0-9]{0,8})?$",
            max_length=110,
            description="in the place of the task's own: `name` (newest version) or `name@version`",
        ),
    ] = None,
) -> Trial:
    """A task as a worker gets it, with presigned links to its input, its declared inputs and its package.

    Another processor takes the role that may read its code, developer, and what it declares must be readable for jobs
    of the key, too.
    """
    await require_job(api.database, caller, job_id)
    if processor is not None:
        caller.require("developer")
    try:
        found = await find_trial(api.database, api.settings, job_id, stage, index, processor, caller.reader)
    except (StageGone, StageUnreadable) as error:
        raise conflict(str(error)) from error
    reads = [*found.reads, *(await _listed(api, found.listing) if found.listing else [])]
    return Trial(
        job_id=job_id,
        stage=stage,
        index=index,
        attempt=found.task["attempt"],
        input=found.task["input"],
        work=found.work.model_dump(mode="json"),
        place=api.settings.layout.root.uri,
        objects=[
            TrialObject(uri=place.uri, version=version, url=await read_link(api, place, version))
            for place, version in reads
        ],
    )


async def _listed(api: Connections, listing: Location) -> list[tuple[Location, str | None]]:
    """The outputs that a task of a reduce works on."""
    answer = await api.aws.s3.get_object(
        Bucket=listing.bucket, Key=listing.key, Range=f"bytes=0-{_LISTING_BYTES_MAX - 1}"
    )
    async with answer["Body"] as body:
        lines = (await body.read()).splitlines()
    if len(lines) > OBJECTS_MAX:
        raise conflict(f"the task works on {len(lines)} outputs, and at most {OBJECTS_MAX} are fetched for a trial")
    outputs = [ListedOutput.from_json(orjson.loads(line)) for line in lines]
    return [(output.location, None) for output in outputs if output.location]
