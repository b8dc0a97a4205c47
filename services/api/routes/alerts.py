"""Alerts: who is told when jobs fail or are late, pools have no workers, or triggers fail."""

from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
from asyncpg import Record
from fastapi import APIRouter, Body, Path, Query, Response
from pydantic import BaseModel
from sqlmodel import col, select

from services.api import tables
from services.api.connections import Api, Session
from services.api.idempotency import Registration
from services.api.pagination import Pages
from services.api.problems import BODY
from services.api.receivers import check_mail, check_topic, check_url
from services.api.security import Operator, Viewer
from services.api.shapes.alerts import (
    Alert,
    AlertChange,
    AlertMessage,
    AlertMessagePage,
    AlertPage,
    AlertSpec,
    CreatedAlert,
    Incident,
    IncidentPage,
    Receiver,
    ToEmail,
    ToSlack,
    ToSns,
    ToTeams,
    ToWebhook,
)
from services.api.strict_json import StrictRoute
from services.contract.states import DeliveryState
from services.engine.alerts import CONDITIONS, Condition, seal
from services.engine.ownership import Thing, require_read
from services.engine.webhooks import derive_secret, digest_of, require_key
from services.platform.database import WEBHOOKS_CHANNEL, Connection, Database, new_id, notify
from services.platform.problems import conflict, invalid, not_found, problems
from services.platform.settings import Settings

router = APIRouter(prefix="/alerts", tags=["alerts"], route_class=StrictRoute)

AlertId = Annotated[UUID, Path(examples=["01970000-0000-7000-8000-000000000000"])]

ALERTS_MAX = 500  # of a grid: each end of a job is compared with all

EXAMPLES: Any = {
    "failures": {
        "summary": "Tell a webhook of each job that fails",
        "value": {
            "name": "failures",
            "on": {"failed": True},
            "to": {"type": "webhook", "url": "https://example.com/alerts"},
        },
    },
    "late": {
        "summary": "Tell Slack if a job of a team is late; at night, wait for the morning",
        "value": {
            "name": "late-finance",
            "on": {"late": "6h", "ran_over": "4h"},
            "labels": {"team": "finance"},
            "to": {"type": "slack", "url": "https://hooks.slack.com/services/T000/B000/XXXX"},
            "repeat_seconds": "12h",
            "quiet": {"begin": "22:00", "end": "07:00", "time_zone": "Europe/Berlin"},
        },
    },
}
CHANGES: Any = {
    "pause": {"summary": "Tell nothing for now", "value": {"paused": True}},
    "conditions": {"summary": "Other conditions", "value": {"on": {"failed": True, "rejects": 100}}},
}

_INSERT = """
    INSERT INTO alerts (alert_id, name, created_by, conditions, job_id, job_name, labels, schedule, pool,
        repeat_seconds, quiet, urgent, channel, address, sealed, generation, secret_digest)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"""

# After a change of the conditions, all jobs are looked at again; what is open stays open.
_UPDATE = """
    UPDATE alerts SET name = $2, conditions = $3, job_id = $4, job_name = $5, labels = $6, schedule = $7, pool = $8,
        repeat_seconds = $9, quiet = $10, urgent = $11, channel = $12, address = $13, sealed = $14, generation = $15,
        secret_digest = $16, paused = $17, looks_at = now(),
        looked_until = CASE WHEN conditions = $3 THEN looked_until ELSE '{}' END
    WHERE alert_id = $1"""

_SHOW = """
    SELECT a.*, opened.count AS open_incidents, m.state AS last_message, m.error AS last_error
    FROM alerts AS a CROSS JOIN LATERAL (
        SELECT count(*) FROM (
            SELECT FROM incidents AS i WHERE i.alert_id = a.alert_id AND i.over_at IS NULL LIMIT 1000) AS counted
    ) AS opened LEFT JOIN LATERAL (
        SELECT state, error FROM alert_messages AS m WHERE m.alert_id = a.alert_id
        ORDER BY m.created_at DESC, m.message_id DESC LIMIT 1
    ) AS m ON true
    WHERE a.alert_id = ANY($1)"""

