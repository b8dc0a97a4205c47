"""Each transition of a task: what it changes, from where, and that doing it twice changes nothing more."""

import asyncio
import time
from dataclasses import replace
from uuid import UUID

import pytest

from services.contract.task_input import Index
from services.engine import jobs, stages, transitions, workers
from services.engine.attempt import AttemptReport
from services.engine.workers import UnknownPool
from services.platform.database import TASKS_CHANNEL, new_id
from tests.integration.engine.play import HOLD, Order, Play, finished
from tests.invariants import assert_invariants

# Plan and dispatch.


async def test_planned_tasks_are_ready_in_order_with_their_inputs(play: Play) -> None:
    job_id = await play.submit()
    inputs = [{"type": "item", "value": value} for value in ("a", None, {"deep": [1]})]
    async with play.database.acquire() as connection:
        await transitions.plan_tasks(connection, job_id, 0, 0, inputs[:2])
        await transitions.plan_tasks(connection, job_id, 0, 2, inputs[2:])

    assert [(await play.task(job_id, index))["input"] for index in range(3)] == inputs
    assert await play.states(job_id) == {"ready": 3}
    await assert_invariants(play.database, job_id)


async def test_dispatch_queues_neighbours_in_bundles_no_larger_than_asked(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 10)

    messages = await play.dispatch(job_id, tasks=7, bundle=3)

    assert [(m.first, m.count) for m in messages] == [(0, 3), (3, 3), (6, 1)]
    assert {m.job_id for m in messages} == {job_id}
    assert await play.states(job_id) == {"queued": 7, "ready": 3}
    await assert_invariants(play.database, job_id)


async def test_a_bundle_never_spans_a_task_that_is_not_in_it(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 6)
    worker_id = await play.register()
    taken = await play.run(worker_id, job_id, bundle=1)
    await play.complete(worker_id, *(finished(t, "released") for t in taken if t.index not in (2, 4)))

    messages = await play.dispatch(job_id)

    assert [(m.first, m.count) for m in messages] == [(0, 2), (3, 1), (5, 1)]
    await assert_invariants(play.database, job_id)


@pytest.mark.parametrize("order", [jobs.pause_job, jobs.cancel_job])
async def test_a_job_that_is_not_running_is_not_dispatched(play: Play, order: Order) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 3)
    await play.order(order, job_id)

    assert await play.dispatch(job_id) == []
    assert await play.states(job_id) == {"ready": 3}


async def test_second_tries_come_first(play: Play) -> None:
    job_id = await play.submit(stages=[{"processor": "noop", "retry": {"max_attempts": 2, "backoff_seconds": 0}}])
    await play.plan(job_id, 9)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id, tasks=2, bundle=1)
    await play.complete(worker_id, *(finished(task, "failed") for task in tasks), done=tasks)

    messages = await play.dispatch(job_id, tasks=3)

    assert [(m.first, m.count) for m in messages] == [(0, 3)]
    await assert_invariants(play.database, job_id)


async def test_one_who_has_lost_two_workers_is_a_suspect(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 2)
    suspects = []
    for _ in range(3):
        messages = await play.dispatch(job_id)
        suspects.append([message.suspect for message in messages])
        worker_id = await play.register()
        await play.claim(worker_id, messages)
        await play.lose(worker_id)

    assert suspects == [[False], [False, False], [True, True]]


# Claim.


async def test_a_claim_gives_the_tasks_with_their_inputs_and_the_first_attempt(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 3)
    worker_id = await play.register()

    tasks = await play.run(worker_id, job_id, bundle=2)

    assert [(t.index, t.attempt, t.input) for t in tasks] == [(n, 1, Index(3)) for n in range(3)]
    assert tasks[0].bundle_id == tasks[1].bundle_id != tasks[2].bundle_id
    assert (await play.task(job_id, 0))["worker_id"] == worker_id
    await assert_invariants(play.database, job_id)


