"""Notify other systems when jobs end."""

from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import APIRouter, Body, Path, Query, Response
from sqlmodel import col, select

from services.api import tables
from services.api.connections import Api, Session
from services.api.idempotency import Registration
from services.api.pagination import Pages
from services.api.problems import BODY
from services.api.receivers import check_url
from services.api.security import Operator, Viewer, scope_filter
from services.api.shapes.webhooks import (
    CreatedWebhookEndpoint,
    Delivery,
    DeliveryPage,
    Rotation,
    WebhookEndpoint,
    WebhookEndpointPage,
    WebhookEndpointSpec,
)
from services.api.strict_json import StrictRoute
from services.contract.states import DeliveryState
from services.engine.ownership import Thing, require_read
from services.engine.webhooks import derive_secret, digest_of, enable, require_key
from services.platform.database import WEBHOOKS_CHANNEL, Connection, new_id, notify
from services.platform.problems import conflict, not_found, problems

router = APIRouter(tags=["webhooks"], route_class=StrictRoute)

EndpointId = Annotated[UUID, Path(examples=["01970000-0000-7000-8000-000000000000"])]
DeliveryId = Annotated[UUID, Path(examples=["01970000-0000-7000-8000-000000000000"])]

EXAMPLES: Any = {
    "failures": {
        "summary": "Notify of failed jobs",
        "value": {"url": "https://example.com/piecework", "events": ["job.failed"]},
    },
}

ROTATIONS: Any = {
    "day": {"summary": "Both secrets sign for a day", "value": {"overlap_seconds": 86_400}},
    "now": {"summary": "The secret has leaked: drop it at once", "value": {"overlap_seconds": 0}},
}

_INSERT = """
    INSERT INTO webhook_endpoints (endpoint_id, url, secret, events, generation, secret_digest, created_by)
    VALUES ($1, $2, '', $3, 1, $4, $5) RETURNING *"""

_ROTATING = """
    SELECT generation, previous_until, coalesce(previous_until > now(), false) AS overlapping FROM webhook_endpoints
    WHERE endpoint_id = $1 FOR UPDATE"""

# A secret that a release before has stored stays for the overlap, in which that release's schedulers sign with it.
_ROTATE = """
    UPDATE webhook_endpoints SET generation = generation + 1, secret_digest = $2,
        secret = CASE WHEN generation = 0 AND $3 > 0 THEN secret ELSE '' END,
        previous_until = CASE WHEN $3 > 0 THEN now() + $3 * interval '1 second' END
    WHERE endpoint_id = $1 RETURNING *"""

_ENDPOINT_OF = """
    SELECT e.endpoint_id, e.enabled FROM webhook_deliveries AS d JOIN webhook_endpoints AS e USING (endpoint_id)
    WHERE d.delivery_id = $1 FOR SHARE OF e"""


@router.post(
    "/webhook-endpoints",
    operation_id="create_webhook_endpoint",
    status_code=201,
    response_model=CreatedWebhookEndpoint,
    responses=problems(*BODY),
    summary="Create a webhook endpoint",
)
async def create_webhook_endpoint(
    creation: Registration, api: Api, spec: Annotated[WebhookEndpointSpec, Body(openapi_examples=EXAMPLES)]
) -> Response:
    """Send the events of all jobs to a URL, signed according to Standard Webhooks, with retries until it answers 2xx.

    The answer's `secret` verifies the signatures. It is shown only once, and not stored: it is derived again for each
    message. With an Idempotency-Key, it is also shown when the request is repeated.
    """
    check_url(spec.url, "url", api.settings)
    key, endpoint_id = require_key(api.settings.secret_key), new_id()

    async def create(connection: Connection) -> CreatedWebhookEndpoint:
        secret = derive_secret(key, endpoint_id, 1)
        events = list(dict.fromkeys(spec.events))
        owner = creation.caller.principal
        row = await connection.fetchrow(_INSERT, endpoint_id, spec.url, events, digest_of(secret), owner)
        await creation.caller.record(connection, endpoint_id, host=urlsplit(spec.url).hostname)
        return CreatedWebhookEndpoint.model_validate({**(row or {}), "secret": secret})

    def restore(stored: dict[str, Any]) -> CreatedWebhookEndpoint:
        secret = derive_secret(key, UUID(stored["endpoint_id"]), 1)
        return CreatedWebhookEndpoint.model_validate(stored | {"secret": secret})

    return await creation.once(create, secret_field="secret", restore=restore)


@router.post(
    "/webhook-endpoints/{endpoint_id}/rotate",
    operation_id="rotate_webhook_secret",
    responses=problems(*BODY, 404, 409),
    summary="Replace a webhook endpoint's secret",
)
async def rotate_webhook_secret(
    caller: Operator, api: Api, endpoint_id: EndpointId, rotation: Annotated[Rotation, Body(openapi_examples=ROTATIONS)]
) -> CreatedWebhookEndpoint:
    """Sign with a new secret, which is shown only once.

    For `overlap_seconds`, each message has two signatures, by the new secret and by the one before, so that a receiver
    can be given the new one without losing a message. Meanwhile only a rotation without overlap is possible.
    """
    key = require_key(api.settings.secret_key)
    async with api.transaction() as connection:
        row = await connection.fetchrow(_ROTATING, endpoint_id)
        if row is None:
            raise not_found("webhook endpoint", endpoint_id)
        if row["overlapping"] and rotation.overlap_seconds:
            until = f"{row['previous_until']:%Y-%m-%dT%H:%M:%SZ}"
            raise conflict(f"the secret before the newest one is valid until {until}: wait, or give overlap_seconds 0")
        secret = derive_secret(key, endpoint_id, row["generation"] + 1)
        rotated = await connection.fetchrow(_ROTATE, endpoint_id, digest_of(secret), rotation.overlap_seconds)
        await caller.record(connection, endpoint_id, overlap_seconds=rotation.overlap_seconds)
    return CreatedWebhookEndpoint.model_validate({**(rotated or {}), "secret": secret})


