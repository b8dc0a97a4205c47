"""Submission: a job specification becomes a job and its stages, or an error that names the field."""

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any
from uuid import UUID

import structlog
from asyncpg import Record
from pydantic import ValidationError

from services.contract.output_name import is_template, uses_source
from services.contract.resources import Needs
from services.contract.states import StageKind, TasksFrom
from services.engine import reuse
from services.engine.arguments import BadArgument, check_arguments, names_its_program
from services.engine.dependencies import wait_for
from services.engine.errors import SpecError, explain
from services.engine.jobs import notify_jobs
from services.engine.nodes import Nodes, known_nodes
from services.engine.params import find_missing_in_command, find_missing_in_sql
from services.engine.params_schema import check_params
from services.engine.places import Reader, check_places
from services.engine.quotas import check_job
from services.engine.spec import (
    COMPACT_PROCESSOR,
    OWN_PROCESSORS,
    SPLIT_PROCESSOR,
    ConcatMerge,
    JobSpec,
    NoMerge,
    ParquetMerge,
    ProcessorSpec,
    ReduceMerge,
    StageOptions,
    StageSpec,
)
from services.engine.stages import start_stages
from services.inputs.chunk import TASKS_MAX
from services.inputs.grid import needs_grid
from services.inputs.spec import Input, RangeInput, Resplit, StreamInput, count_tasks, names_objects, tells_types
from services.platform.database import Connection, new_id
from services.platform.settings import Settings
from services.platform.tracing import annotate, current_traceparent, traced

log = structlog.get_logger()

_UPLOAD = re.compile(r"/uploads/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/")  # as Layout.upload has it

# Nobody deletes the pool before the job is there (services/engine/removal.py).
_HOLD_POOL = "SELECT pg_advisory_xact_lock_shared(hashtextextended('pool ' || $1, 0))"

NEXT_POOL_AFTER_SECONDS = 300.0  # unless a stage says otherwise
ALL_AT_ONCE = 2_147_483_647  # a fan-in without levels


@dataclass(frozen=True, slots=True)
class ResolvedStage:
    """A stage as it will be stored. `tasks_from` says what its tasks are made of (services/scheduler/planning).
    `field` is its path in the job's specification."""

    spec: StageSpec
    kind: StageKind
    processor: str
    version: int
    processor_spec: ProcessorSpec
    inputs: dict[str, str]
    field: str
    tasks_from: TasksFrom
    fan_in: int | None = None


async def _find_processor(connection: Connection, name_and_version: str, field: str) -> Record:
    name, at, version = name_and_version.partition("@")
    if at and not version.isdecimal():
        raise SpecError(field, name_and_version, "write `name` for the newest version or `name@version` with a number")
    row = await connection.fetchrow(
        "SELECT name, version, spec FROM processors WHERE name = $1 AND ($2::integer IS NULL OR version = $2) "
        "AND deleted_at IS NULL ORDER BY version DESC LIMIT 1",
        name,
        int(version) if at else None,
    )
    if row is None:
        known = await connection.fetch(
            "SELECT DISTINCT name FROM processors WHERE NOT starts_with(name, $1) AND deleted_at IS NULL "
            "ORDER BY name LIMIT 20",
            OWN_PROCESSORS,
        )
        names = ", ".join(row["name"] for row in known) or "none yet"
        raise SpecError(field, name_and_version, f"no such processor is registered (registered: {names})")
    return row


def _read_processor(row: Record, reference: str, field: str) -> ProcessorSpec:
    """Raises SpecError if only a newer release can read the processor's specification."""
    try:
        return ProcessorSpec.model_validate(row["spec"], extra="ignore")
    except ValidationError as error:
        fix = f"it was registered by a newer release, and this one can't read it ({explain(error)}): send this again"
        raise SpecError(field, reference, f"{fix} when all services are of that release") from error


def check_params_of(processor: ProcessorSpec, params: Mapping[str, Any], reference: str, field: str) -> None:
    """Raises SpecError unless a stage may give the processor, `name@version`, these params; it may take a moment."""
    _check_named_params(params, reference, processor, field)
    check_params(params, processor.params_schema, field)
    try:
        check_arguments(processor, params)
    except BadArgument as error:
        raise SpecError(f"{field}.{error.name}", error.value, str(error)) from error


