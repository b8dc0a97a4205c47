"""Alerts, what they have found, and what was told of it."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, model_validator

from services.api.pagination import Page
from services.api.shapes.row import Row, Stored
from services.contract.fields import DURATION, Name, Strict
from services.contract.states import DeliveryState
from services.engine.alerts import AlertEvent, Channel, Condition, Conditions, QuietHours, SubjectKind

_Url = Annotated[str, Field(max_length=2000)]
_MAILBOX = re.compile(r"[^\s@<>,;:\"\x00-\x1f]+@[A-Za-z0-9][A-Za-z0-9.-]*")


def _check_mailbox(address: str) -> str:
    if _MAILBOX.fullmatch(address) is None:
        raise ValueError(f"{address!r} is not an address of mail; write one, without a name, such as a@example.com")
    return address


Mailbox = Annotated[str, Field(max_length=254, examples=["a@example.com"]), AfterValidator(_check_mailbox)]


class ToWebhook(Strict):
    """A URL that gets JSON, signed as Standard Webhooks define it."""

    type: Literal["webhook"]
    url: _Url = Field(examples=["https://example.com/alerts"])


class ToSlack(Strict):
    """An incoming webhook of Slack, or of what takes the same."""

    type: Literal["slack"]
    url: _Url = Field(description="stored encrypted, and never shown", examples=["https://hooks.slack.com/services/…"])


class ToTeams(Strict):
    """A workflow's webhook of Microsoft Teams."""

    type: Literal["teams"]
    url: _Url = Field(description="stored encrypted, and never shown")


class ToEmail(Strict):
    """Mailboxes, by the grid's SMTP server."""

    type: Literal["email"]
    addresses: Annotated[list[Mailbox], Field(min_length=1, max_length=20)]


class ToSns(Strict):
    """A topic of Amazon SNS."""

    type: Literal["sns"]
    topic_arn: Annotated[str, Field(max_length=300, pattern=r"^arn:[^:]+:sns:[^:]+:\d{12}:[A-Za-z0-9_-]+(\.fifo)?$")]


Receiver = Annotated[ToWebhook | ToSlack | ToTeams | ToEmail | ToSns, Field(discriminator="type")]


def _check_conditions(conditions: Conditions) -> Conditions:
    if not conditions.names:
        raise ValueError('it tells of nothing; name a condition, such as {"failed": true}')
    return conditions


SomeConditions = Annotated[Conditions, AfterValidator(_check_conditions)]
Repeat = Annotated[float, Field(ge=3600, le=30 * 86_400), DURATION] | None
JobName = Annotated[str, Field(min_length=1, max_length=200)] | None
Labels = dict[Annotated[str, Field(max_length=100)], Annotated[str, Field(max_length=1000)]]

_ON = Field(examples=[{"failed": True, "late": "6h"}])
_REPEAT = (
    "a condition is told again no earlier than this long after it was told, while it lasts or when it comes back; "
)


class AlertSpec(Strict):
    """What is told of which jobs, and to whom."""

    name: Name
    on: SomeConditions = _ON
    job_id: UUID | None = Field(None, description="only this job")
    job_name: JobName = Field(None, description="only jobs of this name")
    labels: Labels = Field({}, max_length=100, description="only jobs with these labels")
    schedule: Name | None = Field(None, description="only runs of the schedule of this name")
    pool: Name | None = Field(None, description="only jobs with a stage in this pool")
    to: Receiver
    repeat_seconds: Repeat = Field(86_400.0, description=f"{_REPEAT}null: never")
    quiet: QuietHours | None = Field(None, description="hours in which it waits, to tell all in one summary")
    urgent: bool = Field(False, description="tell in quiet hours, too")


class AlertChange(Strict):
    """What is to change of an alert; what is absent stays."""

    name: Name | None = None
    on: SomeConditions | None = Field(None, examples=[{"failed": True}], description="replaces all conditions")
    job_id: UUID | None = None
    job_name: JobName = None
    labels: Labels | None = Field(None, max_length=100)
    schedule: Name | None = None
    pool: Name | None = None
    to: Receiver | None = None
    repeat_seconds: Repeat = None
    quiet: QuietHours | None = None
    urgent: bool | None = None
    paused: bool | None = Field(None, description="look at nothing and tell nothing")

    @model_validator(mode="before")
    @classmethod
    def _some(cls, given: Any) -> Any:
        if isinstance(given, dict):
            if not given:
                raise ValueError("it changes nothing; name a field")
            for name in ("name", "on", "to", "labels", "urgent", "paused"):
                if name in given and given[name] is None:
                    raise ValueError(f"{name} can't be null; leave it out, and it stays as it is")
        return given


class Told(Row):
    """Where an alert is told."""

    type: Channel
    address: str = Field(description="the URL (of Slack and Teams its host alone), the mailboxes, or the topic")


class Alert(Row):
    """A rule."""

    alert_id: UUID
    name: str
    on: Stored[Conditions]
    job_id: UUID | None
    job_name: str | None
    labels: dict[str, str]
    schedule: str | None
    pool: str | None
    to: Told
    repeat_seconds: float | None
    quiet: Stored[QuietHours] | None
    urgent: bool
    paused: bool
    open_incidents: int = Field(description="what holds now; counted up to 1,000")
    last_message: DeliveryState | None = Field(description="of the last message; null: there was none in 30 days")
    last_error: str | None = Field(description="of its last try: why it failed, or whom it did not reach")
    created_at: datetime
    created_by: str | None


class CreatedAlert(Alert):
    """An alert whose receiver was set."""

    secret: str | None = Field(
        description="what signs the messages to a webhook; shown only once",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2La"],
    )


class AlertPage(Page[Alert]):
    """Alerts, newest first."""


class Incident(Row):
    """A condition that held for a subject."""

    incident_id: UUID
    alert_id: UUID
    condition: Condition
    subject_kind: SubjectKind
    subject: str = Field(description="its id; of a pool, its name")
    name: str
    job_id: UUID | None = Field(description="the last job that it was found of")
    message: str
    times: int = Field(description="how often it was found")
    found_at: datetime
    last_at: datetime
    told_at: datetime | None = Field(description="when it was last told")
    tell_at: datetime | None = Field(description="when it is told next; null: not, unless something happens")
    over_at: datetime | None = Field(description="null: it is open")


class IncidentPage(Page[Incident]):
    """Incidents, newest first."""


class AlertMessage(Row):
    """What was told, and whether it arrived."""

    message_id: UUID
    alert_id: UUID
    event: AlertEvent
    payload: dict[str, Any]
    state: DeliveryState
    tries: int
    next_try_at: datetime
    give_up_at: datetime
    error: str | None
    created_at: datetime
    delivered_at: datetime | None


class AlertMessagePage(Page[AlertMessage]):
    """Messages, newest first."""
