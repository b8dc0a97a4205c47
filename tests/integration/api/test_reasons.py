"""Each job that waits, or is slow, says why: through the API, in the states that a grid really gets into."""

import gzip
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from botocore.exceptions import ClientError

from services.contract.resources import Capacity
from services.engine import transitions, workers
from services.engine.attempt import LostOutput
from services.engine.lost_outputs import lose_outputs
from services.inputs.split import split_each
from services.platform.aws import Aws
from services.platform.database import Database, new_id
from services.platform.settings import Settings
from services.scheduler.loop import Context, Loop
from services.scheduler.loops import chain, columns, dispatch, finish, plan, reap, scale
from services.scheduler.merges.merge import Merger
from services.scheduler.noted import note
from services.stats.waiting import read_waiting
from tests.groups import create_group
from tests.integration.api.conftest import Keys, PlayedWorker, array_job, ok

pytestmark = pytest.mark.usefixtures("grid")

STEPS = {
    "plan": plan.step,
    "chain": chain.step,
    "columns": columns.step,
    "dispatch": dispatch.step,
    "finish": finish.step,
}


class Grid:
    """A scheduler, and what a job says about why it waits."""

    def __init__(self, context: Context, operator: httpx.AsyncClient) -> None:
        self.context, self.operator = context, operator
        self.loops = [Loop(name, step, 0.0, 0.0) for name, step in STEPS.items()]

    async def look(self, *, errors: dict[str, str] | None = None) -> None:
        """The scheduler takes a step of each loop, and notes it."""
        for loop in self.loops:
            await loop.step(self.context)
            loop.stepped_at, loop.error = time.monotonic(), (errors or {}).get(loop.name)
        await note(self.context.database, self.loops)

    async def submit(self, **job: Any) -> UUID:
        return UUID((await ok(self.operator.post("/v1/jobs", json=array_job(**job))))["job_id"])

    async def job(self, job_id: UUID) -> Any:
        return await ok(self.operator.get(f"/v1/jobs/{job_id}"))

    async def codes(self, job_id: UUID) -> list[str]:
        """The job's reasons; its stages and the list of jobs tell the same."""
        job = await self.job(job_id)
        codes = [reason["code"] for reason in job["reasons"]]
        of_stages = [reason for stage in job["stages"] for reason in stage["reasons"]]
        assert sorted(one["code"] for one in of_stages) == sorted(
            one["code"] for one in job["reasons"] if one["stage"] is not None
        )
        listed = (await ok(self.operator.get("/v1/jobs")))["items"]
        assert {item["job_id"]: item["reasons"] for item in listed}[str(job_id)] == list(dict.fromkeys(codes))
        return codes

    async def reason(self, job_id: UUID, code: str) -> Any:
        [reason] = [one for one in (await self.job(job_id))["reasons"] if one["code"] == code]
        return reason


@pytest.fixture
async def scheduler(
    database: Database, aws: Aws, settings: Settings, operator: httpx.AsyncClient, grid: None
) -> AsyncIterator[Grid]:
    yield Grid(Context(database, aws, settings), operator)


@pytest.fixture
async def idle(scheduler: Grid, worker: PlayedWorker) -> Grid:
    """A scheduler, and a worker of 4 slots in the pool `default`."""
    return scheduler


def job_on(pool: str, **stage: Any) -> dict[str, Any]:
    return {"stages": [{"name": "clean", "processor": "noop", "pool": pool} | stage]}


async def add_pool(scheduler: Grid, name: str, **spec: Any) -> None:
    await ok(scheduler.operator.put(f"/v1/pools/{name}", json=spec))


