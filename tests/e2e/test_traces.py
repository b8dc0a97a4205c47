"""A request to the API can be followed to the task that it made, by its id, by log lines and by its trace."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from tests.collector import Collector, collecting
from tests.grid import ProcessGrid
from tests.until import until

KEY = "pw_of_the_traces"
TRACE, ABOVE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAYS_ITS_TRACE = {"command": ["sh", "-c", 'printf "%s\\n" "$TRACEPARENT" > "$PIECEWORK_OUTPUT"']}


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    async with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield collector


@pytest.fixture
async def hooks() -> AsyncIterator[tuple[str, list[Any]]]:
    """A receiver of webhooks, and the headers that it gets."""
    received: list[Any] = []

    async def take(request: web.Request) -> web.Response:
        received.append(request.headers)
        return web.Response(status=204)

    application = web.Application()
    application.router.add_post("/hook", take)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook", received
    await runner.cleanup()


@pytest.fixture
async def grid(settings: Settings, database: Database, aws: Aws, tmp_path: Path) -> AsyncIterator[ProcessGrid]:
    grid = ProcessGrid(settings, database, aws, tmp_path)
    await grid.prepare()
    yield grid
    grid.stop()


@pytest.fixture
async def client(collector: Collector, grid: ProcessGrid) -> AsyncIterator[httpx.AsyncClient]:
    """Of an API beside a scheduler and a worker, which send their spans to the collector."""
    url = grid.start_server("api", bootstrap_api_key=KEY)
    grid.start_scheduler()
    grid.start("-m", "services.worker", log_level="DEBUG")
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as client:

        async def ready() -> bool:
            try:
                return (await client.get("/v1/pools/default")).status_code == 200
            except httpx.TransportError:
                return False

        await until(ready, 150)
        yield client


async def submit(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    registered = await client.post("/v1/processors", json={"name": "says", **SAYS_ITS_TRACE})
    assert registered.status_code == 201, registered.text
    spec = {
        "name": "followed",
        "input": [{"type": "range", "count": 1}] * 2,  # one alone would be planned as it is submitted
        "stages": [{"processor": "says"}],
        "merge": {"type": "concat", "filename": "traces"},
    }
    response = await client.post("/v1/jobs", json=spec, headers=headers)
    assert response.status_code == 201, response.text
    return response


def lines_of(grid: ProcessGrid, service: str) -> list[dict[str, Any]]:
    logs = [log for log in grid.directory.glob("*.log") if service in log.name]
    assert logs, list(grid.directory.iterdir())
    return [json.loads(line) for log in logs for line in log.read_text().splitlines() if line.startswith("{")]


@pytest.mark.timeout(300)
async def test_a_request_is_followed_to_its_task_by_log_lines_and_spans(
    client: httpx.AsyncClient, grid: ProcessGrid, collector: Collector, hooks: tuple[str, list[Any]]
) -> None:
    url, received = hooks
    await client.post("/v1/webhook-endpoints", json={"url": url})
    headers = {"X-Request-ID": "order-17", "traceparent": f"00-{TRACE}-{ABOVE}-01"}
    response = await submit(client, **headers)
    assert response.headers["x-request-id"] == "order-17"
    job_id = response.json()["job_id"]
    job = await grid.ended(job_id)
    assert (job["state"], job["error"]) == ("succeeded", None)
    await until(lambda: received)

    def all_there() -> bool:
        return len(collector.of_trace(TRACE).get("attempt", [])) == 2 and "webhook" in collector.of_trace(TRACE)

    await until(all_there)
    spans = collector.of_trace(TRACE)
    [request], [submission] = spans["POST /v1/jobs"], spans["submit"]
    assert (request.service, request.parent_id) == ("piecework-api", ABOVE)
    assert request.attributes["request_id"] == "order-17" and request.attributes["status"] == 201
    assert (submission.parent_id, submission.attributes["job"]) == (request.span_id, job_id)
    for name, service in (("plan", "scheduler"), ("dispatch", "scheduler"), ("merge", "scheduler"),
                          ("webhook", "scheduler"), ("claim", "worker"), ("attempt", "worker")):  # fmt: skip
        for span in spans[name]:
            assert (span.service, span.parent_id) == (f"piecework-{service}", submission.span_id), name
            assert span.attributes["job"] == job_id and not span.failed
    attempts = {span.span_id for span in spans["attempt"]}
    assert {span.attributes["task"] for span in spans["attempt"]} == {0, 1}
    for name in ("fetch", "run", "put"):
        assert {span.parent_id for span in spans[name]} == attempts, name

    told = (await grid.result_files(job_id))["traces"].decode().split()
    assert sorted(told) == sorted(f"00-{TRACE}-{span_id}-01" for span_id in attempts)
    assert received[0]["traceparent"] == f"00-{TRACE}-{spans['webhook'][0].span_id}-01"

    grid.stop()
    [submitted] = [line for line in lines_of(grid, "api.main") if line["event"] == "job submitted"]
    assert (submitted["request_id"], submitted["job"], submitted["trace_id"]) == ("order-17", job_id, TRACE)
    ended = [line for line in lines_of(grid, "worker") if line["event"] == "attempt ended"]
    assert {(line["job"], line["index"], line["trace_id"], line["outcome"]) for line in ended} == {
        (job_id, 0, TRACE, "succeeded"),
        (job_id, 1, TRACE, "succeeded"),
    }