def _check_named_params(params: Mapping[str, Any], reference: str, processor: ProcessorSpec, field: str) -> None:
    """Raises SpecError if a param that the processor needs is missing."""
    match processor:
        case ProcessorSpec(kind="sql", sql=str(query)):
            what, missing = "query", find_missing_in_sql(query, params)
        case ProcessorSpec(kind="command" | "image", arguments=list(arguments)):
            what, missing = "command", find_missing_in_command(arguments, params)
        case _:
            return
    if missing is not None:
        fix = f"the {what} of {reference} has {missing}, which is not among these params: add it"
        raise SpecError(field, params, fix)


def check_program(processor: ProcessorSpec, reference: str, field: str) -> None:
    """Raises SpecError if the params would choose the program."""
    if names_its_program(processor):
        fix = "its command's program is a param, which may only be an argument: have the processor registered again"
        raise SpecError(field, reference, fix)


def resolve_inputs(given: Mapping[str, str], processor: ProcessorSpec, field: str) -> dict[str, str]:
    """The URI of each object that the processor declares; the given ones override its own. Raises SpecError."""
    for name in given:
        if name not in processor.inputs:
            declared = ", ".join(processor.inputs) or "none"
            raise SpecError(field, name, f"the processor declares no such input (declared: {declared})")
    found = {name: given.get(name, uri) for name, uri in processor.inputs.items()}
    for name, uri in found.items():
        if uri is None:
            raise SpecError(field, given, f"the processor needs the input {name!r}: add its URI")
    return {name: uri for name, uri in found.items() if uri is not None}


def _refuse_own(reference: str, field: str) -> None:
    if reference.startswith(OWN_PROCESSORS):
        raise SpecError(field, reference, "this processor is for Piecework's own stages; name one of yours")


async def _resolve_stage(
    connection: Connection,
    stage: StageSpec,
    kind: StageKind,
    field: str,
    tasks_from: TasksFrom,
    fan_in: int | None = None,
) -> ResolvedStage:
    row = await _find_processor(connection, stage.processor, f"{field}.processor")
    processor = _read_processor(row, stage.processor, f"{field}.processor")
    reference = f"{row['name']}@{row['version']}"
    check_program(processor, reference, f"{field}.processor")
    await asyncio.to_thread(check_params_of, processor, stage.params, reference, f"{field}.params")
    if stage.columns and processor.kind not in ("function", "records", "sql"):
        fix = f"{row['name']} is neither SQL nor a function of records and reads its input itself: leave it out"
        raise SpecError(f"{field}.columns", stage.columns, fix)
    if processor.output_directory and not stage.fan_out:
        raise SpecError(f"{field}.fan_out", False, f"{row['name']} makes a directory of files: set fan_out to true")
    for pool in sorted(stage.pools or [stage.pool]):  # in one order, as they are locked
        await _find_pool(connection, pool, f"{field}.{'pool' if stage.pools is None else 'pools'}")
    if stage.needs is not None:
        await _check_needs(connection, stage, stage.needs, field)
    inputs = resolve_inputs(stage.inputs, processor, f"{field}.inputs")
    return ResolvedStage(stage, kind, row["name"], row["version"], processor, inputs, field, tasks_from, fan_in)


async def _find_pool(connection: Connection, pool: str, field: str) -> None:
    """Keep the pool from being deleted. Raises SpecError if there is none of that name."""
    await connection.execute(_HOLD_POOL, pool)
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pools WHERE name = $1)", pool):
        known = await connection.fetch("SELECT name FROM pools ORDER BY name")
        raise SpecError(field, pool, f"no such pool (pools: {', '.join(r['name'] for r in known)})")


async def _check_needs(connection: Connection, stage: StageSpec, needs: Needs, field: str) -> None:
    """Raises SpecError if no node that a pool of the stage has, had or may have is large enough."""
    pools, asked = stage.pools or [stage.pool], needs.to_json()
    known = [await known_nodes(connection, pool) for pool in pools]
    if any(nodes.may_hold(needs) for nodes in known):
        return
    nodes = Nodes([kind for nodes in known for kind in nodes.kinds])
    alone = {name: Needs.of({name: value}) for name, value in asked.items()}
    name = next(iter([name for name, one in alone.items() if one and not nodes.may_hold(one)] or asked))
    fix = (
        f"no node of pool {' or '.join(pools)} has {needs}; the largest has {nodes}: ask for less, or name another pool"
    )
    more = "if the pool may have a larger one, an operator says so (put_pool: largest_node)"
    raise SpecError(f"{field}.{name}", asked[name], f"{fix}; {more}")