async def test_a_bundle_is_claimed_once_whoever_asks_again(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 3)
    first, second = await play.register(), await play.register()
    messages = await play.dispatch(job_id)
    assert len(await play.claim(first, messages)) == 3

    assert await play.claim(first, messages) == []
    assert await play.claim(second, messages) == []
    assert await play.claim(second, [replace(messages[0], bundle_id=new_id())]) == []
    await assert_invariants(play.database, job_id)


# Complete.


async def test_an_attempt_that_is_reported_late_has_begun_all_the_earlier(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 1)
    worker_id = await play.register()
    [task] = await play.run(worker_id, job_id)
    report = finished(task, ended_at=time.monotonic() - 100.0)
    await play.complete(worker_id, report, done=[task])
    seconds = await play.database.fetchval(
        "SELECT extract(epoch FROM finished_at - started_at) FROM attempts WHERE job_id = $1", job_id
    )
    assert 100.5 <= seconds < 110.0, "its half second, and 100 until the report"


async def test_a_success_keeps_output_and_measurements(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 1)
    worker_id = await play.register()
    [task] = await play.run(worker_id, job_id)
    output = {"uri": "s3://b/k", "bytes": 7}
    report = finished(
        task, output=output, bytes_in=5, bytes_out=7, records_in=3, records_out=2, records_rejected=1, exit_code=0,
        cpu_seconds=0.25, memory_bytes_peak=1 << 40, log="s3://b/log.txt",
    )  # fmt: skip

    assert await play.complete(worker_id, report, done=[task]) == 1

    row = await play.task(job_id, 0)
    assert (row["state"], row["output"], row["error"], row["failures"]) == ("succeeded", output, None, 0)
    attempt = await play.database.fetchrow("SELECT * FROM attempts WHERE job_id = $1", job_id)
    assert attempt is not None
    for name in ("bytes_in", "bytes_out", "records_in", "records_out", "records_rejected", "exit_code", "cpu_seconds",
                 "memory_bytes_peak", "log", "run_seconds", "outcome", "attempt"):  # fmt: skip
        assert attempt[name] == getattr(report, name)
    assert (attempt["worker_id"], attempt["pool"]) == (worker_id, "default")
    assert (attempt["finished_at"] - attempt["started_at"]).total_seconds() == 0.5
    await assert_invariants(play.database, job_id)


async def test_reporting_an_attempt_twice_counts_it_once(play: Play, chain: UUID) -> None:
    worker_id = await play.register()
    tasks = await play.run(worker_id, chain)
    reports = [finished(task) for task in tasks]

    assert await play.complete(worker_id, *reports, done=tasks) == 6
    assert await play.complete(worker_id, *reports, done=tasks) == 0
    assert await play.complete(worker_id, *reports, *reports) == 0

    assert await play.outcomes(chain) == {"succeeded": 6}
    await assert_invariants(play.database, chain)


async def test_one_report_naming_an_attempt_twice_counts_it_once(play: Play, chain: UUID) -> None:
    worker_id = await play.register()
    [task, *_] = await play.run(worker_id, chain)

    assert await play.complete(worker_id, finished(task), finished(task)) == 1

    await assert_invariants(play.database, chain)


async def test_an_attempt_that_lost_its_task_changes_nothing(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 1)
    slow, quick = await play.register(), await play.register()
    [stale] = await play.run(slow, job_id)
    await play.lose(slow)
    [current] = await play.run(quick, job_id)
    assert (stale.attempt, current.attempt) == (1, 2)

    assert await play.complete(slow, finished(stale, output={"value": "stale"}), done=[stale]) == 0
    assert await play.complete(slow, replace_attempt(finished(stale), 2), done=[current]) == 0
    assert await play.complete(quick, replace_attempt(finished(current), 1)) == 0
    await assert_invariants(play.database, job_id)

    assert await play.complete(quick, finished(current, output={"value": "good"}), done=[current]) == 1
    assert (await play.task(job_id, 0))["output"] == {"value": "good"}
    assert await play.outcomes(job_id) == {"lost": 1, "succeeded": 1}
    await assert_invariants(play.database, job_id)


