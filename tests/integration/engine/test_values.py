"""The values of a job in the order in which its tasks end: each end once, whatever happens at the same time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import pytest

from services.engine import jobs, transitions, values
from services.engine.errors import NotFound
from services.engine.values import Cursor, read_values
from services.platform.database import Database, new_id
from tests.integration.engine.play import Play, finished


class Follower:
    """Follows a job from the beginning, as a client does."""

    def __init__(self, database: Database, job_id: UUID) -> None:
        self.database, self.job_id = database, job_id
        self.after: Cursor | None = None
        self.ended = False

    async def next(self) -> list[tuple[int, str]]:
        """What is there to be told now."""
        told = []
        while True:
            found = await read_values(self.database, self.job_id, None, self.after)
            self.after, self.ended = Cursor.parse(str(found.after)), found.ended
            told += [(task["index"], task["state"]) for task in found.tasks]
            if not found.more:
                return told


@asynccontextmanager
async def writing(url: str) -> AsyncIterator[None]:
    """A transaction of somebody else that stays open."""
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.fetchval("SELECT pg_current_xact_id()")
        yield
    await connection.close()


async def test_values_come_in_the_order_in_which_tasks_end_and_each_once(play: Play, database: Database) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 5)
    follower, worker_id = Follower(database, job_id), await play.register()
    assert await follower.next() == []
    tasks = await play.run(worker_id, job_id, bundle=1)
    await play.succeed(worker_id, tasks[3:4])
    await play.succeed(worker_id, [tasks[0], tasks[2]])
    assert await follower.next() == [(3, "succeeded"), (0, "succeeded"), (2, "succeeded")]
    assert await follower.next() == []
    await play.succeed(worker_id, tasks[1:2])

    assert await Follower(database, job_id).next() == [(index, "succeeded") for index in range(4)]
    assert await follower.next() == [(1, "succeeded")]


async def test_a_task_is_told_when_it_has_failed_for_good_and_again_when_it_was_retried(
    play: Play, database: Database
) -> None:
    job_id = await play.submit(stages=[{"processor": "noop", "retry": {"max_attempts": 2, "backoff_seconds": 0}}])
    await play.plan(job_id, 1)
    follower, worker_id = Follower(database, job_id), await play.register()
    await follower.next()
    for told in ([], [(0, "failed")]):
        await play.make_due(job_id)
        [task] = await play.run(worker_id, job_id)
        await play.complete(worker_id, finished(task, "failed"), done=[task])
        assert await follower.next() == told

    await database.execute("UPDATE jobs SET state = 'failed' WHERE job_id = $1", job_id)
    await play.order(jobs.retry_job, job_id)
    await play.succeed(worker_id, await play.run(worker_id, job_id))
    assert await follower.next() == [(0, "succeeded")]


async def test_a_task_that_is_cancelled_by_itself_is_told_like_any_other_end(play: Play, database: Database) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 4)
    follower, worker_id = Follower(database, job_id), await play.register()
    await follower.next()
    [task] = await play.run(worker_id, job_id, tasks=1)
    await play.complete(worker_id, finished(task, "released"), done=[task])  # it waits, and has an attempt on record
    assert await follower.next() == []
    await play.run(worker_id, job_id, tasks=2)
    async with database.acquire() as connection, connection.transaction():
        await transitions.cancel_some(connection, job_id, 0, [0, 1, 3])
    assert await follower.next() == [(index, "cancelled") for index in (0, 1, 3)]
    assert await Follower(database, job_id).next() == [(index, "cancelled") for index in (0, 1, 3)]


async def test_what_ends_while_the_tasks_are_read_is_told_once(
    play: Play, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "ROWS_MAX", 2)
    job_id = await play.submit()
    await play.plan(job_id, 5)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id, bundle=1)
    await play.succeed(worker_id, [tasks[1], tasks[4]])
    found = await read_values(database, job_id, None, None)
    told = [task["index"] for task in found.tasks]
    await play.succeed(worker_id, [tasks[0]])
    await play.succeed(worker_id, [tasks[3]])
    follower = Follower(database, job_id)
    follower.after = found.after

    assert told + [index for index, _ in await follower.next()] == [1, 4, 0, 3]
    await play.succeed(worker_id, [tasks[2]])
    assert await follower.next() == [(2, "succeeded")]


async def test_nothing_is_passed_over_that_an_older_transaction_may_still_commit(
    play: Play, database: Database, database_url: str
) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 2)
    follower, worker_id = Follower(database, job_id), await play.register()
    await follower.next()
    tasks = await play.run(worker_id, job_id, bundle=1)
    async with writing(database_url):
        await play.succeed(worker_id, tasks[:1])
        assert await follower.next() == []
    assert await follower.next() == [(0, "succeeded")]


async def test_a_job_that_has_ended_is_told_to_its_end_whoever_else_writes(
    play: Play, database: Database, database_url: str
) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 2)
    follower = Follower(database, job_id)
    await follower.next()
    async with writing(database_url):
        await play.run_all(job_id)
        await database.execute("UPDATE jobs SET state = 'succeeded' WHERE job_id = $1", job_id)
        assert await follower.next() == [(0, "succeeded"), (1, "succeeded")]
        assert follower.ended


async def test_other_jobs_are_not_told_and_the_cursor_passes_them(
    play: Play, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "ROWS_MAX", 3)
    job_id, other = await play.submit(), await play.submit()
    await play.plan(job_id, 1)
    await play.plan(other, 10)
    follower, worker_id = Follower(database, job_id), await play.register()
    await follower.next()
    await play.succeed(worker_id, await play.run(worker_id, other))
    await play.run_all(job_id)
    assert await follower.next() == [(0, "succeeded")]


async def test_a_cursor_of_before_the_database_was_restored_starts_over(play: Play, database: Database) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 1)
    await play.run_all(job_id)
    follower = Follower(database, job_id)
    follower.after = Cursor(2**62)
    assert await follower.next() == [(0, "succeeded")]


async def test_a_job_that_is_not_there(database: Database) -> None:
    with pytest.raises(NotFound):
        await read_values(database, new_id(), None, None)
