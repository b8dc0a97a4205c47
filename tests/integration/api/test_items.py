"""Open jobs over HTTP: items are appended, values are followed, and both can be sent or asked for again."""

import asyncio
import json
from typing import Any
from uuid import UUID

import httpx
import pytest

from services.api.routes import items
from services.engine import values as read
from services.engine.values import tell_ends
from services.platform.database import Database
from tests.integration.api.conftest import Keys, PlayedWorker, array_job, ok
from tests.until import until

STREAM = array_job(input={"type": "stream"})

pytestmark = pytest.mark.usefixtures("grid")


async def submit(client: httpx.AsyncClient, **job: Any) -> str:
    job_id: str = (await ok(client.post("/v1/jobs", json=STREAM | job)))["job_id"]
    return job_id


async def append(client: httpx.AsyncClient, job_id: str, chunk: int, items: list[Any]) -> Any:
    return await ok(client.post(f"/v1/jobs/{job_id}/items", json={"chunk": chunk, "items": items}))


async def test_items_are_appended_and_the_job_is_closed(submitter: httpx.AsyncClient) -> None:
    job_id = await submit(submitter)
    assert await append(submitter, job_id, 0, [1, 2]) == {"job_id": job_id, "chunks": 1, "items": 2}
    assert await append(submitter, job_id, 0, [1, 2]) == {"job_id": job_id, "chunks": 1, "items": 2}
    [stage] = (await ok(submitter.get(f"/v1/jobs/{job_id}")))["stages"]
    assert (stage["planned"], stage["task_count"], stage["progress"]["ready"]) == (False, None, 2)

    [stage] = (await ok(submitter.post(f"/v1/jobs/{job_id}/close")))["stages"]
    assert (stage["planned"], stage["task_count"]) == (True, 2)
    refused = await submitter.post(f"/v1/jobs/{job_id}/items", json={"chunk": 1, "items": [3]})
    assert (refused.status_code, refused.json()["detail"]) == (
        409,
        "this job is closed, so it takes no more items: submit another one",
    )


async def test_a_job_that_waits_for_items_says_so(submitter: httpx.AsyncClient) -> None:
    job_id = await submit(submitter)
    [reason] = [
        reason
        for reason in (await ok(submitter.get(f"/v1/jobs/{job_id}")))["reasons"]
        if reason["code"] != "no_scheduler"
    ]
    assert reason["code"] == "waiting_for_items"
    assert "append_items" in reason["message"] and "close_job" in reason["message"]

    await append(submitter, job_id, 0, [1])
    codes = [reason["code"] for reason in (await ok(submitter.get(f"/v1/jobs/{job_id}")))["reasons"]]
    assert "waiting_for_items" not in codes


async def test_a_full_job_is_a_429(keys: Keys, submitter: httpx.AsyncClient) -> None:
    connections = keys.app.state.connections
    job_id = await submit(submitter)
    keys.app.state.connections = type(connections)(
        connections.settings.model_copy(update={"ready_tasks_max": 1}),
        connections.database,
        connections.engine,
        connections.aws,
        connections.uploads_ending,
    )
    await append(submitter, job_id, 0, list(range(1_000)))
    refused = await submitter.post(f"/v1/jobs/{job_id}/items", json={"chunk": 1, "items": [3]})
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:piecework:enough-items")
    assert refused.headers["Retry-After"] == "1"


async def test_a_stream_is_the_only_input_of_a_job_and_its(submitter: httpx.AsyncClient) -> None:
    for job, message in {
        "several": (array_job(input=[{"type": "stream"}, {"type": "range", "count": 3}]), "only input"),
        "too long": (array_job(input={"type": "stream", "idle_seconds": "8d"}), "idle_seconds"),
    }.values():
        refused = await submitter.post("/v1/jobs", json=job)
        assert (refused.status_code, message in refused.json()["detail"]) == (422, True), refused.text
    refused = await submitter.post("/v1/splits", json={"input": {"type": "stream"}})
    assert (refused.status_code, "nothing to split" in refused.json()["detail"]) == (422, True), refused.text


