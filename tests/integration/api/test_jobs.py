"""Submitting, inspecting and controlling jobs over HTTP."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from services.engine import plans
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from tests.integration.api.conftest import PlayedWorker, array_job, ok
from tests.invariants import assert_invariants

pytestmark = pytest.mark.usefixtures("grid")


async def test_a_submitted_job_runs_at_once_and_shows_its_stages(submitter: httpx.AsyncClient) -> None:
    job = await ok(submitter.post("/v1/jobs", json=array_job(name="hello", labels={"team": "claims"})))

    assert (job["name"], job["state"], job["labels"]) == ("hello", "running", {"team": "claims"})
    [stage] = job["stages"]
    assert (stage["name"], stage["processor"], stage["state"]) == ("stage-0", "noop@1", "running")
    assert (stage["task_count"], stage["planned"], stage["progress"]["waiting"]) == (3, False, 3)
    assert await ok(submitter.get(f"/v1/jobs/{job['job_id']}")) == job


@pytest.mark.parametrize(
    ("change", "planned"),
    [
        ({"input": {"type": "range", "count": 5}}, True),
        ({"input": {"type": "items", "items": ["a", None, {"b": 1}]}}, True),
        ({"input": {"type": "range", "values": [7, 3]}}, True),
        ({"input": {"type": "range", "count": 6}}, False),
        ({"input": [{"type": "range", "count": 1}, {"type": "items", "items": [1]}]}, False),
        ({"run_at": "2099-01-01T00:00:00Z"}, False),
    ],
    ids=["range", "items", "numbers", "too many", "several inputs", "later"],
)
async def test_a_small_job_is_planned_as_it_is_submitted(
    submitter: httpx.AsyncClient,
    database: Database,
    change: dict[str, Any],
    planned: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plans, "AT_ONCE_MAX", 5)

    job = await ok(submitter.post("/v1/jobs", json=array_job(**change)))

    [stage] = job["stages"]
    assert stage["planned"] is planned
    inputs = await database.fetch("SELECT input FROM tasks WHERE job_id = $1 ORDER BY index", UUID(job["job_id"]))
    assert len(inputs) == stage["progress"]["ready"] == (stage["task_count"] if planned else 0)
    if items := job["spec"]["input"].get("items") if planned else None:
        assert [row["input"] for row in inputs] == [{"type": "item", "value": item} for item in items]
    await assert_invariants(database, UUID(job["job_id"]))


async def test_sizes_and_durations_with_units_are_shown_as_numbers(submitter: httpx.AsyncClient) -> None:
    stage = {"processor": "noop", "timeout_seconds": "2h", "memory_bytes": "1.5GB"}

    job = await ok(submitter.post("/v1/jobs", json=array_job(stages=[stage | {"retry": {"backoff_seconds": "1m"}}])))

    [shown] = job["spec"]["stages"]
    assert (shown["timeout_seconds"], shown["memory_bytes"]) == (7200.0, 1_500_000_000)
    assert shown["retry"]["backoff_seconds"] == 60.0


async def test_a_job_for_later_waits_and_its_input_need_not_be_there_yet(submitter: httpx.AsyncClient) -> None:
    later = array_job(input={"type": "lines", "uri": "s3://nowhere/yet.csv"}, run_at="2099-01-01T00:00:00+01:00")

    job = await ok(submitter.post("/v1/jobs", json=later))

    assert (job["state"], job["run_at"], job["started_at"]) == ("scheduled", "2098-12-31T23:00:00Z", None)


async def test_a_job_keeps_the_processor_version_it_was_submitted_with(operator: httpx.AsyncClient) -> None:
    job = await ok(operator.post("/v1/jobs", json=array_job()))
    await ok(operator.post("/v1/processors", json={"name": "noop", "builtin": "copy"}))

    newer = await ok(operator.post("/v1/jobs", json=array_job()))

    assert (await ok(operator.get(f"/v1/jobs/{job['job_id']}")))["stages"][0]["processor"] == "noop@1"
    assert newer["stages"][0]["processor"] == "noop@2"


async def test_progress_is_exact_through_a_chain_of_stages(submitter: httpx.AsyncClient, worker: PlayedWorker) -> None:
    chain = array_job(
        stages=[{"processor": "noop"}, {"processor": "noop"}], merge={"type": "reduce", "processor": "noop"}
    )
    job_id = UUID((await ok(submitter.post("/v1/jobs", json=chain)))["job_id"])
    await worker.plan(job_id, 5)
    first, second, third, _ = await worker.claim(job_id, 4)
    await worker.finish(first, output={"value": 1})
    await worker.finish(second, "failed", error={"type": "exit_code", "message": "no"}, retryable=False)
    await worker.finish(third, output={"value": 3})

    job = await ok(submitter.get(f"/v1/jobs/{job_id}"))

    counts = [{name: n for name, n in stage["progress"].items() if n} for stage in job["stages"]]
    assert counts == [
        {"ready": 1, "running": 1, "succeeded": 2, "failed": 1},
        {"waiting": 2, "ready": 2},  # one for each task before it that may still succeed
        {"waiting": 1},
    ]
    assert [stage["task_count"] for stage in job["stages"]] == [5, 4, 1]
    [summary] = (await ok(submitter.get("/v1/jobs")))["items"]
    assert summary["progress"] == {"tasks": 10, "succeeded": 2, "failed": 1}


async def test_the_time_left_knows_stragglers_and_pauses(
    submitter: httpx.AsyncClient, worker: PlayedWorker, database: Database
) -> None:
    job_id = UUID((await ok(submitter.post("/v1/jobs", json=array_job())))["job_id"])
    path = f"/v1/jobs/{job_id}"

    async def left() -> float | None:
        seconds: float | None = (await ok(submitter.get(path)))["stages"][0]["seconds_left"]
        return seconds

    await worker.plan(job_id, 5)
    first, _ = await worker.claim(job_id, 2)
    assert await left() is None  # nothing has ended yet
    await worker.finish(first, output={"value": 1})
    assert await left() == pytest.approx((3 + 1) * 0.5)
    await database.execute("UPDATE bundles SET claimed_at = now() - interval '1 minute' WHERE worker_id IS NOT NULL")
    assert await left() == pytest.approx(60, abs=20)
    await ok(submitter.post(f"{path}/pause"))
    assert await left() is None


async def test_a_stage_most_of_whose_attempts_fail_says_that_it_is_slowed(
    submitter: httpx.AsyncClient, worker: PlayedWorker, database: Database
) -> None:
    job_id = UUID((await ok(submitter.post("/v1/jobs", json=array_job())))["job_id"])
    await worker.plan(job_id, 5)
    await database.execute("UPDATE stage_counters SET attempts = 100 WHERE job_id = $1", job_id)
    at_the_limit = await ok(submitter.get(f"/v1/jobs/{job_id}"))
    await database.execute("UPDATE stage_counters SET attempts = 101 WHERE job_id = $1", job_id)

    job = await ok(submitter.get(f"/v1/jobs/{job_id}"))

    assert [at_the_limit["stages"][0]["slowed"], job["stages"][0]["slowed"]] == [False, True]


async def test_records_that_do_not_come_out_even_are_said(submitter: httpx.AsyncClient, worker: PlayedWorker) -> None:
    chain = array_job(stages=[{"name": "clean", "processor": "noop"}, {"processor": "noop"}])
    submitted = await ok(submitter.post("/v1/jobs", json=chain))
    job_id = UUID(submitted["job_id"])
    await worker.plan(job_id, 2)
    first, second = await worker.claim(job_id, 2)
    await worker.finish(first, output={"value": 1}, records_in=50, records_out=48, records_rejected=2)
    await worker.finish(second, output={"value": 1}, records_in=50, records_out=48)

    job = await ok(submitter.get(f"/v1/jobs/{job_id}"))

    records = {"in": 100, "out": 96, "rejected": 2, "filtered": 0, "added": 0, "balanced": False}
    assert [stage["records"] for stage in job["stages"]] == [records, submitted["stages"][1]["records"]]
    assert submitted["stages"][1]["records"] == dict.fromkeys(records, 0) | {"balanced": None}
    assert job["warnings"] == ["stage clean: 100 records in, 96 out, 2 rejected: 2 are unaccounted for"]
    assert submitted["warnings"] == []


async def test_failed_tasks_that_are_tolerated_are_said_when_their_stage_has_ended(
    submitter: httpx.AsyncClient, worker: PlayedWorker, database: Database
) -> None:
    tolerant = array_job(stages=[{"name": "clean", "processor": "noop", "tolerated_failures": 2}])
    job_id = UUID((await ok(submitter.post("/v1/jobs", json=tolerant)))["job_id"])
    await worker.plan(job_id, 3)
    first, *others = await worker.claim(job_id, 3)
    await worker.finish(first, output={"value": 1}, records_in=50, records_out=50)
    for task in others:
        await worker.finish(task, "failed", error={"type": "exit_code", "message": "no"}, retryable=False)
    before = await ok(submitter.get(f"/v1/jobs/{job_id}"))
    await database.execute("UPDATE stages SET state = 'merging' WHERE job_id = $1", job_id)

    job = await ok(submitter.get(f"/v1/jobs/{job_id}"))

    said = "stage clean: 2 tasks failed and were tolerated; their records are not in the results"
    assert (before["warnings"], job["warnings"]) == ([], [said])
    assert job["stages"][0]["records"]["balanced"]


@pytest.mark.both_emulators("HeadBucket")
async def test_the_place_of_results_must_be_there_when_a_job_is_submitted(
    submitter: httpx.AsyncClient, settings: Settings
) -> None:
    here = await ok(submitter.post("/v1/jobs", json=array_job(results=f"s3://{settings.bucket}/claims/")))
    assert here["spec"]["results"] == f"s3://{settings.bucket}/claims/"
    for place, reason in (("s3://nobody-has-this/x/", "there is no such bucket"), ("s3://NOT_A_NAME!/", "name")):
        for later in ({}, {"run_at": "2099-01-01T00:00:00Z"}):
            refused = await submitter.post("/v1/jobs", json=array_job(results=place, **later))
            assert refused.status_code == 422, refused.text
            [error] = refused.json()["errors"]
            assert (error["field"], error["value"]) == ("results", place)
            assert reason in error["message"]
    schedule = {"name": "nightly", "cron": "0 3 * * *", "time_zone": "UTC", "job": array_job(results=place)}
    refused = await submitter.post("/v1/schedules", json=schedule)
    assert [error["field"] for error in refused.json()["errors"]] == ["job.results"]


async def test_orders_move_a_job_and_the_wrong_ones_are_refused(submitter: httpx.AsyncClient) -> None:
    path = f"/v1/jobs/{(await ok(submitter.post('/v1/jobs', json=array_job())))['job_id']}"

    assert (await ok(submitter.post(f"{path}/pause")))["state"] == "paused"
    refused = await submitter.post(f"{path}/pause")
    assert (await ok(submitter.post(f"{path}/resume")))["state"] == "running"
    assert (await ok(submitter.post(f"{path}/cancel")))["state"] == "cancelling"
    too_early = await submitter.post(f"{path}/retry")

    assert refused.status_code == too_early.status_code == 409
    assert "paused" in refused.json()["detail"] and "must be running" in refused.json()["detail"]
    assert "cancelling" in too_early.json()["detail"]


async def test_retry_runs_failed_tasks_again(
    submitter: httpx.AsyncClient, worker: PlayedWorker, database: Database
) -> None:
    job_id = UUID((await ok(submitter.post("/v1/jobs", json=array_job())))["job_id"])
    await worker.plan(job_id, 1)
    [task] = await worker.claim(job_id, 1)
    await worker.finish(task, "failed", error={"type": "exit_code", "message": "no"}, retryable=False)
    await database.execute('UPDATE jobs SET state = \'failed\', error = \'{"type": "stage_failed", "message": "x"}\'')

    job = await ok(submitter.post(f"/v1/jobs/{job_id}/retry"))

    assert (job["state"], job["error"]) == ("running", None)
    assert job["stages"][0]["progress"]["ready"] == 1


async def test_the_parts_of_a_job_that_failed_are_there_with_what_is_missing(
    submitter: httpx.AsyncClient, worker: PlayedWorker, database: Database, settings: Settings
) -> None:
    job_id = UUID((await ok(submitter.post("/v1/jobs", json=array_job())))["job_id"])
    await worker.plan(job_id, 3)
    first, second, _ = await worker.claim(job_id, 3)
    made = {"uri": f"s3://{settings.bucket}/made.csv", "bytes": 3, "crc32": 1}
    await worker.finish(first, output=made)
    await worker.finish(second, "failed", error={"type": "exit_code", "message": "no"}, retryable=False)
    await database.execute("UPDATE jobs SET state = 'failed'")

    refused = await submitter.get(f"/v1/jobs/{job_id}/results")
    page = await ok(submitter.get(f"/v1/jobs/{job_id}/results/parts"))

    assert refused.status_code == 409 and "--partial" in refused.json()["detail"]
    assert [part["state"] for part in page["items"]] == ["succeeded", "failed", "running"]
    assert [part["error"] and part["error"]["message"] for part in page["items"]] == [None, "no", None]
    [file] = page["items"][0]["files"]
    assert (file["name"], file["uri"], file["checksum_crc32"]) == ("00000000.csv", made["uri"], "AAAAAQ==")
    assert file["url"].startswith("http")
    assert (await submitter.get(f"/v1/jobs/{job_id}/results/parts?stage=7")).status_code == 404


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": [{"processor": "noop", "pools": ["default"], "retry": {"max_attempts": 1}}]},
        {"input": {"type": "items", "items": [1, {"a": None}]}, "merge": {"type": "reduce", "processor": "noop"}},
        {"stages": [{"processor": "noop"}, {"processor": "noop", "resplit": {"type": "lines", "format": "csv"}}]},
        {"keep": {"results": "7d"}, "labels": {"a": "b"}, "merge": {"type": "concat", "filename": "all.txt"}},
    ],
)
async def test_the_specification_that_a_job_shows_can_be_submitted_again(
    submitter: httpx.AsyncClient, changes: dict[str, Any]
) -> None:
    shown = (await ok(submitter.post("/v1/jobs", json=array_job(**changes))))["spec"]

    assert (await ok(submitter.post("/v1/jobs", json=shown)))["spec"] == shown


async def test_a_retry_with_a_fix_runs_what_failed_and_tells_which_version_ran_where(
    operator: httpx.AsyncClient, worker: PlayedWorker, database: Database
) -> None:
    job_id = UUID((await ok(operator.post("/v1/jobs", json=array_job())))["job_id"])
    await worker.plan(job_id, 2)
    good, bad = await worker.claim(job_id, 2)
    await worker.finish(good, output={"value": 1})
    await worker.finish(bad, "failed", error={"type": "exit_code", "message": "no"}, retryable=False)
    await database.execute("UPDATE jobs SET state = 'failed'")
    await ok(operator.post("/v1/processors", json={"name": "noop", "builtin": "copy"}))

    job = await ok(operator.post(f"/v1/jobs/{job_id}/retry", json={"latest": True}))

    assert job["stages"][0]["processor"] == "noop@2"
    [again] = await worker.claim(job_id, 2)
    await worker.finish(again, output={"value": 2})
    tasks = (await ok(operator.get(f"/v1/jobs/{job_id}/tasks")))["items"]
    assert [task["processor"] for task in tasks] == ["noop@1", "noop@2"]
    attempts = (await ok(operator.get(f"/v1/jobs/{job_id}/tasks/0/{bad.index}")))["attempts"]
    assert [(attempt["outcome"], attempt["processor"]) for attempt in attempts] == [
        ("failed", "noop@1"),
        ("succeeded", "noop@2"),
    ]
    [done] = await database.fetch("SELECT summary FROM audit_log WHERE action = 'retry_job'")
    assert done["summary"] == {"latest": True}


async def test_a_retry_that_names_what_is_not_there_is_refused_with_the_field(
    submitter: httpx.AsyncClient, database: Database
) -> None:
    job_id = (await ok(submitter.post("/v1/jobs", json=array_job())))["job_id"]
    await database.execute("UPDATE jobs SET state = 'failed'")

    for order, field in (({"stage": "clean"}, "stage"), ({"processors": ["nope@4"]}, "processors")):
        refused = await submitter.post(f"/v1/jobs/{job_id}/retry", json=order)
        assert refused.status_code == 422, refused.text
        assert [error["field"] for error in refused.json()["errors"]] == [field]


async def test_jobs_are_filtered_by_state_name_labels_and_schedule(submitter: httpx.AsyncClient) -> None:
    async def submit(**changes: Any) -> str:
        job_id: str = (await ok(submitter.post("/v1/jobs", json=array_job(**changes))))["job_id"]
        return job_id

    async def found(query: str) -> list[str]:
        return [job["job_id"] for job in (await ok(submitter.get(f"/v1/jobs?{query}")))["items"]]

    red = await submit(name="a", labels={"team": "red", "tier": "gold:1"})
    blue = await submit(name="a", labels={"team": "blue"})
    other = await submit(name="b", labels={"team": "red"})
    await ok(submitter.post(f"/v1/jobs/{other}/pause"))

    assert await found("") == [other, blue, red]
    assert await found("name=a") == [blue, red]
    assert await found("state=paused") == [other]
    assert await found("state=paused&state=running&name=a") == [blue, red]
    assert await found("label=team:red") == [other, red]
    assert await found("label=team:red&label=tier:gold:1") == [red]
    assert await found("schedule_id=01970000-0000-7000-8000-000000000000") == []


async def test_jobs_are_found_by_the_beginning_of_their_ids(submitter: httpx.AsyncClient) -> None:
    jobs = [(await ok(submitter.post("/v1/jobs", json=array_job())))["job_id"] for _ in range(3)]

    async def found(prefix: str) -> list[str]:
        answer = await ok(submitter.get("/v1/jobs", params={"id_prefix": prefix}))
        return [job["job_id"] for job in answer["items"]]

    assert await found(jobs[0][:8]) == jobs[::-1]
    assert await found(jobs[1]) == [jobs[1]]
    assert await found(jobs[1].upper().replace("-", "")[:31]) == [jobs[1]]
    assert await found("ffff") == []
    for wrong in ("", "x1", "0" * 33):
        problem = (await submitter.get("/v1/jobs", params={"id_prefix": wrong})).json()
        assert problem["errors"][0]["field"] == "id_prefix"


async def test_a_task_shows_its_attempts_and_where_their_logs_are(
    submitter: httpx.AsyncClient, worker: PlayedWorker, settings: Settings, aws: Aws
) -> None:
    job_id = UUID(
        (
            await ok(
                submitter.post(
                    "/v1/jobs", json=array_job(stages=[{"processor": "noop", "retry": {"backoff_seconds": 0}}])
                )
            )
        )["job_id"]
    )
    path = f"/v1/jobs/{job_id}/tasks/0/0"
    await worker.plan(job_id, 2)
    [task, _] = await worker.claim(job_id, 2)
    no_log = await submitter.get(f"{path}/log")
    await aws.s3.put_object(Bucket=settings.bucket, Key="log.txt", Body=b"out of luck\n")
    error = {"type": "exit_code", "message": "exit code 3"}
    await worker.finish(task, "failed", error=error, exit_code=3, log=f"s3://{settings.bucket}/log.txt")
    [again] = await worker.claim(job_id, 1)
    await worker.finish(again, output={"value": {"n": 1}}, records_in=7)

    shown = await ok(submitter.get(path))
    log = await ok(submitter.get(f"{path}/log"))

    assert (shown["state"], shown["attempt"], shown["failures"], shown["output"]) == (
        "succeeded",
        2,
        1,
        {"value": {"n": 1}},
    )
    assert [(a["attempt"], a["outcome"], a["exit_code"], a["records_in"]) for a in shown["attempts"]] == [
        (1, "failed", 3, 0),
        (2, "succeeded", None, 7),
    ]
    assert shown["attempts"][0]["error"] == error
    assert no_log.status_code == 404 and "no attempt has one yet" in no_log.json()["detail"]
    assert log["attempt"] == 1
    async with httpx.AsyncClient() as s3:
        download = await s3.get(log["url"])
    assert download.text == "out of luck\n"
    assert f"{job_id}-0-0-1.txt" in download.headers["content-disposition"]
    assert (await submitter.get(f"{path}/log?attempt=2")).status_code == 404
    assert (await submitter.get(f"/v1/jobs/{job_id}/tasks/0/9")).status_code == 404


async def test_tasks_are_filtered_by_stage_and_state(submitter: httpx.AsyncClient, worker: PlayedWorker) -> None:
    chain = array_job(stages=[{"processor": "noop"}, {"processor": "noop"}])
    job_id = UUID((await ok(submitter.post("/v1/jobs", json=chain)))["job_id"])
    await worker.plan(job_id, 3)
    [task] = await worker.claim(job_id, 1)
    await worker.finish(task, output={"value": 1})

    async def found(query: str) -> list[tuple[int, int, str]]:
        page = await ok(submitter.get(f"/v1/jobs/{job_id}/tasks?{query}"))
        return [(task["stage"], task["index"], task["state"]) for task in page["items"]]

    assert await found("") == [(0, 0, "succeeded"), (0, 1, "ready"), (0, 2, "ready"), (1, 0, "ready")]
    assert await found("stage=1") == [(1, 0, "ready")]
    assert await found("state=succeeded") == [(0, 0, "succeeded")]


async def test_results_are_links_and_there_when_the_job_has_succeeded(
    submitter: httpx.AsyncClient, database: Database, settings: Settings, aws: Aws
) -> None:
    job_id = (await ok(submitter.post("/v1/jobs", json=array_job())))["job_id"]
    too_early = await submitter.get(f"/v1/jobs/{job_id}/results")
    await aws.s3.put_object(Bucket=settings.bucket, Key="r/delays.json", Body=b"[1]")
    await aws.s3.put_object(Bucket=settings.bucket, Key="r/manifest.json", Body=b"{}")
    files = [
        {"name": name, "uri": f"s3://{settings.bucket}/r/{name}", "bytes": size, "checksum_crc32": checksum}
        for name, size, checksum in (("delays.json", 3, "TC8yuA=="), ("manifest.json", 2, None))
    ]
    await database.execute("UPDATE stages SET result = $1", {"files": files[:1], "manifest": files[1]})
    await database.execute("UPDATE jobs SET state = 'succeeded'")

    results = await ok(submitter.get(f"/v1/jobs/{job_id}/results"))

    assert too_early.status_code == 409 and "running" in too_early.json()["detail"]
    assert [{k: v for k, v in file.items() if k != "url"} for file in [*results["files"], results["manifest"]]] == files
    async with httpx.AsyncClient() as s3:
        download = await s3.get(results["files"][0]["url"])
    assert download.content == b"[1]"
    assert "delays.json" in download.headers["content-disposition"]


async def test_a_job_that_a_newer_release_has_taken_is_shown_as_it_stands(
    submitter: httpx.AsyncClient, database: Database
) -> None:
    job_id = (await ok(submitter.post("/v1/jobs", json=array_job())))["job_id"]
    newer = {"field_of_the_next_release": True, "merge": {"type": "braid"}}
    spec = await database.fetchval("UPDATE jobs SET spec = spec || $1 RETURNING spec", newer)

    assert (await ok(submitter.get(f"/v1/jobs/{job_id}")))["spec"] == spec
    assert len((await ok(submitter.get("/v1/jobs")))["items"]) == 1