def replace_attempt(report: AttemptReport, attempt: int) -> AttemptReport:
    return replace(report, attempt=attempt)


async def test_a_worker_that_comes_back_to_its_own_lost_task_is_fenced_by_the_attempt(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 1)
    worker_id = await play.register()
    [first] = await play.run(worker_id, job_id)
    assert await transitions.abandon(play.database, worker_id, [first.bundle_id]) == 1
    [second] = await play.run(worker_id, job_id)

    assert await play.complete(worker_id, finished(first)) == 0
    assert await play.complete(worker_id, finished(second), done=[second]) == 1
    await assert_invariants(play.database, job_id)


async def test_failures_are_tried_again_after_a_growing_backoff_until_none_is_left(play: Play) -> None:
    retry = {"max_attempts": 3, "backoff_seconds": 10, "backoff_max_seconds": 15}
    job_id = await play.submit(stages=[{"processor": "noop", "retry": retry}])
    await play.plan(job_id, 1)
    worker_id = await play.register()

    for attempt, backoff in [(1, 10), (2, 15)]:
        [task] = await play.run(worker_id, job_id)
        assert task.attempt == attempt
        await play.complete(worker_id, finished(task, "failed", exit_code=3), done=[task])
        row = await play.task(job_id, 0)
        assert (row["state"], row["failures"], row["error"]["type"]) == ("ready", attempt, "failed")
        now = await play.database.fetchval("SELECT now()")
        assert backoff / 2 - 1 <= (row["ready_at"] - now).total_seconds() <= backoff
        assert await play.dispatch(job_id) == []  # not yet
        await assert_invariants(play.database, job_id)
        await play.make_due(job_id)

    [task] = await play.run(worker_id, job_id)
    await play.complete(worker_id, finished(task, "timeout"), done=[task])
    row = await play.task(job_id, 0)
    assert (row["state"], row["failures"], row["error"]["type"]) == ("failed", 3, "timeout")
    assert await play.outcomes(job_id) == {"failed": 2, "timeout": 1}
    await assert_invariants(play.database, job_id)


@pytest.mark.parametrize("outcome", ["failed", "timeout", "memory"])
async def test_what_can_not_succeed_is_not_tried_again(play: Play, outcome: str) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 1)
    worker_id = await play.register()
    [task] = await play.run(worker_id, job_id)

    await play.complete(worker_id, finished(task, outcome, retryable=False), done=[task])

    assert await play.states(job_id) == {"failed": 1}
    await assert_invariants(play.database, job_id)


async def test_a_released_task_is_ready_at_once_and_has_not_failed(play: Play) -> None:
    job_id = await play.submit(stages=[{"processor": "noop", "retry": {"max_attempts": 1}}])
    await play.plan(job_id, 2)
    worker_id = await play.register()

    for attempt in (1, 2, 3):
        tasks = await play.run(worker_id, job_id)
        assert [task.attempt for task in tasks] == [attempt, attempt]
        await play.complete(worker_id, *(finished(task, "released") for task in tasks), done=tasks)
        assert (await play.task(job_id, 0))["failures"] == 0
        await assert_invariants(play.database, job_id)

    await play.run_all(job_id)
    assert await play.outcomes(job_id) == {"released": 6, "succeeded": 2}


async def test_a_bundle_is_kept_while_something_of_it_runs(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 3)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)

    await play.complete(worker_id, finished(tasks[0]), finished(tasks[1], "failed"))
    await assert_invariants(play.database, job_id)
    assert (await workers.heartbeat(play.database, worker_id, 1)).bundle_ids == {tasks[0].bundle_id}

    await play.complete(worker_id, finished(tasks[2]), done=tasks)
    assert (await workers.heartbeat(play.database, worker_id, 0)).bundle_ids == frozenset()
    await assert_invariants(play.database, job_id)