_TEST = """
    INSERT INTO alert_messages (message_id, alert_id, event, payload, give_up_at)
    VALUES ($1, $2, 'alert.test', $3, now() + interval '10 minutes') RETURNING *, now() AS now"""


def _shown(row: Record) -> dict[str, Any]:
    told = {"type": row["channel"], "address": row["address"]}
    return {**row, "on": row["conditions"], "to": told}


async def _load(connection: Connection | Database, alert_id: UUID) -> dict[str, Any]:
    row = await connection.fetchrow(_SHOW, [alert_id])
    if row is None:
        raise not_found("alert", alert_id)
    return _shown(row)


class _Target(BaseModel):
    """Where an alert is told, as it is stored; and the secret that signs, to be shown."""

    channel: str
    address: str
    sealed: str | None = None
    generation: int = 1
    secret_digest: str | None = None
    secret: str | None = None

    @property
    def stored(self) -> list[Any]:
        return [self.channel, self.address, self.sealed, self.generation, self.secret_digest]


def _target(to: Receiver, alert_id: UUID, generation: int, settings: Settings) -> _Target:
    """Raises a 422 for what nothing may go to, and a 409 without a key to keep secrets with."""
    match to:
        case ToWebhook():
            check_url(to.url, "to.url", settings)
            secret = derive_secret(require_key(settings.secret_key), alert_id, generation)
            return _Target(
                channel=to.type,
                address=to.url,
                generation=generation,
                secret_digest=digest_of(secret),
                secret=secret,
            )
        case ToSlack() | ToTeams():
            check_url(to.url, "to.url", settings)
            sealed = seal(to.url, require_key(settings.secret_key))
            return _Target(
                channel=to.type, address=urlsplit(to.url).hostname or "", sealed=sealed, generation=generation
            )
        case ToEmail():
            check_mail(to.addresses, "to.addresses", settings)
            return _Target(channel=to.type, address=", ".join(dict.fromkeys(to.addresses)), generation=generation)
        case ToSns():
            check_topic(to.topic_arn, "to.topic_arn", settings)
            return _Target(channel=to.type, address=to.topic_arn, generation=generation)


async def _check_scope(connection: Connection, schedule: str | None, pool: str | None, job_id: UUID | None) -> None:
    """Raises a 422 for a name that nothing has, which is likely a misspelt one."""
    found = await connection.fetchrow(
        "SELECT EXISTS (SELECT FROM schedules WHERE name = $1) AS schedule, "
        "EXISTS (SELECT FROM pools WHERE name = $2) AS pool, EXISTS (SELECT FROM jobs WHERE job_id = $3) AS job_id",
        schedule,
        pool,
        job_id,
    )
    assert found is not None
    for field, given in (("schedule", schedule), ("pool", pool), ("job_id", job_id)):
        if given is not None and not found[field]:
            raise invalid(field, str(given), f"there is no such {field.removesuffix('_id')}")


@router.post(
    "",
    operation_id="create_alert",
    status_code=201,
    response_model=CreatedAlert,
    responses=problems(*BODY, 409),
    summary="Create an alert",
)
async def create_alert(
    creation: Registration, api: Api, spec: Annotated[AlertSpec, Body(openapi_examples=EXAMPLES)]
) -> Response:
    """Tell a webhook, Slack, Teams, mailboxes or an SNS topic when one of these conditions holds, and when it is over.

    All runs of a schedule are one subject, and so are all jobs of a trigger; other jobs are each one. For each subject,
    a condition is told once, and again no earlier than `repeat_seconds` after that. A job that is late when the alert
    is made is told of, too; one that has failed before is not. `secret` signs the messages to a webhook; it is shown
    only once.
    """
    alert_id = new_id()
    target = _target(spec.to, alert_id, 1, api.settings)

    async def create(connection: Connection) -> CreatedAlert:
        await _check_scope(connection, spec.schedule, spec.pool, spec.job_id)
        if await connection.fetchval("SELECT count(*) FROM alerts") >= ALERTS_MAX:
            raise conflict(f"there are {ALERTS_MAX} alerts; delete one that is not needed")
        values = (spec.on.stored(), spec.job_id, spec.job_name, spec.labels, spec.schedule, spec.pool)
        quiet = spec.quiet and spec.quiet.model_dump()
        told = (spec.repeat_seconds, quiet, spec.urgent, *target.stored)
        try:
            await connection.execute(_INSERT, alert_id, spec.name, creation.caller.principal, *values, *told)
        except asyncpg.UniqueViolationError as error:
            raise _taken(spec.name) from error
        await creation.caller.record(connection, alert_id, name=spec.name, on=spec.on.names, to=spec.to.type)
        return CreatedAlert.model_validate(await _load(connection, alert_id) | {"secret": target.secret})

    def restore(stored: dict[str, Any]) -> CreatedAlert:
        is_signed = stored["to"]["type"] == "webhook"
        key = require_key(api.settings.secret_key) if is_signed else ""
        secret = derive_secret(key, UUID(stored["alert_id"]), 1) if is_signed else None
        return CreatedAlert.model_validate(stored | {"secret": secret})

    return await creation.once(create, secret_field="secret", restore=restore)


