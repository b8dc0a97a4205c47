"""Pools, their capacity, and workers."""

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from services.platform.aws import Aws
from services.platform.database import Database
from tests.groups import create_group
from tests.integration.api.conftest import PlayedWorker, array_job, ok


@pytest.fixture
async def group(aws: Aws) -> str:
    """An Auto Scaling group with two nodes."""
    return await create_group(aws, maximum=4, desired=2)


async def sizes(aws: Aws, name: str) -> tuple[int, int, int]:
    """Least, greatest and desired size of a group."""
    answer = await aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])
    [group] = answer["AutoScalingGroups"]
    return group["MinSize"], group["MaxSize"], group["DesiredCapacity"]


@pytest.mark.both_emulators("CreateQueue")
async def test_a_pool_gets_its_queues_and_can_be_put_again(operator: httpx.AsyncClient, aws: Aws) -> None:
    first = await ok(operator.put("/v1/pools/large", json={"slots": 8}))
    again = await ok(operator.put("/v1/pools/large", json={"slots": 16}))

    assert again == first | {"slots": 16}
    for url, name in (("queue_url", "piecework-large"), ("dead_letter_url", "piecework-large-dead-letter")):
        assert (await aws.sqs.get_queue_url(QueueName=name))["QueueUrl"] == first[url]
    assert await ok(operator.get("/v1/pools/large")) == again
    assert (await ok(operator.get("/v1/pools")))["items"] == [again]


async def test_a_pool_can_have_queues_of_its_own(operator: httpx.AsyncClient) -> None:
    urls = {"queue_url": "https://sqs/1/work", "dead_letter_url": "https://sqs/1/dead"}

    assert (await ok(operator.put("/v1/pools/own", json=urls))).items() >= urls.items()
    half = await operator.put("/v1/pools/own", json={"queue_url": "https://sqs/1/work"})
    assert half.status_code == 422 and "dead_letter_url" in half.json()["detail"]


async def test_pools_of_two_grids_have_queues_of_their_own(operator: httpx.AsyncClient, app: Any) -> None:
    app.state.connections.settings.queue_prefix = "claims-"
    ours = await ok(operator.put("/v1/pools/shared", json={}))

    assert ours["queue_url"].endswith("/claims-shared")
    assert ours["dead_letter_url"].endswith("/claims-shared-dead-letter")
    app.state.connections.settings.queue_prefix = "other-"
    assert await ok(operator.put("/v1/pools/shared", json={"slots": 3})) == ours | {
        "slots": 3
    }  # its messages are there
    assert (await ok(operator.put(f"/v1/pools/{'x' * 62}", json={})))["queue_url"].endswith(f"/other-{'x' * 62}")
    too_long = await operator.put(f"/v1/pools/{'x' * 63}", json={})
    assert too_long.status_code == 422 and "at most 62 characters" in too_long.json()["errors"][0]["message"]


@pytest.mark.both_emulators("GetQueueAttributes")
async def test_a_queue_that_gives_messages_to_others_too_soon_is_refused(operator: httpx.AsyncClient, aws: Aws) -> None:
    async def queue(seconds: int) -> str:
        attributes = {"VisibilityTimeout": str(seconds)}
        url: str = (await aws.sqs.create_queue(QueueName=f"q-{uuid4().hex}", Attributes=attributes))["QueueUrl"]
        return url

    quick, right = await queue(29), await queue(30)

    refused = await operator.put("/v1/pools/own", json={"queue_url": quick, "dead_letter_url": right})
    await ok(operator.put("/v1/pools/own", json={"queue_url": right, "dead_letter_url": quick}))

    [error] = refused.json()["errors"]
    assert (refused.status_code, error["field"], error["value"]) == (422, "queue_url", quick)
    assert "its VisibilityTimeout is 29 s; set it to 30 s" in error["message"]


async def test_putting_a_pool_keeps_its_capacity_and_pause(operator: httpx.AsyncClient, group: str) -> None:
    await ok(operator.put("/v1/pools/p", json={"group_name": group}))
    await ok(operator.put("/v1/pools/p/capacity", json={"min": 1, "max": 3}))
    await ok(operator.post("/v1/pools/p/pause"))

    pool = await ok(operator.put("/v1/pools/p", json={"group_name": group, "slots": 4}))

    assert (pool["capacity_min"], pool["capacity_max"], pool["paused"], pool["slots"]) == (1, 3, True, 4)
    assert (await ok(operator.post("/v1/pools/p/resume")))["paused"] is False


