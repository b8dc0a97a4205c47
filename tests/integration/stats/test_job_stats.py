"""A job's statistics over HTTP, from a job that goes through the real life of its tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from services.engine import jobs, processors, submission, transitions
from services.engine.attempt import AttemptReport, ClaimedTask
from services.engine.spec import JobSpec, ProcessorSpec
from services.platform.database import Database, new_id
from services.platform.settings import Settings
from services.stats.histogram import WIDTH
from tests.integration.stats.conftest import catch_up, insert_attempts, insert_pool, insert_worker


@dataclass
class Run:
    """A job with a worker of two slots that does what a test says."""

    database: Database
    job_id: UUID
    worker_id: UUID

    async def plan(self, count: int, planned: bool = True) -> None:
        """The first stage gets `count` tasks."""
        async with self.database.acquire() as connection:
            await transitions.plan_same_tasks(connection, self.job_id, 0, 0, {"type": "index", "count": count}, count)
        await self.database.execute(
            "UPDATE stages SET planned = $2, task_count = $3 WHERE job_id = $1 AND stage = 0",
            self.job_id,
            planned,
            count,
        )

    async def claim(self, stage: int, count: int, bundle: int = 100) -> list[ClaimedTask]:
        """Dispatch `count` tasks in bundles of `bundle`, and claim them all."""
        async with self.database.acquire() as connection:
            messages = await transitions.dispatch(
                connection,
                self.job_id,
                stage,
                pool="default",
                tasks_max=count,
                bundle_tasks_max=bundle,
                resend_seconds=60,
            )
        return await transitions.claim(self.database, self.worker_id, [message.bundle_id for message in messages])

    async def complete(self, tasks: Sequence[ClaimedTask], outcome: str = "succeeded", **values: Any) -> None:
        ended: dict[str, Any] = {"run_seconds": 0.5, "output": {"value": 1}, "outcome": outcome}
        finished = [
            AttemptReport(
                job_id=task.job_id, stage=task.stage, index=task.index, attempt=task.attempt, **ended | values
            )
            for task in tasks
        ]
        bundles = list({task.bundle_id for task in tasks})
        assert await transitions.complete(self.database, self.worker_id, finished, bundles) == len(tasks)

    async def age(self, seconds: float) -> None:
        """The job and its stages have started this long ago."""
        for table in ("jobs", "stages"):
            await self.database.execute(
                f"UPDATE {table} SET started_at = now() - $2 * interval '1 second' WHERE job_id = $1",
                self.job_id,
                seconds,
            )

    async def end(self, state: str = "succeeded") -> None:
        await self.database.execute(
            "UPDATE jobs SET state = $2, finished_at = now() WHERE job_id = $1", self.job_id, state
        )
        await self.database.execute(
            "UPDATE stages SET state = $2, finished_at = now() WHERE job_id = $1", self.job_id, state
        )


async def submit(database: Database, settings: Settings, stages: int, **values: Any) -> Run:
    spec = JobSpec.model_validate(
        {"name": "claims", "input": {"type": "range", "count": 1}, "stages": [{"processor": "noop"}] * stages} | values
    )
    async with database.acquire() as connection, connection.transaction():
        await processors.register_processor(connection, "noop", ProcessorSpec(builtin="noop"))
        job_id = await submission.submit_job(connection, spec, settings=settings)
    return Run(database, job_id, await insert_worker(database))


@pytest.fixture
async def run(database: Database, settings: Settings) -> Run:
    """A running job of two chained stages."""
    await insert_pool(database, "default")
    return await submit(database, settings, 2)


async def read(client: httpx.AsyncClient, run: Run, what: str = "stats") -> dict[str, Any]:
    response = await client.get(f"/v1/jobs/{run.job_id}/{what}")
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_a_job_in_the_middle_of_two_stages(client: httpx.AsyncClient, run: Run) -> None:
    await run.plan(10)
    first = await run.claim(0, 10)
    volumes: dict[str, Any] = {
        "bytes_in": 100,
        "bytes_out": 50,
        "records_in": 10,
        "records_out": 8,
        "records_rejected": 2,
    }
    await run.complete(first[:6], run_seconds=2.0, cpu_seconds=1.5, memory_bytes_peak=1_000_000, **volumes)
    await run.complete(first[6:7], "failed", run_seconds=1.0, memory_bytes_peak=5_000_000, **volumes)
    await run.complete(first[7:8], "timeout", run_seconds=4.0, retryable=False, **volumes)
    second = await run.claim(1, 4)
    await run.complete(second[:3], run_seconds=0.1)
    await catch_up(run.database)
    await run.age(20)

    stats = await read(client, run)

    assert stats["state"] == "running"
    assert stats["progress"] == {
        "tasks": 10 + 9, "waiting": 3, "ready": 1 + 2, "queued": 0, "running": 2 + 1, "succeeded": 6 + 3, "failed": 1,
        "cancelled": 0,
    }  # fmt: skip
    clean, aggregate = stats["stages"]
    assert (clean["tasks"], aggregate["tasks"]) == (10, 9)
    assert aggregate["progress"]["waiting"] == 3  # two of the first stage run and one is to be tried again
    assert clean["attempts_by_outcome"] == {"succeeded": 6, "failed": 1, "timeout": 1}
    assert clean["unsuccessful_attempts"] == {"failed": 1, "timeout": 1, "memory": 0, "lost": 0, "released": 0}
    assert {name: clean[name] for name in volumes} == {name: 6 * value for name, value in volumes.items()}
    assert clean["worker_seconds"] == pytest.approx(6 * 2.0 + 1.0 + 4.0)
    assert clean["cpu_seconds"] == pytest.approx(6 * 1.5)
    assert clean["memory_bytes_peak"] == 5_000_000
    assert clean["duration_seconds"]["max"] == clean["duration_seconds"]["mean"] == 2.0
    assert 2.0 / WIDTH <= clean["duration_seconds"]["p50"] <= clean["duration_seconds"]["p99"] <= 2.0
    assert clean["rate_per_second"] == pytest.approx(6 / 20, rel=0.05)
    assert stats["rate_per_second"] == pytest.approx(9 / 20, rel=0.05)
    assert clean["seconds_left"] == pytest.approx(3 / (6 / 20), rel=0.05)
    # 20 s were worth 6 x 2 s + 3 x 0.1 s of work; 3 x 2 s + 6 x 0.1 s remain.
    assert stats["seconds_left"] == pytest.approx(20 * (3 * 2.0 + 6 * 0.1) / (6 * 2.0 + 3 * 0.1), rel=0.05)


async def test_progress_and_rate_are_live_without_any_roll_up(client: httpx.AsyncClient, run: Run) -> None:
    await run.plan(100)
    async with run.database.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM stats_watermark FOR UPDATE")  # no roll-up meanwhile
        await run.complete((await run.claim(0, 60))[:50])
        await run.age(10)
        stats = await read(client, run)
    assert stats["stages"][0]["attempts_by_outcome"] == {}
    assert stats["stages"][0]["progress"]["succeeded"] == 50
    assert stats["stages"][0]["rate_per_second"] == pytest.approx(5.0, rel=0.05)
    assert stats["stages"][0]["seconds_left"] == pytest.approx(10.0, rel=0.05)


async def test_the_rate_of_a_long_job_is_that_of_its_last_minutes(client: httpx.AsyncClient, run: Run) -> None:
    await run.plan(2000)
    await run.age(3600)
    now = await run.database.fetchval("SELECT now()")
    long_ago = [{"job_id": run.job_id, "finished_at": now - timedelta(minutes=30)}] * 900
    lately = [{"job_id": run.job_id, "finished_at": now - timedelta(seconds=20)}] * 60
    await insert_attempts(run.database, long_ago + lately)
    await run.database.execute("UPDATE stage_counters SET ready = 1040, succeeded = 960 WHERE job_id = $1", run.job_id)
    await catch_up(run.database)
    stage = (await read(client, run))["stages"][0]
    # The window is the last two whole minutes and the one that runs.
    assert 60 / 190 <= stage["rate_per_second"] <= 60 / 119
    assert stage["seconds_left"] == pytest.approx(1040 / stage["rate_per_second"])


async def test_a_job_that_has_ended_is_final_at_once(client: httpx.AsyncClient, run: Run) -> None:
    await run.plan(40)
    for stage in (0, 1):
        await run.complete(await run.claim(stage, 40), run_seconds=0.25)
    await run.age(30)
    await run.end()
    stats = await read(client, run)
    assert (stats["state"], stats["seconds_left"]) == ("succeeded", 0.0)
    assert stats["elapsed_seconds"] == pytest.approx(30, rel=0.05)
    assert stats["rate_per_second"] == pytest.approx(80 / 30, rel=0.05)
    assert [stage["attempts_by_outcome"] for stage in stats["stages"]] == [{"succeeded": 40}, {"succeeded": 40}]
    assert [stage["seconds_left"] for stage in stats["stages"]] == [0.0, 0.0]


async def test_a_job_that_has_not_started(client: httpx.AsyncClient, database: Database, settings: Settings) -> None:
    await insert_pool(database, "default")
    stats = await read(client, await submit(database, settings, 1, run_at="2099-01-01T00:00:00Z"))
    assert stats["state"] == "scheduled"
    assert (stats["elapsed_seconds"], stats["rate_per_second"], stats["seconds_left"]) == (None, 0.0, None)
    stage = stats["stages"][0]
    assert stage["duration_seconds"] == {"p50": None, "p95": None, "p99": None, "max": None, "mean": None}
    assert (stage["tasks"], stage["attempts_by_outcome"], stage["stragglers"]) == (1, {}, [])


async def test_nobody_knows_when_a_job_ends_that_is_still_split_or_paused(client: httpx.AsyncClient, run: Run) -> None:
    await run.plan(10, planned=False)
    await run.database.execute("UPDATE stages SET tasks_expected = NULL WHERE job_id = $1", run.job_id)
    await run.complete((await run.claim(0, 6))[:3])
    stats = await read(client, run)
    assert stats["rate_per_second"] > 0
    assert (stats["seconds_left"], stats["stages"][0]["seconds_left"]) == (None, None)
    await run.database.execute("UPDATE stages SET planned = true WHERE job_id = $1 AND stage = 0", run.job_id)
    assert (await read(client, run))["seconds_left"] > 0
    async with run.database.acquire() as connection:
        await jobs.pause_job(connection, run.job_id)
    assert (await read(client, run))["seconds_left"] is None


async def test_a_reduce_to_come_is_a_task_that_remains(
    client: httpx.AsyncClient, database: Database, settings: Settings
) -> None:
    await insert_pool(database, "default")
    run = await submit(database, settings, 1, merge={"type": "reduce", "processor": "noop"})
    await run.plan(4)
    await run.complete(await run.claim(0, 4))
    await run.age(40)
    stats = await read(client, run)
    assert stats["stages"][1]["progress"]["waiting"] == 1
    assert stats["seconds_left"] == pytest.approx(10.0, rel=0.05)


async def test_lost_and_released_attempts_are_retries_by_cause(client: httpx.AsyncClient, run: Run) -> None:
    await run.plan(10)
    tasks = await run.claim(0, 10, bundle=5)
    kept, lost = [t for t in tasks if t.bundle_id == tasks[0].bundle_id], tasks[-1].bundle_id
    await run.complete(kept[:2], "released", run_seconds=0.0, output=None)
    await run.complete(kept[2:])
    await run.database.execute("UPDATE workers SET state = 'lost', stopped_at = now()")
    assert await transitions.reap_dead_workers(run.database, losses_max=5) == sum(t.bundle_id == lost for t in tasks)
    await catch_up(run.database)
    stage = (await read(client, run))["stages"][0]
    assert stage["attempts_by_outcome"] == {"succeeded": 3, "released": 2, "lost": 5}
    assert stage["unsuccessful_attempts"] == {"failed": 0, "timeout": 0, "memory": 0, "lost": 5, "released": 2}
    assert stage["retries"] == 7
    assert stage["worker_seconds"] == pytest.approx(3 * 0.5)


async def test_an_attempt_that_ended_its_task_is_not_a_retry(client: httpx.AsyncClient, run: Run) -> None:
    await run.database.execute("UPDATE stages SET max_attempts = 2, backoff_seconds = 0")
    await run.plan(3)
    await run.complete(await run.claim(0, 3), "failed")
    second = await run.claim(0, 3)
    await run.complete(second[:1], "timeout")
    await run.complete(second[1:2], "failed")
    await run.complete(second[2:])
    await catch_up(run.database)
    stage = (await read(client, run))["stages"][0]
    assert stage["progress"]["failed"] == 2
    assert stage["unsuccessful_attempts"] == {"failed": 4, "timeout": 1, "memory": 0, "lost": 0, "released": 0}
    assert stage["retries"] == 3
    async with run.database.acquire() as connection:
        await transitions.retry_tasks(connection, run.job_id)  # by the user's order
    assert (await read(client, run))["stages"][0]["retries"] == 5


async def hold(run: Run, bundle_id: UUID, seconds: float) -> None:
    """The bundle was claimed this long ago."""
    await run.database.execute(
        "UPDATE bundles SET claimed_at = now() - $2 * interval '1 second' WHERE bundle_id = $1", bundle_id, seconds
    )
    await run.database.execute(
        "UPDATE tasks AS t SET started_at = b.claimed_at FROM bundles AS b WHERE b.bundle_id = $1 "
        "AND t.job_id = b.job_id AND t.stage = b.stage AND t.index BETWEEN b.first AND b.first + b.count - 1",
        bundle_id,
    )


async def test_stragglers_are_the_running_tasks_far_beyond_the_mean(client: httpx.AsyncClient, run: Run) -> None:
    await run.plan(40)
    await run.complete(await run.claim(0, 20), run_seconds=10.0)
    late, usual = await run.claim(0, 2, bundle=1)
    await hold(run, late.bundle_id, 45.0)
    await hold(run, usual.bundle_id, 25.0)
    await catch_up(run.database)
    straggler = {"index": late.index, "worker_id": str(run.worker_id), "running_seconds": pytest.approx(45, abs=5)}
    assert (await read(client, run))["stages"][0]["stragglers"] == [straggler]
    await run.complete([late], run_seconds=45.0)
    assert (await read(client, run))["stages"][0]["stragglers"] == []


async def test_the_time_left_knows_stragglers(client: httpx.AsyncClient, run: Run) -> None:
    await run.plan(21)
    await run.complete(await run.claim(0, 20), run_seconds=0.1)
    await run.age(40)
    [late] = await run.claim(0, 1)
    await hold(run, late.bundle_id, 100.0)
    await catch_up(run.database)
    assert (await read(client, run))["stages"][0]["seconds_left"] == pytest.approx(100, abs=10)


async def test_a_bundle_may_take_the_time_of_all_its_tasks(client: httpx.AsyncClient, run: Run) -> None:
    await run.plan(40)
    await run.complete(await run.claim(0, 20), run_seconds=4.0)
    tasks = await run.claim(0, 10, bundle=10)  # three times the mean for each of the ten
    await hold(run, tasks[0].bundle_id, 115.0)
    assert (await read(client, run))["stages"][0]["stragglers"] == []
    await hold(run, tasks[0].bundle_id, 125.0)
    # The worker has two slots: no more of them run, the others only wait behind these.
    stragglers = (await read(client, run))["stages"][0]["stragglers"]
    assert [straggler["index"] for straggler in stragglers] == [tasks[0].index, tasks[1].index]


async def test_no_more_than_twenty_stragglers_are_told(client: httpx.AsyncClient, run: Run) -> None:
    await run.plan(60)
    await run.complete(await run.claim(0, 20), run_seconds=0.1)
    tasks = await run.claim(0, 30, bundle=1)
    for n, task in enumerate(tasks):
        await hold(run, task.bundle_id, 100.0 + n)
    await catch_up(run.database)
    stragglers = (await read(client, run))["stages"][0]["stragglers"]
    assert [straggler["index"] for straggler in stragglers] == [task.index for task in reversed(tasks)][:20]


async def test_what_is_slow_is_unknown_before_anything_has_succeeded(client: httpx.AsyncClient, run: Run) -> None:
    await run.plan(4)
    task = (await run.claim(0, 1))[0]
    await hold(run, task.bundle_id, 3600.0)
    assert (await read(client, run))["stages"][0]["stragglers"] == []


async def test_the_timeline_sums_a_jobs_stages_by_minute(client: httpx.AsyncClient, run: Run) -> None:
    minute = (await run.database.fetchval("SELECT date_trunc('minute', now())")) - timedelta(minutes=5)
    of_job = {"job_id": run.job_id, "run_seconds": 10.0, "bytes_in": 3, "bytes_out": 2}
    await insert_attempts(
        run.database,
        [
            of_job | {"finished_at": minute + timedelta(seconds=30)},
            of_job | {"finished_at": minute + timedelta(seconds=40), "stage": 1},
            of_job | {"finished_at": minute + timedelta(seconds=64), "outcome": "failed"},
            of_job | {"finished_at": minute + timedelta(seconds=64), "job_id": new_id()},
        ],
    )
    await catch_up(run.database)
    items = (await read(client, run, "timeline"))["items"]
    assert [{k: v for k, v in item.items() if k != "minute"} for item in items] == [
        {"succeeded": 2, "failed": 0, "busy_seconds": 26.0, "bytes_in": 6, "bytes_out": 4},
        {"succeeded": 0, "failed": 1, "busy_seconds": 4.0, "bytes_in": 0, "bytes_out": 0},
    ]
    assert items[0]["minute"] == minute.isoformat().replace("+00:00", "Z")


async def test_reading_looks_at_no_task_and_no_attempt(client: httpx.AsyncClient, run: Run) -> None:
    await run.plan(10)
    for stage in (0, 1):
        await run.complete(await run.claim(stage, 10))
    await catch_up(run.database)
    for table in ("tasks", "attempts"):
        await run.database.execute(f"ALTER TABLE {table} RENAME TO {table}_out_of_reach")
    for path in (f"jobs/{run.job_id}/stats", f"jobs/{run.job_id}/timeline", "stats/workers", "stats/pools",
                 "stats/timeline"):  # fmt: skip
        assert (await client.get(f"/v1/{path}")).status_code == 200


async def test_an_unknown_job_is_a_404(client: httpx.AsyncClient) -> None:
    for what in ("stats", "timeline"):
        job_id = new_id()
        response = await client.get(f"/v1/jobs/{job_id}/{what}")
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["detail"] == f"there is no job {job_id}"


async def begin_planned(run: Run) -> None:
    """The job was submitted 100 s ago, started after 10 s, and had tasks after 20 s."""
    await run.database.execute(
        "UPDATE jobs SET created_at = now() - interval '100 seconds', started_at = now() - interval '90 seconds' "
        "WHERE job_id = $1",
        run.job_id,
    )
    await run.database.execute(
        "UPDATE stages SET started_at = now() - interval '90 seconds', "
        "tasks_at = CASE WHEN stage = 0 THEN now() - interval '80 seconds' END WHERE job_id = $1",
        run.job_id,
    )


async def move_back(run: Run, stage: int, seconds: float) -> None:
    """What the stage's tasks have done so far, they have done this long before."""
    await run.database.execute(
        "UPDATE attempts SET started_at = started_at - $3 * interval '1 second', "
        "finished_at = finished_at - $3 * interval '1 second' WHERE job_id = $1 AND stage = $2",
        run.job_id,
        stage,
        seconds,
    )