def _taken(name: str | None) -> Exception:
    return conflict(f"there is an alert named {name!r}; delete it or choose another name")


@router.get("", operation_id="list_alerts", summary="List alerts")
async def list_alerts(
    caller: Viewer,
    session: Session,
    api: Api,
    pages: Pages,
    name: Annotated[str | None, Query(max_length=100, description="the one of this name")] = None,
) -> AlertPage:
    """Alerts, newest first. They tell of the jobs of all: a key with shares or labels sees only its principal's own."""
    alert = tables.Alert
    statement = select(alert)
    if caller.is_scoped:
        statement = statement.where(alert.created_by == caller.principal)
    if name is not None:
        statement = statement.where(alert.name == name)
    rows, next_cursor = await pages.fetch(session, statement, alert.alert_id, newest_first=True)
    by_id = {row["alert_id"]: row for row in await api.database.fetch(_SHOW, [row.alert_id for row in rows])}
    items = [Alert.model_validate(_shown(by_id[row.alert_id])) for row in rows if row.alert_id in by_id]
    return AlertPage(items=items, next_cursor=next_cursor)


@router.get("/{alert_id}", operation_id="get_alert", responses=problems(404), summary="Inspect an alert")
async def get_alert(caller: Viewer, api: Api, alert_id: AlertId) -> Alert:
    """An alert, without its secrets."""
    shown = Alert.model_validate(await _load(api.database, alert_id))
    require_read(caller, Thing("alert", alert_id, shown.created_by))
    return shown


@router.patch(
    "/{alert_id}", operation_id="change_alert", responses=problems(*BODY, 404, 409), summary="Change an alert"
)
async def change_alert(
    caller: Operator, api: Api, alert_id: AlertId, change: Annotated[AlertChange, Body(openapi_examples=CHANGES)]
) -> CreatedAlert:
    """Set what is given, and leave the rest; null takes a restriction away.

    With `to`, messages to a webhook are signed by a new secret from then on; `secret` shows it, once.
    """
    given = change.model_fields_set
    async with api.transaction() as connection:
        row = await connection.fetchrow("SELECT * FROM alerts WHERE alert_id = $1 FOR NO KEY UPDATE", alert_id)
        if row is None:
            raise not_found("alert", alert_id)
        new: dict[str, Any] = {**row} | {name: getattr(change, name) for name in given - {"on", "quiet", "to"}}
        if change.on is not None:
            new["conditions"] = change.on.stored()
        if "quiet" in given:
            new["quiet"] = change.quiet and change.quiet.model_dump()
        target = _Target(**{name: row[name] for name in ("channel", "address", "sealed", "generation")})
        target.secret_digest = row["secret_digest"]
        if change.to is not None:
            target = _target(change.to, alert_id, row["generation"] + 1, api.settings)
        scope = [new[name] if name in given else None for name in ("schedule", "pool", "job_id")]
        await _check_scope(connection, *scope)
        values = [new[name] for name in ("conditions", "job_id", "job_name", "labels", "schedule", "pool")]
        told = (new["repeat_seconds"], new["quiet"], new["urgent"], *target.stored, new["paused"])
        try:
            await connection.execute(_UPDATE, alert_id, new["name"], *values, *told)
        except asyncpg.UniqueViolationError as error:
            raise _taken(change.name) from error
        await caller.record(connection, alert_id, name=new["name"], changed=sorted(given))
        return CreatedAlert.model_validate(await _load(connection, alert_id) | {"secret": target.secret})


