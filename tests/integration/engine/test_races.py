"""Transitions that meet: overlapping transactions, many connections, and long random walks."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest

from services.engine import errors, jobs, transitions, workers
from services.engine.attempt import AttemptReport, ClaimedTask
from services.platform.database import Database, connect_database
from tests.integration.engine.conftest import Session
from tests.integration.engine.play import Play, finished, until_blocked
from tests.invariants import TERMINAL, assert_invariants
from tests.until import until


async def cancel_some(play: Play, job_id: UUID, tasks_max: int = 1000) -> bool:
    async with play.database.acquire() as connection:
        return await transitions.cancel_tasks(connection, job_id, tasks_max)


async def cancel_all(play: Play, job_id: UUID) -> None:
    async def cancelled() -> bool:
        return await cancel_some(play, job_id)

    await until(cancelled)


async def test_of_two_workers_claiming_at_once_one_gets_the_bundle(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 40)
    messages = await play.dispatch(job_id, bundle=4)
    workers = [await play.register() for _ in range(4)]

    claims = await asyncio.gather(*(play.claim(worker_id, messages) for worker_id in workers for _ in range(2)))

    assert sorted(task.index for tasks in claims for task in tasks) == list(range(40))
    await assert_invariants(play.database, job_id)


async def test_a_claim_under_way_when_its_job_is_cancelled_leaves_nothing_running(play: Play, session: Session) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 3)
    messages = await play.dispatch(job_id)
    worker_id = await play.register()
    claiming = await session()
    async with claiming.transaction():
        await transitions.claim(claiming, worker_id, [message.bundle_id for message in messages])
        await play.order(jobs.cancel_job, job_id)
        assert not await cancel_some(play, job_id)
    assert await play.states(job_id) == {"running": 3}

    assert await cancel_some(play, job_id)
    assert await play.states(job_id) == {"cancelled": 3}
    await assert_invariants(play.database, job_id)


async def test_a_report_under_way_when_its_job_is_cancelled_counts_with_its_successor(
    play: Play, chain: UUID, session: Session
) -> None:
    worker_id = await play.register()
    tasks = await play.run(worker_id, chain)
    await play.order(jobs.cancel_job, chain)
    completing = await session()
    async with completing.transaction():
        await transitions.complete(completing, worker_id, [finished(tasks[0])], [])
        cancelling = asyncio.create_task(cancel_all(play, chain))
        await until_blocked(play.database)
    await cancelling

    assert await play.states(chain) == {"succeeded": 1, "cancelled": 5}
    assert await play.states(chain, 1) == {"cancelled": 1}
    await assert_invariants(play.database, chain)


async def test_two_schedulers_cancelling_one_job_both_see_it_to_its_last_task(play: Play, session: Session) -> None:
    """The one that finds its part of the rows taken must not conclude that nothing is left."""
    job_id = await play.submit()
    await play.plan(job_id, 30)
    await play.dispatch(job_id, tasks=10, bundle=1)
    await play.order(jobs.cancel_job, job_id)
    first = await session()
    async with first.transaction():
        assert not await transitions.cancel_tasks(first, job_id, 4)
        second = asyncio.create_task(cancel_some(play, job_id, 4))
        await until_blocked(play.database)

    assert not await second
    await cancel_all(play, job_id)
    assert await play.states(job_id) == {"cancelled": 30}
    await assert_invariants(play.database, job_id)


async def test_reporting_and_reaping_at_once_ends_each_attempt_once(play: Play, session: Session) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 4)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    await play.silence(worker_id)
    await workers.mark_lost_workers(play.database, 30)
    completing = await session()
    async with completing.transaction():
        assert await transitions.complete(completing, worker_id, [finished(tasks[1])], []) == 1
        reaping = asyncio.create_task(transitions.reap_dead_workers(play.database, 5))
        await until_blocked(play.database)

    assert await reaping == 3
    assert await play.outcomes(job_id) == {"succeeded": 1, "lost": 3}
    await assert_invariants(play.database, job_id)


async def test_a_claim_under_way_when_its_job_is_paused_wins(play: Play, session: Session) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 4)
    taken, left = await play.dispatch(job_id, bundle=2)
    worker_id = await play.register()
    claiming = await session()
    async with claiming.transaction():
        await transitions.claim(claiming, worker_id, [taken.bundle_id])
        pausing = asyncio.create_task(play.order(jobs.pause_job, job_id))
        await until_blocked(play.database)
    await pausing

    assert await play.claim(worker_id, [left]) == []
    assert await play.states(job_id) == {"running": 2, "ready": 2}
    await assert_invariants(play.database, job_id)


async def test_a_dispatch_under_way_when_its_job_is_paused_is_taken_back(play: Play, session: Session) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 4)
    dispatching = await session()
    async with dispatching.transaction():
        messages = await transitions.dispatch(
            dispatching, job_id, 0, pool="default", tasks_max=9, bundle_tasks_max=9, resend_seconds=60
        )
        pausing = asyncio.create_task(play.order(jobs.pause_job, job_id))
        await until_blocked(play.database)
    await pausing

    assert len(messages) == 1
    assert await play.states(job_id) == {"ready": 4}
    await assert_invariants(play.database, job_id)


async def test_dispatching_from_two_connections_queues_each_task_once(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 100)

    batches = await asyncio.gather(*(play.dispatch(job_id, tasks=40, bundle=7) for _ in range(4)))

    queued = [index for batch in batches for m in batch for index in range(m.first, m.first + m.count)]
    assert len(queued) == len(set(queued))
    await play.dispatch(job_id)
    assert await play.states(job_id) == {"queued": 100}
    await assert_invariants(play.database, job_id)


class Crew:
    """Schedulers and workers on a connection each, all at once, with everything that can happen to them."""

    def __init__(self, play: Play, database: Database, job_id: UUID, seed: int) -> None:
        self._play = Play(database, play.settings)
        self._database = database
        self._job_id = job_id
        self._draw = random.Random(seed)
        self.deadlocks = 0

    async def run(self) -> None:
        loops = [self._dispatch, self._dispatch, self._reap, self._reap, self._pause, *[self._work] * 5]
        async with asyncio.TaskGroup() as group:
            for loop in loops:
                group.create_task(self._repeat(loop))

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        while not await self._is_done():
            try:
                await step()
            except asyncpg.DeadlockDetectedError:
                self.deadlocks += 1
            await asyncio.sleep(0)

    async def _is_done(self) -> bool:
        left = await self._database.fetchval(
            "SELECT count(*) FROM tasks WHERE job_id = $1 AND state <> ALL($2)", self._job_id, TERMINAL
        )
        return not left

    async def _dispatch(self) -> None:
        for stage in (0, 1):
            await self._play.dispatch(self._job_id, stage, tasks=self._draw.randint(1, 20), bundle=6)

    async def _reap(self) -> None:
        await workers.mark_lost_workers(self._database, 30)
        await transitions.reap_dead_workers(self._database, 1000)

    async def _pause(self) -> None:
        try:
            await self._play.order(jobs.pause_job, self._job_id)
            await self._play.order(jobs.resume_job, self._job_id)
        except errors.Conflict:
            pass

    async def _work(self) -> None:
        """A worker's whole life: claim, report in parts and in any order, and perhaps fall silent meanwhile."""
        draw, worker_id = self._draw, await self._play.register()
        for _ in range(draw.randint(1, 4)):
            offered = await self._database.fetch("SELECT bundle_id FROM bundles LIMIT 3")
            tasks = await transitions.claim(self._database, worker_id, [row["bundle_id"] for row in offered])
            draw.shuffle(tasks)
            if draw.random() < 0.2:
                await self._play.silence(worker_id)
            half = len(tasks) // 2
            for part, done in ((tasks[:half], []), (tasks[half:], tasks)):
                reports = [finished(task, self._outcome()) for task in part]
                await self._report(worker_id, reports, done)
        await workers.stop_worker(self._database, worker_id)

    def _outcome(self) -> str:
        return self._draw.choices(["succeeded", "released", "failed"], [8, 1, 1])[0]

    async def _report(self, worker_id: UUID, reports: list[AttemptReport], done: list[ClaimedTask]) -> None:
        while True:
            try:
                await self._play.complete(worker_id, *reports, done=done)
                return
            except asyncpg.DeadlockDetectedError:
                self.deadlocks += 1