async def test_the_time_of_a_job_that_has_ended_adds_up_along_the_tasks_that_its_end_waited_for(
    client: httpx.AsyncClient, run: Run
) -> None:
    await run.plan(2)
    await begin_planned(run)
    first = await run.claim(0, 2, bundle=1)
    await run.complete(first[1:], run_seconds=1.0)  # nobody waits for it
    await run.complete(first[:1], run_seconds=10.0, fetch_seconds=2.0, put_seconds=3.0)
    await move_back(run, 0, 50)
    second = await run.claim(1, 2, bundle=1)
    await run.complete([task for task in second if task.index == 1], run_seconds=1.0)
    await move_back(run, 1, 30)
    await run.complete(
        [task for task in second if task.index == 0], run_seconds=15.0, fetch_seconds=1.0, put_seconds=4.0
    )
    await run.database.execute(
        "UPDATE attempts SET started_at = started_at - interval '10 seconds', "
        "finished_at = finished_at - interval '10 seconds' WHERE job_id = $1 AND stage = 1 AND index = 0",
        run.job_id,
    )
    await run.end()
    await catch_up(run.database)

    stats = await read(client, run)

    spent = {phase: round(seconds) for phase, seconds in stats["time_spent"].items() if round(seconds)}
    assert spent == {
        "scheduled": 10,
        "planning": 10,
        "queued": (80 - 60) + (50 - 25),  # for a slot in each stage
        "fetching": 2 + 1,
        "running": 5 + 10,
        "putting": 3 + 4,
        "merging": 10,
    }
    elapsed = await run.database.fetchval(
        "SELECT extract(epoch FROM finished_at - created_at)::float8 FROM jobs WHERE job_id = $1", run.job_id
    )
    assert sum(stats["time_spent"].values()) == pytest.approx(elapsed)
    of_stages = [sum(stage["time_spent"].values()) for stage in stats["stages"]]
    assert sum(of_stages) + stats["time_spent"]["scheduled"] == pytest.approx(elapsed)
    assert stats["stages"][0]["time_spent"]["running"] == pytest.approx(5, abs=0.5)
    clean = stats["stages"][0]["slot_time"]
    assert clean == pytest.approx({"fetching": 2.0, "running": 6.0, "putting": 3.0, "unsuccessful": 0.0})
    assert sum(clean.values()) == pytest.approx(stats["stages"][0]["worker_seconds"])


