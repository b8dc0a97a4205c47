"""A test plays the scheduler, the queue and the workers, through the functions that these call themselves."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from services.contract.message import Message
from services.engine import pools, processors, submission, transitions, workers
from services.engine.attempt import AttemptReport, ClaimedTask
from services.engine.spec import JobSpec, ProcessorSpec
from services.platform.database import Connection, Database, new_id
from services.platform.settings import Settings
from tests.until import until

Order = Callable[[Connection, UUID], Awaitable[None]]

# SQL: this many seconds pass over the claimed bundles of a worker, or over one bundle, and over what runs by them.
HOLD = """
    WITH held AS (
        UPDATE bundles SET claimed_at = claimed_at - $1 * interval '1 second'
        WHERE worker_id IS NOT NULL AND $2 IN (bundle_id, worker_id)
        RETURNING job_id, stage, first, count, worker_id, claimed_at, claimed_at + $1 * interval '1 second' AS was
    )
    UPDATE tasks AS t SET
        started_at = CASE WHEN t.worker_id = h.worker_id THEN h.claimed_at ELSE t.started_at END,
        backup_started_at = CASE WHEN t.backup_worker_id = h.worker_id THEN h.claimed_at ELSE t.backup_started_at END
    FROM held AS h
    WHERE t.job_id = h.job_id AND t.stage = h.stage AND t.index >= h.first AND t.index < h.first + h.count
      AND t.state = 'running' AND (t.worker_id = h.worker_id AND t.started_at = h.was
        OR t.backup_worker_id = h.worker_id AND t.backup_started_at = h.was)"""


async def until_blocked(database: Database, statements: int = 1) -> None:
    """Wait until this many statements of this database wait for another transaction's lock."""

    async def blocked() -> bool:
        return bool(
            await database.fetchval(
                "SELECT count(*) >= $1 FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'",
                statements,
            )
        )

    await until(blocked)


@asynccontextmanager
async def hearing(database: Database, channel: str) -> AsyncIterator[asyncio.Event]:
    """An event that the channel's next notification sets."""
    heard = asyncio.Event()

    def notified(*_: object) -> None:
        heard.set()

    async with database.acquire() as connection:
        await connection.add_listener(channel, notified)
        yield heard
        await connection.remove_listener(channel, notified)


async def add_pool(
    database: Database, name: str, queue_url: str = "queue", slots: int = 2, group: str | None = None
) -> None:
    async with database.acquire() as connection:
        await pools.register_pool(
            connection, name, queue_url=queue_url, dead_letter_url="dead", group_name=group, slots=slots
        )


async def add_processor(database: Database, name: str, **spec: Any) -> int:
    async with database.acquire() as connection, connection.transaction():
        return await processors.register_processor(connection, name, ProcessorSpec.model_validate(spec))


def finished(task: ClaimedTask, outcome: str = "succeeded", **facts: Any) -> AttemptReport:
    """A report of half a second's work; a success has a value, a failure a reason."""
    if outcome == "succeeded":
        facts.setdefault("output", {"value": task.index})
    elif outcome != "released":
        facts.setdefault("error", {"type": outcome, "message": f"task {task.index} broke"})
    return AttemptReport(task.job_id, task.stage, task.index, task.attempt, outcome, run_seconds=0.5, **facts)


