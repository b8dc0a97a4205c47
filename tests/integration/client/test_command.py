"""The command against the real API, stats service, database and S3."""

import asyncio
import os
import signal
from pathlib import Path
from uuid import UUID

import pytest

from services.contract.location import Location
from services.engine.jobs import end_job, fail_job
from services.engine.workers import stop_worker
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from tests.integration.api.conftest import PlayedWorker
from tests.integration.client.conftest import Command, Server, new_key

ARRAY = ("submit", "--count", "3", "--processor", "noop", "--name", "array")


async def finish_all(grid: PlayedWorker, job_id: UUID, count: int = 3) -> None:
    """All tasks of a job run and succeed."""
    await grid.plan(job_id, count)
    for task in await grid.claim(job_id, count):
        await grid.finish(task)


async def end(database: Database, settings: Settings, job_id: UUID, source: str, target: str) -> None:
    async with database.acquire() as connection:
        await connection.execute("UPDATE stages SET state = $2, finished_at = now() WHERE job_id = $1", job_id, target)
        assert await end_job(connection, job_id, source=source, target=target, settings=settings)


async def test_a_job_from_submission_to_its_end(
    piecework: Command, grid: PlayedWorker, database: Database, settings: Settings
) -> None:
    job_id = await piecework(*ARRAY, "--label", "team=claims", "--priority", "5")
    assert (await piecework.run("jobs", "--label", "team=claims", "--json")).json["items"][0]["job_id"] == job_id
    await finish_all(grid, UUID(job_id))
    shown = await piecework("job", job_id)
    for text in (job_id, "array of 3 tasks", "team=claims", "noop@1", "3/3"):
        assert text in shown
    await end(database, settings, UUID(job_id), "running", "succeeded")
    watched = await piecework.run("watch", job_id)
    assert (watched.code, watched.out) == (0, "")
    assert "array succeeded" in watched.err
    assert "stage-0 3/3" in watched.err


async def test_a_job_that_waits_says_why_in_every_command(piecework: Command, grid: PlayedWorker) -> None:
    await piecework("pools", "put", "gpu")
    job_id = await piecework(*ARRAY, "--pool", "gpu")
    await grid.plan(UUID(job_id), 3)
    shown = await piecework("job", job_id)
    assert "pool gpu has no workers, and no Auto Scaling group to start some" in shown
    assert "no scheduler is at work" in shown
    heads, cells = (line.split("  ") for line in shown.splitlines()[-2:])
    assert "WHY" in [head.strip() for head in heads]
    assert "no workers" in [cell.strip() for cell in cells]
    assert "no scheduler" in await piecework("jobs")
    watching = await piecework.start("watch", job_id)
    assert watching.stderr
    lines = [(await watching.stderr.readline()).decode() for _ in range(3)]
    watching.kill()
    await watching.wait()
    assert "3 queued: no workers" in lines[0]
    assert lines[1].startswith("waits: no scheduler is at work")
    assert lines[2].startswith("waits: stage stage-0: pool gpu has no workers")


async def test_watching_follows_a_job_through_a_restart_of_the_api(
    piecework: Command, api: Server, grid: PlayedWorker, database: Database, settings: Settings
) -> None:
    job_id = UUID(await piecework(*ARRAY))
    watching = await piecework.start("watch", str(job_id))
    assert watching.stderr
    assert b"array running" in await watching.stderr.readline()
    await asyncio.to_thread(api.stop)
    async for line in watching.stderr:
        if b"no answer from the API, trying on" in line:
            break
    await asyncio.to_thread(api.start)
    await finish_all(grid, job_id)
    await end(database, settings, job_id, "running", "succeeded")
    _, rest = await watching.communicate()
    assert watching.returncode == 0
    assert b"the API answers again" in rest
    assert b"stage-0 3/3" in rest