@router.get("/webhook-endpoints", operation_id="list_webhook_endpoints", summary="List webhook endpoints")
async def list_webhook_endpoints(caller: Viewer, session: Session, pages: Pages) -> WebhookEndpointPage:
    """Endpoints, newest first, without their secrets. They get the events of all jobs: a key with shares or labels sees
    only its principal's own."""
    endpoint = tables.WebhookEndpoint
    statement = select(endpoint)
    if caller.is_scoped:
        statement = statement.where(endpoint.created_by == caller.principal)
    rows, next_cursor = await pages.fetch(session, statement, endpoint.endpoint_id, newest_first=True)
    return WebhookEndpointPage(items=[WebhookEndpoint.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.get(
    "/webhook-endpoints/{endpoint_id}",
    operation_id="get_webhook_endpoint",
    responses=problems(404),
    summary="Inspect a webhook endpoint",
)
async def get_webhook_endpoint(caller: Viewer, session: Session, endpoint_id: EndpointId) -> WebhookEndpoint:
    """An endpoint, without its secret."""
    row = await session.get(tables.WebhookEndpoint, endpoint_id)
    if row is None:
        raise not_found("webhook endpoint", endpoint_id)
    require_read(caller, Thing("webhook endpoint", endpoint_id, row.created_by))
    return WebhookEndpoint.model_validate(row)


@router.post(
    "/webhook-endpoints/{endpoint_id}/enable",
    operation_id="enable_webhook_endpoint",
    responses=problems(404),
    summary="Enable a webhook endpoint",
)
async def enable_webhook_endpoint(caller: Operator, api: Api, endpoint_id: EndpointId) -> WebhookEndpoint:
    """Send to a disabled or paused endpoint again, at once.

    An endpoint is disabled when it answers 410 Gone, or has failed for days. Deliveries that have failed meanwhile can
    be delivered again one by one; events while it was disabled have none.
    """
    async with api.transaction() as connection:
        row = await enable(connection, endpoint_id)
        if row is None:
            raise not_found("webhook endpoint", endpoint_id)
        await caller.record(connection, endpoint_id, host=urlsplit(row["url"]).hostname)
        await notify(connection, WEBHOOKS_CHANNEL)
    return WebhookEndpoint.model_validate(dict(row))


@router.delete(
    "/webhook-endpoints/{endpoint_id}",
    operation_id="delete_webhook_endpoint",
    status_code=204,
    responses=problems(404),
    summary="Delete a webhook endpoint",
)
async def delete_webhook_endpoint(caller: Operator, api: Api, endpoint_id: EndpointId) -> None:
    """Delete an endpoint and its deliveries; nothing more is sent to it."""
    async with api.transaction() as connection:
        status = await connection.execute("DELETE FROM webhook_endpoints WHERE endpoint_id = $1", endpoint_id)
        if status == "DELETE 0":
            raise not_found("webhook endpoint", endpoint_id)
        await caller.record(connection, endpoint_id)


@router.get("/webhook-deliveries", operation_id="list_webhook_deliveries", summary="List webhook deliveries")
async def list_webhook_deliveries(
    caller: Viewer,
    session: Session,
    pages: Pages,
    endpoint_id: UUID | None = None,
    job_id: UUID | None = None,
    state: Annotated[list[DeliveryState], Query(description="any of these states", max_length=100)] = [],  # noqa: B006
) -> DeliveryPage:
    """Deliveries, newest first, with the outcome of the last try. A key with shares or labels sees those of jobs that
    have them."""
    delivery, job = tables.WebhookDelivery, tables.Job
    statement = select(delivery)
    if scope := scope_filter(caller, col(job.share), col(job.labels)):
        statement = statement.where(col(delivery.job_id).in_(select(job.job_id).where(*scope)))
    if endpoint_id is not None:
        statement = statement.where(delivery.endpoint_id == endpoint_id)
    if job_id is not None:
        statement = statement.where(delivery.job_id == job_id)
    if state:
        statement = statement.where(col(delivery.state).in_(state))
    rows, next_cursor = await pages.fetch(
        session, statement, delivery.created_at, delivery.delivery_id, newest_first=True
    )
    return DeliveryPage(items=[Delivery.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.post(
    "/webhook-deliveries/{delivery_id}/redeliver",
    operation_id="redeliver",
    responses=problems(404, 409),
    summary="Deliver a webhook again",
)
async def redeliver(caller: Operator, api: Api, delivery_id: DeliveryId) -> Delivery:
    """Send a delivery again at once, with the full retry time of a new one. The receiver sees the same id.

    If its endpoint is paused, it is sent when the pause ends; if it is disabled, enable it first.
    """
    async with api.transaction() as connection:
        endpoint = await connection.fetchrow(_ENDPOINT_OF, delivery_id)
        if endpoint is not None and not endpoint["enabled"]:
            raise conflict(f"the endpoint {endpoint['endpoint_id']} is disabled: enable it first")
        row = await connection.fetchrow(
            "UPDATE webhook_deliveries SET state = 'pending', next_try_at = now(), delivered_at = NULL, "
            "give_up_at = now() + $2 * interval '1 hour' WHERE delivery_id = $1 RETURNING *",
            delivery_id,
            api.settings.webhook_hours,
        )
        if row is None:
            raise not_found("webhook delivery", delivery_id)
        await caller.record(connection, delivery_id, endpoint_id=row["endpoint_id"])
        await notify(connection, WEBHOOKS_CHANNEL)
        return Delivery.model_validate(dict(row))