@pytest.mark.both_emulators("DescribeAutoScalingGroups", "SetDesiredCapacity")
async def test_capacity_adds_nodes_and_leaves_the_groups_own_bounds_alone(
    operator: httpx.AsyncClient, aws: Aws
) -> None:
    group = await create_group(aws, maximum=8, desired=2)
    await ok(operator.put("/v1/pools/p", json={"group_name": group}))

    async def set_capacity(**capacity: int) -> dict[str, Any]:
        pool: dict[str, Any] = await ok(operator.put("/v1/pools/p/capacity", json=capacity))
        assert [pool["capacity_min"], pool["capacity_max"]] == [capacity["min"], capacity["max"]]
        return pool

    assert (await set_capacity(min=0, max=10, desired=5))["capacity_desired"] == 5
    assert await sizes(aws, group) == (0, 8, 5)
    # Fewer nodes: recorded for the scheduler, which drains idle ones. AWS must not terminate what may be busy.
    assert (await set_capacity(min=0, max=3, desired=1))["capacity_desired"] == 1
    assert await sizes(aws, group) == (0, 8, 5)
    # The least size is more than there are.
    assert (await set_capacity(min=7, max=9))["scaling_error"] is None
    assert await sizes(aws, group) == (0, 8, 7)
    # More than the group may have.
    refused = await set_capacity(min=9, max=20)
    assert "wants 9 nodes" in refused["scaling_error"] and "at most 8" in refused["scaling_error"]
    assert await sizes(aws, group) == (0, 8, 8)


@pytest.mark.both_emulators("DescribeAutoScalingGroups")
async def test_bad_capacities_and_groups_are_refused(operator: httpx.AsyncClient, group: str, aws: Aws) -> None:
    await ok(operator.put("/v1/pools/p", json={"group_name": group}))
    await ok(operator.put("/v1/pools/fixed", json={}))
    bad: list[tuple[dict[str, Any], str]] = [
        ({"min": 3, "max": 2}, "max"),
        ({"min": 3, "max": 2, "desired": 2}, "max"),
        ({"min": 1, "max": 2, "desired": 3}, "desired"),
        ({"min": 1, "max": 2, "desired": 0}, "desired"),
        ({"min": -1, "max": 2, "desired": 1}, "min"),
        ({"min": 0}, "max"),
    ]
    for capacity, field in bad:
        response = await operator.put("/v1/pools/p/capacity", json=capacity)
        assert response.status_code == 422
        [error] = response.json()["errors"]
        assert (error["field"], error["value"]) == (field, capacity.get(field))
    assert await sizes(aws, group) == (0, 4, 2)

    not_scaled = await operator.put("/v1/pools/fixed/capacity", json={"min": 0, "max": 1})
    no_group = await operator.put("/v1/pools/p", json={"group_name": "nothing"})
    no_pool = await operator.put("/v1/pools/nothing/capacity", json={"min": 0, "max": 1})
    bad_name = await operator.put("/v1/pools/a.b", json={})

    assert not_scaled.status_code == 409 and "put_pool" in not_scaled.json()["detail"]
    assert no_group.status_code == 422 and no_group.json()["errors"][0]["field"] == "group_name"
    assert no_pool.status_code == 404
    assert bad_name.status_code == 422 and bad_name.json()["errors"][0]["field"] == "name"


