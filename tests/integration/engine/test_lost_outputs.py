"""An output that is gone or damaged is made again, once for all who could not read it, and not for ever."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from services.engine import jobs, transitions
from services.engine.attempt import AttemptReport, ClaimedTask, LostOutput
from services.engine.lost_outputs import RERUNS_MAX, lose_inputs
from services.engine.progress import is_slowed
from services.platform.database import Database
from services.platform.settings import Settings
from services.scheduler.loop import Context
from services.scheduler.loops import finish, renew
from tests.integration.engine.play import Play, finished
from tests.invariants import assert_invariants


class Readers:
    """A job of two chained stages: the outputs of the first one are lost before the second one reads them."""

    def __init__(self, play: Play, job_id: UUID) -> None:
        self.play = play
        self.job_id = job_id
        self.context = Context(play.database, None, play.settings)  # type: ignore[arg-type]

    async def make(self) -> list[ClaimedTask]:
        """The ready tasks of the first stage succeed."""
        worker_id = await self.play.register()
        tasks = await self.play.run(worker_id, self.job_id)
        reports = [
            finished(task, output=self.output(task.index, task.attempt), records_in=10, records_out=10)
            for task in tasks
        ]
        assert await self.play.complete(worker_id, *reports, done=tasks) == len(tasks)
        return tasks

    def uri(self, index: int, attempt: int) -> str:
        return f"s3://b/jobs/{self.job_id}/0/{index}-{attempt}/out"

    def output(self, index: int, attempt: int) -> dict[str, Any]:
        return {"uri": self.uri(index, attempt), "bytes": 9, "crc32": 10 * index + attempt}

    async def read(self) -> tuple[UUID, list[ClaimedTask]]:
        worker_id = await self.play.register()
        return worker_id, await self.play.run(worker_id, self.job_id, 1)

    def loss(self, task: ClaimedTask, index: int | None = None, attempt: int = 1) -> AttemptReport:
        """The report of a reader that could not read an output: by default the one that its task works on."""
        of = task.index if index is None else index
        lost = LostOutput(0, of, attempt, self.uri(of, attempt))
        error = {"type": "input_lost", "message": f"{lost.uri} does not exist: it is made again"}
        return finished(task, "released", error=error, lost=[lost])

    async def lose(self, worker_id: UUID, *reports: AttemptReport) -> None:
        """As a worker's completer does."""
        for report in reports:
            await lose_inputs(self.play.database, worker_id, report)
        await self.play.complete(worker_id, *reports)
        await assert_invariants(self.play.database, self.job_id)

    async def renew(self) -> None:
        await renew.step(self.context)
        await assert_invariants(self.play.database, self.job_id)

    async def is_due(self, index: int) -> bool:
        task = await self.play.task(self.job_id, index, 1)
        return bool(
            task["state"] == "ready" and await self.play.database.fetchval("SELECT $1 <= now()", task["ready_at"])
        )


@pytest.fixture
async def readers(play: Play, chain: UUID) -> Readers:
    readers = Readers(play, chain)
    await readers.make()
    await finish.step(readers.context)
    assert (await play.stage(chain))["state"] == "succeeded"
    return readers


async def test_the_task_runs_again_and_the_reader_goes_on_with_what_it_makes(
    readers: Readers, play: Play, chain: UUID
) -> None:
    worker_id, tasks = await readers.read()
    await readers.lose(worker_id, readers.loss(tasks[2]))

    maker, reader = await play.task(chain, 2), await play.task(chain, 2, 1)
    assert (maker["state"], maker["output"], maker["finished_at"]) == ("ready", None, None)
    assert (reader["state"], reader["failures"], reader["error"]["type"]) == ("ready", 0, "input_lost")
    assert not await readers.is_due(2)
    assert (await play.stage(chain))["state"] == "running"
    await readers.renew()
    assert not await readers.is_due(2)

    [again] = await readers.make()
    assert (again.index, again.attempt) == (2, 2)
    await readers.renew()
    assert await readers.is_due(2)
    reader = await play.task(chain, 2, 1)
    assert (reader["input"], reader["error"]) == ({"type": "object", **readers.output(2, 2)}, None)

    await play.succeed(worker_id, [task for task in tasks if task.index != 2])
    worker_id, [task] = await readers.read()
    assert task.attempt == 2
    await play.succeed(worker_id, [task])
    await finish.step(readers.context)
    assert [(await play.stage(chain, stage))["state"] for stage in (0, 1)] == ["succeeded", "merging"]
    await assert_invariants(play.database, chain)