async def test_a_crew_at_full_speed_ends_every_task_once(play: Play, database_url: str) -> None:
    retry = {"max_attempts": 100, "backoff_seconds": 0}
    job_id = await play.submit(stages=[{"processor": "noop", "retry": retry}] * 2)
    await play.plan(job_id, 60)
    database = await connect_database(database_url, 12)
    crew = Crew(play, database, job_id, seed=1)

    await crew.run()

    await database.close()
    await assert_invariants(play.database, job_id)
    assert await play.states(job_id) == await play.states(job_id, 1) == {"succeeded": 60}
    assert (await play.outcomes(job_id))["succeeded"] == 120
    assert crew.deadlocks == 0


async def test_cancelling_under_full_speed_leaves_nothing_behind(play: Play, database_url: str) -> None:
    job_id = await play.submit(stages=2)
    await play.plan(job_id, 200)
    database = await connect_database(database_url, 14)
    crew = Crew(play, database, job_id, seed=2)

    async def cancel() -> None:
        async def half_done() -> bool:
            return (await play.states(job_id)).get("succeeded", 0) >= 40

        await until(half_done)
        await play.order(jobs.cancel_job, job_id)
        await asyncio.gather(cancel_all(play, job_id), cancel_all(play, job_id))

    await asyncio.gather(crew.run(), cancel())

    await database.close()
    await assert_invariants(play.database, job_id)
    assert set(await play.states(job_id)) <= set(TERMINAL)
    assert (await play.states(job_id))["cancelled"] > 0
    assert crew.deadlocks == 0


