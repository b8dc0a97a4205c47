"""Retries: which tasks of a job that has ended run again, with which versions of its processors.

What comes after a stage whose tasks run again is made again: task i of the next stage if it follows task i, and all
tasks of a stage that was planned from what the stage before had made. Attempts are numbered on, so those that are still
running somewhere change nothing, and their objects are not those of the new ones. Planning, and what workers know of a
stage, is out of date by its `revision`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from asyncpg import Record
from pydantic import Field, model_validator

from services.contract.fields import Name, ProcessorReference, Strict
from services.engine import jobs, transitions
from services.engine.errors import Conflict, SpecError
from services.engine.places import Reader, check_declared
from services.engine.reuse import forget_keys
from services.engine.spec import OWN_PROCESSORS, JobSpec, ProcessorSpec
from services.engine.submission import ResolvedStage, has_named_results, resolve_stages
from services.inputs.spec import names_objects
from services.platform.database import Connection
from services.platform.settings import Settings

TASKS_MAX = 10_000  # that one retry names


class RetryOrder(Strict):
    """What of a job runs again. By default, that is what has not succeeded: of a job that has failed or was cancelled
    in the stages that did not succeed, of one that has succeeded the failed tasks that were tolerated."""

    stage: Annotated[int, Field(ge=0, le=32_767)] | Name | None = Field(
        None, description="number or name of a stage that runs again as a whole, with all that comes after it"
    )
    tasks: Annotated[list[Annotated[int, Field(ge=0, le=2_147_483_647)]], Field(min_length=1, max_length=TASKS_MAX)] | (
        None
    ) = Field(None, description="of this stage only these tasks, beside those that have not succeeded")
    only_failed: bool = Field(False, description="of this stage only the tasks that have not succeeded")
    latest: bool = Field(False, description="the stages that run again take the newest versions of their processors")
    processors: Annotated[list[ProcessorReference], Field(max_length=1000)] = Field(
        [],
        description="versions of processors for the stages that run again, by their names; with `stage`, one for it, "
        "which may have another name",
        examples=[["clean@4"]],
    )
    accept_changed: bool = Field(
        False,
        description="tasks of the first stage take the objects that are there now in the place of those that were "
        "replaced since",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "RetryOrder":
        for name in ("tasks", "only_failed"):
            if getattr(self, name) and self.stage is None:
                raise ValueError(f"{name}: name the stage as well (stage)")
        if self.tasks and self.only_failed:
            raise ValueError("only_failed: give either this or tasks; what has not succeeded runs again with both")
        if self.latest and self.processors:
            raise ValueError("latest: give either this or processors")
        return self


_STAGES = """
    SELECT s.stage, s.name, s.kind, s.state, s.tasks_from, s.planned, s.processor, s.processor_version, s.inputs,
        s.open_seconds IS NOT NULL AS is_open, c.succeeded, c.failed + c.cancelled AS unsuccessful,
        coalesce((s.options ->> 'named_results')::boolean, false) AS named_results
    FROM stages AS s CROSS JOIN LATERAL stage_sums(s.job_id, s.stage) AS c
    WHERE s.job_id = $1 ORDER BY s.stage"""

# A worker of the first release does not hear of revisions.
_OLD_WORKER = """
    SELECT EXISTS (
        SELECT FROM stages AS s JOIN workers AS w ON w.pool = s.pool OR w.pool = ANY(s.pools)
        WHERE s.job_id = $1 AND w.release IS NULL AND w.state IN ('active', 'draining'))"""

# Columns that SQL has found in what is gone are found again.
_REOPEN = """
    UPDATE stages SET state = 'waiting', result = NULL, finished_at = NULL, planned = planned AND NOT $3,
        plan_cursor = CASE WHEN NOT $3 THEN plan_cursor END, task_count = CASE WHEN $3 THEN 0 ELSE task_count END,
        columns_due = columns_due OR $4 AND coalesce(options ? 'found_columns', false),
        options = CASE WHEN $4 THEN options - 'found_columns' ELSE options END
    WHERE job_id = $1 AND stage = $2"""

# Where all tasks run again, what outputs were named before is free again.
_REVISE = """
    UPDATE stages SET revision = revision + 1, options = CASE WHEN stage = ANY($2::smallint[])
        THEN options || jsonb_build_object('names_since', revision + 1) ELSE options END
    WHERE job_id = $1"""

_TAKE_PROCESSOR = """
    UPDATE stages SET processor = $3, processor_version = $4, inputs = $5,
        options = options || jsonb_build_object('inputs', $5::jsonb, 'named_results', $6::boolean),
        processors_before = coalesce(processors_before, '[]') || jsonb_build_object(
            'processor', format('%s@%s', processor, processor_version), 'until', now())
    WHERE job_id = $1 AND stage = $2"""


async def retry_job(
    connection: Connection, job_id: UUID, order: RetryOrder, settings: Settings, reader: Reader
) -> None:
    """Run a job that has ended again, as far as the order says. Raises NotFound, Conflict, SpecError.

    What other processors declare must be readable for the job's owner, and for the reader, who orders it.
    """

    async def change(connection: Connection) -> None:
        await _Retry(connection, job_id, order, settings, reader).apply()

    await jobs.retry_job(connection, job_id, change)


class _Retry:
    """One retry, under the lock of its job."""

    def __init__(
        self, connection: Connection, job_id: UUID, order: RetryOrder, settings: Settings, reader: Reader
    ) -> None:
        self._connection = connection
        self._job_id = job_id
        self._order = order
        self._settings = settings
        self._reader = reader
        self._running: set[int] = set()  # the stages that run again, or for the first time
        self._whole: set[int] = set()  # those of them whose tasks all run again, or for the first time
        self._changed = False

    async def apply(self) -> None:
        """Make ready what has succeeded and runs again, and delete what is made again."""
        job = await self._connection.fetchrow("SELECT * FROM jobs WHERE job_id = $1", self._job_id)
        assert job is not None
        stages = await self._connection.fetch(_STAGES, self._job_id)
        named = self._find_stage(stages)
        if all(stage["state"] == "succeeded" for stage in stages):
            _check_succeeded(job, stages, self._order, named)
        await self._reopen(stages, named)
        if self._order.accept_changed:
            await self._accept_changed(job, stages[0])
        if self._order.latest or self._order.processors:
            await self._take_processors(job, stages, named)
        if self._order.accept_changed or self._order.latest or self._order.processors:
            await forget_keys(self._connection, self._job_id)
        if self._changed:
            if await self._connection.fetchval(_OLD_WORKER, self._job_id):
                raise Conflict("workers of release 0.1.0 can't tell that a stage has changed: update them first")
            await self._connection.execute(_REVISE, self._job_id, list(self._whole))

    def _find_stage(self, stages: Sequence[Record]) -> int | None:
        wanted = self._order.stage
        if wanted is None:
            return None
        found = [stage for stage in stages if wanted in (stage["stage"], stage["name"])]
        if not found:
            known = ", ".join(f"{stage['stage']} ({stage['name']})" for stage in stages)
            raise SpecError("stage", wanted, f"the job has no such stage (stages: {known})")
        if self._order.tasks and found[0]["kind"] == "reduce":
            fix = "the tasks of a reduce work on each other's outputs, so all of them run again: leave it out"
            raise SpecError("tasks", self._order.tasks[:10], fix)
        number: int = found[0]["stage"]
        return number

    async def _reopen(self, stages: Sequence[Record], named: int | None) -> None:
        """Stage by stage: what runs again there, and what of the next one was made of it."""
        everywhere = named is None and all(stage["state"] == "succeeded" for stage in stages)
        order, key, disturbed = self._order, self._job_id, False
        for stage in stages:
            number, ended_well = stage["stage"], stage["state"] == "succeeded"
            repeats = number == named and not order.only_failed
            resplit = order.accept_changed and number == 0 and order.tasks is None
            remade = (disturbed and stage["tasks_from"] != "successes") or (
                repeats and (stage["kind"] == "reduce" or resplit)
            )
            if remade or disturbed:
                await transitions.drop_tasks(self._connection, key, number, followers_only=not remade)
            if repeats and not remade:
                await self._repeat(stage)
            chosen = number == named or (everywhere and stage["unsuccessful"] > 0)
            if disturbed or repeats or chosen or not ended_well:
                self._running.add(number)
            follows_all = stage["tasks_from"] == "successes" and number - 1 in self._whole
            if remade or (repeats and order.tasks is None) or follows_all or not stage["succeeded"]:
                self._whole.add(number)
            if disturbed or repeats or (chosen and ended_well):
                await self._connection.execute(_REOPEN, key, number, remade or disturbed, remade)
                self._changed = disturbed = True

    async def _repeat(self, stage: Record) -> None:
        tasks = self._order.tasks
        if tasks is not None:
            count = stage["succeeded"] + stage["unsuccessful"]
            if beyond := [index for index in tasks if index >= count and not await self._has_task(stage, index)]:
                raise SpecError("tasks", beyond[:10], f"stage {stage['name']!r} has {count} tasks, and none of these")
        await transitions.repeat_tasks(self._connection, self._job_id, stage["stage"], tasks)

    async def _has_task(self, stage: Record, index: int) -> bool:
        query = "SELECT EXISTS (SELECT FROM tasks WHERE job_id = $1 AND stage = $2 AND index = $3)"
        return bool(await self._connection.fetchval(query, self._job_id, stage["stage"], index))

    async def _accept_changed(self, job: Record, first: Record) -> None:
        """Let the tasks of the first stage that run again take whatever is there.

        Raises SpecError if none does, if they work on no objects, or if some work on a part of one, whose bounds may
        have moved.
        """
        if first["stage"] not in self._running:
            fix = f"no task of the first stage, {first['name']!r}, runs again: name it (stage), or leave this out"
            raise SpecError("accept_changed", True, fix)
        if not any(names_objects(source) for source in JobSpec.model_validate(job["spec"], extra="ignore").inputs):
            fix = "the job's input names no objects, so none can have been replaced: leave it out"
            raise SpecError("accept_changed", True, fix)
        part = await transitions.accept_changed_inputs(self._connection, self._job_id, first["stage"])
        if part is not None:
            fix = (
                f"task {part} of stage {first['name']!r} works on a part of an object that is to be cut again: run the "
                f"whole stage again (stage: {first['name']})"
            )
            raise SpecError("accept_changed", True, fix)
        self._changed = True

    # Processors.

    async def _take_processors(self, job: Record, stages: Sequence[Record], named: int | None) -> None:
        chosen = self._choose(stages, named)
        spec = _with_processors(JobSpec.model_validate(job["spec"], extra="ignore"), stages, chosen)
        owner = Reader(job["created_by"], job["key_id"])
        resolved = await resolve_stages(self._connection, spec, self._settings, owner)
        if [(stage.kind, stage.tasks_from) for stage in resolved] != [(s["kind"], s["tasks_from"]) for s in stages]:
            raise Conflict("with these processors the job has other stages: submit it again")
        declared = {
            f"{found.field}.inputs.{name}": uri
            for stage, found in zip(stages, resolved, strict=True)
            for name, uri in found.inputs.items()
            if uri not in stage["inputs"].values()
        }
        await check_declared(self._connection, declared, self._settings, self._reader)
        for stage, found, following in zip(stages, resolved, [*resolved[1:], None], strict=True):
            if (found.processor, found.version) != (stage["processor"], stage["processor_version"]):
                await self._check_alike(stage, found)
                named_results = has_named_results(spec, found, following)
                if named_results != stage["named_results"]:
                    self._check_no_results_stay(stage, found)
                changes = (found.processor, found.version, found.inputs, named_results)
                await self._connection.execute(_TAKE_PROCESSOR, self._job_id, stage["stage"], *changes)
                self._changed = True

    def _choose(self, stages: Sequence[Record], named: int | None) -> Mapping[int, str]:
        """The reference of the processor by the number of each stage that takes one. Raises SpecError."""
        own = [stage for stage in stages if not stage["processor"].startswith(OWN_PROCESSORS)]
        if self._order.latest:
            return {stage["stage"]: stage["processor"] for stage in own if stage["stage"] in self._running}
        if named is not None and all(stage["stage"] != named for stage in own):
            fix = f"stage {stages[named]['name']!r} is Piecework's own, and so is its code: leave it out"
            raise SpecError("processors", self._order.processors, fix)
        if named is not None and len(self._order.processors) == 1:
            return {named: self._order.processors[0]}
        chosen: dict[int, str] = {}
        for reference in self._order.processors:
            name = reference.partition("@")[0]
            using = [stage for stage in own if stage["processor"] == name]
            running = [stage for stage in using if stage["stage"] in self._running]
            if not running:
                used = ", ".join(f"{stage['processor']} ({stage['name']})" for stage in own)
                fix = f"no stage that runs again uses this processor (used: {used}): name the stage to run it again"
                raise SpecError("processors", reference, fix)
            chosen |= {stage["stage"]: reference for stage in running}
        return chosen

    async def _check_alike(self, stage: Record, found: ResolvedStage) -> None:
        """Raises Conflict if later stages, or the columns that were found, rely on what another version does."""
        before = ProcessorSpec.model_validate(
            await self._connection.fetchval(
                "SELECT spec FROM processors WHERE name = $1 AND version = $2",
                stage["processor"],
                stage["processor_version"],
            ),
            extra="ignore",
        )
        now = found.processor_spec
        if ((before.sql is None), before.output_format) != ((now.sql is None), now.output_format):
            raise Conflict(
                f"{found.processor}@{found.version} is of another kind or writes another format than "
                f"{stage['processor']}@{stage['processor_version']}: submit the job again"
            )

    def _check_no_results_stay(self, stage: Record, found: ResolvedStage) -> None:
        """Raises Conflict if they do, where others are to be named in another way."""
        if stage["stage"] not in self._whole:
            raise Conflict(
                f"{found.processor}@{found.version} names results in another way (output: "
                f"{found.processor_spec.output}) than those of stage {stage['name']!r} that would stay: run the whole "
                f"stage again (stage: {stage['name']})"
            )


def _check_succeeded(job: Record, stages: Sequence[Record], order: RetryOrder, named: int | None) -> None:
    """Raises Conflict unless a job that has succeeded can be retried like this."""
    if job["results_deleted_at"] is not None:
        raise Conflict("its results were deleted, so no part of them can be made again alone: submit the job again")
    if any(stage["is_open"] for stage in stages):
        raise Conflict("the values of its items were given to whoever waited for them: submit the items again")
    wanted = [stage for stage in stages if named in (None, stage["stage"])]
    if (named is None or order.only_failed) and not any(stage["unsuccessful"] for stage in wanted):
        where = "" if named is None else f" of stage {wanted[0]['name']!r}"
        raise Conflict(
            f"all tasks{where} have succeeded, so there is nothing to retry: name a stage to run all of its tasks "
            "again (stage), or submit the job again"
        )


def _with_processors(spec: JobSpec, stages: Sequence[Record], chosen: Mapping[int, str]) -> JobSpec:
    """The job with the chosen processors, and all others in the versions that it has."""
    references = {
        stage["name"]: chosen.get(stage["stage"], f"{stage['processor']}@{stage['processor_version']}")
        for stage in stages
    }
    users = [stage.model_copy(update={"processor": references[stage.name or ""]}) for stage in spec.stages]
    merge = spec.merge
    if merge.type == "reduce":
        merge = merge.model_copy(update={"processor": references[stages[-1]["name"]]})
    return spec.model_copy(update={"stages": users, "merge": merge})


def processor_at(stage: Mapping[str, Any], moment: datetime | None) -> str:
    """The processor, as name@version, of the attempts of a stage that ended at this moment; None: of those to come.

    No attempt ends between a job's end and its retry, so each is before or after the change.
    """
    for before in stage["processors_before"] or ():
        if moment is not None and moment < datetime.fromisoformat(before["until"]):
            return str(before["processor"])
    return f"{stage['processor']}@{stage['processor_version']}"