async def test_a_worker_drops_no_bundle_but_its_own(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 2)
    owner, other = await play.register(), await play.register()
    held = await play.run(owner, job_id, tasks=1)
    await play.dispatch(job_id)

    bundle_ids = [row["bundle_id"] for row in await play.database.fetch("SELECT bundle_id FROM bundles")]
    assert await transitions.complete(play.database, other, [], bundle_ids) == 0
    assert await transitions.abandon(play.database, other, bundle_ids) == 0

    assert (await workers.heartbeat(play.database, owner, 1)).bundle_ids == {held[0].bundle_id}
    await assert_invariants(play.database, job_id)


# Chains.


async def test_each_success_makes_its_successor_from_its_output(play: Play, chain: UUID) -> None:
    worker_id = await play.register()
    tasks = await play.run(worker_id, chain)
    outputs = [{"uri": "s3://b/k", "bytes": 3, "value": 1}, {"value": {"n": [1]}}, {"value": None}, None, {"value": 0}]
    reports = [finished(task, output=output) for task, output in zip(tasks[:5], outputs, strict=True)]

    await play.complete(worker_id, *reports, finished(tasks[5], "failed", retryable=False), done=tasks)

    assert [(await play.task(chain, index, 1))["input"] for index in range(5)] == [
        {"type": "object", "uri": "s3://b/k", "bytes": 3},
        {"type": "item", "value": {"n": [1]}},
        {"type": "item", "value": None},
        {"type": "item", "value": None},
        {"type": "item", "value": 0},
    ]
    assert await play.states(chain, 1) == {"ready": 5}
    await assert_invariants(play.database, chain)


async def test_one_report_may_mix_stages_jobs_and_outcomes(play: Play, chain: UUID) -> None:
    other = await play.submit()
    await play.plan(other, 2)
    worker_id = await play.register()
    first = await play.run(worker_id, chain)
    await play.complete(worker_id, *(finished(task) for task in first[:3]))
    second = await play.run(worker_id, chain, 1)
    others = await play.run(worker_id, other)

    accepted = await play.complete(
        worker_id,
        finished(second[0]),
        finished(first[3]),
        finished(others[1], "released"),
        finished(second[1], "failed"),
        finished(first[4], "failed", retryable=False),
        finished(second[2], "memory", retryable=False),
        finished(others[0]),
        finished(first[5]),
        done=[*first, *second, *others],
    )

    assert accepted == 8
    assert await play.states(chain) == {"succeeded": 5, "failed": 1}
    assert await play.states(chain, 1) == {"succeeded": 1, "failed": 1, "ready": 3}
    assert await play.states(other) == {"succeeded": 1, "ready": 1}
    await assert_invariants(play.database, chain)
    await assert_invariants(play.database, other)


# What workers lose.


async def test_a_lost_workers_tasks_are_ready_again_and_have_not_failed(play: Play) -> None:
    job_id = await play.submit(stages=[{"processor": "noop", "retry": {"max_attempts": 1}}])
    await play.plan(job_id, 4)
    lost, alive = await play.register(), await play.register()
    tasks = await play.run(lost, job_id, tasks=3)
    await play.run(alive, job_id, tasks=1)
    await play.complete(lost, finished(tasks[0]))

    assert await play.lose(lost) == 2

    assert await play.states(job_id) == {"succeeded": 1, "ready": 2, "running": 1}
    row = await play.task(job_id, 1)
    assert (row["failures"], row["losses"], row["error"]["type"]) == (0, 1, "lost")
    assert await play.outcomes(job_id) == {"succeeded": 1, "lost": 2}
    assert (await workers.heartbeat(play.database, lost, 1)) == workers.Heartbeat("lost", frozenset())
    await assert_invariants(play.database, job_id)
    assert await transitions.reap_dead_workers(play.database, 5) == 0