def _check_further(stage: ResolvedStage, filename: str | None) -> None:
    """Raises SpecError if a further output, which is a result too, has the name of the merged result."""
    if filename in stage.processor_spec.outputs.values():
        fix = f"a further output of {stage.processor} has the same name; choose another one"
        raise SpecError("merge.filename", filename, fix)


def _check_joinable(stage: ResolvedStage, field: str, value: str, fix: str) -> None:
    """Concatenated Parquet files are not a Parquet file, and values are not files."""
    spec = stage.processor_spec
    if spec.function is not None:
        fix = f"{stage.processor} returns values, which are not files that can be joined; leave it out"
        raise SpecError(field, value, fix)
    if spec.output_format == "parquet" or any(n.endswith(".parquet") for n in (spec.output, *spec.outputs.values())):
        raise SpecError(field, value, f"{stage.processor} writes Parquet, which can't be joined like this; {fix}")


def _check_stream(spec: JobSpec, stages: list[ResolvedStage]) -> None:
    """Raises SpecError: SQL would wait for columns that only the last item completes."""
    if isinstance(spec.input, StreamInput) and _columns_due(spec, stages, 0):
        fix = "SQL needs the types of all columns before it begins, and more items may come: give it the type items"
        raise SpecError("input.type", "stream", fix)


def _check_reuse(spec: JobSpec) -> None:
    """Raises SpecError: what is told of each task, or waits for values, hears of attempts that ran."""
    if spec.reuse and spec.output_queue is not None:
        raise SpecError("reuse", True, "an output queue is told of what runs: leave one of the two out")
    if spec.reuse and isinstance(spec.input, StreamInput):
        raise SpecError("reuse", True, "the values of a stream are made while somebody waits for them: leave it out")


def _check_headers(resplit: Resplit, field: str) -> None:
    """Raises SpecError: the header line of a compressed output can't be left out."""
    if resplit.compressed and resplit.csv and resplit.csv.header:
        fix = "each compressed output would repeat its header line; have the stage before write none and set false"
        raise SpecError(f"{field}.header", True, fix)


def _tasks_from(stages: list[StageSpec], number: int, split: bool) -> TasksFrom:
    """What the tasks of map stage `number` are made of. Raises SpecError for options that exclude each other."""
    stage, field = stages[number], f"stages.{number}"
    if number == 0:
        for option in ("barrier", "resplit"):
            if getattr(stage, option):
                raise SpecError(f"{field}.{option}", True, "no stage comes before the first one; leave it out")
        return "items" if split else "input"
    if stages[number - 1].fan_out:
        if stage.resplit is not None:
            raise SpecError(f"{field}.resplit", stage.resplit.type, "the stage before fans out; give one of the two")
        return "items"
    if stage.resplit is not None:
        return "items" if needs_grid(stage.resplit) else "resplit"
    return "outputs" if stage.barrier else "successes"


def _beside(stage: StageSpec, name: str, taken: list[StageSpec], **fields: Any) -> StageSpec:
    """A stage that Piecework adds, with the pool, retries and timeout of `stage`."""
    names = [name, *(f"{name}-{number}" for number in range(2, len(taken) + 2))]
    free = next(each for each in names if all(other.name != each for other in taken))
    kept = {"pool", "pools", "next_pool_after_seconds", "retry", "timeout_seconds", "memory_bytes"}
    return StageSpec.model_validate({**stage.model_dump(include=kept), "name": free, **fields})


def _check_memory(stage: StageSpec, field: str, settings: Settings) -> None:
    for name in ("memory", "memory_bytes"):
        if (getattr(stage, name) or 0) > settings.memory_bytes_max:
            fix = f"at most {settings.memory_bytes_max}, the grid's PIECEWORK_MEMORY_BYTES_MAX"
            raise SpecError(f"{field}.{name}", getattr(stage, name), fix)
    if stage.memory is not None and stage.memory_bytes is not None and stage.memory_bytes < stage.memory:
        fix = f"it limits each task to less than the {stage.memory} of its `memory`, so the rest would lie idle"
        raise SpecError(f"{field}.memory_bytes", stage.memory_bytes, f"{fix}: leave it out")