async def test_a_pool_without_workers_is_named_until_it_has_one(scheduler: Grid, database: Database) -> None:
    await add_pool(scheduler, "gpu")
    job_id = await scheduler.submit(**job_on("gpu"))
    await scheduler.look()

    assert await scheduler.codes(job_id) == ["no_workers"]
    reason = await scheduler.reason(job_id, "no_workers")
    assert "pool gpu has no workers, and no Auto Scaling group" in reason["message"]
    assert "piecework pools put gpu --group GROUP" in reason["message"]
    assert (reason["stage"], reason["details"]["pool"]) == (0, "gpu")
    created_at = await database.fetchval("SELECT created_at FROM pools WHERE name = 'gpu'")
    assert datetime.fromisoformat(reason["since"]) == created_at

    gpu = PlayedWorker(database)
    await gpu.register(pool="gpu")
    assert await scheduler.codes(job_id) == ["starting"]
    async with database.acquire() as connection:
        await workers.drain_worker(connection, gpu.worker_id)
    assert (
        "no workers that take tasks (those that drain: 1)" in (await scheduler.reason(job_id, "no_workers"))["message"]
    )
    await workers.stop_worker(database, gpu.worker_id)
    stopped_at = await database.fetchval("SELECT stopped_at FROM workers WHERE worker_id = $1", gpu.worker_id)
    assert datetime.fromisoformat((await scheduler.reason(job_id, "no_workers"))["since"]) == stopped_at


@pytest.mark.both_emulators("SendMessageBatch")
async def test_a_deleted_queue_is_named_until_the_pool_has_one_again(idle: Grid, aws: Aws) -> None:
    name = f"q-{uuid4().hex[:8]}"
    await add_pool(idle, name)
    gpu = PlayedWorker(idle.context.database)
    await gpu.register(pool=name)
    url = (await ok(idle.operator.get(f"/v1/pools/{name}")))["queue_url"]
    await aws.sqs.delete_queue(QueueUrl=url)
    job_id = await idle.submit(**job_on(name))
    await idle.look()

    assert await idle.codes(job_id) == ["queue_unreachable"]
    reason = await idle.reason(job_id, "queue_unreachable")
    assert url in reason["message"]
    assert reason["details"]["error"]
    assert reason["since"]

    await add_pool(idle, name)
    assert "queue_unreachable" not in await idle.codes(job_id)
    await reap.step(idle.context)
    assert "queue_unreachable" not in await idle.codes(job_id)


async def test_a_queue_that_takes_messages_again_is_not_told(idle: Grid, database: Database) -> None:
    job_id = await idle.submit()
    await database.execute("UPDATE pools SET queue_error = 'away', queue_error_at = now() WHERE name = 'default'")
    await plan.step(idle.context)
    assert await idle.codes(job_id) == ["no_scheduler", "queue_unreachable"]

    await idle.look()

    assert "queue_unreachable" not in await idle.codes(job_id)


async def test_a_paused_pool_and_a_paused_job_are_told_with_the_way_to_resume_them(idle: Grid) -> None:
    job_id = await idle.submit()
    await idle.look()
    await ok(idle.operator.post("/v1/pools/default/pause"))
    assert await idle.codes(job_id) == ["pool_paused"]
    reason = await idle.reason(job_id, "pool_paused")
    assert "piecework pools resume default" in reason["message"]
    assert reason["since"]
    await ok(idle.operator.post("/v1/pools/default/resume"))
    assert await idle.codes(job_id) == ["starting"]

    await ok(idle.operator.post(f"/v1/jobs/{job_id}/pause"))
    assert await idle.codes(job_id) == ["job_paused"]
    assert (await idle.reason(job_id, "job_paused"))["since"]
    await ok(idle.operator.post(f"/v1/jobs/{job_id}/resume"))
    assert await idle.codes(job_id) == ["starting"]