async def test_what_lost_and_failed_attempts_cost_is_told_apart(client: httpx.AsyncClient, run: Run) -> None:
    await run.plan(1)
    await begin_planned(run)
    await run.complete(await run.claim(0, 1), "failed", run_seconds=20.0)
    await move_back(run, 0, 40)
    await run.database.execute("UPDATE tasks SET ready_at = now() WHERE ready_at IS NOT NULL")
    await run.complete(await run.claim(0, 1), run_seconds=5.0)
    await run.complete(await run.claim(1, 1), "failed", run_seconds=0.0, retryable=False)
    await run.end("failed")
    await catch_up(run.database)

    stats = await read(client, run)

    spent = {phase: round(seconds) for phase, seconds in stats["time_spent"].items() if round(seconds)}
    assert spent == {"scheduled": 10, "planning": 10, "queued": 20, "retrying": 55, "running": 5}
    assert stats["stages"][0]["slot_time"]["unsuccessful"] == pytest.approx(20.0)


async def test_a_job_that_never_began_or_has_not_ended_has_no_time_to_tell(client: httpx.AsyncClient, run: Run) -> None:
    assert (await read(client, run))["time_spent"] is None
    await run.database.execute(
        "UPDATE jobs SET started_at = NULL, state = 'cancelled', finished_at = now() WHERE job_id = $1", run.job_id
    )
    spent = (await read(client, run))["time_spent"]
    assert [phase for phase, seconds in spent.items() if seconds] == ["scheduled"]