async def test_a_failed_job_tells_scripts_and_people(
    piecework: Command, grid: PlayedWorker, database: Database, settings: Settings
) -> None:
    job_id = UUID(await piecework(*ARRAY))
    await grid.plan(job_id, 3)
    [task] = await grid.claim(job_id, 1)
    why = {"type": "exit_code", "message": "the command ended with exit code 3"}
    await grid.finish(task, "failed", error=why, retryable=False, exit_code=3)
    async with database.acquire() as connection:
        await fail_job(connection, job_id, {"type": "stage_failed", "message": "1 failed task", "stage": 0}, 0)
    await end(database, settings, job_id, "failing", "failed")
    done = await piecework.run("watch", str(job_id))
    assert done.code == 1
    assert "error: job array failed: stage_failed: 1 failed task\n" in done.err
    assert f"exit_code: the command ended with exit code 3 (piecework task {job_id} 0 0)\n" in done.err
    assert "exit_code" in await piecework("tasks", str(job_id), "--state", "failed")
    attempts = await piecework("task", str(job_id), "0", "0")
    assert "failed" in attempts
    assert (await piecework("retry", str(job_id))) == f"{job_id} running"


async def test_interrupting_submit_watch_leaves_the_job(piecework: Command) -> None:
    process = await piecework.start(*ARRAY, "--watch")
    assert process.stdout
    assert process.stderr
    job_id = (await process.stdout.readline()).decode().strip()
    await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, rest = await process.communicate()
    assert process.returncode == 130
    assert f"the job goes on: piecework watch {job_id}" in rest.decode()
    assert (await piecework.run("job", job_id, "--json")).json["state"] == "running"


async def test_orders_and_their_conflicts(piecework: Command) -> None:
    job_id = await piecework(*ARRAY)
    assert await piecework("pause", job_id) == f"{job_id} paused"
    assert await piecework("resume", job_id) == f"{job_id} running"
    assert await piecework("cancel", job_id) == f"{job_id} cancelling"
    done = await piecework.run("pause", job_id)
    assert done.code == 6
    assert "cancelling" in done.err


async def test_a_large_local_file_is_uploaded_and_becomes_the_input(
    piecework: Command, aws: Aws, settings: Settings
) -> None:
    content = os.urandom(70_000_000)  # two parts
    (piecework.directory / "claims.txt").write_bytes(content)
    (piecework.directory / "job.yaml").write_text("input: {type: lines, uri: claims.txt}\nstages: [processor: noop]")
    job_id = await piecework("submit", "job.yaml")
    uri = (await piecework.run("job", job_id, "--json")).json["spec"]["input"]["uri"]
    assert uri.endswith("/claims.txt")
    key = uri.removeprefix(f"s3://{settings.bucket}/")
    answer = await aws.s3.get_object(Bucket=settings.bucket, Key=key)
    assert await answer["Body"].read() == content


async def test_a_local_directory_is_uploaded_and_becomes_the_prefix(piecework: Command, aws: Aws) -> None:
    for name in ("a.txt", "deep/b ü.txt"):
        path = piecework.directory / "notes" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    job_id = await piecework("submit", "--upload", "notes", "--stage", "noop")
    source = (await piecework.run("job", job_id, "--json")).json["spec"]["input"]
    assert source["type"] == "objects"
    place = Location.parse(source["prefix"])
    listing = await aws.s3.list_objects_v2(Bucket=place.bucket, Prefix=place.key)
    assert [entry["Key"].removeprefix(place.key) for entry in listing["Contents"]] == ["a.txt", "deep/b ü.txt"]


async def test_small_and_empty_files_are_uploaded(piecework: Command) -> None:
    for content in ("", "a,b\n1,2\n"):
        (piecework.directory / "a b ü.csv").write_text(content)
        assert (await piecework("upload", "a b ü.csv")).endswith("/a b ü.csv")


async def test_logs_and_results_come_from_s3(
    piecework: Command, grid: PlayedWorker, database: Database, aws: Aws, settings: Settings
) -> None:
    job_id = UUID(await piecework("submit", "--count", "1", "--processor", "noop"))
    layout = settings.layout
    log, result, manifest = (
        layout.log(job_id, 0, 0, 1),
        layout.result(job_id, "delays.json"),
        layout.result(job_id, "manifest.json"),
    )
    for location, content in ((log, b"hello\n"), (result, b'{"AA": 1}'), (manifest, b"{}")):
        await aws.s3.put_object(Bucket=location.bucket, Key=location.key, Body=content)
    await grid.plan(job_id, 1)
    [task] = await grid.claim(job_id, 1)
    assert (await piecework.run("logs", str(job_id), "0", "0")).code == 3
    assert (await piecework.run("results", str(job_id))).code == 6
    await grid.finish(task, log=log.uri)
    files = [{"name": "delays.json", "uri": result.uri, "bytes": 9}]
    results = {"files": files, "manifest": {"name": "manifest.json", "uri": manifest.uri, "bytes": 2}}
    await database.execute("UPDATE stages SET result = $2 WHERE job_id = $1", job_id, results)
    await end(database, settings, job_id, "running", "succeeded")
    assert await piecework("logs", str(job_id), "0", "0") == "hello"
    assert result.uri in await piecework("results", str(job_id))
    paths = (await piecework("results", str(job_id), "--download", "out")).splitlines()
    assert [Path(path).name for path in paths] == ["delays.json", "manifest.json"]
    assert (piecework.directory / "out" / "delays.json").read_bytes() == b'{"AA": 1}'