async def test_a_task_that_loses_its_workers_too_often_fails(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 1)
    for losses in range(1, play.settings.losses_max + 1):
        worker_id = await play.register()
        assert len(await play.run(worker_id, job_id)) == 1
        await play.lose(worker_id)
        assert (await play.task(job_id, 0))["losses"] == losses
        await assert_invariants(play.database, job_id)

    row = await play.task(job_id, 0)
    assert (row["state"], row["error"]["type"]) == ("failed", "lost")


async def test_neighbours_do_not_fail_with_the_task_that_kills_their_worker(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 5)

    async def work() -> bool:
        """One bundle's worker dies at task 2 and else succeeds; False if there was nothing to do."""
        messages = await play.dispatch(job_id)
        for message in messages:
            worker_id = await play.register()
            tasks = await play.claim(worker_id, [message])
            healthy = [task for task in tasks if task.index < 2]
            if any(task.index == 2 for task in tasks):
                await play.complete(worker_id, *map(finished, healthy))
                await play.lose(worker_id)
            else:
                await play.succeed(worker_id, tasks)
        return bool(messages)

    while await work():
        await assert_invariants(play.database, job_id)

    assert await play.states(job_id) == {"succeeded": 4, "failed": 1}
    assert (await play.task(job_id, 2))["state"] == "failed"


async def test_what_a_stopped_worker_left_is_given_back(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 2)
    worker_id = await play.register()
    await play.run(worker_id, job_id)

    await workers.stop_worker(play.database, worker_id)

    assert await transitions.reap_dead_workers(play.database, 5) == 2
    assert await play.states(job_id) == {"ready": 2}
    await assert_invariants(play.database, job_id)


async def test_what_a_worker_holds_that_nobody_knows_is_given_back(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 2)
    await play.run(new_id(), job_id)

    assert await transitions.reap_dead_workers(play.database, 5) == 2
    await assert_invariants(play.database, job_id)


async def test_a_worker_gives_back_a_claim_whose_reply_it_never_got(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 3)
    worker_id = await play.register()
    await play.run(worker_id, job_id, tasks=2)
    beat = await workers.heartbeat(play.database, worker_id, 0)
    assert (beat.state, len(beat.bundle_ids)) == ("active", 1)

    assert await transitions.abandon(play.database, worker_id, list(beat.bundle_ids)) == 2
    assert await transitions.abandon(play.database, worker_id, list(beat.bundle_ids)) == 0

    assert await play.states(job_id) == {"ready": 3}
    assert ((await play.task(job_id, 0))["failures"], (await play.task(job_id, 0))["losses"]) == (0, 0)
    assert await play.outcomes(job_id) == {"released": 2}
    await assert_invariants(play.database, job_id)


async def test_a_bundle_given_back_leaves_what_its_worker_runs_by_a_later_one(play: Play) -> None:
    """A task given back alone is claimed again by the worker that still holds the bundle it came with."""
    job_id = await play.submit(stages=[{"processor": "noop", "timeout_seconds": 10}])
    await play.plan(job_id, 2)
    worker_id = await play.register()
    first, other = await play.run(worker_id, job_id, tasks=2)
    await transitions.complete(play.database, worker_id, [finished(first, "released")], [])
    [again] = await play.run(worker_id, job_id, tasks=1)
    await play.database.execute(HOLD, 60, other.bundle_id)

    assert await transitions.reap_overdue(play.database, 5, play.settings.losses_max) == 1

    assert (await play.task(job_id, other.index))["state"] == "ready"
    task = await play.task(job_id, again.index)
    assert (task["state"], task["attempt"], task["losses"]) == ("running", again.attempt, 0)


