"""The services, each with the rights of its own policies and no others: what they do for jobs and nodes needs no more,
and their policies allow no more than what they do.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from deploy.local.emulator import Emulator
from deploy.local.postgres import EmbeddedPostgres
from piecework import Client
from services.platform.database import connect_database
from tests.aws.gate.gate import Gate
from tests.aws.gated import POOL, gate_before, roles_of
from tests.conftest import OpenClients, quick_settings
from tests.grid import PROCESSORS, ProcessGrid
from tests.groups import create_group
from tests.until import until

pytestmark = pytest.mark.timeout(300)

KEY = "pw_behind_the_gate"
LARGE = 100 << 20  # an upload in two parts

# Nothing needs an upload any more, or is younger than the second for which the less patient scheduler keeps it.
OLD_ENOUGH = """
    SELECT NOT EXISTS (SELECT FROM jobs WHERE deleted_at IS NOT NULL)
        AND NOT EXISTS (SELECT FROM packages WHERE pushed_at > now() - interval '1 second')
        AND NOT EXISTS (
            SELECT FROM uploads WHERE greatest(created_at, completed_at, used_at) > now() - interval '1 second')"""


@pytest.fixture(scope="module")
async def gate(ministack: Emulator, tmp_path_factory: Any) -> AsyncIterator[Gate]:
    directory = tmp_path_factory.mktemp("gate")
    async with gate_before(ministack, roles_of(directory.name), directory) as gate:
        yield gate


@pytest.fixture(scope="module")
async def grid(
    postgres: EmbeddedPostgres,
    template: str,
    ministack: Emulator,
    clients: OpenClients,
    gate: Gate,
    tmp_path_factory: Any,
) -> AsyncIterator[ProcessGrid]:
    """With a group that starts empty."""
    name = f"gated-{uuid4().hex[:8]}"
    gate.roles = roles_of(name)
    direct = quick_settings(await postgres.create_database(name.replace("-", "_"), template), ministack, name)
    settings = direct.model_copy(update={"aws_endpoint_url": gate.url, "scale_seconds": 0.5, "scale_out_seconds": 1})
    aws = await clients(ministack)
    await aws.s3.create_bucket(Bucket=name)
    async with await connect_database(settings.database_url) as database:
        grid = ProcessGrid(settings, database, aws, tmp_path_factory.mktemp("grid"), gate.credentials)
        await grid.prepare()
        yield grid
        grid.stop()


@pytest.fixture(scope="module")
async def client(grid: ProcessGrid) -> AsyncIterator[Client]:
    grid.start_scheduler()
    async with grid.client(KEY) as client:
        yield client


async def ended(client: Client, job_id: str) -> Any:
    async def terminal() -> Any:
        job = await asyncio.to_thread(client.get_job, job_id)
        return job if job["state"] in ("succeeded", "failed", "cancelled") else None

    return await until(terminal, seconds_max=150)


async def run(client: Client, **spec: Any) -> Any:
    job = await asyncio.to_thread(client.submit_job, spec)
    return await ended(client, job["job_id"])


async def test_nodes_come_when_jobs_wait(grid: ProcessGrid, client: Client, tmp_path: Path) -> None:
    group = f"{grid.settings.bucket}-{POOL}"
    tags = {"piecework:grid": grid.settings.bucket, "piecework:pool": POOL}
    await create_group(grid.aws, group, maximum=2, tags=tags)
    pool = {"queue_url": grid.queue_url, "dead_letter_url": grid.dead_letter_url, "group_name": group, "slots": 2}
    await asyncio.to_thread(client.put_pool, POOL, pool)
    await asyncio.to_thread(client.set_pool_capacity, POOL, 0, 2, 1)
    lines = tmp_path / "words.txt"
    lines.write_text("".join(f"{'abc'[number % 3]} {number}\n" for number in range(3000)))
    uploaded = await asyncio.to_thread(client.upload, lines)

    spec = {
        "name": "words",
        "input": {"type": "lines", "uri": uploaded["uri"], "part_bytes": 2000},
        "stages": [{"processor": "clean"}, {"processor": "count"}],
        "merge": {"type": "reduce", "processor": "total"},
    }
    await asyncio.to_thread(client.preview_split, spec["input"])
    job_id = (await asyncio.to_thread(client.submit_job, spec))["job_id"]

    async def instances() -> list[str]:
        answer = await grid.aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])
        found = [each["InstanceId"] for each in answer["AutoScalingGroups"][0]["Instances"]]
        return found if len(found) == 2 else []

    first, _ = await until(instances)
    grid.start("-m", "services.worker", instance_id=first)  # the other node never gets its worker
    job = await ended(client, job_id)

    assert (job["state"], job["error"]) == ("succeeded", None)
    results = await asyncio.to_thread(client.get_results, job_id)
    await asyncio.to_thread(client.download, [*results["files"], results["manifest"]], tmp_path / "results")
    await asyncio.to_thread(client.delete_job, job_id)


async def test_code_and_declared_inputs_are_read(client: Client, grid: ProcessGrid, tmp_path: Path) -> None:
    table = tmp_path / "tables" / "table.txt"
    table.parent.mkdir()
    table.write_text("declared\n")
    directory = await asyncio.to_thread(client.upload, table.parent)
    package = await asyncio.to_thread(client.push_package, {"words.py": PROCESSORS / "words.py"})
    spec = {
        "package": package["sha256"],
        "command": ["cp", "{inputs.table}", "{output}"],
        "inputs": {"table": f"{directory['uri']}table.txt"},
        "output": "copied.txt",
    }
    await asyncio.to_thread(client.register_processor, "copying", spec)

    job = await run(client, name="copies", input={"type": "range", "count": 3}, stages=[{"processor": "copying"}])

    assert (job["state"], job["error"]) == ("succeeded", None)
    await asyncio.to_thread(client.delete_job, job["job_id"])
    await asyncio.to_thread(client.delete_processor_version, "copying", 1)
    other = await asyncio.to_thread(client.push_package, {"other.py": b"pass"})
    await asyncio.to_thread(client.delete_package, other["sha256"])


async def test_large_outputs_are_joined(client: Client, grid: ProcessGrid, gate: Gate) -> None:
    """They are uploaded in parts, of which one upload can't be completed, and copied together by S3."""
    zeros = {"command": ["sh", "-c", "echo made; head -c 9000000 /dev/zero > {output}"], "output": "zeros"}
    await asyncio.to_thread(client.register_processor, "zeros", zeros)
    gate.fails.add(("worker", "CompleteMultipartUpload"))

    spec = {
        "name": "zeros",
        "input": {"type": "range", "count": 2},
        "stages": [{"processor": "zeros", "retry": {"backoff_seconds": 0}}],
        "merge": {"type": "concat"},
    }
    job_id = (await asyncio.to_thread(client.submit_job, spec))["job_id"]
    # As a scheduler would leave that dies while it writes the manifest.
    manifest = grid.settings.layout.result(UUID(job_id), "manifest.json")
    await grid.aws.s3.create_multipart_upload(Bucket=manifest.bucket, Key=manifest.key)
    job = await ended(client, job_id)

    assert (job["state"], job["error"]) == ("succeeded", None)
    [file] = (await asyncio.to_thread(client.get_results, job_id))["files"]
    assert file["bytes"] == 18_000_000
    log = await asyncio.to_thread(client.get_task_log, job_id, 0, 0)
    assert b"made" in await asyncio.to_thread(client.read_object, log["url"])
    assert {"UploadPartCopy", "CompleteMultipartUpload"} <= gate.operations["scheduler"]