async def test_statistics_come_from_the_stats_service(piecework: Command, stats: Server, grid: PlayedWorker) -> None:
    job_id = UUID(await piecework(*ARRAY))
    await finish_all(grid, job_id)
    shown = await piecework("stats", str(job_id), "--stats-url", stats.url)
    for text in ("3 of 3 succeeded", "stage-0", "task p50"):
        assert text in shown
    assert (await piecework.run("stats", str(job_id), "--stats-url", stats.url, "--json")).json["job_id"] == str(job_id)


async def test_schedules(piecework: Command) -> None:
    (piecework.directory / "job.yaml").write_text("input: {type: range, count: 1}\nstages: [processor: noop]")
    options = ("--cron", "0 6 L * *", "--time-zone", "Europe/Berlin")
    schedule_id = await piecework("schedules", "create", "month-end", "job.yaml", *options)
    other = await piecework("submit", "job.yaml", "--name", "other", "--cron", "0 6 * * *")
    listed = await piecework("schedules", "list")
    assert schedule_id in listed
    assert other in listed
    shown = await piecework("schedules", "show", schedule_id)
    assert shown.count("next run") == 3
    assert await piecework("schedules", "pause", schedule_id) == f"{schedule_id} paused"
    assert await piecework("schedules", "resume", schedule_id) == f"{schedule_id} active"
    job_id = await piecework("schedules", "run", "month-end")
    assert job_id in await piecework("schedules", "show", "month-end")
    assert job_id in await piecework("schedules", "runs", "month-end")
    assert (await piecework("schedules", "skip", "month-end")).startswith(f"{schedule_id} runs next at")
    assert "skipped" in await piecework("schedules", "runs", "month-end")
    backfill = ("schedules", "backfill", "month-end", "--from", "2026-01-01", "--to", "2026-03-31")
    backfill_id = await piecework(*backfill)
    assert backfill_id in await piecework("schedules", "backfills", "month-end")
    assert "3 runs are skipped" in await piecework("schedules", "cancel-backfill", "month-end", backfill_id)
    made_up = await piecework("schedules", "run", "month-end", "--for", "2026-02-28T06:00")
    assert made_up in await piecework("schedules", "runs", "month-end")
    changed = await piecework("schedules", "change", "month-end", "--name", "ultimo", "--cron", "0 7 L * *")
    assert "0 7 L * * in Europe/Berlin" in changed
    assert await piecework("schedules", "delete", "ultimo") == "deleted ultimo"
    assert (await piecework.run("schedules", "show", schedule_id)).code == 3


async def test_processors(piecework: Command) -> None:
    (piecework.directory / "clean.yaml").write_text("records: flights:clean\noutput: clean.csv\noutput_format: csv\n")
    register = ("processors", "register", "clean", "clean.yaml")
    assert await piecework(*register) == "clean@1"
    assert await piecework(*register) == "clean@1"
    assert await piecework(*register, "--output", "other.csv", "--env", "A=1") == "clean@2"
    assert "flights:clean" in await piecework("processors", "list")
    shown = await piecework("processors", "show", "clean")
    for text in ("clean@2", "1, 2", "other.csv", "A=1"):
        assert text in shown
    assert "clean@1" in await piecework("processors", "show", "clean", "--version", "1")