async def test_a_bundle_held_beyond_all_its_timeouts_is_given_back(play: Play) -> None:
    job_id = await play.submit(stages=[{"processor": "noop", "timeout_seconds": 10}])
    await play.plan(job_id, 5)
    worker_id = await play.register()
    hung, fine = await play.run(worker_id, job_id, tasks=2), await play.run(worker_id, job_id, tasks=3)

    async def hold(seconds: int) -> int:
        await play.database.execute(HOLD, seconds, worker_id)
        return await transitions.reap_overdue(play.database, 5, play.settings.losses_max)

    assert await hold(24) == 0
    assert await hold(2) == 2  # two tasks of 10 s, and 5 s of slack

    assert {t.index for t in fine} == {2, 3, 4}
    assert (await play.task(job_id, 0))["state"] == "ready"
    assert (await play.task(job_id, 2))["state"] == "running"
    assert await play.complete(worker_id, finished(hung[0]), done=hung) == 0
    await assert_invariants(play.database, job_id)


# Messages.


async def test_a_bundle_nobody_claims_is_offered_again_after_ever_longer_waits(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 2)
    [message] = await play.dispatch(job_id)
    waits = []
    for _ in range(9):
        assert await transitions.resend(play.database, 60, 10) == []
        await play.database.execute("UPDATE bundles SET send_at = now()")
        assert await transitions.resend(play.database, 60, 10) == [("default", message)]
        wait = await play.database.fetchval("SELECT extract(epoch FROM send_at - now()) FROM bundles")
        waits.append(round(float(wait) / 60))

    assert waits == [2, 4, 8, 16, 32, 64, 64, 64, 64]
    worker_id = await play.register()
    assert len(await play.claim(worker_id, [message])) == 2
    await play.database.execute("UPDATE bundles SET send_at = now()")
    assert await transitions.resend(play.database, 60, 10) == []  # it has its worker
    await assert_invariants(play.database, job_id)


async def test_a_bundle_that_workers_put_off_is_offered_after_waits_that_double_up_to_the_longest(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 2)
    [message] = await play.dispatch(job_id)
    waits = []
    for times in range(1, 7):
        how = {"seconds_first": 1.0, "seconds_max": 10.0}
        assert await transitions.put_off(play.database, message.bundle_id, **how) == times
        waits.append(round(await play.database.fetchval("SELECT extract(epoch FROM send_at - now()) FROM bundles")))
        await play.database.execute("UPDATE bundles SET send_at = now()")
        assert await transitions.resend(play.database, 60, 10) == [("default", message)]
        wait = await play.database.fetchval("SELECT extract(epoch FROM send_at - now()) FROM bundles")
        assert 59 < wait <= 60, "an offer that was answered is not one that got lost"

    assert waits == [1, 2, 4, 8, 10, 10]
    worker_id = await play.register()
    assert len(await play.claim(worker_id, [message])) == 2
    assert await transitions.put_off(play.database, message.bundle_id, **how) is None  # it has its worker
    await assert_invariants(play.database, job_id)


async def test_a_bundle_can_be_put_off_without_end(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 1)
    [message] = await play.dispatch(job_id)
    await play.database.execute("UPDATE bundles SET put_off = 32767")

    assert await transitions.put_off(play.database, message.bundle_id, seconds_first=1.0, seconds_max=60.0) == 32767


async def test_only_a_bundle_whose_job_is_gone_is_an_orphan(play: Play) -> None:
    kept, gone = [await play.submit() for _ in range(2)]
    for job_id in (kept, gone):
        await play.plan(job_id, 1)
    messages = {job_id: (await play.dispatch(job_id))[0] for job_id in (kept, gone)}
    await play.database.execute("DELETE FROM jobs WHERE job_id = $1", gone)

    for message in messages.values():
        await transitions.drop_orphan(play.database, message.bundle_id)

    assert await play.database.fetchval("SELECT array_agg(job_id) FROM bundles") == [kept]
    await assert_invariants(play.database, kept)


async def test_a_bundle_can_be_offered_again_without_end(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 1)
    [message] = await play.dispatch(job_id)
    await play.database.execute("UPDATE bundles SET sends = 32767, send_at = now()")

    assert await transitions.resend(play.database, 60, 10) == [("default", message)]