async def test_the_history_says_why(readers: Readers, play: Play, chain: UUID, database: Database) -> None:
    worker_id, tasks = await readers.read()
    await readers.lose(worker_id, readers.loss(tasks[2]))
    await readers.make()

    first, second = await database.fetch(
        "SELECT * FROM attempts WHERE job_id = $1 AND stage = 0 AND index = 2 ORDER BY attempt", chain
    )
    message = f"task 1/2 could not read {readers.uri(2, 1)}: the task runs again"
    assert (first["outcome"], first["error"]) == ("succeeded", {"type": "output_lost", "message": message})
    assert (second["outcome"], second["error"]) == ("succeeded", None)
    [read] = await database.fetch("SELECT * FROM attempts WHERE job_id = $1 AND stage = 1", chain)
    assert (read["outcome"], read["error"]["type"]) == ("released", "input_lost")


async def test_records_count_once_and_the_stage_is_not_slowed_down(
    readers: Readers, chain: UUID, database: Database
) -> None:
    sums = "SELECT * FROM stage_sums($1, 0::smallint)"
    stage = "SELECT * FROM running_stages WHERE job_id = $1 AND stage = 0"
    await database.execute("UPDATE stages SET retry_budget = 0, max_attempts = 3 WHERE job_id = $1", chain)
    worker_id, tasks = await readers.read()
    await readers.lose(worker_id, *map(readers.loss, tasks))

    row = await database.fetchrow(sums, chain)
    assert (row["ready"], row["succeeded"], row["records_in"], row["records_out"]) == (6, 0, 0, 0)
    assert not is_slowed(await database.fetchrow(stage, chain))
    await readers.make()
    row = await database.fetchrow(sums, chain)
    assert (row["succeeded"], row["attempts"], row["records_in"], row["records_out"]) == (6, 12, 60, 60)
    assert not is_slowed(await database.fetchrow(stage, chain))


async def test_a_loss_that_two_report_is_repaired_once(readers: Readers, play: Play, chain: UUID) -> None:
    worker_id, tasks = await readers.read()
    first, second = readers.loss(tasks[0], index=4), readers.loss(tasks[1], index=4)
    await readers.lose(worker_id, first)
    await readers.lose(worker_id, first, second)
    [again] = await readers.make()
    assert (again.index, again.attempt) == (4, 2)

    await readers.lose(worker_id, readers.loss(tasks[2], index=4))  # it read too early
    assert (await play.task(chain, 4))["state"] == "succeeded"
    assert await play.outcomes(chain) == {"succeeded": 7, "released": 3}


async def test_an_output_that_is_lost_again_and_again_fails_its_reader(
    readers: Readers, play: Play, chain: UUID
) -> None:
    for attempt in range(1, RERUNS_MAX + 1):
        worker_id, tasks = await readers.read()
        await readers.lose(worker_id, readers.loss(next(t for t in tasks if t.index == 2), attempt=attempt))
        await readers.make()
        await readers.renew()
    worker_id, [task] = await readers.read()
    await readers.lose(worker_id, readers.loss(task, attempt=RERUNS_MAX + 1))

    reader = await play.task(chain, 2, 1)
    assert (reader["state"], reader["error"]["type"]) == ("failed", "input_lost")
    said = f"{readers.uri(2, 4)} is gone or damaged again, after task 0/2 has made it 4 times"
    assert reader["error"]["message"].startswith(said)
    await finish.step(readers.context)
    job = await play.job(chain)
    assert job["state"] == "failed" and said in job["error"]["message"]


