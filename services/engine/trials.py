"""What it takes to run a task, or a processor, elsewhere: as a worker gets it, and all that it reads."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from asyncpg import Record
from pydantic import ValidationError

from services.contract.location import Location
from services.engine.attempt import StageWork
from services.engine.errors import Conflict, NotFound, SpecError, explain
from services.engine.places import Reader, check_task_inputs
from services.engine.spec import OWN_PROCESSORS, ProcessorSpec
from services.engine.stages import load_stage
from services.inputs.chunk import SplitError
from services.platform.database import Database
from services.platform.settings import Settings

OBJECTS_MAX = 1_000
_NO_JOB = UUID(int=0)

_TASK = """
    SELECT stage, index, greatest(attempt, coalesce(backup_attempt, 0)) + 1 AS attempt, input FROM tasks
    WHERE job_id = $1 AND stage = $2 AND index = $3"""

_PROCESSOR = """
    SELECT name, version, spec FROM processors WHERE name = $1 AND deleted_at IS NULL
        AND ($2::integer IS NULL OR version = $2) ORDER BY version DESC LIMIT 1"""


@dataclass(frozen=True, slots=True)
class Trial:
    """`reads` are objects with their versions; `listing` is one that lists further ones."""

    task: Record
    work: StageWork
    reads: list[tuple[Location, str | None]]
    listing: Location | None


@dataclass(frozen=True, slots=True)
class ProcessorTrial:
    """A version of a processor, and the objects that it reads whatever its input is."""

    name: str
    version: int
    spec: ProcessorSpec
    reads: list[Location]


async def find_processor_trial(
    database: Database, settings: Settings, name: str, version: int | None, reader: Reader
) -> ProcessorTrial:
    """The newest version of the processor if none is given. Raises NotFound, Conflict, SpecError."""
    row = None if name.startswith(OWN_PROCESSORS) else await database.fetchrow(_PROCESSOR, name, version)
    if row is None:
        raise NotFound(f"there is no processor {name if version is None else f'{name}@{version}'}")
    try:
        spec = ProcessorSpec.model_validate(row["spec"], extra="ignore")
    except ValidationError as error:
        raise Conflict(f"this release can't read the processor {name}@{row['version']}: {explain(error)}") from error
    declared = [uri for uri in spec.inputs.values() if uri is not None]
    try:
        named = [{"type": "object", "uri": uri} for uri in declared]
        await check_task_inputs(database, _NO_JOB, named, settings, reader)
    except SplitError as error:
        raise SpecError("inputs", declared, str(error)) from error
    code = [] if spec.package is None else [settings.layout.package(spec.package)]
    return ProcessorTrial(name, row["version"], spec, [*map(Location.parse, declared), *code])


async def find_trial(
    database: Database,
    settings: Settings,
    job_id: UUID,
    stage: int,
    index: int,
    processor: str | None,
    reader: Reader,
) -> Trial:
    """The task, by its own processor or by another one, `name` or `name@version`, in its place.

    What another processor declares must be readable for the job's owner, and for the reader, who asks.

    Raises NotFound, Conflict, SpecError, StageGone, StageUnreadable.
    """
    task = await database.fetchrow(_TASK, job_id, stage, index)
    if task is None:
        raise NotFound(f"there is no task {stage}/{index} of job {job_id} (yet)")
    work = await load_stage(database, job_id, stage)
    named_by_job = set(work.inputs.values())
    if processor is not None:
        work = await _with_processor(database, work, processor)
    if work.spec.builtin == "split":
        raise Conflict("a split task runs on the grid alone; try a task of the stage after it")
    reads = _reads(task["input"])
    declared: list[tuple[Location, str | None]] = [(Location.parse(uri), None) for uri in work.inputs.values()]
    try:
        named = [{"type": "object", "uri": uri} for uri in work.inputs.values()]
        await check_task_inputs(database, job_id, named, settings)
        others = [each for each in named if each["uri"] not in named_by_job]
        await check_task_inputs(database, job_id, others, settings, reader)
    except SplitError as error:
        raise SpecError("processor", processor, str(error)) from error
    if work.spec.package is not None:
        declared.append((settings.layout.package(work.spec.package), None))
    listing = reads[0][0] if task["input"]["type"] == "outputs" else None
    if len(reads) > OBJECTS_MAX:
        raise Conflict(f"the task works on {len(reads)} objects, and at most {OBJECTS_MAX} are fetched for a trial")
    return Trial(task, work, reads + declared, listing)


def _reads(input: dict[str, Any]) -> list[tuple[Location, str | None]]:
    match input:
        case {"type": "item"}:
            return []
        case {"objects": objects}:
            return [(Location.parse(each["uri"]), each.get("version")) for each in objects]
        case {"uri": uri}:
            return [(Location.parse(uri), input.get("version"))]
    return []


async def _with_processor(database: Database, work: StageWork, reference: str) -> StageWork:
    name, _, version = reference.partition("@")
    row = await database.fetchrow(_PROCESSOR, name, int(version) if version else None)
    if row is None:
        raise SpecError("processor", reference, "no such processor; list them (list_processors)")
    spec = ProcessorSpec.model_validate(row["spec"], extra="ignore")
    inputs = {key: work.inputs.get(key, uri) for key, uri in spec.inputs.items()}
    if missing := [key for key, uri in inputs.items() if uri is None]:
        raise SpecError(
            "processor", reference, f"it needs the input {missing[0]!r}, which the job's stage does not name"
        )
    return work.model_copy(
        update={"processor": row["name"], "processor_version": row["version"], "spec": spec, "inputs": inputs}
    )
