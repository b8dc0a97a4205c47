"""A backup attempt races with the first: one of them wins, and the other leaves no trace but its record."""

import asyncio
from uuid import UUID

import pytest

from services.engine import jobs, transitions, workers
from tests.integration.engine.play import Order, Play, finished
from tests.invariants import assert_invariants


@pytest.fixture
async def job_id(play: Play) -> UUID:
    """A job of one task."""
    job_id = await play.submit(stages=[{"processor": "noop", "retry": {"max_attempts": 2, "backoff_seconds": 0}}])
    await play.plan(job_id, 1)
    return job_id


async def test_a_backup_has_the_task_s_input_and_the_next_attempt(play: Play, job_id: UUID) -> None:
    _, task, second, backup = await play.race(job_id)

    assert (backup.index, backup.attempt, backup.input) == (task.index, task.attempt + 1, task.input)
    row = await play.task(job_id, 0)
    assert (row["state"], row["attempt"], row["backup_attempt"]) == ("running", 1, 2)
    assert row["backup_worker_id"] == second
    assert await play.states(job_id) == {"running": 1}
    await assert_invariants(play.database, job_id)


async def test_the_first_to_succeed_wins_and_the_other_changes_nothing(play: Play, job_id: UUID) -> None:
    first, task, second, backup = await play.race(job_id)

    assert await play.complete(second, finished(backup, output={"value": "backup"}), done=[backup]) == 1
    assert await play.complete(first, finished(task, output={"value": "first"}), done=[task]) == 0

    row = await play.task(job_id, 0)
    assert (row["state"], row["attempt"], row["worker_id"]) == ("succeeded", 2, second)
    assert row["output"] == {"value": "backup"}
    assert await play.outcomes(job_id) == {"succeeded": 1, "cancelled": 1}
    assert await play.database.fetchval("SELECT count(*) FROM bundles") == 0
    await assert_invariants(play.database, job_id)


async def test_the_first_attempt_may_win_too(play: Play, job_id: UUID) -> None:
    first, task, second, backup = await play.race(job_id)

    assert await play.complete(first, finished(task), done=[task]) == 1
    assert await play.complete(second, finished(backup), done=[backup]) == 0

    assert (await play.task(job_id, 0))["attempt"] == 1
    error = await play.database.fetchval("SELECT error FROM attempts WHERE outcome = 'cancelled'")
    assert error == {"type": "overtaken", "message": "attempt 1 succeeded first"}
    await assert_invariants(play.database, job_id)


async def test_of_two_completions_at_once_one_counts(play: Play, job_id: UUID) -> None:
    first, task, second, backup = await play.race(job_id)

    counts = await asyncio.gather(
        play.complete(first, finished(task), done=[task]), play.complete(second, finished(backup), done=[backup])
    )

    assert sorted(counts) == [0, 1]
    assert await play.states(job_id) == {"succeeded": 1}
    await assert_invariants(play.database, job_id)


@pytest.mark.parametrize("loser", ["first", "backup"])
async def test_the_loser_s_worker_is_told_by_its_heartbeat(play: Play, job_id: UUID, loser: str) -> None:
    first, task, second, backup = await play.race(job_id)
    winner, attempt, other = (second, backup, first) if loser == "first" else (first, task, second)
    await play.complete(winner, finished(attempt), done=[attempt])

    await play.settle()

    assert (await workers.heartbeat(play.database, other, 1)).bundle_ids == frozenset()


async def test_a_race_that_goes_on_is_not_settled(play: Play, job_id: UUID) -> None:
    first, task, second, backup = await play.race(job_id)

    await play.settle()

    assert (await workers.heartbeat(play.database, first, 1)).bundle_ids == {task.bundle_id}
    assert (await workers.heartbeat(play.database, second, 1)).bundle_ids == {backup.bundle_id}


@pytest.mark.parametrize("outcome", ["failed", "released", "timeout"])
@pytest.mark.parametrize("ends", ["first", "backup"])
async def test_if_one_does_not_succeed_the_task_goes_on_with_the_other(
    play: Play, job_id: UUID, ends: str, outcome: str
) -> None:
    first, task, second, backup = await play.race(job_id)
    (worker, attempt), (left_worker, left) = (
        ((first, task), (second, backup)) if ends == "first" else ((second, backup), (first, task))
    )

    assert await play.complete(worker, finished(attempt, outcome), done=[attempt]) == 1

    row = await play.task(job_id, 0)
    assert (row["state"], row["attempt"], row["worker_id"]) == ("running", left.attempt, left_worker)
    assert (row["failures"], row["backup_worker_id"]) == (0, None)
    await assert_invariants(play.database, job_id)
    assert await play.complete(left_worker, finished(left), done=[left]) == 1
    await assert_invariants(play.database, job_id)


