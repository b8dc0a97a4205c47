"""Dispatch keeps each pool's queue topped up, and no more, whatever other schedulers, users and SQS do meanwhile."""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from services.contract.message import Message
from services.engine import jobs, pools, transitions, workers
from services.platform.database import Connection
from services.scheduler.loop import Context
from services.scheduler.loops import dispatch, finish, reap, resend
from tests.integration.engine.play import HOLD, Play, add_pool, finished
from tests.integration.scheduler.conftest import Queue, drive
from tests.invariants import assert_invariants

WINDOW = 4  # bundles: two for each of the two slots of the pool `default`


async def submit(play: Play, tasks: int, **changes: Any) -> UUID:
    job_id = await play.submit(**changes)
    await play.plan(job_id, tasks)
    return job_id


async def measure(play: Play, job_id: UUID, seconds: float, worker_id: UUID | None = None) -> None:
    """One task ends, after this many seconds: the stage's task time is known."""
    worker_id = worker_id or await play.register()
    [task] = await play.run(worker_id, job_id, tasks=1)
    report = finished(task)
    report.run_seconds = seconds
    await play.complete(worker_id, report, done=[task])


async def offered(play: Play) -> list[Message]:
    """All bundles that nobody has claimed."""
    rows = await play.database.fetch("SELECT * FROM bundles WHERE worker_id IS NULL ORDER BY job_id, first")
    return [Message(*(row[name] for name in ("bundle_id", "job_id", "stage", "first", "count"))) for row in rows]


async def test_messages_offer_what_is_queued_and_a_claim_by_them_runs_it(
    context: Context, play: Play, queue: Queue
) -> None:
    job_id = await submit(play, 10)

    assert await dispatch.step(context)

    messages = [Message.decode(body) for body in await queue.receive()]
    assert sorted(m.first for m in messages) == [0, 1, 2, 3]
    assert sorted(messages, key=lambda m: m.first) == await offered(play)
    worker_id = await play.register()
    assert sorted(task.index for task in await play.claim(worker_id, messages)) == [0, 1, 2, 3]
    await assert_invariants(play.database, job_id)


async def test_the_window_is_topped_up_when_bundles_are_claimed_and_never_exceeded(
    context: Context, play: Play
) -> None:
    job_id = await submit(play, 10)
    for _ in range(3):
        await dispatch.step(context)
        assert len(await offered(play)) == WINDOW

    await play.claim(await play.register(), (await offered(play))[:3])
    await dispatch.step(context)

    assert len(await offered(play)) == WINDOW
    assert await play.states(job_id) == {"running": 3, "queued": 4, "ready": 3}
    await assert_invariants(play.database, job_id)


async def test_bundles_that_workers_put_off_take_no_room_and_their_stage_gets_a_tenth_of_the_slots(
    context: Context, play: Play
) -> None:
    stuck = await submit(play, 100)
    await dispatch.step(context)
    for message in await offered(play):
        await transitions.put_off(play.database, message.bundle_id, seconds_first=60.0, seconds_max=60.0)

    await dispatch.step(context)
    assert await play.states(stuck) == {"queued": WINDOW, "ready": 100 - WINDOW}
    other = await submit(play, 10)
    await dispatch.step(context)

    assert await play.states(other) == {"queued": WINDOW, "ready": 10 - WINDOW}
    await play.claim(await play.register(), await offered(play))
    await dispatch.step(context)
    assert (await play.states(stuck))["ready"] < 100 - WINDOW, "now that a worker could read it"
    await assert_invariants(play.database, stuck)


async def test_the_window_grows_with_the_slots_of_active_workers(context: Context, play: Play) -> None:
    await submit(play, 100)
    for slots in (8, 3):
        await play.register(slots=slots)
    gone = await play.register(slots=50)
    await workers.stop_worker(play.database, gone)

    await dispatch.step(context)

    assert len(await offered(play)) == 22


