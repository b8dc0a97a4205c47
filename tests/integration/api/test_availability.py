"""The API while its database or AWS is away, and as a real server."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from deploy.local.postgres import EmbeddedPostgres
from services.api import aws_watch
from services.api.main import create_app
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import ApiSettings, Settings
from services.platform.version import VERSION
from tests.conftest import free_port
from tests.forks import Fork
from tests.integration.api.conftest import Keys, array_job, client_of, ok
from tests.until import until


async def test_without_a_database_all_is_503_but_healthz(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"database_url": f"postgresql://x@127.0.0.1:{free_port()}/x"}))
    async with app.router.lifespan_context(app), client_of(app, "key") as client:
        assert (await client.get("/healthz")).json() == {"status": "ok", "version": VERSION}
        for method, path in (("GET", "/readyz"), ("GET", "/v1/jobs"), ("POST", "/v1/jobs")):
            response = await client.request(method, path, json=array_job() if method == "POST" else None)
            assert response.status_code == 503
            assert response.headers["content-type"] == "application/problem+json"
            assert int(response.headers["retry-after"]) > 0


@pytest.mark.usefixtures("grid")
async def test_an_api_without_s3_or_sqs_answers_and_readyz_says_so(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws_watch, "LOOK_SECONDS", 0.05)
    nowhere = f"http://127.0.0.1:{free_port()}"
    app = create_app(settings.model_copy(update={"aws_endpoint_url": nowhere}))
    async with app.router.lifespan_context(app), client_of(app) as client:

        async def warned() -> str:
            response = await client.get("/readyz")
            assert response.status_code == 200
            return "; ".join(response.json().get("warnings", []))

        async def both() -> bool:
            said = await warned()
            return "S3 has failed" in said and "SQS has failed" in said

        await until(both)


async def test_a_database_that_is_not_migrated_is_not_ready(settings: Settings, postgres: EmbeddedPostgres) -> None:
    url = await postgres.create_database("api_empty")
    app = create_app(settings.model_copy(update={"database_url": url}))
    async with app.router.lifespan_context(app), client_of(app) as client:
        assert (await client.get("/readyz")).status_code == 503


@pytest.mark.usefixtures("grid")
async def test_a_statement_that_a_migration_has_overtaken_is_worth_another_try(
    submitter: httpx.AsyncClient, database: Database
) -> None:
    schedule = {"name": "nightly", "cron": "30 2 * * *", "job": array_job()}
    path = f"/v1/schedules/{(await ok(submitter.post('/v1/schedules', json=schedule)))['schedule_id']}/resume"
    await ok(submitter.post(path))  # which prepares it
    await database.execute("ALTER TABLE schedules ADD COLUMN of_the_next_release integer")

    overtaken, again = await submitter.post(path), await submitter.post(path)

    assert (overtaken.status_code, again.status_code) == (503, 200)
    assert int(overtaken.headers["retry-after"]) > 0


async def test_connections_that_the_database_closed_are_replaced(
    app: FastAPI, viewer: httpx.AsyncClient, database: Database
) -> None:
    assert (await viewer.get("/readyz")).json() == {"status": "ok", "version": VERSION}
    await ok(viewer.get("/v1/jobs"))
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    answers = [(await viewer.get("/v1/jobs")).status_code for _ in range(5)]

    assert set(answers) <= {200, 503} and answers[-1] == 200


async def test_the_bootstrap_key_opens_an_empty_database_as_soon_as_that_is_there(
    settings: Settings, postgres: EmbeddedPostgres, template: str
) -> None:
    name = "api_late"
    url = postgres.url(name)
    app = create_app(settings.model_copy(update={"database_url": url, "bootstrap_api_key": "pw_first"}))
    async with app.router.lifespan_context(app), client_of(app, "pw_first") as client:
        assert (await client.get("/v1/api-keys")).status_code == 503
        await postgres.create_database(name, template)
        async with asyncio.timeout(30):
            while (response := await client.get("/v1/api-keys")).status_code != 200:
                assert response.status_code in (401, 503)
                await asyncio.sleep(0.05)

    assert [(key["name"], key["role"]) for key in response.json()["items"]] == [("bootstrap", "operator")]


async def test_the_bootstrap_key_may_come_from_a_file_which_is_needed_only_once(
    settings: ApiSettings, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    wanted = settings.model_copy(update={"bootstrap_api_key_from": f"file:{file}"})
    app = create_app(wanted)
    async with app.router.lifespan_context(app), client_of(app, "pw_filed") as client:
        assert (await client.get("/v1/api-keys")).status_code == 401
        file.write_text("pw_filed\n")

        async def is_known() -> bool:
            return (await client.get("/v1/api-keys")).status_code == 200

        await until(is_known)
    file.unlink()
    app = create_app(wanted)
    async with app.router.lifespan_context(app), client_of(app, "pw_filed") as client:
        assert await is_known()
    assert await database.fetchval("SELECT count(*) FROM api_keys") == 1


@pytest.mark.usefixtures("grid")
async def test_without_s3_a_submission_that_needs_it_is_503(settings: Settings, database: Database) -> None:
    away = create_app(settings.model_copy(update={"aws_endpoint_url": f"http://127.0.0.1:{free_port()}"}))
    async with away.router.lifespan_context(away), await Keys(database, away).client("submitter") as client:
        job = array_job(input={"type": "lines", "uri": "s3://bucket/key"})
        needs_s3 = await client.post("/v1/jobs", json=job, headers={"idempotency-key": "k"})
        needs_none = await client.post("/v1/jobs", json=array_job(), headers={"idempotency-key": "k"})

    assert needs_s3.status_code == 503 and "S3" in needs_s3.json()["detail"]
    assert needs_none.status_code == 201  # and the failed one has left its key free


@pytest.fixture
async def server(settings: Settings, aws: Aws, tmp_path: Path) -> AsyncIterator[tuple[str, Fork]]:
    """`uvicorn services.api.main:app`, as in production."""
    port = free_port()
    environment = {
        **os.environ,
        "PIECEWORK_DATABASE_URL": settings.database_url,
        "PIECEWORK_AWS_ENDPOINT_URL": settings.aws_endpoint_url or "",
        "PIECEWORK_BUCKET": settings.bucket,
        "PIECEWORK_BOOTSTRAP_API_KEY": "pw_bootstrap",
    }
    arguments = ("services.api.main:app", "--port", str(port), "--no-access-log")
    process = Fork("uvicorn", *arguments, env=environment, log=tmp_path / "log")
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient() as client, asyncio.timeout(60):
        while True:
            try:
                if (await client.get(f"{url}/readyz")).status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None
            await asyncio.sleep(0.05)
    yield url, process
    process.kill()


async def test_a_real_server_refuses_floods_logs_each_request_and_stops_in_order(
    server: tuple[str, Fork], settings: Settings
) -> None:
    url, process = server

    async def flood() -> Any:
        for _ in range(64):
            yield b" " * 65_536

    json_type = {"content-type": "application/json"}
    async with httpx.AsyncClient(base_url=url, headers={"authorization": "Bearer pw_bootstrap"}) as client:
        assert (await client.get("/v1/pools")).status_code == 200
        announced = await client.post("/v1/jobs", content=b" " * 4_194_304, headers=json_type)
        chunked = await client.post("/v1/jobs", content=flood(), headers=json_type)
        after = await client.get("/v1/pools")
        unknown = await client.get("/v1/nothing")
    process.terminate()
    await asyncio.wait_for(process.ended(), 30)

    for refused in (announced, chunked):
        assert refused.status_code == 413 and str(settings.body_bytes_max) in refused.json()["detail"]
    assert (after.status_code, unknown.status_code) == (200, 404)
    assert "Application shutdown complete" in process.output
    lines = [json.loads(line) for line in process.lines if line.startswith("{")]
    requests = [line for line in lines if line["event"] == "request" and line["path"] != "/readyz"]
    # A request ends, and is logged, a little after its answer was read: the order of lines is not ours to expect.
    assert Counter((line["method"], line["path"], line["status"], line["key"]) for line in requests) == {
        ("GET", "/v1/pools", 200, "bootstrap"): 2,
        ("POST", "/v1/jobs", 413, None): 2,
        ("GET", "/v1/nothing", 404, None): 1,
    }
    assert all(line["ms"] >= 0 and line["service"] == "api" for line in requests)
    assert "pw_bootstrap" not in process.output and "Traceback" not in process.output