async def test_a_capacity_is_recorded_even_if_aws_fails_afterwards(
    operator: httpx.AsyncClient, aws: Aws, group: str, app: Any, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    await ok(operator.put("/v1/pools/p", json={"group_name": group}))
    autoscaling = app.state.connections.aws.autoscaling
    monkeypatch.setattr(
        autoscaling, "set_desired_capacity", lambda **_: autoscaling.delete_auto_scaling_group(Nonsense=1)
    )

    response = await operator.put("/v1/pools/p/capacity", json={"min": 3, "max": 8})

    assert response.status_code == 503
    assert tuple(await database.fetchrow("SELECT capacity_min, capacity_max FROM pools")) == (3, 8)


async def test_a_pool_shows_its_workers_and_tasks(operator: httpx.AsyncClient, worker: PlayedWorker) -> None:
    await worker.register(busy=3)
    job_id = UUID((await ok(operator.post("/v1/jobs", json=array_job())))["job_id"])
    await worker.plan(job_id, 6)
    await worker.claim(job_id, 2)

    pool = await ok(operator.get("/v1/pools/default"))

    assert {name: pool[name] for name in pool if name.startswith(("workers", "slots_", "tasks"))} == {
        "workers_live": 1,
        "slots_live": 4,
        "slots_busy": 3,
        "tasks_ready": 4,
        "tasks_queued": 0,
        "tasks_running": 2,
    }


async def test_a_stage_for_several_pools_counts_where_its_tasks_are(
    operator: httpx.AsyncClient, worker: PlayedWorker, database: Database
) -> None:
    await ok(operator.put("/v1/pools/spare", json={}))
    job = array_job() | {"stages": [{"processor": "noop@1", "pools": ["default", "spare"]}]}
    job_id = UUID((await ok(operator.post("/v1/jobs", json=job)))["job_id"])
    await worker.plan(job_id, 6)
    await worker.claim(job_id, 1)
    spare = PlayedWorker(database)
    await spare.register(pool="spare")
    await spare.claim(job_id, 2)

    pools = {pool["name"]: pool for pool in (await ok(operator.get("/v1/pools")))["items"]}

    states = ("tasks_ready", "tasks_queued", "tasks_running")
    assert [pools["default"][state] for state in states] == [3, 0, 1]
    assert [pools["spare"][state] for state in states] == [0, 0, 2]


async def test_workers_are_listed_filtered_and_drained(
    operator: httpx.AsyncClient, worker: PlayedWorker, database: Database
) -> None:
    path = f"/v1/workers/{worker.worker_id}"
    shown = await ok(operator.get(path))
    assert (shown["pool"], shown["hostname"], shown["slots"], shown["state"]) == ("default", "node-1", 4, "active")

    assert (await ok(operator.post(f"{path}/drain")))["state"] == "draining"
    assert (await ok(operator.post(f"{path}/drain")))["state"] == "draining"
    for query, count in (("", 1), ("state=draining", 1), ("state=active", 0), ("pool=default", 1), ("pool=x", 0)):
        assert len((await ok(operator.get(f"/v1/workers?{query}")))["items"]) == count
    await database.execute("UPDATE workers SET state = 'lost'")
    refused = await operator.post(f"{path}/drain")
    assert refused.status_code == 409 and "lost" in refused.json()["detail"]


async def test_workers_of_another_release_are_drained_some_at_a_time_and_replaced(
    operator: httpx.AsyncClient, worker: PlayedWorker, database: Database
) -> None:
    for number in range(4):
        await PlayedWorker(database).register(busy=number % 2)
    await database.execute("UPDATE workers SET release = '0.1.0' WHERE worker_id <> $1", worker.worker_id)

    async def drain(**changes: Any) -> tuple[int, int, int]:
        body = {"release_not": "0.2.0", "replace_instance": True, "at_most": 2} | changes
        said = await ok(operator.post("/v1/pools/default/drain", json=body))
        return len(said["worker_ids"]), said["draining"], said["remaining"]

    assert await drain() == (2, 2, 2)
    assert await drain() == (0, 2, 2), "no more at a time"
    first = await database.fetch("SELECT * FROM workers WHERE state = 'draining'")
    assert {(row["release"], row["busy"], row["replace_instance"]) for row in first} == {("0.1.0", 0, True)}
    assert {row["drain_reason"] for row in first} == {
        "an operator replaces the pool's workers of another release than 0.2.0"
    }
    await database.execute("UPDATE workers SET state = 'stopped' WHERE state = 'draining'")
    assert await drain(at_most=None) == (2, 2, 0)
    await database.execute("UPDATE workers SET state = 'stopped' WHERE state = 'draining'")
    assert await drain() == (0, 0, 0)
    assert await database.fetchval("SELECT bool_and(release <> '0.1.0') FROM workers WHERE state = 'active'")

    assert (await drain(release_not=None, started_before="2020-01-01T00:00:00Z"))[0] == 0
    assert (await drain(release_not=None, at_most=None))[2] == 0
    nowhere = await operator.post("/v1/pools/nothing/drain", json={})
    assert nowhere.status_code == 404