async def test_a_reader_fails_with_the_task_that_has_to_make_its_input_again(
    readers: Readers, play: Play, chain: UUID, database: Database
) -> None:
    await database.execute("UPDATE stages SET tolerated_failures = 1 WHERE job_id = $1", chain)
    worker_id, tasks = await readers.read()
    await readers.lose(worker_id, readers.loss(tasks[2]))
    await play.succeed(worker_id, [task for task in tasks if task.index != 2])
    maker_id = await play.register()
    again = await play.run(maker_id, chain)
    await play.complete(maker_id, finished(again[0], "failed", retryable=False), done=again)
    await readers.renew()

    reader = await play.task(chain, 2, 1)
    assert reader["state"] == "failed"
    assert "task 0/2, which has to make its input again, has failed: task 2 broke" in reader["error"]["message"]
    await finish.step(readers.context)
    assert [(await play.stage(chain, stage))["state"] for stage in (0, 1)] == ["succeeded", "merging"]


async def test_an_attempt_that_does_not_hold_its_task_loses_nothing(readers: Readers, play: Play, chain: UUID) -> None:
    worker_id, tasks = await readers.read()
    await play.lose(worker_id)
    await readers.lose(worker_id, readers.loss(tasks[2]))
    assert await play.states(chain) == {"succeeded": 6}


async def test_a_reader_goes_on_with_its_other_attempt(readers: Readers, play: Play, chain: UUID) -> None:
    worker_id, tasks = await readers.read()
    other_id = await play.register()
    backups = await play.claim(other_id, await play.back_up(chain, 1))
    await readers.lose(worker_id, readers.loss(tasks[2]))
    assert (await play.states(chain), (await play.task(chain, 2, 1))["state"]) == ({"succeeded": 6}, "running")
    await readers.lose(other_id, readers.loss(next(t for t in backups if t.index == 2)))
    assert (await play.task(chain, 2))["state"] == "ready"


async def test_a_late_report_of_the_attempt_whose_output_is_lost_changes_nothing(
    readers: Readers, play: Play, chain: UUID
) -> None:
    worker_id, tasks = await readers.read()
    maker = await play.task(chain, 2)
    await readers.lose(worker_id, readers.loss(tasks[2]))
    old = replace(tasks[2], stage=0, attempt=1)
    assert await play.complete(maker["worker_id"], finished(old)) == 0
    assert (await play.task(chain, 2))["state"] == "ready"


@pytest.mark.parametrize("order", [jobs.pause_job, jobs.cancel_job], ids=["paused", "cancelled"])
async def test_what_is_lost_while_a_job_ends_is_made_again_by_a_retry(
    readers: Readers, play: Play, chain: UUID, order: Any, database: Database, settings: Settings
) -> None:
    worker_id, tasks = await readers.read()
    await play.order(order, chain)
    await readers.lose(worker_id, readers.loss(tasks[2]))
    if order is jobs.pause_job:
        assert (await play.task(chain, 2))["state"] == "ready"
        await play.order(jobs.cancel_job, chain)
    else:
        assert (await play.task(chain, 2))["state"] == "succeeded"
    async with database.acquire() as connection:
        assert await transitions.cancel_tasks(connection, chain, 100)
        await jobs.end_job(connection, chain, source="cancelling", target="cancelled", settings=settings)
    await assert_invariants(database, chain)
    await play.order(jobs.retry_job, chain)
    await assert_invariants(database, chain)

    worker_id, tasks = await readers.read()
    await readers.lose(worker_id, readers.loss(next(t for t in tasks if t.index == 2)))
    await readers.make()
    await readers.renew()
    assert (await play.task(chain, 2, 1))["input"] == {"type": "object", **readers.output(2, 2)}


async def test_nothing_runs_again_beside_workers_that_can_not_complete_it(
    readers: Readers, play: Play, chain: UUID, database: Database
) -> None:
    """Those of the release before make the successor of each success, which is there already."""
    old = await play.register()
    await database.execute("UPDATE workers SET release = NULL WHERE worker_id = $1", old)
    worker_id, tasks = await readers.read()
    await readers.lose(worker_id, readers.loss(tasks[2]))
    assert await play.states(chain) == {"succeeded": 6}
    assert (await play.task(chain, 2, 1))["state"] == "ready" and not await readers.is_due(2)

    await database.execute("UPDATE workers SET state = 'stopped' WHERE worker_id = $1", old)
    await play.make_due(chain)
    worker_id, [task] = await readers.read()
    await readers.lose(worker_id, readers.loss(task))
    assert (await play.task(chain, 2))["state"] == "ready"
