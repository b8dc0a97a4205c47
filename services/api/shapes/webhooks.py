"""Webhook endpoints and what was delivered to them."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from services.api.pagination import Page
from services.api.shapes.row import Row
from services.contract.fields import Strict
from services.contract.states import JOB_EVENTS, DeliveryState, JobEvent


class WebhookEndpointSpec(Strict):
    """The URL of an endpoint, and the events to send to it."""

    url: Annotated[str, Field(max_length=2000)] = Field(examples=["https://example.com/piecework"])
    events: Annotated[list[JobEvent], Field(min_length=1, max_length=100)] = Field(
        list(JOB_EVENTS), description="absent: all events"
    )


class WebhookEndpoint(Row):
    """A receiver of webhooks."""

    endpoint_id: UUID
    url: str
    events: list[JobEvent]
    enabled: bool
    created_at: datetime
    created_by: str | None = Field(description="the principal that made it; null: before there were any")


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