async def resolve_stages(
    connection: Connection, spec: JobSpec, settings: Settings, reader: Reader
) -> list[ResolvedStage]:
    """The job's stages, including a split and a reduce, with the processors' versions fixed. Raises SpecError."""
    if len(spec.stages) > settings.stages_max:
        raise SpecError("stages", len(spec.stages), f"a job has at most {settings.stages_max} stages")
    for source in spec.inputs:
        if source.type == "items" and len(source.items) > settings.items_max:
            fix = f"at most {settings.items_max} items; put more into an object and use an input of type lines"
            raise SpecError("input.items", len(source.items), fix)
    for number, stage in enumerate(spec.stages):
        _check_memory(stage, f"stages.{number}", settings)
    stages = []
    split = any(needs_grid(source) for source in spec.inputs)
    if split:
        stages.append(await _resolve_split(connection, spec.stages[0], spec.stages, "input", "input"))
    for number, stage in enumerate(spec.stages):
        _refuse_own(stage.processor, f"stages.{number}.processor")
        made_of = _tasks_from(spec.stages, number, split)
        resolved = await _resolve_stage(connection, stage, "map", f"stages.{number}", made_of)
        if stage.resplit is not None:
            field = f"stages.{number}.resplit"
            _check_joinable(stages[-1], field, stage.resplit.type, "let it write jsonl or csv")
            if needs_grid(stage.resplit):
                _check_headers(stage.resplit, field)
                taken = [*spec.stages, *(other.spec for other in stages)]
                stages.append(await _resolve_split(connection, stage, taken, field, "resplit"))
        stages.append(resolved)
    if spec.stages[-1].fan_out:
        field = f"stages.{len(spec.stages) - 1}.fan_out"
        raise SpecError(field, True, "no stage comes after the last one to work on its items; leave it out")
    stages += await _resolve_merge(connection, spec, stages[-1])
    _check_stream(spec, stages)
    _check_output_names(spec, stages)
    _check_reuse(spec)
    declared = {f"{stage.field}.inputs.{name}": uri for stage in stages for name, uri in stage.inputs.items()}
    await check_places(connection, spec, declared, settings, reader)
    return stages


def _check_output_names(spec: JobSpec, stages: list[ResolvedStage]) -> None:
    """Raises SpecError if a processor names its output after a file, and its tasks work on none."""
    has_files = any(names_objects(source) for source in spec.inputs)
    for stage in stages:
        has_files |= stage.spec.resplit is not None
        output = stage.processor_spec.output
        if uses_source(output) and (stage.kind == "reduce" or not has_files):
            why = "a reduce works on outputs of many tasks" if has_files else "the job's input has no files"
            fix = f"it names its output {output}, but {why}: register one that names it by {{index}}"
            raise SpecError(f"{stage.field}.processor", f"{stage.processor}@{stage.version}", fix)


async def _resolve_split(
    connection: Connection, stage: StageSpec, taken: list[StageSpec], field: str, tasks_from: TasksFrom
) -> ResolvedStage:
    """The stage before `stage` that reads every byte of its input to find the parts."""
    fields = {"processor": f"{SPLIT_PROCESSOR}@1", "fan_out": True, "resplit": stage.resplit}
    added = _beside(stage, "split", taken, **fields)
    return await _resolve_stage(connection, added, "split", field, tasks_from)


async def _resolve_merge(connection: Connection, spec: JobSpec, last: ResolvedStage) -> list[ResolvedStage]:
    """The stage that does the merge, if the merge needs one. Raises SpecError."""
    match spec.merge:
        case ConcatMerge() as merge:
            _check_further(last, merge.filename)
            _check_joinable(last, "merge.type", "concat", "take the merge `parquet`, or `none`")
        case ReduceMerge() as merge:
            _refuse_own(merge.processor, "merge.processor")
            fields = {"processor": merge.processor, "params": merge.params, "inputs": merge.inputs}
            added = _beside(last.spec, "reduce", spec.stages, **fields)
            reduce = await _resolve_stage(connection, added, "reduce", "merge", "reduce", merge.fan_in)
            _check_further(reduce, merge.filename)
            return [reduce]
        case ParquetMerge():
            added = _beside(last.spec, "compact", spec.stages, processor=f"{COMPACT_PROCESSOR}@1")
            return [await _resolve_stage(connection, added, "reduce", "merge", "reduce", ALL_AT_ONCE)]
    return []