@dataclass(frozen=True)
class Play:
    """Everybody's part, by name."""

    database: Database
    settings: Settings

    async def submit(self, *, stages: int | list[dict[str, Any]] = 1, **changes: Any) -> UUID:
        """A job of `stages` stages of no-ops; it runs at once unless `changes` say otherwise."""
        chain = [{"processor": "noop"} for _ in range(stages)] if isinstance(stages, int) else stages
        spec = JobSpec.model_validate({"input": {"type": "range", "count": 1}, "stages": chain} | changes)
        async with self.database.acquire() as connection, connection.transaction():
            return await submission.submit_job(connection, spec, settings=self.settings)

    async def plan(self, job_id: UUID, count: int, *, first: int = 0, planned: bool = True) -> None:
        async with self.database.acquire() as connection, connection.transaction():
            await transitions.plan_same_tasks(connection, job_id, 0, first, {"type": "index", "count": count}, count)
            await connection.execute(
                "UPDATE stages SET task_count = task_count + $2, planned = $3 WHERE job_id = $1 AND stage = 0",
                job_id,
                count,
                planned,
            )

    async def dispatch(
        self, job_id: UUID, stage: int = 0, *, tasks: int = 1000, bundle: int = 1000, pool: str = "default"
    ) -> list[Message]:
        async with self.database.acquire() as connection:
            messages = await transitions.dispatch(
                connection, job_id, stage, pool=pool, tasks_max=tasks, bundle_tasks_max=bundle, resend_seconds=60
            )
        return sorted(messages, key=lambda message: message.first)

    async def register(self, pool: str = "default", **facts: Any) -> UUID:
        """A worker that has just started."""
        worker = {"hostname": "node", "instance_id": None, "pid": 1, "slots": 2} | facts
        worker_id = new_id()
        await workers.register_worker(self.database, worker_id=worker_id, pool=pool, **worker)
        return worker_id

    async def claim(self, worker_id: UUID, messages: Sequence[Message]) -> list[ClaimedTask]:
        return await transitions.claim(self.database, worker_id, [message.bundle_id for message in messages])

    async def back_up(self, job_id: UUID, stage: int = 0) -> list[Message]:
        """Offer a backup of everything that runs."""
        limits = {"seconds_min": 0.0, "task_seconds_max": 0.0, "bundles_max": 1000, "resend_seconds": 60}
        messages = await transitions.offer_backups(self.database, job_id, stage, pool="default", **limits)
        return sorted(messages, key=lambda message: message.first)

    async def race(self, job_id: UUID) -> tuple[UUID, ClaimedTask, UUID, ClaimedTask]:
        """A worker runs the job's one task, another its backup."""
        first, second = await self.register(), await self.register()
        [task] = await self.run(first, job_id)
        [backup] = await self.claim(second, await self.back_up(job_id))
        return first, task, second, backup

    async def settle(self) -> None:
        async with self.database.acquire() as connection:
            await transitions.settle_races(connection)

    async def run(self, worker_id: UUID, job_id: UUID, stage: int = 0, **limits: Any) -> list[ClaimedTask]:
        """Dispatch ready tasks, and let the worker claim them."""
        return await self.claim(worker_id, await self.dispatch(job_id, stage, **limits))

    async def complete(self, worker_id: UUID, *reports: AttemptReport, done: Sequence[ClaimedTask] = ()) -> int:
        """Report attempts; the bundles of the tasks `done` are done with."""
        return await transitions.complete(self.database, worker_id, reports, list({task.bundle_id for task in done}))

    async def succeed(self, worker_id: UUID, tasks: Sequence[ClaimedTask]) -> None:
        """All these tasks, and with them their bundles, end well."""
        assert await self.complete(worker_id, *map(finished, tasks), done=tasks) == len(tasks)

    async def run_all(self, job_id: UUID, stages: int = 1) -> None:
        """Every ready task succeeds, stage after stage."""
        worker_id = await self.register()
        for stage in range(stages):
            await self.succeed(worker_id, await self.run(worker_id, job_id, stage))

    async def lose(self, worker_id: UUID) -> int:
        """The worker falls silent, and is found to be lost; returns how many tasks are given back."""
        await self.silence(worker_id)
        assert worker_id in await workers.mark_lost_workers(self.database, self.settings.lease_seconds)
        return await transitions.reap_dead_workers(self.database, self.settings.losses_max)

    async def silence(self, worker_id: UUID) -> None:
        """Its last heartbeat is an hour old."""
        await self.database.execute(
            "UPDATE workers SET heartbeat_at = now() - interval '1 hour' WHERE worker_id = $1", worker_id
        )

    async def make_due(self, job_id: UUID) -> None:
        """The time of all backoffs has passed."""
        await self.database.execute("UPDATE tasks SET ready_at = now() WHERE job_id = $1 AND state = 'ready'", job_id)

    async def order(self, order: Order, job_id: UUID) -> None:
        """A user pauses, resumes, cancels or retries a job."""
        async with self.database.acquire() as connection:
            await order(connection, job_id)

    async def states(self, job_id: UUID, stage: int = 0) -> dict[str, int]:
        """The tasks of a stage by state."""
        rows = await self.database.fetch("SELECT state FROM tasks WHERE job_id = $1 AND stage = $2", job_id, stage)
        return dict(Counter(row["state"] for row in rows))

    async def task(self, job_id: UUID, index: int, stage: int = 0) -> dict[str, Any]:
        row = await self.database.fetchrow(
            "SELECT * FROM tasks WHERE job_id = $1 AND stage = $2 AND index = $3", job_id, stage, index
        )
        assert row is not None
        return dict(row)

    async def job(self, job_id: UUID) -> dict[str, Any]:
        row = await self.database.fetchrow("SELECT * FROM jobs WHERE job_id = $1", job_id)
        assert row is not None
        return dict(row)

    async def stage(self, job_id: UUID, stage: int = 0) -> dict[str, Any]:
        row = await self.database.fetchrow("SELECT * FROM stages WHERE job_id = $1 AND stage = $2", job_id, stage)
        assert row is not None
        return dict(row)

    async def outcomes(self, job_id: UUID) -> dict[str, int]:
        """The recorded attempts of a job by outcome."""
        rows = await self.database.fetch("SELECT outcome FROM attempts WHERE job_id = $1", job_id)
        return dict(Counter(row["outcome"] for row in rows))


async def set_up(database: Database, settings: Settings, **pool: Any) -> Play:
    """A grid with the pool `default` and the processor `noop`, and every part of it played by the test."""
    await add_pool(database, "default", **pool)
    await add_processor(database, "noop", builtin="noop")
    return Play(database, settings)


async def set_to_work(play: Play) -> tuple[UUID, UUID]:
    """A job, of whose tasks some are ready, some queued and some run, and the worker that runs them."""
    job_id, worker_id = await play.submit(stages=2), await play.register()
    await play.plan(job_id, 300)
    await play.run(worker_id, job_id, tasks=100, bundle=10)
    await play.dispatch(job_id, tasks=100, bundle=10)
    return job_id, worker_id