async def test_pools_and_workers(piecework: Command, grid: PlayedWorker, database: Database) -> None:
    assert "0/4" in await piecework("pools", "list")
    assert "1 with 0 of 4 slots busy" in await piecework("pools", "show", "default")
    assert await piecework("pools", "pause", "default") == "default paused"
    assert await piecework("pools", "resume", "default") == "default active"
    refused = await piecework.run("pools", "capacity", "default", "--max", "3")
    assert refused.code == 6
    assert "no Auto Scaling group" in refused.err
    worker_id = str(grid.worker_id)
    assert worker_id in await piecework("workers", "list", "--pool", "default", "--state", "active")
    assert "node-1" in await piecework("workers", "show", worker_id)
    assert await piecework("workers", "drain", worker_id) == f"{worker_id} draining"
    assert worker_id in await piecework("workers", "list")
    await stop_worker(database, grid.worker_id)
    assert worker_id not in await piecework("workers", "list")
    assert worker_id in await piecework("workers", "list", "--all")


async def test_capacity_goes_to_the_auto_scaling_group(piecework: Command, aws: Aws, settings: Settings) -> None:
    group = f"group-{settings.bucket}"
    await aws.autoscaling.create_auto_scaling_group(
        AutoScalingGroupName=group, MinSize=0, MaxSize=10, DesiredCapacity=0, AvailabilityZones=["us-east-1a"]
    )
    await piecework("pools", "put", "big", "--group", group, "--slots", "8")
    said = await piecework("pools", "capacity", "big", "--min", "1", "--max", "4", "--desired", "2")
    assert said == "big: 2 desired, between 1 and 4"
    answer = await aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])
    [found] = answer["AutoScalingGroups"]
    assert (found["MinSize"], found["MaxSize"], found["DesiredCapacity"]) == (0, 10, 2)


async def test_webhooks(piecework: Command, grid: PlayedWorker, database: Database, settings: Settings) -> None:
    created = (await piecework.run("webhooks", "create", "https://example.org/hook", "--json")).json
    assert created["secret"].startswith("whsec_")
    assert "https://example.org/hook" in await piecework("webhooks", "list")
    job_id = UUID(await piecework(*ARRAY))
    await end(database, settings, job_id, "running", "succeeded")
    [delivery] = (await piecework.run("webhooks", "deliveries", "--job", str(job_id), "--json")).json["items"]
    assert "job.succeeded" in await piecework("webhooks", "deliveries", "--endpoint", created["endpoint_id"])
    assert delivery["state"] == "pending"
    again = await piecework("webhooks", "redeliver", delivery["delivery_id"])
    assert again.endswith(" pending")
    assert await piecework("webhooks", "delete", created["endpoint_id"]) == f"deleted {created['endpoint_id']}"


async def test_keys_and_what_they_may_do(piecework: Command) -> None:
    viewer = piecework.as_user(await piecework("keys", "create", "reports", "--role", "viewer"))
    assert (await viewer.run("jobs")).code == 0
    refused = await viewer.run(*ARRAY)
    assert (refused.code, refused.out) == (4, "")
    assert "this needs the role submitter; the key 'reports' has the role viewer" in refused.err
    keys = (await piecework.run("keys", "list", "--json")).json["items"]
    [key_id] = [key["key_id"] for key in keys if key["name"] == "reports"]
    assert await piecework("keys", "revoke", key_id) == f"revoked {key_id}"
    assert (await viewer.run("jobs")).code == 4


async def test_without_a_key_nothing_works(piecework: Command) -> None:
    done = await piecework.as_user("pw_wrong").run("jobs")
    assert done.code == 4
    assert done.err.startswith("error: this API key is unknown or revoked (the key comes from PIECEWORK_API_KEY)")


@pytest.mark.parametrize(
    ("job", "lines"),
    [
        (
            "input: {type: range, count: 1}\nstages: [processor: nope]",
            [
                "error: job.yaml:2:21: stages.0.processor: no such processor is registered (registered: noop) "
                "(got 'nope')"
            ],
        ),
        (
            "input: {type: range, count: 0}\nstages: [{processor: noop, retires: 3}]",
            [
                "error: job.yaml:1:29: input.count: Input should be greater than or equal to 1 (got 0)",
                "error: job.yaml:2:37: stages.0.retires: there is no such field; check its spelling or remove it "
                "(got 3)",
            ],
        ),
        ("stages: [processor: noop]", ["error: input: this field is required"]),
    ],
)
async def test_a_bad_job_is_one_line_a_field(job: str, lines: list[str], piecework: Command) -> None:
    (piecework.directory / "job.yaml").write_text(job)
    done = await piecework.run("submit", "job.yaml")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == lines


