"""Lists in pages: each row exactly once, whatever comes meanwhile; bad cursors are refused by name."""

import base64
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest

from services.platform.database import Database
from tests.integration.api.conftest import PlayedWorker, array_job, ok

pytestmark = pytest.mark.usefixtures("grid")


async def submit(client: httpx.AsyncClient, count: int) -> list[str]:
    return [(await ok(client.post("/v1/jobs", json=array_job())))["job_id"] for _ in range(count)]


async def test_rows_that_come_meanwhile_neither_repeat_nor_hide_others(submitter: httpx.AsyncClient) -> None:
    before = await submit(submitter, 7)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = await ok(submitter.get("/v1/jobs", params=query))
        seen += [job["job_id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        await submit(submitter, 2)

    assert seen == before[::-1]


@pytest.mark.parametrize("limit", [1, 4, 8, 500])
async def test_tasks_are_each_listed_once_in_order(
    submitter: httpx.AsyncClient, worker: PlayedWorker, limit: int
) -> None:
    job = await ok(submitter.post("/v1/jobs", json=array_job(stages=[{"processor": "noop"}, {"processor": "noop"}])))
    await worker.plan(job["job_id"], 4)
    for task in await worker.claim(UUID(job["job_id"]), 4):
        await worker.finish(task, output={"value": 1})

    seen, cursor = [], ""
    while cursor is not None:
        page = await ok(
            submitter.get(
                f"/v1/jobs/{job['job_id']}/tasks",
                params={"limit": limit, "cursor": cursor} if cursor else {"limit": limit},
            )
        )
        assert len(page["items"]) <= limit
        seen += [(task["stage"], task["index"]) for task in page["items"]]
        cursor = page["next_cursor"]

    assert seen == [(stage, index) for stage in (0, 1) for index in range(4)]


async def test_every_list_has_pages(operator: httpx.AsyncClient, database: Database) -> None:
    for name in ("a", "b"):
        await ok(operator.put(f"/v1/pools/{name}", json={}))
        await ok(operator.post("/v1/processors", json={"name": name, "builtin": "noop"}))
        await ok(operator.post("/v1/schedules", json={"name": name, "cron": "0 2 * * *", "job": array_job()}))
        endpoint = await ok(operator.post("/v1/webhook-endpoints", json={"url": f"https://example.com/{name}"}))
        await ok(operator.post("/v1/api-keys", json={"name": name, "role": "viewer"}))
        await database.execute(
            "INSERT INTO workers (worker_id, pool, hostname, pid, slots) VALUES (gen_random_uuid(), 'a', 'h', 1, 1)"
        )
        await database.execute(
            "INSERT INTO webhook_deliveries (delivery_id, endpoint_id, job_id, event, payload) "
            "VALUES (gen_random_uuid(), $1, gen_random_uuid(), 'job.failed', '{}')",
            endpoint["endpoint_id"],
        )

    lists = ("pools", "processors", "schedules", "webhook-endpoints", "api-keys", "workers", "webhook-deliveries")
    for path in lists:
        whole = await ok(operator.get(f"/v1/{path}"))
        assert whole["next_cursor"] is None and len(whole["items"]) >= 2
        one_by_one: list[Any] = []
        cursor = None
        while len(one_by_one) < len(whole["items"]):
            query = {"limit": 1} | ({"cursor": cursor} if cursor else {})
            page = await ok(operator.get(f"/v1/{path}", params=query))
            one_by_one += page["items"]
            cursor = page["next_cursor"]
        assert cursor is None and one_by_one == whole["items"]


def forged(cursor: str, *position: Any) -> str:
    """The cursor with another position."""
    listing = orjson.loads(base64.urlsafe_b64decode(cursor + "=="))[0]
    return base64.urlsafe_b64encode(orjson.dumps([listing, *position])).decode()


async def test_malformed_cursors_are_refused(submitter: httpx.AsyncClient) -> None:
    await submit(submitter, 2)
    good = (await ok(submitter.get("/v1/jobs?limit=1")))["next_cursor"]

    bad = ["x", "%00", "bm8=", good[:-4], good + "A", "ä", "W10", "bnVsbA", forged(good), forged(good, 5)]
    for cursor in [*bad, forged(good, "no-uuid"), forged(good, "a", "b")]:
        response = await submitter.get("/v1/jobs", params={"limit": 1, "cursor": cursor})
        assert response.status_code == 422, cursor
        assert response.json()["errors"][0]["field"] == "cursor"
        assert "next_cursor" in response.json()["detail"]


async def test_positions_that_no_row_can_have_are_refused(submitter: httpx.AsyncClient, worker: PlayedWorker) -> None:
    [job_id] = await submit(submitter, 1)
    await worker.plan(job_id, 2)  # type: ignore[arg-type]
    path = f"/v1/jobs/{job_id}/tasks"
    good = (await ok(submitter.get(path, params={"limit": 1})))["next_cursor"]

    for position in ((0, 2**40), (-1, 0), ("0", "0"), (0,), (True, False)):
        response = await submitter.get(path, params={"limit": 1, "cursor": forged(good, *position)})
        assert response.status_code == 422, position


async def test_a_cursor_of_another_listing_is_stale(submitter: httpx.AsyncClient) -> None:
    await submit(submitter, 2)
    cursor = (await ok(submitter.get("/v1/jobs?limit=1&state=running")))["next_cursor"]

    other_filter = await submitter.get("/v1/jobs", params={"cursor": cursor, "state": "failed"})
    other_path = await submitter.get("/v1/schedules", params={"cursor": cursor})
    other_size = await submitter.get("/v1/jobs", params={"cursor": cursor, "state": "running", "limit": 5})

    for response in (other_filter, other_path):
        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "cursor"
        assert "start again without a cursor" in response.json()["detail"]
    assert other_size.status_code == 200
