"""Who may do what: every operation of the OpenAPI document, with every role."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.platform.auth import Role
from tests.integration.api.conftest import Keys, client_of

OPEN = {"healthz", "readyz"}
ROLES: dict[str, set[str]] = {
    "viewer": {
        "list_jobs", "get_job", "list_tasks", "get_task", "get_task_log", "get_results", "list_parts", "list_schedules",
        "get_schedule", "list_processors", "get_processor", "list_pools", "get_pool", "list_workers", "get_worker",
        "list_triggers", "get_trigger", "list_webhook_endpoints", "get_webhook_endpoint",
        "list_webhook_deliveries", "list_alerts", "get_alert", "list_alert_messages", "list_alert_incidents",
        "get_me", "get_own_quotas", "list_shares", "get_share",
        "list_retention_rules", "get_retention_rule", "follow_values", "list_schedule_runs",
        "list_backfills", "list_failures", "get_task_trial",
    },
    "submitter": {
        "submit_job", "cancel_job", "pause_job", "resume_job", "retry_job", "create_schedule", "delete_schedule",
        "pause_schedule", "resume_schedule", "create_upload", "complete_upload", "preview_split",
        "list_uploads", "renew_upload", "abort_upload", "hold_job", "release_job", "delete_job",
        "append_items", "cancel_items", "close_job", "change_schedule", "run_schedule", "skip_next_run",
        "create_backfill", "cancel_backfill",
    },
    "developer": {"register_processor", "create_package", "delete_processor_version", "get_processor_trial"},
    "operator": {
        "list_api_keys", "list_audit", "put_pool", "set_pool_capacity", "pause_pool", "resume_pool",
        "drain_worker", "drain_pool",
        "create_trigger", "delete_trigger", "pause_trigger", "resume_trigger",
        "create_webhook_endpoint", "rotate_webhook_secret", "enable_webhook_endpoint", "delete_webhook_endpoint",
        "redeliver", "create_alert", "change_alert", "delete_alert", "test_alert",
        "create_api_key", "revoke_api_key", "get_key_quotas", "set_key_quotas", "set_share",
        "put_retention_rule", "delete_retention_rule", "delete_pool", "delete_package",
    },
}  # fmt: skip
RANKED: list[Role] = ["viewer", "submitter", "developer", "operator"]


def operations(app: FastAPI) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
    ]


async def send(client: httpx.AsyncClient, method: str, path: str, operation: dict[str, Any]) -> httpx.Response:
    """The request that Swagger UI's "Try it out" would send: examples for parameters and body."""
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(parameter["schema"]["examples"][0]))
    body = None
    if "requestBody" in operation:
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        body = next(iter(examples.values()))["value"]
    return await client.request(method, path, json=body)


def test_every_operation_has_a_role_that_was_decided_on(app: FastAPI) -> None:
    declared = {op["operationId"]: op.get("security", [{"api_key": []}])[0]["api_key"] for _, _, op in operations(app)}

    decided = {operation: [role] for role, names in ROLES.items() for operation in names}
    assert declared == decided | {name: [] for name in OPEN}


@pytest.mark.usefixtures("grid")
@pytest.mark.parametrize("role", RANKED)
async def test_a_role_opens_its_own_operations_and_those_below(app: FastAPI, keys: Keys, role: Role) -> None:
    opened, closed = set(), set()
    async with await keys.client(role, all=True) as client:
        for method, path, operation in operations(app):
            response = await send(client, method, path, operation)
            assert response.status_code < 500 and response.status_code != 401, response.text
            (closed if response.status_code == 403 else opened).add(operation["operationId"])

    allowed = set[str]().union(OPEN, *(ROLES[below] for below in RANKED[: RANKED.index(role) + 1]))
    assert opened == allowed
    assert closed == set().union(*ROLES.values()) - allowed


async def test_without_a_key_only_health_is_open(app: FastAPI) -> None:
    async with client_of(app) as anonymous:
        answers = {op["operationId"]: await send(anonymous, method, path, op) for method, path, op in operations(app)}

    assert {name for name, response in answers.items() if response.status_code != 401} == OPEN
    assert {response.headers["content-type"] for name, response in answers.items() if name not in OPEN} == {
        "application/problem+json"
    }


async def test_a_refusal_names_both_roles(viewer: httpx.AsyncClient) -> None:
    detail = (await viewer.post("/v1/api-keys", json={"name": "x", "role": "operator"})).json()["detail"]

    assert "needs the role operator" in detail and "has the role viewer" in detail