async def test_a_group_at_its_maximum_is_told_with_what_keeps_its_workers_busy(idle: Grid, aws: Aws) -> None:
    group = await create_group(aws, maximum=10)
    await add_pool(idle, "burst", group_name=group, slots=4)
    await ok(idle.operator.put("/v1/pools/burst/capacity", json={"min": 0, "max": 1}))
    gpu = PlayedWorker(idle.context.database)
    await gpu.register(pool="burst", busy=4)
    first = await idle.submit(name="first", **job_on("burst"), input={"type": "range", "count": 4})
    await idle.look()
    bundles = await idle.context.database.fetch("SELECT bundle_id FROM bundles WHERE job_id = $1", first)
    await transitions.claim(idle.context.database, gpu.worker_id, [row["bundle_id"] for row in bundles])
    job_id = await idle.submit(**job_on("burst"), input={"type": "range", "count": 50})
    await idle.look()
    await scale.step(idle.context)

    assert await idle.codes(job_id) == ["group_at_maximum", "workers_busy"]
    reason = await idle.reason(job_id, "group_at_maximum")
    assert "pool burst may have no more than 1 instance: raise its maximum" in reason["message"]
    assert "piecework pools capacity burst --max NODES" in reason["message"]
    busy = await idle.reason(job_id, "workers_busy")
    assert f"all 4 slots of pool burst are in use, most of them by job first ({first})" in busy["message"]
    assert busy["details"]["jobs"] == [{"job_id": str(first), "name": "first", "tasks": 4}]

    await ok(idle.operator.put("/v1/pools/burst/capacity", json={"min": 0, "max": 5}))
    await scale.step(idle.context)
    assert "group_at_maximum" not in await idle.codes(job_id)


async def test_a_pool_that_may_have_no_instances_says_so(idle: Grid, aws: Aws) -> None:
    await add_pool(idle, "none", group_name=await create_group(aws, maximum=10))
    job_id = await idle.submit(**job_on("none"))
    await idle.look()
    assert await idle.codes(job_id) == ["group_at_maximum"]
    assert "may have no more than 0 instances" in (await idle.reason(job_id, "group_at_maximum"))["message"]


async def test_instances_that_never_registered_are_told_when_they_have_had_time_to(
    idle: Grid, aws: Aws, database: Database
) -> None:
    await add_pool(idle, "bad-image", group_name=await create_group(aws, maximum=10))
    await ok(idle.operator.put("/v1/pools/bad-image/capacity", json={"min": 0, "max": 8}))
    job_id = await idle.submit(**job_on("bad-image"), input={"type": "range", "count": 100})
    await idle.look()
    await scale.step(idle.context)
    assert await idle.codes(job_id) == ["workers_starting"]

    await database.execute("UPDATE tasks SET ready_at = ready_at - interval '1 hour' WHERE ready_at IS NOT NULL")
    await database.execute("UPDATE bundles SET queued_at = queued_at - interval '1 hour'")
    if await database.fetchval(NOTED):
        await database.execute(MISSING)
    assert await idle.codes(job_id) == ["instances_missing"]
    reason = await idle.reason(job_id, "instances_missing")
    assert "of pool bad-image never had a worker that registered" in reason["message"]
    assert all(instance in reason["message"] for instance in reason["details"]["instances"])
    assert reason["details"]["count"] > 0
    assert reason["since"]


# Whether the scheduler notes which instances are missing. If not, those that it wanted are.
NOTED = "SELECT EXISTS (SELECT FROM information_schema.columns WHERE column_name = 'instances_missing')"
MISSING = """
    UPDATE pools SET instances_missing = 2, instances_missing_since = now() - interval '1 hour'
    WHERE name = 'bad-image'"""