_INSERT_JOB = """
    INSERT INTO jobs (job_id, name, spec, state, priority, share, labels, schedule_id, trigger_id, trigger_message,
        run_at, started_at, created_by, key_id, tasks_known, traceparent)
    VALUES ($1, $2, $3, CASE WHEN $4 THEN 'scheduled' ELSE 'running' END, $5, $6, $7, $8, $9, $10, $11,
        CASE WHEN NOT $4 THEN now() END, $12, $13, $14, $15)"""

# The last line of each list is for workers of the release before, which do not read `options`.
_INSERT_STAGES = """
    INSERT INTO stages (job_id, stage, name, kind, processor, processor_version, options, pool, tasks_from, resplit,
        fan_in, barrier, output_queue, chains, columns_due, tasks_expected, max_attempts, backoff_seconds,
        backoff_max_seconds, timeout_seconds, tolerated_failures,
        params, inputs, fan_out, memory_bytes, rejects_max, needs, pools, next_pool_after_seconds,
        open_seconds, appended_at, tolerated_percent)
    SELECT $1, stage, name, kind, processor, processor_version, options, pool, tasks_from, resplit,
        fan_in, barrier, $2, chains, columns_due, tasks_expected, max_attempts, backoff_seconds,
        backoff_max_seconds, timeout_seconds, tolerated_failures,
        params, inputs, fan_out, memory_bytes, rejects_max, needs, pools, next_pool_after_seconds,
        open_seconds, CASE WHEN open_seconds IS NOT NULL THEN greatest(now(), $4) END, tolerated_percent
    FROM json_populate_recordset(NULL::stages, $3::json)"""


def _array_of(inputs: Sequence[Input]) -> RangeInput | None:
    """The tasks that these inputs make, if that is known before anything is read."""
    match inputs:
        case [RangeInput() as array]:
            return array
    tasks = count_tasks(inputs)
    return None if tasks is None or tasks > TASKS_MAX else RangeInput(type="range", count=tasks)


def _arrays(stages: Sequence[ResolvedStage], inputs: Sequence[Input]) -> Iterator[RangeInput | None]:
    """The array job that each stage is, as far as it is known; task i after task i is of the same one."""
    array = None
    for stage in stages:
        if stage.tasks_from not in ("successes", "outputs"):
            array = _array_of(inputs) if stage.tasks_from == "input" and stage.kind == "map" else None
        yield array


def _columns_due(spec: JobSpec, stages: list[ResolvedStage], number: int) -> bool:
    """Whether the types of the stage's columns must be found before its first task: no file tells them to SQL."""
    stage, before = stages[number], stages[number - 1] if number else None
    if stage.processor_spec.sql is None or stage.kind != "map":
        return False
    if before is None or before.kind == "split":
        return stage.spec.resplit is not None or not all(tells_types(source) for source in spec.inputs)
    typed = before.processor_spec.kind in ("records", "sql") and before.processor_spec.output_format != "jsonl"
    return stage.spec.resplit is not None or not typed


def _is_interim(spec: JobSpec, following: ResolvedStage | None) -> bool:
    """Whether only later stages and the merge need a stage's outputs: users are not told of them."""
    return spec.output_queue is None and (following is not None or not isinstance(spec.merge, NoMerge))


def has_named_results(spec: JobSpec, stage: ResolvedStage, following: ResolvedStage | None) -> bool:
    """Whether the stage's outputs are results that are known by names of their own."""
    return following is None and isinstance(spec.merge, NoMerge) and is_template(stage.processor_spec.output)