async def test_many_messages_go_out_in_several_requests(context: Context, play: Play, queue: Queue) -> None:
    await submit(play, 100)
    await play.register(slots=13)

    await dispatch.step(context)

    assert len(set(await queue.receive())) == 26


async def test_the_first_bundles_of_a_stage_follow_the_pace_of_its_processors_last_jobs(
    context: Context, play: Play
) -> None:
    measured = await submit(play, 100)
    await measure(play, measured, seconds=0.001)
    await dispatch.step(context)
    await play.order(jobs.cancel_job, measured)
    await drive(context, finish.step, until=lambda: over(play, measured))

    job_id = await submit(play, 10_000)
    await dispatch.step(context)
    first = await offered(play)
    assert [message.count for message in first] == [dispatch.FIRST_BUNDLE_TASKS_MAX] * WINDOW

    # They take longer than was believed: nothing more is believed until the first of them has ended.
    await play.claim(await play.register(), first)
    await dispatch.step(context)
    assert {message.count for message in await offered(play)} == {1}
    await assert_invariants(play.database, job_id)


async def over(play: Play, job_id: UUID) -> bool:
    return (await play.job(job_id))["finished_at"] is not None


async def test_bundles_follow_the_measured_time_and_shrink_towards_the_end(context: Context, play: Play) -> None:
    job_id = await submit(play, 1001)
    await measure(play, job_id, 0.02)
    sizes = []
    while (await play.states(job_id)).get("ready"):
        await dispatch.step(context)
        batch = await offered(play)
        sizes.append(max(message.count for message in batch))
        await play.claim(await play.register(), batch)

    assert sizes[0] == 25  # half a second of work
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 5
    await assert_invariants(play.database, job_id)


async def test_small_jobs_that_share_the_slots_are_not_cut_into_single_tasks(context: Context, play: Play) -> None:
    """A slot that turns to another job needs another child."""
    worker_id = await play.register()
    for _ in range(WINDOW):
        await measure(play, await submit(play, 8), 0.001, worker_id)
    await dispatch.step(context)

    messages = await offered(play)

    assert {message.count for message in messages} == {7}  # and one has ended
    assert len({message.job_id for message in messages}) == WINDOW


async def test_the_higher_priority_is_queued_first_and_leaves_the_rest(context: Context, play: Play) -> None:
    low, high = await submit(play, 10), await submit(play, 3, priority=1)

    await dispatch.step(context)

    assert Counter(message.job_id for message in await offered(play)) == {high: 3, low: 1}


async def test_shares_divide_the_window(context: Context, play: Play) -> None:
    crowd = [await submit(play, 10, share="crowd") for _ in range(4)]
    lone = await submit(play, 10, share="lone")

    await dispatch.step(context)

    by_job = Counter(message.job_id for message in await offered(play))
    assert by_job[lone] == sum(by_job[job_id] for job_id in crowd) == 2