async def test_a_slowed_stage_says_what_its_attempts_fail_with(
    idle: Grid, worker: PlayedWorker, database: Database
) -> None:
    retry = {"max_attempts": 100, "backoff_seconds": 0.0001}
    job_id = await idle.submit(**job_on("default", retry=retry))
    await worker.plan(job_id, 3)
    for task in await worker.claim(job_id, 3):
        await worker.finish(task, "failed", error={"type": "exit_code", "message": "the licence server is away"})
    await database.execute("UPDATE stage_counters SET attempts = attempts + 100 WHERE job_id = $1 AND slot > 0", job_id)
    await idle.look()
    await database.execute("UPDATE tasks SET ready_at = now() WHERE ready_at IS NOT NULL")

    assert (await idle.codes(job_id))[0] == "slowed"
    message = (await idle.reason(job_id, "slowed"))["message"]
    assert "attempts have failed" in message
    assert "it runs in a tenth of the pool's slots" in message

    await database.execute("UPDATE stages SET retry_budget = 1000 WHERE job_id = $1", job_id)
    assert "slowed" not in await idle.codes(job_id)


async def test_a_task_that_waits_for_its_next_try_says_when_and_after_which_error(
    idle: Grid, worker: PlayedWorker, database: Database
) -> None:
    job_id = await idle.submit(**job_on("default", retry={"max_attempts": 3, "backoff_seconds": 300}))
    await worker.plan(job_id, 1)
    [task] = await worker.claim(job_id, 1)
    await worker.finish(task, "failed", error={"type": "exit_code", "message": "the licence server is away"})
    await idle.look()

    assert await idle.codes(job_id) == ["retry_at"]
    reason = await idle.reason(job_id, "retry_at")
    assert (
        "1 task of it failed before, after exit_code: the licence server is away; the next try is at"
        in reason["message"]
    )
    ready_at = await database.fetchval("SELECT ready_at FROM tasks WHERE job_id = $1", job_id)
    assert reason["details"]["retry_at"] == f"{ready_at:%Y-%m-%dT%H:%M:%SZ}"

    await database.execute("UPDATE tasks SET ready_at = now() WHERE job_id = $1", job_id)
    assert await idle.codes(job_id) == ["starting"]