async def test_a_missing_object_is_known_at_once(piecework: Command, settings: Settings) -> None:
    uri = f"s3://{settings.bucket}/missing.csv"
    done = await piecework.run("submit", "--input", uri, "--processor", "noop")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: input.uri: ")
    assert uri in done.err


async def test_listings_page_through_everything(piecework: Command, database: Database) -> None:
    job_id = UUID(await piecework("submit", "--count", "1200", "--processor", "noop"))
    await PlayedWorker(database).plan(job_id, 1200)
    short = await piecework.run("tasks", str(job_id), "--limit", "10")
    assert (len(short.out.splitlines()), short.err) == (11, "")
    assert "only the first 50 are shown; --all shows all" in (await piecework.run("tasks", str(job_id))).err
    everything = (await piecework.run("tasks", str(job_id), "--all", "--json")).json["items"]
    assert [task["index"] for task in everything] == list(range(1200))


async def test_roles_are_known_to_the_api(database: Database, piecework: Command) -> None:
    submitter = piecework.as_user(await new_key(database, "submitter"))
    assert (await submitter.run(*ARRAY)).code == 0
    assert (await submitter.run("processors", "register", "x", "--builtin", "noop")).code == 4


async def test_what_people_write_for_an_id_is_found_by_the_real_api(
    piecework: Command, grid: PlayedWorker, database: Database, settings: Settings
) -> None:
    first = await piecework(*ARRAY[:-1], "nightly")
    second = await piecework(*ARRAY[:-1], "nightly")
    other = await piecework(*ARRAY)
    for text, job_id in (
        ("@last", other),
        ("@-3", first),
        ("array", other),
        ("nightly@last", second),
        ("nightly@-2", first),
        (second[:-3], second),
    ):
        assert await piecework("job", text, "-o", "name") == job_id, text
    for text in ("nightly", first[:4]):
        refused = await piecework.run("cancel", text)
        assert refused.code == 2
        assert first in refused.err and second in refused.err
    await piecework("pause", "array")
    assert await piecework("job", "@last-paused", "-o", "name") == other
    names = (await piecework("jobs", "--sort", "created", "--since", "1h", "-o", "name")).split()
    assert names == [first, second, other]
    [worker] = (await piecework("workers", "-o", "name")).split()
    assert await piecework("worker", worker[:13], "-o", "name") == worker


async def test_waiting_for_a_job_ends_with_it(
    piecework: Command, grid: PlayedWorker, database: Database, settings: Settings
) -> None:
    job_id = UUID(await piecework(*ARRAY))
    assert (await piecework.run("wait", "@last", "--timeout", "100ms")).code == 124
    await finish_all(grid, job_id)
    await end(database, settings, job_id, "running", "succeeded")
    done = await piecework.run("wait", "@last")
    assert (done.code, done.out) == (0, f"{job_id} succeeded\n")
    await piecework(*ARRAY)
    await piecework("cancel", "@last")
    cancelled = UUID(await piecework("job", "@last", "-o", "name"))
    await end(database, settings, cancelled, "cancelling", "cancelled")
    assert (await piecework.run("wait", str(job_id), "@last")).code == 7


async def test_logging_in_is_all_that_a_user_has_to_do(piecework: Command, api: Server, tmp_path: Path) -> None:
    url, key = piecework.environment["PIECEWORK_API_URL"], piecework.environment["PIECEWORK_API_KEY"]
    home = {"PIECEWORK_API_URL": "", "PIECEWORK_API_KEY": "", "XDG_CONFIG_HOME": str(tmp_path / "config")}
    user = Command(home, tmp_path)
    refused = await user.run("login", url, "--api-key", "pw_wrong")
    assert (refused.code, refused.out) == (4, "")
    assert (
        await user("login", url, "--context", "prod", "--api-key", key) == f"logged in to {url} as operator (operator)"
    )
    assert await user("pools", "-o", "name") == "default"
    assert await user("whoami", "--context", "prod")
    await asyncio.to_thread(api.stop)
    down = await user.run("pools")
    await asyncio.to_thread(api.start)
    assert down.code == 5
    assert down.err.count("\n") == 1
    assert f"The URL: the context prod in {tmp_path}/config/piecework/config.json" in down.err
