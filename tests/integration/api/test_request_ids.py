"""Each answer has an id by which its request is found in logs, problems and the audit log; metrics know its route."""

from uuid import UUID

import httpx
import pytest

from services.platform.database import Database
from tests.integration.api.conftest import array_job, ok

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_an_id_that_was_sent_is_in_the_answer_and_in_problems(viewer: httpx.AsyncClient) -> None:
    for path, status in (("/v1/pools", 200), ("/healthz", 200), ("/v1/nothing", 404), ("/v1/jobs/x", 422)):
        response = await viewer.get(path, headers={"X-Request-ID": "order-17"})
        assert (response.status_code, response.headers["x-request-id"]) == (status, "order-17")
        assert status == 200 or response.json()["request_id"] == "order-17"


@pytest.mark.parametrize("sent", ["", "a b", "x" * 201, "å", "a\x7f"])
async def test_one_that_is_not_good_is_replaced(viewer: httpx.AsyncClient, sent: str) -> None:
    response = await viewer.get("/v1/jobs/x", headers={"X-Request-ID": sent.encode()})
    assert UUID(response.headers["x-request-id"])
    assert response.json()["request_id"] == response.headers["x-request-id"]


@pytest.mark.usefixtures("grid")
async def test_a_change_without_one_is_in_the_audit_log_by_the_answers(
    submitter: httpx.AsyncClient, database: Database
) -> None:
    response = await submitter.post("/v1/jobs", json=array_job())
    assert response.status_code == 201
    found = await database.fetchval("SELECT request_id FROM audit_log WHERE action = 'submit_job'")
    assert found == response.headers["x-request-id"]


@pytest.mark.usefixtures("grid")
async def test_a_job_keeps_the_context_of_its_request(submitter: httpx.AsyncClient, database: Database) -> None:
    for sent, kept in ((TRACEPARENT, TRACEPARENT), ("nonsense", None), (None, None)):
        headers = {} if sent is None else {"traceparent": sent}
        job = await ok(submitter.post("/v1/jobs", json=array_job(), headers=headers))
        assert await database.fetchval("SELECT traceparent FROM jobs WHERE job_id = $1", UUID(job["job_id"])) == kept


async def test_requests_are_measured_by_the_templates_of_their_routes(viewer: httpx.AsyncClient) -> None:
    for number in range(3):
        await viewer.get(f"/v1/jobs/01970000-0000-7000-8000-00000000000{number}")
        await viewer.request(f"ODD{number}", "/v1/pools")
        await viewer.get(f"/v1/nothing/{number}")
    text = (await viewer.get("/metrics")).text
    name = "piecework_http_request_duration_seconds_count"
    assert f'{name}{{method="GET",route="/v1/jobs/{{job_id}}",status="404"}}' in text
    assert "01970000" not in text and "ODD" not in text and "/v1/nothing" not in text