class Walk:
    """One random transition after the other, by three workers that remember what they claimed, rightly or not."""

    def __init__(self, play: Play, job_id: UUID, draw: random.Random) -> None:
        self._play = play
        self._job_id = job_id
        self._draw = draw
        self._workers: list[UUID] = []
        self._claimed: list[tuple[UUID, ClaimedTask]] = []
        self.state = "running"

    async def step(self) -> str:
        moves = [self._dispatch, self._claim, self._report, self._report_stale, self._lose, self._abandon, self._stop,
                 self._pause, self._resume, self._make_due]  # fmt: skip
        move = self._draw.choices(moves, [5, 6, 6, 1, 1, 1, 1, 1, 2, 2])[0]
        await move()
        return move.__name__

    async def _dispatch(self) -> None:
        stage, tasks, bundle = self._draw.randrange(2), self._draw.randint(1, 8), self._draw.randint(1, 4)
        await self._play.dispatch(self._job_id, stage, tasks=tasks, bundle=bundle)

    async def _worker(self) -> UUID:
        while len(self._workers) < 3:
            self._workers.append(await self._play.register())
        return self._draw.choice(self._workers)

    async def _bundles(self, condition: str) -> list[UUID]:
        rows = await self._play.database.fetch(f"SELECT bundle_id FROM bundles WHERE {condition} ORDER BY bundle_id")
        return self._draw.sample([row["bundle_id"] for row in rows], min(2, len(rows)))

    async def _claim(self) -> None:
        worker_id = await self._worker()
        tasks = await transitions.claim(self._play.database, worker_id, await self._bundles("true"))
        self._claimed += [(worker_id, task) for task in tasks]

    async def _report(self) -> None:
        """All that one bundle's worker has claimed of it, each with an outcome of its own."""
        if not self._claimed:
            return
        worker_id, chosen = self._draw.choice(self._claimed)
        tasks = [t for w, t in self._claimed if w == worker_id and t.bundle_id == chosen.bundle_id]
        self._claimed = [(w, t) for w, t in self._claimed if t.bundle_id != chosen.bundle_id]
        outcomes = self._draw.choices(["succeeded", "failed", "released", "timeout"], [6, 2, 1, 1], k=len(tasks))
        reports = [finished(t, outcome) for t, outcome in zip(tasks, outcomes, strict=True)]
        await self._play.complete(worker_id, *reports, done=[chosen])
        if self._draw.random() < 0.3:
            await self._play.complete(worker_id, *reports, done=[chosen])

    async def _report_stale(self) -> None:
        """Somebody else reports what a worker has claimed, and the worker an attempt to come."""
        if self._claimed:
            worker_id, task = self._draw.choice(self._claimed)
            stranger = await self._play.register()
            assert await self._play.complete(stranger, finished(task), done=[task]) == 0
            early = ClaimedTask(task.bundle_id, task.job_id, task.stage, task.index, task.attempt + 1, task.input)
            await self._play.complete(worker_id, finished(early))

    async def _lose(self) -> None:
        worker_id = await self._worker()
        self._workers.remove(worker_id)
        await self._play.lose(worker_id)

    async def _abandon(self) -> None:
        worker_id = await self._worker()
        await transitions.abandon(self._play.database, worker_id, await self._bundles("true"))

    async def _stop(self) -> None:
        worker_id = await self._worker()
        self._workers.remove(worker_id)
        await workers.stop_worker(self._play.database, worker_id)
        await transitions.reap_dead_workers(self._play.database, 3)

    async def _pause(self) -> None:
        if self.state == "running":
            await self._play.order(jobs.pause_job, self._job_id)
            self.state = "paused"

    async def _resume(self) -> None:
        if self.state == "paused":
            await self._play.order(jobs.resume_job, self._job_id)
            self.state = "running"

    async def _make_due(self) -> None:
        await self._play.make_due(self._job_id)


@pytest.mark.parametrize("seed", range(3))
async def test_no_sequence_of_transitions_breaks_an_invariant(play: Play, seed: int) -> None:
    job_id = await play.submit(stages=2)
    await play.plan(job_id, 12)
    walk = Walk(play, job_id, random.Random(seed))
    moves = []
    for _ in range(80):
        moves.append(await walk.step())
        try:
            await assert_invariants(play.database, job_id)
        except AssertionError:
            raise AssertionError(f"after {moves}") from None

    if walk.state == "paused":
        await play.order(jobs.resume_job, job_id)
    await play.order(jobs.cancel_job, job_id)
    await cancel_all(play, job_id)
    await assert_invariants(play.database, job_id)
    assert set(await play.states(job_id)) <= set(TERMINAL)