def _stage_row(
    number: int,
    stage: ResolvedStage,
    following: ResolvedStage | None,
    array: RangeInput | None,
    *,
    columns_due: bool,
    interim: bool,
    named_results: bool,
    source: Input,
) -> dict[str, Any]:
    """The stage's columns by name."""
    options = stage.spec.model_dump(mode="json", include=set(StageOptions.model_fields)) | {"inputs": stage.inputs}
    found = {"array": array and array.model_dump(mode="json"), "running_max": stage.spec.running_max}
    own = {"name", "pool", "pools", "resplit", "barrier", "timeout_seconds"}
    return {
        "stage": number,
        "kind": stage.kind,
        "processor": stage.processor,
        "processor_version": stage.version,
        "tasks_from": stage.tasks_from,
        "fan_in": stage.fan_in,
        "chains": following is not None and following.tasks_from == "successes",
        "columns_due": columns_due,
        "tasks_expected": len(array.numbers) if array and stage.tasks_from == "input" else None,
        "options": options | found | {"interim": interim} | ({"named_results": True} if named_results else {}),
        "open_seconds": source.idle_seconds if isinstance(source, StreamInput) and number == 0 else None,
        "tolerated_failures": stage.spec.tolerated_failures if stage.spec.tolerated_percent is None else 0,
        "tolerated_percent": stage.spec.tolerated_percent,
        "needs": stage.spec.needs and stage.spec.needs.to_json(),
        "next_pool_after_seconds": stage.spec.pools and (stage.spec.next_pool_after_seconds or NEXT_POOL_AFTER_SECONDS),
        **options,
        **stage.spec.retry.model_dump(),
        **stage.spec.model_dump(mode="json", include=own),
    }


@traced("submit", root=True)
async def submit_job(
    connection: Connection,
    spec: JobSpec,
    *,
    settings: Settings,
    schedule_id: UUID | None = None,
    run_at: datetime | None = None,
    trigger_id: UUID | None = None,
    trigger_message: str | None = None,
    created_by: str | None = None,
    key_id: UUID | None = None,
) -> UUID:
    """Record a job of the principal `created_by` inside the caller's transaction; it starts at once unless
    `spec.run_at` is set, or a job of `spec.after` has not ended.

    `schedule_id` and `run_at` are those of the schedule's run, `trigger_id` and `trigger_message` say which message
    made a trigger submit it: a second job for the same one raises asyncpg.UniqueViolationError. It counts towards the
    quotas of its share and of the key `key_id`. Raises SpecError, QuotaExceeded.
    """
    reader = Reader(created_by, key_id)
    resolved = await resolve_stages(connection, spec, settings, reader)
    arrays = list(_arrays(resolved, spec.inputs))
    tasks = sum(len(array.numbers) if array else 1 for array in arrays)
    await check_job(connection, settings, key_id, spec.share, priority=spec.priority, tasks=tasks)
    job_id = new_id()
    await connection.execute(
        _INSERT_JOB,
        job_id,
        spec.name,
        spec.stored(),
        spec.is_for_later,
        spec.priority,
        spec.share,
        spec.labels,
        schedule_id,
        trigger_id,
        trigger_message,
        None if spec.after else run_at or spec.run_at,  # no time to start it, for any release
        created_by,
        key_id,
        tasks,
        current_traceparent(),
    )
    used = list(map(UUID, set(_UPLOAD.findall(str([spec.stored(), [stage.inputs for stage in resolved]])))))
    if used:
        await connection.execute("UPDATE uploads SET used_at = now() WHERE upload_id = ANY($1::uuid[])", used)
    following = [*resolved[1:], None]
    rows = [
        _stage_row(
            number,
            stage,
            after,
            array,
            columns_due=_columns_due(spec, resolved, number),
            interim=_is_interim(spec, after),
            named_results=has_named_results(spec, stage, after),
            source=spec.inputs[0],
        )
        for number, stage, after, array in zip(count(), resolved, following, arrays)
    ]
    await connection.execute(_INSERT_STAGES, job_id, spec.output_queue, rows, run_at or spec.run_at)
    if spec.reuse:
        await connection.execute("UPDATE stages SET attempt_base = $2 WHERE job_id = $1", job_id, reuse.ATTEMPT)
    if spec.after:
        await wait_for(connection, job_id, spec.after, reader, count_tasks(spec.inputs))
    elif spec.run_at is None:
        await start_stages(connection, job_id)
    await notify_jobs(connection)
    annotate(job=job_id, name=spec.name)
    log.info("job submitted", job=str(job_id), name=spec.name, stages=len(rows))
    return job_id