async def test_a_message_that_was_not_sent_is_offered_again_at_once(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 2)
    unsent, claimed = await play.dispatch(job_id, bundle=1)
    await play.claim(await play.register(), [claimed])

    await transitions.mark_unsent(play.database, [unsent.bundle_id, claimed.bundle_id])

    assert await transitions.resend(play.database, 60, 10) == [("default", unsent)]


# Orders.


async def test_pausing_takes_back_what_is_queued_and_lets_run_what_runs(play: Play) -> None:
    job_id, other = await play.submit(), await play.submit()
    for each in (job_id, other):
        await play.plan(each, 4)
    worker_id = await play.register()
    running = await play.run(worker_id, job_id, tasks=1)
    messages = await play.dispatch(job_id)
    await play.dispatch(other)

    await play.order(jobs.pause_job, job_id)

    assert await play.states(job_id) == {"running": 1, "ready": 3}
    assert await play.states(other) == {"queued": 4}
    assert await play.claim(worker_id, messages) == []
    await play.succeed(worker_id, running)
    await assert_invariants(play.database, job_id)

    await play.order(jobs.resume_job, job_id)
    await play.run_all(job_id)
    assert await play.states(job_id) == {"succeeded": 4}
    await assert_invariants(play.database, job_id)


async def test_cancelling_ends_every_task_whatever_its_state(play: Play, chain: UUID) -> None:
    worker_id = await play.register()
    first = await play.run(worker_id, chain, tasks=4, bundle=2)
    await play.complete(worker_id, *(finished(task) for task in first[:2]), done=first[:2])
    second = await play.run(worker_id, chain, 1, tasks=1)
    await play.dispatch(chain, tasks=1)
    assert await play.states(chain) == {"succeeded": 2, "running": 2, "queued": 1, "ready": 1}
    await play.order(jobs.cancel_job, chain)
    # Between the order and its execution the worker goes on.
    await play.complete(worker_id, finished(first[2]))
    await assert_invariants(play.database, chain)

    async with play.database.acquire() as connection:
        while not await transitions.cancel_tasks(connection, chain, 2):
            await assert_invariants(play.database, chain)

    assert await play.states(chain) == {"succeeded": 3, "cancelled": 3}
    assert await play.states(chain, 1) == {"cancelled": 3}
    assert await play.outcomes(chain) == {"succeeded": 3, "cancelled": 2}
    assert (await workers.heartbeat(play.database, worker_id, 2)).bundle_ids == frozenset()
    assert await play.complete(worker_id, finished(first[3]), finished(second[0]), done=[*first, *second]) == 0
    await assert_invariants(play.database, chain)


async def test_a_job_that_runs_is_not_cancelled_by_whoever_missed_its_retry(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 3)

    async with play.database.acquire() as connection:
        assert await transitions.cancel_tasks(connection, job_id, 10)

    assert await play.states(job_id) == {"ready": 3}


# Workers.


async def test_a_worker_registers_once_and_only_in_a_pool_that_exists(play: Play) -> None:
    worker_id = await play.register(slots=3, hostname="a")
    await workers.register_worker(
        play.database, worker_id=worker_id, pool="default", hostname="b", instance_id="i-1", pid=2, slots=9
    )
    row = await play.database.fetchrow("SELECT slots, hostname, state FROM workers WHERE worker_id = $1", worker_id)
    assert row is not None
    assert tuple(row) == (3, "a", "active")

    with pytest.raises(UnknownPool, match=r"'nowhere'.*piecework pools put nowhere"):
        await play.register("nowhere")


async def test_a_heartbeat_tells_the_worker_what_it_is_and_holds(play: Play) -> None:
    worker_id = await play.register()
    assert await workers.heartbeat(play.database, worker_id, 0) == workers.Heartbeat("active", frozenset())
    assert await workers.heartbeat(play.database, new_id(), 0) == workers.Heartbeat("lost", frozenset())

    async with play.database.acquire() as connection:
        await workers.drain_worker(connection, worker_id)
    assert (await workers.heartbeat(play.database, worker_id, 0)).state == "draining"

    await workers.stop_worker(play.database, worker_id)
    assert (await workers.heartbeat(play.database, worker_id, 0)).state == "lost"