async def test_what_is_left_is_removed(client: Client, grid: ProcessGrid, gate: Gate) -> None:
    aborted = await asyncio.to_thread(client.create_upload, "large", LARGE)
    await asyncio.to_thread(client.renew_upload, aborted["upload_id"])
    await asyncio.to_thread(client.abort_upload, aborted["upload_id"])
    await asyncio.to_thread(client.create_upload, "large", LARGE)  # which nobody ends, nor this:
    small = await asyncio.to_thread(client.create_upload, "small", 5)
    async with httpx.AsyncClient() as http:
        assert (await http.put(small["parts"][0]["url"], content=b"small")).status_code == 200
    await grid.aws.sqs.send_message(QueueUrl=grid.queue_url, MessageBody="not one of ours")

    async def buried() -> bool:
        attributes = await grid.aws.sqs.get_queue_attributes(
            QueueUrl=grid.dead_letter_url, AttributeNames=["ApproximateNumberOfMessages"]
        )
        return bool(attributes["Attributes"]["ApproximateNumberOfMessages"] == "1")

    await until(buried)


async def test_nodes_go_when_nothing_is_left_to_do(client: Client, grid: ProcessGrid, gate: Gate) -> None:
    """By another scheduler, which is less patient: it looks once for what it need not keep."""
    await until(lambda: grid.database.fetchval(OLD_ENOUGH))
    scheduler = next(each for each in grid.processes if "services.scheduler" in each.args)
    scheduler.send_signal(signal.SIGTERM)
    grid.start(
        *("-m", "services.scheduler"),
        scale_in_seconds=0.5,
        register_seconds=1,
        uploads_open_seconds=1,
        keep_uploads=1,
        keep_packages=1,
    )
    group = f"{grid.settings.bucket}-{POOL}"

    async def empty() -> bool:
        answer = await grid.aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])
        return not answer["AutoScalingGroups"][0]["Instances"]

    async def removed() -> bool:
        listing = await grid.aws.s3.list_objects_v2(Bucket=grid.settings.bucket, Prefix="upload")
        packages = await grid.aws.s3.list_objects_v2(Bucket=grid.settings.bucket, Prefix="packages/")
        uploads = await grid.aws.s3.list_multipart_uploads(Bucket=grid.settings.bucket)
        return not (listing.get("Contents") or packages.get("Contents") or uploads.get("Uploads"))

    await until(empty)
    await until(removed)
    for role in ("scheduler", "worker"):
        assert "TerminateInstanceInAutoScalingGroup" in gate.operations[role]


# What the worker's policy allows and these tests can't have it need, and when it does.
NEEDED_ELSEWHERE = {
    "sqs:ChangeMessageVisibility": "a message is not for this worker now; in the storm behind the gate",
    "autoscaling:SetInstanceHealth": "the node can't be terminated",
    "autoscaling:RecordLifecycleActionHeartbeat": "the group ends the node while its tasks run",
    "autoscaling:CompleteLifecycleAction": "the same, and then they have ended",
}


def test_no_service_has_asked_for_more_than_it_may(gate: Gate, client: Client) -> None:
    assert gate.refused == []
    assert gate.unknown == []


def test_no_service_may_do_more_than_it_has_needed(gate: Gate, client: Client) -> None:
    unused = {part.partition(": ")[2].partition(": ")[2]: part for part in gate.unused()}
    assert unused.keys() <= NEEDED_ELSEWHERE.keys(), unused  # chance may have needed some of them here, too
