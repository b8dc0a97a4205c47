"""The service itself: who may ask, what it says when it can't answer, its documentation."""

from typing import Any

import httpx
import pytest

from services.platform.database import Database
from services.platform.settings import Settings
from services.platform.version import VERSION
from services.stats import rollup
from services.stats.main import create_app
from tests.integration.stats.conftest import catch_up, insert_attempts
from tests.until import until

JOB_ID = "01970000-0000-7000-8000-000000000000"
PATHS = (
    f"/v1/jobs/{JOB_ID}/stats",
    f"/v1/jobs/{JOB_ID}/timeline",
    f"/v1/jobs/{JOB_ID}/cost",
    "/v1/stats/costs",
    "/v1/stats/workers",
    "/v1/stats/pools",
    "/v1/stats/timeline",
)


@pytest.mark.parametrize("path", PATHS)
async def test_statistics_need_a_key(anonymous: httpx.AsyncClient, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic dXNlcjpwdw=="}):
        response = await anonymous.get(path, headers=headers)
        assert response.status_code == 401
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["type"] == "urn:piecework:unauthorized"


async def test_a_viewers_key_is_enough_until_it_is_revoked(client: httpx.AsyncClient, database: Database) -> None:
    await database.execute("UPDATE api_keys SET role = 'viewer'")
    assert (await client.get("/v1/stats/pools")).status_code == 200
    await database.execute("UPDATE api_keys SET revoked_at = now()")
    assert (await client.get("/v1/stats/pools")).status_code == 401


async def test_health_readiness_and_metrics_need_no_key(anonymous: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await anonymous.get(path)).status_code == 200


async def test_metrics_ask_for_a_key_if_a_setting_says_so(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"metrics_key": "prometheus"}))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://stats") as client,
    ):
        for headers in ({}, {"Authorization": "Bearer other"}):
            assert (await client.get("/metrics", headers=headers)).status_code == 401
        assert (await client.get("/metrics", headers={"Authorization": "Bearer prometheus"})).status_code == 200


async def test_it_serves_before_its_database_is_there(settings: Settings) -> None:
    gone = settings.database_url.replace("/shared?", "/gone?")
    app = create_app(settings.model_copy(update={"database_url": gone}))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://stats") as client,
    ):
        assert (await client.get("/healthz")).json() == {"status": "ok", "version": VERSION}
        for path in ("/readyz", "/metrics", "/v1/stats/pools"):
            response = await client.get(path, headers={"Authorization": "Bearer any"})
            assert response.status_code == 503
            assert response.headers["content-type"] == "application/problem+json"
            assert int(response.headers["retry-after"]) > 0


async def test_it_is_not_ready_while_its_roll_up_fails(
    anonymous: httpx.AsyncClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup, "IDLE_SECONDS", 0.01)
    await until(lambda: answers(anonymous, 200))
    await database.execute("UPDATE stats_watermark SET txid = '1000000000000'")  # as after a restore from a dump
    problem = await until(lambda: answers(anonymous, 503))
    assert "roll-up has failed" in problem["detail"] and "below the roll-up's watermark" in problem["detail"]
    assert (await anonymous.get("/healthz")).status_code == 200
    await database.execute("UPDATE stats_watermark SET txid = '0'")
    await until(lambda: answers(anonymous, 200))


async def answers(client: httpx.AsyncClient, status: int) -> Any:
    """What /readyz says, once it has that status."""
    response = await client.get("/readyz")
    return response.json() if response.status_code == status else None


async def test_it_rolls_up_and_prunes_by_itself(settings: Settings, database: Database) -> None:
    month_ago = await database.fetchval("SELECT now() - interval '31 days'")
    await insert_attempts(database, [{}, {"finished_at": month_ago}])
    await catch_up(database)
    await insert_attempts(database, [{}] * 3)
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        while await database.fetchval("SELECT sum(attempts) FROM pool_stats") < 5:
            pass
        while await database.fetchval("SELECT min(minute) < now() - interval '30 days' FROM worker_minutes"):
            pass


async def test_an_id_that_is_none_is_told(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/jobs/flights/stats")
    assert response.status_code == 422
    error = response.json()["errors"][0]
    assert (error["field"], error["value"]) == ("job_id", "flights")


async def test_an_unknown_path_is_told(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/stats/nothing")
    assert response.status_code == 404
    assert "/v1/stats/nothing" in response.json()["detail"]


async def test_a_bug_is_a_problem_too(client: httpx.AsyncClient, database: Database) -> None:
    await database.execute("ALTER TABLE worker_minutes ALTER COLUMN succeeded DROP NOT NULL")
    await database.execute(
        "INSERT INTO worker_minutes (minute, pool, worker_id, failed, busy_seconds, bytes_in, bytes_out) "
        "VALUES (now(), 'default', gen_random_uuid(), 0, 0, 0, 0)"
    )
    response = await client.get("/v1/stats/timeline")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:piecework:internal-error"


async def test_the_documentation_needs_no_internet(anonymous: httpx.AsyncClient) -> None:
    page = (await anonymous.get("/docs")).text
    assert "cdn." not in page
    assert (await anonymous.get("/static-offline-docs/swagger-ui-bundle.js")).status_code == 200


async def test_openapi_names_every_operation(anonymous: httpx.AsyncClient) -> None:
    paths = (await anonymous.get("/openapi.json")).json()["paths"]
    assert {path: operations["get"]["operationId"] for path, operations in paths.items()} == {
        "/v1/jobs/{job_id}/stats": "get_job_stats",
        "/v1/jobs/{job_id}/timeline": "get_job_timeline",
        "/v1/jobs/{job_id}/cost": "get_job_cost",
        "/v1/stats/costs": "list_costs",
        "/v1/stats/workers": "list_worker_stats",
        "/v1/stats/pools": "list_pool_stats",
        "/v1/stats/timeline": "get_timeline",
        "/metrics": "metrics",
        "/healthz": "healthz",
        "/readyz": "readyz",
    }
    statistics = paths["/v1/jobs/{job_id}/stats"]["get"]
    assert statistics["security"] == [{"api_key": []}]
    assert list(statistics["responses"]["404"]["content"]) == ["application/problem+json"]