async def test_a_worker_is_idle_since_its_last_slot_became_free(play: Play) -> None:
    worker_id = await play.register()

    async def idle_since(busy: int) -> object:
        await workers.heartbeat(play.database, worker_id, busy)
        return await play.database.fetchval("SELECT idle_since FROM workers WHERE worker_id = $1", worker_id)

    since_start = await idle_since(0)
    assert since_start is not None
    assert await idle_since(0) == since_start
    assert await idle_since(1) is None
    again = await idle_since(0)
    assert again is not None
    assert again != since_start


async def test_only_the_silent_are_lost(play: Play) -> None:
    silent, beating, stopped = await play.register(), await play.register(), await play.register()
    await workers.stop_worker(play.database, stopped)
    for worker_id in (silent, stopped):
        await play.silence(worker_id)

    assert await workers.mark_lost_workers(play.database, 30) == [silent]
    assert await workers.mark_lost_workers(play.database, 30) == []
    assert (await workers.heartbeat(play.database, beating, 0)).state == "active"


async def test_a_stage_is_loaded_with_the_processor_version_of_its_submission(play: Play) -> None:
    stage = {"processor": "noop", "params": {"a": 1}, "timeout_seconds": 9, "rejects_max": 4, "name": "clean"}
    job_id = await play.submit(name="nightly", stages=[stage])

    work = await stages.load_stage(play.database, job_id, 0)

    assert (work.job_name, work.stage_name, work.processor, work.processor_version) == ("nightly", "clean", "noop", 1)
    assert (work.spec.builtin, work.params, work.timeout_seconds, work.rejects_max) == ("noop", {"a": 1}, 9, 4)
    with pytest.raises(LookupError):
        await stages.load_stage(play.database, new_id(), 0)


async def test_an_attempt_that_begins_after_the_transaction_that_ends_it_took_no_negative_time(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 1)
    worker_id = await play.register()
    async with play.database.acquire() as connection, connection.transaction():
        await connection.fetchval("SELECT now()")  # its time begins
        [task] = await play.run(worker_id, job_id)
        assert await transitions.abandon(connection, worker_id, [task.bundle_id]) == 1

    attempt = await play.database.fetchrow("SELECT started_at <= finished_at AS ordered, run_seconds FROM attempts")
    assert (attempt["ordered"], attempt["run_seconds"]) == (True, 0)


# Notifications.


async def test_whoever_ends_the_last_bundle_of_a_stage_says_so(play: Play) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    def notified(*told: object) -> None:
        heard.put_nowait(str(told[-1]))

    async def said_until(marker: str) -> list[str]:
        await play.database.execute("SELECT pg_notify($1, $2)", TASKS_CHANNEL, marker)
        said: list[str] = []
        while (payload := await heard.get()) != marker:
            said.append(payload)
        return said

    job_id, other = await play.submit(), await play.submit()
    first, second = await play.register(), await play.register()
    for each in (job_id, other):
        await play.plan(each, 2)
    one, two = await play.dispatch(job_id, bundle=1)
    await play.run(second, other)
    tasks = [await play.claim(first, [one]), await play.claim(second, [two])]
    async with play.database.acquire() as connection:
        await connection.add_listener(TASKS_CHANNEL, notified)

        await play.succeed(first, tasks[0])
        assert await said_until("the first bundle has ended") == []
        await play.succeed(second, tasks[1])
        assert await said_until("the last bundle has ended") == [""]
        await play.complete(second, *map(finished, tasks[1]), done=tasks[1])
        assert await said_until("it was reported again") == []

        await connection.remove_listener(TASKS_CHANNEL, notified)
