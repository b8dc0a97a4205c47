"""Triggers over HTTP: what no message can make right is refused when the trigger is made."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from services.platform.aws import Aws
from tests.integration.api.conftest import array_job, ok

pytestmark = pytest.mark.usefixtures("grid")

TEMPLATE = {
    "name": "claims-{message.day}",
    "input": {"type": "lines", "uri": "{uri}", "part_bytes": "{message.part_bytes}"},
    "stages": [{"processor": "noop"}],
    "labels": {"file": "{filename}"},
}


@pytest.fixture
async def queue_url(aws: Aws) -> str:
    answer = await aws.sqs.create_queue(QueueName=f"in-{uuid4().hex}")
    url: str = answer["QueueUrl"]
    return url


async def test_a_trigger_is_made_paused_resumed_and_deleted(
    operator: httpx.AsyncClient, viewer: httpx.AsyncClient, queue_url: str
) -> None:
    spec = {
        "name": "incoming",
        "queue_url": queue_url,
        "prefix": "s3://in/claims/",
        "match": {"a.b": 1},
        "job": TEMPLATE,
    }
    made = await ok(operator.post("/v1/triggers", json=spec))
    path = f"/v1/triggers/{made['trigger_id']}"

    assert made | spec == made
    assert [made[name] for name in ("last_job_id", "last_error", "last_error_at", "paused")] == [None] * 3 + [False]
    assert (await ok(viewer.get("/v1/triggers")))["items"] == [made]
    assert (await ok(operator.post(f"{path}/pause"))) == made | {"paused": True}
    assert (await ok(operator.post(f"{path}/resume"))) == made == await ok(viewer.get(path))
    taken = await operator.post("/v1/triggers", json=spec)
    assert (taken.status_code, "'incoming'" in taken.json()["detail"]) == (409, True)
    await ok(operator.delete(path))
    assert (await viewer.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"job": {**TEMPLATE, "priority": 1000}}, "job.priority", "less than or equal to 100"),
        ({"job": {**TEMPLATE, "name": "{url}"}}, "job", "{uri}"),
        (
            {"job": {**TEMPLATE, "input": {"type": "range", "count": 1}, "stages": [{"processor": "none"}]}},
            "job.stages.0.processor",
            "no such processor",
        ),
        ({"job": {**TEMPLATE, "input": {"type": "lines", "uri": "{key}"}}}, "job.input.uri", "not an S3 URI"),
        ({"prefix": "claims/"}, "prefix", "not an S3 URI"),
    ],
)
async def test_a_template_that_can_never_be_a_job_is_refused(
    operator: httpx.AsyncClient, queue_url: str, changes: dict[str, Any], field: str, message: str
) -> None:
    spec = {"name": "incoming", "queue_url": queue_url, "job": TEMPLATE}

    refused = await operator.post("/v1/triggers", json=spec | changes)

    assert refused.status_code == 422
    [error] = refused.json()["errors"]
    assert (error["field"], message in error["message"]) == (field, True), error


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ("{message.params}", None),
        ({"rate": "{message.rate}", "least": "{message.least}"}, None),
        ({"rate": 1, "least": "{filename}"}, None),
        ({"rate": "{message.rate}"}, "job.stages.0.params"),
        ({"rate": "{filename}", "least": 1}, "job.stages.0.params.rate"),
    ],
)
async def test_params_that_a_message_says_are_left_to_it(
    operator: httpx.AsyncClient, queue_url: str, params: Any, field: str | None
) -> None:
    schema = {"type": "object", "properties": {"rate": {"type": "integer"}}, "required": ["rate"]}
    sql = {"sql": "SELECT * FROM input WHERE a > {params.least}", "params_schema": schema}
    await ok(operator.post("/v1/processors", json={"name": "sql", **sql}))
    job = {"input": {"type": "lines", "uri": "{uri}"}, "stages": [{"processor": "sql", "params": params}]}

    answer = await operator.post("/v1/triggers", json={"name": "incoming", "queue_url": queue_url, "job": job})

    assert [error["field"] for error in answer.json().get("errors", [])] == ([field] if field else []), answer.text
    assert answer.status_code == (422 if field else 201)


@pytest.mark.both_emulators("GetQueueAttributes")
async def test_a_queue_that_is_not_there_or_belongs_to_a_pool_is_refused(
    operator: httpx.AsyncClient, queue_url: str
) -> None:
    pool = await ok(operator.get("/v1/pools/default"))
    for url, message in ((f"{queue_url}-gone", "no such queue"), (pool["queue_url"], "belongs to the pool default")):
        trigger = {"name": "incoming", "queue_url": url, "job": TEMPLATE}
        job = array_job() | {"output_queue": url}
        for path, body, field in (("triggers", trigger, "queue_url"), ("jobs", job, "output_queue")):
            refused = await operator.post(f"/v1/{path}", json=body)
            [error] = refused.json()["errors"]
            assert (refused.status_code, error["field"], message in error["message"]) == (422, field, True), error