async def test_a_race_that_both_lose_is_one_failure_and_the_next_attempt_has_a_number_of_its_own(
    play: Play, job_id: UUID
) -> None:
    first, task, second, backup = await play.race(job_id)
    await play.complete(first, finished(task, "failed"), done=[task])
    await play.complete(second, finished(backup, "failed"), done=[backup])

    row = await play.task(job_id, 0)
    assert (row["state"], row["failures"]) == ("ready", 1)
    [again] = await play.run(first, job_id)
    assert again.attempt == 3
    await assert_invariants(play.database, job_id)


async def test_when_a_worker_is_lost_the_task_goes_on_with_the_other(play: Play, job_id: UUID) -> None:
    first, _, second, backup = await play.race(job_id)

    assert await play.lose(first) == 1

    row = await play.task(job_id, 0)
    assert (row["state"], row["attempt"], row["worker_id"], row["losses"]) == ("running", 2, second, 0)
    assert await play.outcomes(job_id) == {"lost": 1}
    assert await play.complete(second, finished(backup), done=[backup]) == 1
    await assert_invariants(play.database, job_id)


async def test_when_the_backup_s_worker_is_lost_the_first_goes_on(play: Play, job_id: UUID) -> None:
    first, task, second, _ = await play.race(job_id)

    assert await play.lose(second) == 1

    row = await play.task(job_id, 0)
    assert (row["state"], row["attempt"], row["worker_id"]) == ("running", 1, first)
    assert await play.complete(first, finished(task), done=[task]) == 1
    await assert_invariants(play.database, job_id)


async def test_when_both_workers_are_lost_the_task_is_ready_again(play: Play, job_id: UUID) -> None:
    first, _, second, _ = await play.race(job_id)
    await play.silence(first)

    assert await play.lose(second) == 2

    row = await play.task(job_id, 0)
    assert (row["state"], row["losses"]) == ("ready", 1)
    assert await play.outcomes(job_id) == {"lost": 2}
    await assert_invariants(play.database, job_id)


async def test_a_worker_never_backs_up_what_it_runs_itself(play: Play, job_id: UUID) -> None:
    worker_id = await play.register()
    await play.run(worker_id, job_id)
    messages = await play.back_up(job_id)

    assert [message.backup_of for message in messages] == [worker_id]
    assert await play.claim(worker_id, messages) == []
    assert len(await play.claim(await play.register(), messages)) == 1


async def test_a_task_is_backed_up_once(play: Play, job_id: UUID) -> None:
    await play.race(job_id)

    assert await play.back_up(job_id) == []


async def test_an_offer_that_comes_too_late_claims_nothing_and_is_withdrawn(play: Play, job_id: UUID) -> None:
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    messages = await play.back_up(job_id)
    await play.succeed(worker_id, tasks)

    await play.settle()

    assert await play.claim(await play.register(), messages) == []
    assert await play.database.fetchval("SELECT count(*) FROM bundles") == 0


async def test_tasks_that_share_a_bundle_with_a_straggler_are_not_cut_off_with_it(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 3)
    first, second = await play.register(), await play.register()
    tasks = await play.run(first, job_id, bundle=3)
    backups = await play.claim(second, await play.back_up(job_id))
    assert [backup.index for backup in backups] == [0, 1, 2]
    await play.complete(second, finished(backups[1]), done=[backups[1]])

    await play.settle()

    assert (await workers.heartbeat(play.database, first, 1)).bundle_ids == {tasks[0].bundle_id}
    assert await play.complete(first, *map(finished, tasks), done=tasks) == 2
    await assert_invariants(play.database, job_id)


@pytest.mark.parametrize("order", [jobs.cancel_job, jobs.pause_job])
async def test_cancelling_ends_both_attempts_and_pausing_neither(play: Play, job_id: UUID, order: Order) -> None:
    await play.race(job_id)

    await play.order(order, job_id)
    async with play.database.acquire() as connection:
        while not await transitions.cancel_tasks(connection, job_id, 100):
            pass

    if order is jobs.cancel_job:
        assert await play.states(job_id) == {"cancelled": 1}
        assert await play.outcomes(job_id) == {"cancelled": 2}
        assert await play.database.fetchval("SELECT count(*) FROM bundles") == 0
    else:
        assert await play.states(job_id) == {"running": 1}
    await assert_invariants(play.database, job_id)


async def test_what_a_paused_job_offered_is_withdrawn_and_its_task_runs_on(play: Play, job_id: UUID) -> None:
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    messages = await play.back_up(job_id)

    await play.order(jobs.pause_job, job_id)

    assert await play.claim(await play.register(), messages) == []
    assert await play.complete(worker_id, *map(finished, tasks), done=tasks) == 1
    await assert_invariants(play.database, job_id)