async def test_tasks_that_wait_for_their_backoff_hold_up_nobody(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are ready by the counters, but not due: what is granted to them goes to the others."""
    retry = {"max_attempts": 9, "backoff_seconds": 3600, "backoff_max_seconds": 3600}
    waiting = await submit(play, 50, priority=9, stages=[{"processor": "noop", "retry": retry}])
    worker_id = await play.register()
    tasks = await play.run(worker_id, waiting)
    await play.complete(worker_id, *(finished(task, "failed") for task in tasks), done=tasks)
    low = await submit(play, 10)
    asked: list[UUID] = []

    async def asking(connection: Connection, job_id: UUID, *arguments: Any, **keywords: Any) -> list[Message]:
        asked.append(job_id)
        return await plain(connection, job_id, *arguments, **keywords)

    plain = transitions.dispatch
    monkeypatch.setattr(transitions, "dispatch", asking)
    await dispatch.step(context)

    assert [message.job_id for message in await offered(play)] == [low] * WINDOW
    assert asked == [waiting, low]
    await assert_invariants(play.database, waiting)


async def test_no_more_tasks_of_a_stage_run_than_its_running_max(context: Context, other: Context, play: Play) -> None:
    limited = [{"processor": "noop", "running_max": 3}]
    job_id = await submit(play, 20, stages=limited)
    await measure(play, job_id, 0.001)  # so short that others would share a bundle
    worker_id, ended = await play.register(slots=16), 1
    while ended < 20:
        await asyncio.gather(*(dispatch.step(each) for each in (context, other, context, other)))
        tasks = await play.claim(worker_id, await offered(play))
        assert 0 < len(tasks) == len({task.bundle_id for task in tasks}) <= 3
        await dispatch.step(context)
        assert len(tasks) + len(await offered(play)) == min(3, 20 - ended)
        await play.succeed(worker_id, tasks[:2])
        ended += len(tasks[:2])
        for task in tasks[2:]:
            await play.complete(worker_id, finished(task, "released"), done=[task])
    await assert_invariants(play.database, job_id)


async def test_a_stage_of_items_behind_a_barrier_starts_when_it_is_planned(context: Context, play: Play) -> None:
    stages = [{"processor": "noop", "fan_out": True}, {"processor": "noop", "barrier": True}]
    job_id = await play.submit(stages=stages)
    async with play.database.acquire() as connection:
        await transitions.plan_same_tasks(connection, job_id, 1, 0, {"type": "item", "value": 1}, 2)
    await play.database.execute("UPDATE stages SET state = 'running', task_count = 2 WHERE stage = 1")
    await dispatch.step(context)
    assert await offered(play) == []

    await play.database.execute("UPDATE stages SET planned = true WHERE stage = 1")
    await dispatch.step(context)
    assert [message.stage for message in await offered(play)] == [1, 1]


async def test_each_pool_has_its_own_queue_and_window(context: Context, play: Play, queue: Queue) -> None:
    large = await context.aws.sqs.create_queue(QueueName="large")
    await add_pool(play.database, "large", queue_url=large["QueueUrl"], slots=3)
    here = await submit(play, 10)
    there = await submit(play, 10, stages=[{"processor": "noop", "pool": "large"}])

    await dispatch.step(context)

    assert [Message.decode(body).job_id for body in await queue.receive()] == [here] * 4
    other = Queue(context.aws.sqs, large["QueueUrl"])
    assert [Message.decode(body).job_id for body in await other.receive()] == [there] * 6


async def test_a_chain_is_dispatched_stage_by_stage_while_both_run(context: Context, play: Play) -> None:
    job_id = await submit(play, 4, stages=2)
    worker_id = await play.register()
    await play.succeed(worker_id, await play.run(worker_id, job_id, tasks=2, bundle=1))

    await dispatch.step(context)

    assert sorted((m.stage, m.first) for m in await offered(play)) == [(0, 2), (0, 3), (1, 0), (1, 1)]
    await assert_invariants(play.database, job_id)


async def test_nothing_is_queued_in_a_paused_pool_or_for_a_paused_job(context: Context, play: Play) -> None:
    paused, running = await submit(play, 3), await submit(play, 3)
    await play.order(jobs.pause_job, paused)
    await dispatch.step(context)
    assert {message.job_id for message in await offered(play)} == {running}

    async with play.database.acquire() as connection:
        await pools.pause_pool(connection, "default")
    await dispatch.step(context)
    assert await offered(play) == []

    async with play.database.acquire() as connection:
        await pools.resume_pool(connection, "default")
    await dispatch.step(context)
    assert len(await offered(play)) == 3


async def test_an_idle_grid_is_idle(context: Context, play: Play) -> None:
    assert not await dispatch.step(context)
    job_id = await submit(play, 1)
    assert await dispatch.step(context)
    worker_id = await play.register()
    tasks = await play.claim(worker_id, await offered(play))
    assert await dispatch.step(context)  # it runs: another may be ready any time
    await play.succeed(worker_id, tasks)
    assert not await dispatch.step(context)
    await assert_invariants(play.database, job_id)


def before_top_up(monkeypatch: pytest.MonkeyPatch, meanwhile: Any) -> None:
    """`meanwhile` happens between a step's look at the grid and what it does about it."""
    plain = dispatch._top_up

    async def overtaken(*arguments: Any) -> bool:
        monkeypatch.setattr(dispatch, "_top_up", plain)
        await meanwhile()
        return await plain(*arguments)

    monkeypatch.setattr(dispatch, "_top_up", overtaken)


async def test_a_scheduler_that_comes_second_does_not_overfill_the_window(
    context: Context, other: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await submit(play, 20)
    before_top_up(monkeypatch, lambda: dispatch.step(other))

    await dispatch.step(context)

    assert len(await offered(play)) == WINDOW
    await assert_invariants(play.database, job_id)


async def test_schedulers_at_full_speed_never_overfill_the_window(context: Context, other: Context, play: Play) -> None:
    job_id = await submit(play, 60)
    worker_id = await play.register()
    claimed = 0
    while claimed < 60:
        await asyncio.gather(*(dispatch.step(each) for each in (context, other, context, other)))
        batch = await offered(play)
        assert 0 < len(batch) <= WINDOW
        claimed += len(await play.claim(worker_id, batch))
    await assert_invariants(play.database, job_id)


async def test_a_pool_paused_in_the_middle_of_a_step_gets_nothing(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await submit(play, 5)

    async def pause() -> None:
        async with play.database.acquire() as connection:
            await pools.pause_pool(connection, "default")

    before_top_up(monkeypatch, pause)
    await dispatch.step(context)

    assert await offered(play) == []
    assert await play.states(job_id) == {"ready": 5}


# SQS.


async def test_what_sqs_does_not_take_is_sent_again_at_once(context: Context, play: Play, queue: Queue) -> None:
    await play.database.execute("UPDATE pools SET queue_url = queue_url || '-not-there'")
    job_id = await submit(play, 3)
    await dispatch.step(context)
    assert await queue.receive() == []
    assert len(await offered(play)) == 3

    await play.database.execute("UPDATE pools SET queue_url = $1", queue.url)
    await resend.step(context)

    messages = [Message.decode(body) for body in await queue.receive()]
    assert len(await play.claim(await play.register(), messages)) == 3
    await assert_invariants(play.database, job_id)


async def test_single_messages_that_sqs_refuses_are_sent_again(
    context: Context, play: Play, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submit(play, 4)
    plain = context.aws.sqs.send_message_batch

    async def refusing_some(*, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:
        await plain(QueueUrl=QueueUrl, Entries=Entries[:1])
        return {"Failed": [{"Id": entry["Id"]} for entry in Entries[1:]]}

    with monkeypatch.context() as refusing:
        refusing.setattr(context.aws.sqs, "send_message_batch", refusing_some)
        await dispatch.step(context)
    assert len(await queue.receive()) == 1

    await resend.step(context)

    assert len(await queue.receive()) == 3


async def test_a_pool_whose_queue_is_gone_holds_up_no_other(context: Context, play: Play, queue: Queue) -> None:
    await add_pool(play.database, "broken", queue_url=f"{queue.url}-not-there")
    await submit(play, 2, stages=[{"processor": "noop", "pool": "broken"}])
    job_id = await submit(play, 2)

    await dispatch.step(context)
    await resend.step(context)
    await resend.step(context)

    assert {Message.decode(body).job_id for body in await queue.receive()} == {job_id}


async def test_a_scheduler_that_dies_before_it_sends_costs_only_time(
    context: Context, play: Play, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    async def die(*_: object) -> None:
        raise Killed

    job_id = await submit(play, 3)
    with monkeypatch.context() as dying:
        dying.setattr(dispatch, "send", die)
        with pytest.raises(Killed):
            await dispatch.step(context)
    await resend.step(context)
    assert await queue.receive() == []
    await assert_invariants(play.database, job_id)

    await play.database.execute("UPDATE bundles SET send_at = now()")  # resend_seconds later
    await resend.step(context)

    messages = [Message.decode(body) for body in await queue.receive()]
    assert len(await play.claim(await play.register(), messages)) == 3


# Reap.


async def test_reap_makes_ready_what_lost_stopped_and_hanging_workers_hold(context: Context, play: Play) -> None:
    job_id = await submit(play, 5, stages=[{"processor": "noop", "timeout_seconds": 1}])
    silent, stopped, hung, fine = [await play.register() for _ in range(4)]
    for worker_id in (silent, stopped, hung, fine):
        await play.run(worker_id, job_id, tasks=1)
    await play.silence(silent)
    await workers.stop_worker(play.database, stopped)
    await play.database.execute(HOLD, 3600, hung)

    await reap.step(context)

    assert await play.states(job_id) == {"ready": 4, "running": 1}
    assert (await workers.heartbeat(play.database, fine, 1)).state == "active"
    assert (await workers.heartbeat(play.database, silent, 1)).state == "lost"
    await assert_invariants(play.database, job_id)
    assert not await reap.step(context)


async def test_two_schedulers_reaping_at_once_give_each_task_back_once(
    context: Context, other: Context, play: Play
) -> None:
    job_id = await submit(play, 40)
    for _ in range(4):
        worker_id = await play.register()
        await play.run(worker_id, job_id, tasks=10, bundle=2)
        await play.silence(worker_id)

    await asyncio.gather(*(reap.step(each) for each in (context, other, context, other)))

    assert await play.states(job_id) == {"ready": 40}
    assert await play.outcomes(job_id) == {"lost": 40}
    await assert_invariants(play.database, job_id)


# The retry budget.


async def tried(play: Play, job_id: UUID, *, attempts: int, succeeded: int) -> None:
    """This many attempts of the first stage have ended, and this many of them succeeded."""
    await play.database.execute(
        "UPDATE stage_counters SET attempts = $2, succeeded = $3, busy_seconds = $4 WHERE job_id = $1 AND slot = 0",
        job_id,
        attempts,
        succeeded,
        float(attempts),
    )


@pytest.mark.parametrize(
    ("attempts", "succeeded", "max_attempts", "bundles"),
    [
        (100, 0, 3, WINDOW),  # within the budget
        (101, 0, 3, 1),  # past it
        (300, 100, 3, WINDOW),  # successes have earned it
        (301, 100, 3, 1),
        (1000, 0, 1, WINDOW),  # nothing is ever retried
    ],
)
async def test_a_stage_that_fails_too_often_keeps_to_a_tenth_of_the_slots(
    context: Context, play: Play, queue: Queue, attempts: int, succeeded: int, max_attempts: int, bundles: int
) -> None:
    job_id = await submit(play, 10, stages=[{"processor": "noop", "retry": {"max_attempts": max_attempts}}])
    await tried(play, job_id, attempts=attempts, succeeded=succeeded)

    for _ in range(2):
        await dispatch.step(context)

    assert len(await offered(play)) == bundles


async def test_a_retry_by_the_user_forgives_what_has_failed(context: Context, play: Play, queue: Queue) -> None:
    job_id = await submit(play, 10)
    await tried(play, job_id, attempts=1000, succeeded=0)
    await play.order(jobs.cancel_job, job_id)
    while (await play.job(job_id))["state"] != "cancelled":
        await finish.step(context)

    await play.order(jobs.retry_job, job_id)
    await dispatch.step(context)

    assert len(await offered(play)) == WINDOW


async def test_a_slowed_stage_does_not_slow_others_down(context: Context, play: Play, queue: Queue) -> None:
    slowed, healthy = await submit(play, 10), await submit(play, 10)
    await tried(play, slowed, attempts=1000, succeeded=0)

    await dispatch.step(context)

    assert Counter(m.job_id for m in await offered(play)) == {slowed: 1, healthy: WINDOW - 1}


# Fairness among tasks that take no time.


async def work_off(play: Play) -> Counter[UUID]:
    """A worker runs all that is offered, in no time; returns how many tasks of each job."""
    worker_id = await play.register()
    tasks = await play.claim(worker_id, await offered(play))
    reports = [finished(task) for task in tasks]
    for report in reports:
        report.run_seconds = 0.0
    await play.complete(worker_id, *reports, done=tasks)
    return Counter(task.job_id for task in tasks)


async def test_jobs_of_no_ops_share_the_grid_evenly_and_a_small_one_is_next(context: Context, play: Play) -> None:
    huge = [await submit(play, 15_000, share=f"s{n}") for n in range(7)]  # more than the window holds bundles
    done: Counter[UUID] = Counter()
    for _ in range(14):
        await dispatch.step(context)
        done += await work_off(play)
    assert min(done[job_id] for job_id in huge) > 0.4 * max(done.values())

    small = await submit(play, 1, share="small")
    await dispatch.step(context)

    assert small in {message.job_id for message in await offered(play)}


# A stage is held back while the next one has enough tasks.


async def chain_with(play: Play, ready: int, **changes: Any) -> UUID:
    """A job of two stages whose second has this many ready tasks, and whose first has ten more."""
    job_id = await submit(play, ready + 10, stages=2, **changes)
    worker_id = await play.register()
    await play.succeed(worker_id, await play.run(worker_id, job_id, tasks=ready))
    return job_id


async def stages_offered(context: Context, play: Play) -> set[int]:
    settings = context.settings.model_copy(update={"ready_tasks_max": 1})  # but 100 a slot
    await dispatch.step(replace(context, settings=settings))
    return {message.stage for message in await offered(play)}


async def test_a_stage_waits_while_the_next_one_has_enough_ready_tasks(context: Context, play: Play) -> None:
    job_id = await chain_with(play, 403)
    assert await stages_offered(context, play) == {1}
    assert await stages_offered(context, play) == {1}

    worker_id = await play.register()
    await play.succeed(worker_id, await play.claim(worker_id, await offered(play)))

    assert await stages_offered(context, play) == {0, 1}, "now that some of them are done"
    await assert_invariants(play.database, job_id)


@pytest.mark.parametrize(
    "later",
    [
        "UPDATE tasks SET ready_at = now() + interval '1 hour' WHERE stage = 1",  # for what stage 0 makes again
        "UPDATE stages SET columns_due = true WHERE stage = 1",  # they are found once it is planned
        "UPDATE stages SET state = 'waiting' WHERE stage = 1",
    ],
)
async def test_a_stage_never_waits_for_tasks_that_can_not_run_yet(context: Context, play: Play, later: str) -> None:
    await chain_with(play, 450)
    await play.database.execute(later)

    assert await stages_offered(context, play) == {0}


async def test_a_pool_whose_queue_does_not_answer_holds_up_no_other(
    impatient: None, context: Context, play: Play, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_pool(play.database, "a-silent-one", queue_url=f"{queue.url}-silent")
    silent = await play.submit(stages=[{"processor": "noop", "pool": "a-silent-one"}])
    free = await play.submit()
    send = context.aws.sqs.send_message_batch

    async def be_silent(**request: Any) -> Any:
        if request["QueueUrl"].endswith("-silent"):
            await asyncio.Event().wait()
        return await send(**request)

    monkeypatch.setattr(context.aws.sqs, "send_message_batch", be_silent)
    for job_id in (silent, free):
        await play.plan(job_id, 3)

    async def queued() -> bool:
        return bool(await queue.receive())

    await drive(context, dispatch.step, until=queued)

    assert context.slots["dispatch"].keys == ["a-silent-one"]
    await context.slots["dispatch"].stop()