async def test_values_are_followed_to_the_end(
    submitter: httpx.AsyncClient, viewer: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    job_id = await submit(submitter)
    values = f"/v1/jobs/{job_id}/values"
    first = await ok(viewer.get(values))
    assert (first["values"], first["ended"]) == ([], False)
    await append(submitter, job_id, 0, ["a", "b", "c"])
    tasks = await worker.claim(UUID(job_id), 3)
    waiting = asyncio.create_task(ok(viewer.get(values, params={"after": first["after"], "wait": 30})))
    error = {"type": "exception", "message": "ValueError: no"}
    await worker.finish(tasks[2], "failed", error=error, retryable=False, log="s3://piecework/x/log.txt")
    page = await waiting
    [failed] = page["values"]
    assert "/x/log.txt?" in failed.pop("log_url")
    assert failed == {"index": 2, "state": "failed", "attempt": 1, "error": error, "value": None, "url": None}
    await worker.finish(tasks[0], output={"value": {"price": 7}})
    await worker.finish(tasks[1], output={"uri": "s3://piecework/x/output.json", "bytes": 3})

    page = await ok(viewer.get(values, params={"after": page["after"]}))
    assert [(value["index"], value["value"], value["error"]) for value in page["values"]] == [
        (0, {"price": 7}, None),
        (1, None, None),
    ]
    assert "/x/output.json" in page["values"][1]["url"]
    assert len((await ok(viewer.get(values)))["values"]) == 3


NDJSON = {"Accept": "application/x-ndjson", "Accept-Encoding": "identity"}


def parsed(answer: httpx.Response) -> list[Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson"), answer.text
    return [json.loads(line) for line in answer.content.split(b"\n")[:-1]]


async def test_values_come_as_lines_and_can_be_read_on_from_each_position(
    keys: Keys,
    submitter: httpx.AsyncClient,
    viewer: httpx.AsyncClient,
    worker: PlayedWorker,
    looks: list[UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(items, "LINES_MAX", 2)
    job_id = await submit(submitter)
    values = f"/v1/jobs/{job_id}/values"
    await append(submitter, job_id, 0, list(range(5)))
    tasks = await worker.claim(UUID(job_id), 5)
    for task in tasks[:4]:
        await worker.finish(task, output={"value": f"{task.index}\u2028\n"})

    told = parsed(await viewer.get(values, headers=NDJSON))
    positions = [line["after"] for line in told if "after" in line]
    assert [line["value"] for line in told if "index" in line] == [f"{index}\u2028\n" for index in range(4)]
    assert len(positions) > 2 and not told[-1]["ended"]
    for after in positions:
        rest = parsed(await viewer.get(values, headers=NDJSON, params={"after": after}))
        place = told.index({"after": after, "ended": False})
        assert [line for line in rest if "index" in line] == [line for line in told[place:] if "index" in line]

    waiting = asyncio.create_task(
        viewer.get(values, headers=NDJSON, params={"after": positions[-1], "wait": 30, "stage": 0})
    )
    await worker.finish(tasks[4])
    await ok(submitter.post(f"/v1/jobs/{job_id}/cancel"))
    await keys.database.execute("UPDATE jobs SET state = 'cancelled' WHERE job_id = $1", UUID(job_id))
    told = parsed(await waiting)
    assert ([line["index"] for line in told if "index" in line], told[-1]["ended"]) == ([4], True)


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [("gzip", True), ("deflate, GZIP;q=0.5", True), ("gzip;q=0", False), ("br", False), ("", False)],
)
async def test_lines_are_compressed_for_whoever_accepts_it(
    submitter: httpx.AsyncClient, viewer: httpx.AsyncClient, worker: PlayedWorker, accepted: str, compressed: bool
) -> None:
    job_id = await submit(submitter)
    await append(submitter, job_id, 0, ["a"])
    [task] = await worker.claim(UUID(job_id), 1)
    await worker.finish(task, output={"value": "x" * 3_000})
    answer = await viewer.get(f"/v1/jobs/{job_id}/values", headers=NDJSON | {"Accept-Encoding": accepted})
    assert parsed(answer)[0]["value"] == "x" * 3_000
    assert answer.headers.get("content-encoding") == ("gzip" if compressed else None)
    assert "Accept-Encoding" in answer.headers["vary"]


async def test_a_slow_reader_holds_no_connection_and_no_more_than_a_portion(
    keys: Keys, submitter: httpx.AsyncClient, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "LINES_MAX", 3)
    job_id = await submit(submitter)
    await append(submitter, job_id, 0, list(range(9)))
    for task in await worker.claim(UUID(job_id), 9):
        await worker.finish(task)
    taken, sent = asyncio.Semaphore(0), asyncio.Queue[dict[str, Any]]()

    async def send(message: dict[str, Any]) -> None:
        await sent.put(message)
        await taken.acquire()

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(3_600)
        return {"type": "http.disconnect"}

    secret = await keys.secret("viewer", all=True)
    headers = {**NDJSON, "authorization": f"Bearer {secret}"}
    path = f"/v1/jobs/{job_id}/values"
    scope = {
        **{"type": "http", "http_version": "1.1", "asgi": {"version": "3.0", "spec_version": "2.4"}},
        **{"method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "scheme": "http"},
        **{"headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()]},
        **{"client": ("127.0.0.1", 1), "server": ("api", 80), "root_path": ""},
    }
    answering = asyncio.create_task(keys.app(scope, receive, send))
    bodies = []
    database = keys.app.state.connections.database
    while not bodies or bodies[-1]:
        message = await sent.get()
        if message["type"] == "http.response.body":
            bodies.append(message.get("body", b""))
            assert bodies[-1].count(b"\n") <= 4
            assert sent.empty() and database.get_size() == database.get_idle_size()
        taken.release()
    await answering
    assert b"".join(bodies).count(b'"index"') == 9


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """The job of each look for values that has been taken."""
    taken: list[UUID] = []
    read_values = read.read_values

    async def look(database: Database, job_id: UUID, *where: Any) -> Any:
        found = await read_values(database, job_id, *where)
        taken.append(job_id)
        return found

    monkeypatch.setattr(read, "read_values", look)
    return taken


async def follow(viewer: httpx.AsyncClient, job_id: str, looks: list[UUID]) -> "asyncio.Task[Any]":
    """A request that has seen no value yet and waits for the next."""
    values = f"/v1/jobs/{job_id}/values"
    after, taken = (await ok(viewer.get(values)))["after"], len(looks)
    waiting = asyncio.create_task(ok(viewer.get(values, params={"after": after, "wait": 30})))
    await until(lambda: len(looks) > taken)
    return waiting


async def follow_one_that_ends(
    submitter: httpx.AsyncClient, viewer: httpx.AsyncClient, worker: PlayedWorker, looks: list[UUID]
) -> "asyncio.Task[Any]":
    """A request that waits for the value of a task which has ended meanwhile; its worker has told nobody."""
    job_id = await submit(submitter)
    await append(submitter, job_id, 0, ["a"])
    waiting = await follow(viewer, job_id, looks)
    [task] = await worker.claim(UUID(job_id), 1)
    await worker.finish(task)
    return waiting


async def test_who_waits_for_values_is_told_and_need_not_look(
    keys: Keys,
    submitter: httpx.AsyncClient,
    viewer: httpx.AsyncClient,
    worker: PlayedWorker,
    looks: list[UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(items, "PAUSE_SECONDS", 60.0)
    ends, database = keys.app.state.connections.ends, keys.database
    await until(lambda: ends.is_heard)
    job_id, other = await submit(submitter), await submit(submitter)
    await append(submitter, job_id, 0, ["a"])
    waiting = [await follow(viewer, job_id, looks) for _ in range(3)]
    [task] = await worker.claim(UUID(job_id), 1)
    await worker.finish(task)
    await tell_ends(database, [UUID(other)])
    assert (await asyncio.wait(waiting, timeout=0.1))[0] == set()
    await tell_ends(database, [UUID(job_id)])
    assert [value["index"] for page in await asyncio.gather(*waiting) for value in page["values"]] == [0, 0, 0]


async def test_a_notification_that_is_lost_costs_a_look(
    keys: Keys,
    submitter: httpx.AsyncClient,
    viewer: httpx.AsyncClient,
    worker: PlayedWorker,
    looks: list[UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(items, "LOOK_SECONDS", 0.2)
    ends = keys.app.state.connections.ends
    await until(lambda: ends.is_heard)
    waiting = await follow_one_that_ends(submitter, viewer, worker, looks)
    assert len((await waiting)["values"]) == 1


async def test_all_look_when_the_connection_that_listens_was_lost(
    keys: Keys,
    submitter: httpx.AsyncClient,
    viewer: httpx.AsyncClient,
    worker: PlayedWorker,
    looks: list[UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(items, "PAUSE_SECONDS", 60.0)
    ends = keys.app.state.connections.ends
    await until(lambda: ends.is_heard)
    waiting = await follow_one_that_ends(submitter, viewer, worker, looks)
    await keys.database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    assert len((await waiting)["values"]) == 1
    await until(lambda: ends.is_heard)


async def test_items_are_cancelled_and_their_values_say_so(
    submitter: httpx.AsyncClient, viewer: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    job_id = await submit(submitter)
    await append(submitter, job_id, 0, ["a", "b", "c"])
    tasks = await worker.claim(UUID(job_id), 2)
    await worker.finish(tasks[0])
    values = f"/v1/jobs/{job_id}/values"
    waiting = asyncio.create_task(
        ok(viewer.get(values, params={"after": (await ok(viewer.get(values)))["after"], "wait": 30}))
    )
    cancel = {"url": f"/v1/jobs/{job_id}/items/cancel", "json": {"items": [2, 0, 1, 1]}}
    for _ in range(2):
        assert await ok(submitter.post(**cancel)) == {"job_id": job_id, "cancelled": [1, 2]}

    told = (await waiting)["values"]
    assert [(value["index"], value["state"], value["error"]["message"]) for value in told] == [
        (1, "cancelled", "somebody cancelled it while attempt 1 ran"),
        (2, "cancelled", "somebody cancelled it before it began"),
    ]
    [stage] = (await ok(viewer.get(f"/v1/jobs/{job_id}")))["stages"]
    assert (stage["progress"]["cancelled"], stage["progress"]["succeeded"]) == (2, 1)
    missing = await submitter.post(cancel["url"], json={"items": [3]})
    assert (missing.status_code, missing.json()["detail"]) == (404, "the job has no item 3: it has 3 so far, from 0")


@pytest.mark.parametrize(("name", "value"), [("after", "x"), ("wait", "31"), ("stage", "-1")])
async def test_bad_questions_for_values(submitter: httpx.AsyncClient, name: str, value: str) -> None:
    job_id = await submit(submitter)
    refused = await submitter.get(f"/v1/jobs/{job_id}/values", params={name: value})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, name)