@router.delete(
    "/{alert_id}", operation_id="delete_alert", status_code=204, responses=problems(404), summary="Delete an alert"
)
async def delete_alert(caller: Operator, api: Api, alert_id: AlertId) -> None:
    """Delete an alert, with its incidents and messages; nothing more is told of it."""
    async with api.transaction() as connection:
        row = await connection.fetchrow("DELETE FROM alerts WHERE alert_id = $1 RETURNING name", alert_id)
        if row is None:
            raise not_found("alert", alert_id)
        await caller.record(connection, alert_id, name=row["name"])


@router.post(
    "/{alert_id}/test", operation_id="test_alert", status_code=202, responses=problems(404), summary="Test an alert"
)
async def test_alert(caller: Operator, api: Api, alert_id: AlertId) -> AlertMessage:
    """Send a trial message to the alert's receiver, at once, also in quiet hours and while it is paused.

    The answer is the message before it is sent: read it again among the alert's messages to see whether it arrived.
    """
    async with api.transaction() as connection:
        alert = await _load(connection, alert_id)
        text = f"This is a trial message of the alert {alert['name']}. It tells of: {', '.join(alert['conditions'])}."
        data = {"alert_id": alert_id, "alert": alert["name"], "title": f"{alert['name']}: test", "text": text}
        payload = {"type": "alert.test", "data": data | {"count": 0, "incidents": []}}
        message = await connection.fetchrow(_TEST, new_id(), alert_id, payload)
        await caller.record(connection, alert_id, name=alert["name"], to=alert["channel"])
        await notify(connection, WEBHOOKS_CHANNEL)
        return AlertMessage.model_validate(dict(message or {}))


async def _require(caller: Viewer, api: Api, alert_id: UUID) -> None:
    require_read(caller, Thing("alert", alert_id, (await _load(api.database, alert_id))["created_by"]))


@router.get(
    "/{alert_id}/messages",
    operation_id="list_alert_messages",
    responses=problems(404),
    summary="List an alert's messages",
)
async def list_alert_messages(
    caller: Viewer,
    session: Session,
    api: Api,
    pages: Pages,
    alert_id: AlertId,
    state: Annotated[list[DeliveryState], Query(description="any of these states", max_length=100)] = [],  # noqa: B006
) -> AlertMessagePage:
    """What was told in the last 30 days, newest first, and whether it arrived."""
    await _require(caller, api, alert_id)
    message = tables.AlertMessage
    statement = select(message).where(message.alert_id == alert_id)
    if state:
        statement = statement.where(col(message.state).in_(state))
    rows, next_cursor = await pages.fetch(session, statement, message.created_at, message.message_id, newest_first=True)
    return AlertMessagePage(items=[AlertMessage.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.get(
    "/{alert_id}/incidents",
    operation_id="list_alert_incidents",
    responses=problems(404),
    summary="List an alert's incidents",
)
async def list_alert_incidents(
    caller: Viewer,
    session: Session,
    api: Api,
    pages: Pages,
    alert_id: AlertId,
    condition: Annotated[list[Condition], Query(description="any of these", max_length=len(CONDITIONS))] = [],  # noqa: B006
    is_open: Annotated[
        bool | None, Query(alias="open", description="only what holds now, or only what is over")
    ] = None,
) -> IncidentPage:
    """What it has found in the last 90 days, newest first."""
    await _require(caller, api, alert_id)
    incident = tables.Incident
    statement = select(incident).where(incident.alert_id == alert_id)
    if condition:
        statement = statement.where(col(incident.condition).in_(condition))
    if is_open is not None:
        over = col(incident.over_at)
        statement = statement.where(over.is_(None) if is_open else over.is_not(None))
    rows, next_cursor = await pages.fetch(
        session, statement, incident.found_at, incident.incident_id, newest_first=True
    )
    return IncidentPage(items=[Incident.model_validate(row) for row in rows], next_cursor=next_cursor)