async def test_a_plan_that_s3_puts_off_says_the_error_until_it_gets_on(
    idle: Grid, aws: Aws, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await aws.s3.put_object(Bucket=settings.bucket, Key="in.txt", Body=b"one\ntwo\n")
    split = split_each

    async def refused(*_: Any) -> Any:
        raise ClientError({"Error": {"Code": "SlowDown", "Message": "Please reduce your request rate"}}, "GetObject")

    monkeypatch.setattr(plan, "split_each", refused)
    job_id = await idle.submit(input={"type": "lines", "uri": f"s3://{settings.bucket}/in.txt"})
    await idle.look()

    assert await idle.codes(job_id) == ["planning_put_off"]
    reason = await idle.reason(job_id, "planning_put_off")
    assert "Please reduce your request rate" in reason["message"]
    assert reason["details"]["tried_at"]
    await idle.context.database.execute("UPDATE stages SET put_off_at = now() - interval '2 seconds'")
    await idle.look()
    assert (await idle.reason(job_id, "planning_put_off"))["since"] == reason["since"]

    monkeypatch.setattr(plan, "split_each", split)
    await idle.context.database.execute("UPDATE stages SET put_off_at = now() - interval '2 seconds'")
    await idle.look()
    assert await idle.codes(job_id) == ["starting"]


async def test_a_job_behind_others_of_higher_priority_names_the_first(
    idle: Grid, worker: PlayedWorker, database: Database
) -> None:
    urgent = await idle.submit(name="month-end", priority=9, input={"type": "range", "count": 500})
    await idle.look()
    bundles = await database.fetch("SELECT bundle_id FROM bundles LIMIT 4")
    await transitions.claim(database, worker.worker_id, [row["bundle_id"] for row in bundles])
    await workers.heartbeat(database, worker.worker_id, 4)
    job_id = await idle.submit(priority=1)
    await idle.look()

    assert await idle.codes(job_id) == ["lower_priority", "workers_busy"]
    reason = await idle.reason(job_id, "lower_priority")
    assert f"behind job month-end ({urgent}), which has a higher priority, 9 instead of 1" in reason["message"]
    assert await idle.codes(urgent) == ["workers_busy"]
    assert "by this job" in (await idle.reason(urgent, "workers_busy"))["message"]

    await workers.heartbeat(database, worker.worker_id, 0)
    assert "lower_priority" not in await idle.codes(job_id)


async def test_a_key_with_a_scope_is_not_told_the_names_of_other_jobs(
    idle: Grid, keys: Keys, worker: PlayedWorker, database: Database
) -> None:
    secret = await idle.submit(name="secret-merger", priority=9, share="board", input={"type": "range", "count": 500})
    await idle.look()
    bundles = await database.fetch("SELECT bundle_id FROM bundles LIMIT 4")
    await transitions.claim(database, worker.worker_id, [row["bundle_id"] for row in bundles])
    await workers.heartbeat(database, worker.worker_id, 4)
    job_id = await idle.submit(share="claims")
    await idle.look()

    async with await keys.client("viewer", shares=["claims"]) as scoped:
        seen = (await scoped.get(f"/v1/jobs/{job_id}")).text

    assert "lower_priority" in seen
    assert "workers_busy" in seen
    assert "secret-merger" not in seen
    assert str(secret) not in seen


async def test_a_stage_that_runs_as_many_tasks_as_it_may_says_so(idle: Grid, worker: PlayedWorker) -> None:
    job_id = await idle.submit(**job_on("default", running_max=2), input={"type": "range", "count": 9})
    await idle.look()
    assert await idle.codes(job_id) == ["running_max"]
    reason = await idle.reason(job_id, "running_max")
    assert "by its running_max of 2" in reason["message"]
    assert reason["details"] == {"running_max": 2, "running": 2}


async def test_stages_wait_for_a_barrier_for_the_stage_before_or_for_the_split(idle: Grid, settings: Settings) -> None:
    stages = [
        {"name": "clean", "processor": "noop"},
        {"name": "all", "processor": "noop", "barrier": True},
        {"name": "each", "processor": "noop"},
    ]
    job_id = await idle.submit(stages=stages)
    await idle.look()
    assert await idle.codes(job_id) == ["barrier", "previous_stage", "starting"]
    assert (
        "behind a barrier until all tasks of stage clean have ended"
        in (await idle.reason(job_id, "barrier"))["message"]
    )

    await idle.context.aws.s3.put_object(Bucket=settings.bucket, Key="in.gz", Body=gzip.compress(b"one\ntwo\n"))
    source = {"type": "lines", "uri": f"s3://{settings.bucket}/in.gz", "compression": "gzip"}
    zipped = await idle.submit(input=source)
    await idle.look()
    assert "split" in await idle.codes(zipped)


async def test_a_job_for_later_and_a_job_that_ends_say_so(idle: Grid, worker: PlayedWorker) -> None:
    later = await idle.submit(run_at="2099-01-01T00:00:00Z")
    await idle.look()
    assert await idle.codes(later) == ["scheduled"]
    assert "starts at 2099-01-01T00:00:00Z" in (await idle.reason(later, "scheduled"))["message"]

    job_id = await idle.submit()
    await worker.plan(job_id, 3)
    await ok(idle.operator.post(f"/v1/jobs/{job_id}/cancel"))
    assert await idle.codes(job_id) == ["ending"]
    await idle.look()
    await idle.look()
    assert await idle.codes(job_id) == []


async def test_without_a_scheduler_a_job_says_since_when_there_is_none(idle: Grid, database: Database) -> None:
    job_id = await idle.submit()
    assert await idle.codes(job_id) == ["no_scheduler", "planning"]
    assert (await idle.reason(job_id, "no_scheduler"))["since"] is None

    await idle.look()
    assert "no_scheduler" not in await idle.codes(job_id)

    await database.execute("UPDATE scheduler_loops SET stepped_at = stepped_at - interval '1 minute'")
    assert (await idle.codes(job_id))[0] == "no_scheduler"
    last = await database.fetchval("SELECT max(stepped_at) FROM scheduler_loops")
    assert datetime.fromisoformat((await idle.reason(job_id, "no_scheduler"))["since"]) == last


async def test_a_loop_that_fails_is_named_with_its_error_until_it_gets_on(idle: Grid, database: Database) -> None:
    job_id = await idle.submit()
    await idle.look()
    await database.execute(
        "UPDATE scheduler_loops SET stepped_at = stepped_at - interval '15 seconds', error = 'KeyError(7)' "
        "WHERE loop = 'dispatch'"
    )
    assert (await idle.codes(job_id))[0] == "loop_failing"
    assert (
        "loop 'dispatch', which the job needs, fails: KeyError(7)"
        in (await idle.reason(job_id, "loop_failing"))["message"]
    )

    await idle.look()
    assert "loop_failing" not in await idle.codes(job_id)


async def test_a_merge_says_whether_it_runs_waits_or_was_put_off(
    idle: Grid, worker: PlayedWorker, database: Database, database_url: str
) -> None:
    job_id = await idle.submit(merge={"type": "concat", "filename": "all.txt"})
    await worker.plan(job_id, 1)
    [task] = await worker.claim(job_id, 1)
    await worker.finish(task, output={"uri": "s3://nowhere-at-all/gone", "bytes": 3})
    await idle.look()
    assert await idle.codes(job_id) == ["merge_waits"]

    async with database.acquire() as other:  # a scheduler that merges it
        lock = "SELECT pg_advisory_lock(hashtextextended('merge ' || $1::uuid::text, 0))"
        await other.execute(lock, job_id)
        assert await idle.codes(job_id) == ["merging"]
        await other.execute("SELECT pg_advisory_unlock_all()")

    await database.execute(
        "UPDATE stages SET put_off_at = now(), put_off_since = now(), put_off_error = 'SlowDown' WHERE job_id = $1",
        job_id,
    )
    assert await idle.codes(job_id) == ["merge_put_off"]
    assert "SlowDown" in (await idle.reason(job_id, "merge_put_off"))["message"]


async def test_tasks_that_no_worker_can_run_say_what_the_workers_lack(idle: Grid, database: Database) -> None:
    job_id = await idle.submit()
    await idle.look()
    for row in await database.fetch("SELECT bundle_id FROM bundles WHERE job_id = $1", job_id):
        why = "this release can't read the processor noop@1"
        await transitions.put_off(database, row["bundle_id"], seconds_first=60.0, seconds_max=60.0, why=why)

    assert await idle.codes(job_id) == ["no_fitting_worker"]
    reason = await idle.reason(job_id, "no_fitting_worker")
    assert "can't run them: this release can't read the processor noop@1; update the workers" in reason["message"]


async def test_a_task_that_waits_for_a_lost_output_names_it(
    idle: Grid, worker: PlayedWorker, database: Database
) -> None:
    job_id = await idle.submit(stages=[{"name": "make", "processor": "noop"}, {"name": "use", "processor": "noop"}])
    await worker.plan(job_id, 1)
    [made] = await worker.claim(job_id, 1)
    await worker.finish(made, output={"value": 1})
    [reader] = await worker.claim(job_id, 1, stage=1)
    async with database.acquire() as connection, connection.transaction():
        lost = [LostOutput(0, 0, made.attempt, "s3://bucket/gone")]
        assert await lose_outputs(connection, job_id, (1, reader.index), lost) is None
    await idle.look()

    assert "lost_output" in await idle.codes(job_id)
    assert "s3://bucket/gone was gone or damaged" in (await idle.reason(job_id, "lost_output"))["message"]


async def test_messages_that_nobody_takes_though_slots_are_free_are_told(idle: Grid, database: Database) -> None:
    job_id = await idle.submit()
    await idle.look()
    assert await idle.codes(job_id) == ["starting"]
    await database.execute("UPDATE bundles SET queued_at = queued_at - interval '1 minute'")
    assert await idle.codes(job_id) == ["messages_not_taken"]


async def test_a_job_that_ended_has_no_reasons(idle: Grid, worker: PlayedWorker) -> None:
    job_id = await idle.submit(input={"type": "range", "count": 1})
    await idle.look()
    [row] = await idle.context.database.fetch("SELECT bundle_id FROM bundles WHERE job_id = $1", job_id)
    [task] = await transitions.claim(idle.context.database, worker.worker_id, [row["bundle_id"]])
    assert await idle.codes(job_id) == []  # it runs
    await worker.finish(task, output={"value": 1})
    await idle.look()
    merger = Merger()
    while (await idle.job(job_id))["state"] != "succeeded":
        await merger.step(idle.context)
    assert await idle.codes(job_id) == []
    await merger.stop()


async def test_an_unknown_job_is_still_a_404(idle: Grid) -> None:
    assert (await idle.operator.get(f"/v1/jobs/{new_id()}")).status_code == 404


async def test_no_worker_is_large_enough_or_has_room(scheduler: Grid, database: Database) -> None:
    largest = {"cpus": 64, "memory": "256GiB"}
    await ok(scheduler.operator.put("/v1/pools/default", json={"largest_node": largest}))
    await PlayedWorker(database).register(capacity=Capacity(8, 1 << 35))
    job_id = await scheduler.submit(**job_on("default", cpus=32))
    await scheduler.look()
    await scheduler.look()

    [reason] = (await scheduler.job(job_id))["reasons"]
    assert reason["code"] == "no_fitting_worker"
    assert "needs 32 cpus, and no worker of pool default has as much: the largest has 8 cpus" in reason["message"]

    await PlayedWorker(database).register(capacity=Capacity(64, 1 << 38))
    await scheduler.look()
    [reason] = (await scheduler.job(job_id))["reasons"]
    assert (reason["code"], reason["details"]["needs"]) == ("workers_busy", {"cpus": 32.0})


async def test_of_pools_in_order_the_one_whose_turn_it_is_is_told(scheduler: Grid, database: Database) -> None:
    for name in ("spot", "on-demand"):
        await add_pool(scheduler, name)
    await ok(scheduler.operator.post("/v1/pools/spot/pause"))
    stage = {"name": "clean", "processor": "noop", "pools": ["spot", "on-demand"], "next_pool_after_seconds": 60}
    job_id = await scheduler.submit(stages=[stage])
    await scheduler.look()

    assert await scheduler.codes(job_id) == ["pool_paused"]
    reason = await scheduler.reason(job_id, "pool_paused")
    assert "pool spot is paused" in reason["message"]
    assert reason["message"].endswith("; what has not begun there in 60 s is for pool on-demand, too")
    assert reason["details"] == {"pool": "spot", "next_pool": "on-demand"}

    await database.execute("UPDATE tasks SET ready_at = ready_at - interval '61 seconds'")
    assert await scheduler.codes(job_id) == ["no_workers"]
    reason = await scheduler.reason(job_id, "no_workers")
    assert (reason["details"]["pool"], "next_pool" in reason["details"]) == ("on-demand", False)
    async with database.acquire() as connection:
        metrics = await read_waiting(connection, ["spot", "on-demand"], scheduler.context.settings)
    counted = {(*sample.labels.values(), sample.value) for each in metrics for sample in each.samples if sample.value}
    assert counted == {("on-demand", "no_workers", 1), ("on-demand", "no_workers", 3)}

    await PlayedWorker(database).register(pool="on-demand")
    await scheduler.look()
    assert {row["pool"] for row in await database.fetch("SELECT pool FROM bundles")} == {"on-demand"}
    await database.execute("UPDATE workers SET busy = slots")
    assert (await scheduler.reason(job_id, "workers_busy"))["details"]["pool"] == "on-demand"
