"""Webhook endpoints and what was delivered to them."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from services.api.pagination import Page
from services.api.shapes.row import Row
from services.contract.fields import DURATION, Strict
from services.contract.states import JOB_EVENTS, DeliveryState, JobEvent


class WebhookEndpointSpec(Strict):
    """The URL of an endpoint, and the events to send to it."""

    url: Annotated[str, Field(max_length=2000)] = Field(examples=["https://example.com/piecework"])
    events: Annotated[list[JobEvent], Field(min_length=1, max_length=100)] = Field(
        list(JOB_EVENTS), description="absent: all events"
    )


class Rotation(Strict):
    """How a secret is replaced."""

    overlap_seconds: Annotated[float, Field(ge=0, le=2_592_000), DURATION] = Field(
        86_400.0, description="how long messages are signed with both secrets; 0 drops the one before at once"
    )


class WebhookEndpoint(Row):
    """A receiver of webhooks."""

    endpoint_id: UUID
    url: str
    events: list[JobEvent]
    enabled: bool = Field(description="false: nothing is sent; `disabled_reason` says why")
    failures: int = Field(description="tries that have failed since the last one that went well")
    failing_since: datetime | None = Field(description="when the first of them failed")
    paused_until: datetime | None = Field(
        description="it fails, or asked for time: nothing is sent until then; then one delivery, to see if it answers"
    )
    last_error: str | None = Field(description="of the last try, if it failed")
    disabled_at: datetime | None
    disabled_reason: str | None = Field(description="it answered 410 Gone, or failed for days")
    created_at: datetime
    created_by: str | None = Field(description="the principal that made it; null: before there were any")
    previous_until: datetime | None = Field(
        description="until when messages are also signed with the secret before the last rotation"
    )


class CreatedWebhookEndpoint(WebhookEndpoint):
    """A new receiver of webhooks, with the secret that signs what it gets (Standard Webhooks)."""

    secret: str = Field(description="shown only once", examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])


class WebhookEndpointPage(Page[WebhookEndpoint]):
    """Endpoints, newest first."""


class Delivery(Row):
    """One event for one endpoint."""

    delivery_id: UUID
    endpoint_id: UUID
    job_id: UUID
    event: JobEvent
    payload: dict[str, Any]
    state: DeliveryState
    tries: int
    next_try_at: datetime
    give_up_at: datetime
    status_code: int | None
    error: str | None
    created_at: datetime
    delivered_at: datetime | None


class DeliveryPage(Page[Delivery]):
    """Deliveries, newest first."""
