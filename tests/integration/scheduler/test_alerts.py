"""Alerts made through the API reach real receivers: once for each condition of each subject, and when it is over."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session
from standardwebhooks.webhooks import Webhook

from services.engine import jobs
from services.platform.aws import Aws, open_client
from services.platform.database import Database, new_id
from services.platform.settings import ApiSettings
from services.scheduler.alerts import tell, times
from services.scheduler.loop import Context
from services.scheduler.loops import alerts, maintain
from tests.apps import api_app
from tests.certificates import Authority
from tests.conftest import free_port
from tests.integration.api.conftest import Keys, ok
from tests.integration.engine.play import Play, add_pool, finished
from tests.integration.scheduler.test_webhooks import Receiver, serve
from tests.roles import as_role
from tests.until import until


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async for receiver in serve(Receiver()):
        yield receiver


@pytest.fixture
async def operator(settings: ApiSettings, aws: Aws, database: Database, play: Play) -> AsyncIterator[httpx.AsyncClient]:
    """Of the API of a grid whose alerts may go to any topic, and by mail."""
    mail = {"smtp_host": "127.0.0.1", "smtp_from": "grid@example.com", "alert_topics": "*"}
    app = api_app(settings.model_copy(update={"database_url": as_role(settings.database_url, "api")} | mail))
    async with app.router.lifespan_context(app), await Keys(database, app).client("operator") as client:
        yield client


async def create(operator: httpx.AsyncClient, receiver: Receiver | None = None, **spec: Any) -> dict[str, Any]:
    to = {"type": "webhook", "url": receiver.url} if receiver is not None else {}
    body = {"name": "nightly", "on": {"failed": True}} | ({"to": to} if to else {}) | spec
    created: dict[str, Any] = await ok(operator.post("/v1/alerts", json=body))
    return created


async def add_schedule(play: Play, name: str = "night") -> UUID:
    schedule_id = new_id()
    await play.database.execute(
        "INSERT INTO schedules (schedule_id, name, cron, time_zone, misfire, job, next_run_at) "
        "VALUES ($1, $2, '0 2 * * *', 'UTC', 'run_once', '{}', now() + interval '1 day')",
        schedule_id,
        name,
    )
    return schedule_id


async def run(play: Play, schedule_id: UUID | None = None, minutes: float = 0.0, **spec: Any) -> UUID:
    """A job that was submitted, and began, so long ago; of a schedule if one is given."""
    job_id = await play.submit(**{"name": "orders"} | spec)
    await play.database.execute(
        "UPDATE jobs SET created_at = created_at - $2 * interval '1 minute', schedule_id = $3::uuid, "
        "started_at = started_at - $2 * interval '1 minute', "
        "run_at = CASE WHEN $3::uuid IS NOT NULL THEN created_at - $2 * interval '1 minute' END WHERE job_id = $1",
        job_id,
        minutes,
        schedule_id,
    )
    return job_id


async def end(play: Play, job_id: UUID, target: str = "succeeded", why: str = "3 tasks broke") -> None:
    async with play.database.acquire() as connection:
        source = "running"
        if target == "failed":
            await jobs.fail_job(connection, job_id, {"type": "stage_failed", "message": why})
            source = "failing"
        assert await jobs.end_job(connection, job_id, source=source, target=target, settings=play.settings)


async def step(context: Context) -> None:
    """All rules are looked at, and what they find is told and delivered."""
    await context.database.execute("UPDATE alerts SET looks_at = now()")
    teller = alerts.Teller()
    try:
        while await alerts.step(context):
            pass
        while await teller.step(context):
            await teller.settle()
    finally:
        await teller.stop()


def told(receiver: Receiver) -> list[tuple[str, str]]:
    """The kind of each message, and its text's first line."""
    bodies = [orjson.loads(request.body) for request in receiver.requests]
    return [(body["type"], body["data"]["text"].split("\n")[0]) for body in bodies]


async def test_a_failed_job_is_told_by_a_signed_webhook(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    alert = await create(operator, receiver)
    job_id = await run(play)
    await end(play, job_id, "failed")

    await step(context)

    [request] = receiver.requests
    Webhook(alert["secret"]).verify(request.body, request.headers)
    body = orjson.loads(request.body)
    assert (body["type"], body["data"]["title"]) == ("alert.raised", "nightly: failed: orders")
    assert body["data"]["text"] == f"orders failed: 3 tasks broke\nJob {job_id}"
    [incident] = body["data"]["incidents"]
    assert (incident["condition"], incident["subject_kind"], incident["job_id"]) == ("failed", "job", str(job_id))
    path = f"/v1/alerts/{alert['alert_id']}"
    [message] = (await ok(operator.get(f"{path}/messages")))["items"]
    assert (message["state"], message["tries"], message["payload"]) == ("delivered", 1, body)
    [shown] = (await ok(operator.get(f"{path}/incidents?open=true")))["items"]
    assert shown["told_at"] and shown["message"] == "orders failed: 3 tasks broke"
    assert (await ok(operator.get(path)))["open_incidents"] == 1


async def test_a_schedule_that_fails_night_after_night_is_told_once_and_then_that_it_is_over(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    await create(operator, receiver)
    schedule_id = await add_schedule(play)
    for minutes in (30, 20, 10):
        await end(play, await run(play, schedule_id, minutes), "failed")
        await step(context)
    assert told(receiver) == [("alert.raised", "orders failed: 3 tasks broke")]

    await end(play, await run(play, schedule_id), "succeeded")
    await step(context)

    kind, text = told(receiver)[-1]
    assert kind == "alert.over" and text.startswith("Over since") and "(3 times since" in text


async def test_jobs_of_no_schedule_are_told_each(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    await create(operator, receiver)
    for _ in range(2):
        await end(play, await run(play), "failed")
    await step(context)
    assert len(told(receiver)) == 2


async def test_what_comes_back_is_told_again_after_a_time(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    await create(operator, receiver, repeat_seconds="2h")
    schedule_id = await add_schedule(play)
    await end(play, await run(play, schedule_id, 20), "failed")
    await step(context)
    await end(play, await run(play, schedule_id, 10), "failed")
    await step(context)
    assert len(told(receiver)) == 1

    await play.database.execute("UPDATE incidents SET tell_at = tell_at - interval '2 hours'")
    await step(context)
    await step(context)

    [_, again] = told(receiver)
    assert again[0] == "alert.raised" and "(2 times since" in again[1]


async def test_a_job_that_is_retried_and_succeeds_is_over(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    await create(operator, receiver)
    job_id = await run(play)
    await end(play, job_id, "failed")
    await step(context)
    await play.order(jobs.retry_job, job_id)
    await end(play, job_id, "succeeded")
    await step(context)
    assert [kind for kind, _ in told(receiver)] == ["alert.raised", "alert.over"]


SCOPES: list[tuple[dict[str, Any], bool]] = [
    ({"job_name": "orders"}, True),
    ({"job_name": "order"}, False),
    ({"labels": {"team": "finance"}}, True),
    ({"labels": {"team": "finance", "kind": "x"}}, False),
    ({"pool": "default"}, True),
    ({"pool": "gpu"}, False),
    ({"schedule": "night"}, True),
    ({"schedule": "other"}, False),
    ({"paused": True}, False),
]


@pytest.mark.parametrize(("scope", "tells"), SCOPES, ids=[str(scope) for scope, _ in SCOPES])
async def test_a_rule_tells_of_its_own_jobs(
    context: Context,
    play: Play,
    operator: httpx.AsyncClient,
    receiver: Receiver,
    scope: dict[str, Any],
    tells: bool,
) -> None:
    await add_pool(play.database, "gpu")
    schedule_id, _ = await add_schedule(play), await add_schedule(play, "other")
    alert = await create(operator, receiver, on={"failed": True, "late": "10m"})
    await ok(operator.patch(f"/v1/alerts/{alert['alert_id']}", json=scope))
    late = await run(play, schedule_id, 11, labels={"team": "finance"})
    await step(context)
    assert [kind for kind, _ in told(receiver)] == ["alert.raised"] * tells
    await end(play, late, "failed")
    await step(context)
    assert sorted(kind for kind, _ in told(receiver)) == ["alert.over", "alert.raised", "alert.raised"] * tells


LIMITS = [
    ("late", "orders has not ended 10 min after it was due"),
    ("ran_over", "orders has not ended 10 min after it started"),
    ("not_started", "no task of orders has started 10 min after it was due"),
]


@pytest.mark.parametrize(("condition", "text"), LIMITS, ids=[condition for condition, _ in LIMITS])
async def test_a_job_that_is_late_is_told_once_and_is_over_when_it_ends(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver, condition: str, text: str
) -> None:
    await create(operator, receiver, on={condition: "10m"})
    job_id = await run(play, minutes=9.5)
    await step(context)
    assert told(receiver) == []

    await play.database.execute(
        "UPDATE jobs SET created_at = created_at - interval '40 s', started_at = started_at - interval '40 s'"
    )
    for _ in range(2):
        await step(context)
    [(kind, said)] = told(receiver)
    assert kind == "alert.raised" and said.startswith(text)

    await end(play, job_id)
    await step(context)
    assert [kind for kind, _ in told(receiver)] == ["alert.raised", "alert.over"]


async def test_many_late_jobs_are_read_a_few_at_a_time_and_none_is_left_out(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(times, "JOBS_MAX", 2)
    monkeypatch.setattr(times, "OPEN_MAX", 5)
    await create(operator, receiver, on={"late": "10m"})
    late = [await run(play) for _ in range(7)]
    await play.database.execute("UPDATE jobs SET created_at = now() - interval '11 min'")  # all at the same moment
    await step(context)
    opened = "SELECT job_id FROM incidents WHERE over_at IS NULL ORDER BY job_id"
    assert [row["job_id"] for row in await play.database.fetch(opened)] == late[:5]

    for job_id in late[:3]:
        await end(play, job_id)
    await step(context)
    await step(context)
    assert [row["job_id"] for row in await play.database.fetch(opened)] == late[3:]


async def test_it_is_over_when_a_task_starts_if_none_had(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    await create(operator, receiver, on={"not_started": "10m"})
    job_id = await run(play, minutes=11)
    await step(context)
    await play.plan(job_id, 1)
    await play.run(await play.register(), job_id)
    await step(context)
    assert [kind for kind, _ in told(receiver)] == ["alert.raised", "alert.over"]


async def test_a_schedule_without_its_job_is_late_until_its_job_has_ended(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    schedule_id = await add_schedule(play)
    await create(operator, receiver, on={"late": "10m"}, schedule="night")
    await play.database.execute("UPDATE schedules SET next_run_at = now() - interval '11 minutes', error = 'a quota'")
    await step(context)
    [(_, text)] = told(receiver)
    assert text.startswith("the schedule night has no job yet") and text.endswith(": a quota")

    job_id = await run(play, schedule_id, 12)
    await play.database.execute("UPDATE schedules SET next_run_at = now() + interval '1 day', last_job_id = $1", job_id)
    await step(context)
    assert len(told(receiver)) == 1
    await end(play, job_id)
    await step(context)
    assert [kind for kind, _ in told(receiver)] == ["alert.raised", "alert.over"]


async def test_what_lasts_is_told_again_until_it_is_over(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    await create(operator, receiver, on={"late": "10m"}, repeat_seconds="2h")
    await run(play, minutes=11)
    await step(context)
    await play.database.execute("UPDATE incidents SET tell_at = tell_at - interval '2 hours'")
    for _ in range(2):
        await step(context)
    assert [kind for kind, _ in told(receiver)] == ["alert.raised", "alert.raised"]


async def test_two_schedulers_tell_once(
    context: Context, other: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    await create(operator, receiver, on={"failed": True, "late": "10m"})
    await run(play, minutes=11)
    await end(play, await run(play), "failed")
    await asyncio.gather(*(step(each) for each in (context, other, context, other)), return_exceptions=True)
    await step(context)
    assert sorted(text.split(" ")[1] for _, text in told(receiver)) == ["failed:", "has"]


async def test_a_scheduler_that_dies_before_it_tells_leaves_it_to_another(
    context: Context,
    other: Context,
    play: Play,
    operator: httpx.AsyncClient,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await create(operator, receiver, on={"failed": True, "late": "10m"})
    await run(play, minutes=11)
    await end(play, await run(play), "failed")

    async def die(*_: Any) -> None:
        raise SystemError("killed")

    for module, name in ((alerts.ends, "record"), (times, "record"), (tell, "write")):
        with monkeypatch.context() as patched, pytest.raises(SystemError):
            patched.setattr(module, name, die)
            await step(context)
    await step(other)
    assert len(told(receiver)) == 2


async def test_a_message_whose_sender_dies_is_sent_again_under_the_same_id(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    alert = await create(operator, receiver)
    await end(play, await run(play), "failed")
    await alerts.step(context)
    receiver.answer = None
    teller = alerts.Teller()
    assert await teller.step(context)
    await until(lambda: bool(receiver.requests))
    await teller.stop()  # in the middle of the request
    receiver.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    await step(context)
    assert len(receiver.requests) == 1  # its lease goes on

    await play.database.execute("UPDATE alert_messages SET next_try_at = now()")
    await step(context)

    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    Webhook(alert["secret"]).verify(second.body, second.headers)


async def test_a_receiver_that_fails_is_tried_again_with_growing_pauses(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    alert = await create(operator, receiver)
    receiver.answer = b"HTTP/1.1 503 Busy\r\nretry-after: 77\r\n\r\n"
    await end(play, await run(play), "failed")
    await step(context)

    path = f"/v1/alerts/{alert['alert_id']}"
    [message] = (await ok(operator.get(f"{path}/messages?state=pending")))["items"]
    assert (message["tries"], message["error"]) == (1, "answered 503")
    wait = datetime.fromisoformat(message["next_try_at"]) - datetime.now(UTC)
    assert timedelta(seconds=60) < wait <= timedelta(seconds=77)
    shown = await ok(operator.get(path))
    assert (shown["last_message"], shown["last_error"]) == ("pending", "answered 503")

    receiver.answer = b"HTTP/1.1 410 Gone\r\n\r\n"
    await play.database.execute("UPDATE alert_messages SET next_try_at = now()")
    await step(context)
    assert (await ok(operator.get(path)))["last_message"] == "failed"


@pytest.mark.parametrize("channel", ["slack", "teams"])
async def test_the_url_of_a_chat_is_stored_sealed_and_shown_nowhere(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver, channel: str
) -> None:
    alert = await create(operator, to={"type": channel, "url": receiver.url})
    await end(play, await run(play), "failed", "a <b> & ä")
    await step(context)

    [request] = receiver.requests
    assert request.path == "/hook"
    body = orjson.loads(request.body)
    if channel == "slack":
        assert body["text"].startswith("*nightly: failed: orders*\norders failed: a &lt;b&gt; &amp; ä\n")
    else:
        assert body["type"] == "message"
        [card] = body["attachments"]
        assert card["contentType"] == "application/vnd.microsoft.card.adaptive"
        title, text, _ = card["content"]["body"]
        assert (title["text"], text["text"]) == ("nightly: failed: orders", "orders failed: a <b> & ä")
    assert alert["to"] == {"type": channel, "address": "127.0.0.1"} and alert["secret"] is None
    for table in ("alerts", "audit_log", "alert_messages"):
        rows = await play.database.fetch(f"SELECT to_jsonb(t)::text AS text FROM {table} AS t")
        assert rows and all("/hook" not in row["text"] for row in rows)


async def test_an_address_that_another_key_sealed_is_said_to_be_so(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    alert = await create(operator, to={"type": "slack", "url": receiver.url})
    context.settings.secret_key = "another key of the tests, long enough to be one"
    await end(play, await run(play), "failed")
    await step(context)
    shown = await ok(operator.get(f"/v1/alerts/{alert['alert_id']}"))
    assert "PIECEWORK_SECRET_KEY is not what sealed this address" in shown["last_error"]


async def test_nothing_goes_to_a_private_address(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    alert = await create(operator, receiver)
    context.settings.webhook_private_addresses = False
    await end(play, await run(play), "failed")
    await step(context)
    shown = await ok(operator.get(f"/v1/alerts/{alert['alert_id']}"))
    assert "127.0.0.1, not a public address" in shown["last_error"] and receiver.requests == []


@dataclass
class MailServer:
    """An SMTP server that takes mail only by TLS and from who logs in."""

    authority: Authority
    taken: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)

    async def handle_RCPT(
        self, _server: Any, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.unknown:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, session: Session, envelope: Envelope) -> str:
        assert session.ssl is not None and session.authenticated
        message = message_from_bytes(envelope.original_content or b"", _class=EmailMessage, policy=policy.default)
        self.taken.append(message)
        self.recipients.append(envelope.rcpt_tos)
        return "250 OK"

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, mechanism: str, given: Any) -> AuthResult:
        good = isinstance(given, LoginPassword) and (given.login, given.password) == (b"grid", b"pass word")
        return AuthResult(success=good, handled=good)


@pytest.fixture
def mail(tmp_path: Path, context: Context) -> Iterator[MailServer]:
    authority = Authority(tmp_path / "ca.pem")
    server = MailServer(authority)
    options = {"authenticator": server.authenticate, "auth_required": True, "require_starttls": True}
    tls = authority.server("localhost")
    controller = Controller(server, hostname="127.0.0.1", port=free_port(), tls_context=tls, **options)
    controller.start()
    context.settings.smtp_host, context.settings.smtp_port = "localhost", controller.port
    context.settings.smtp_from, context.settings.smtp_ca = "Grid <grid@example.com>", str(authority.path)
    context.settings.smtp_user, context.settings.smtp_password = "grid", "pass word"
    yield server
    controller.stop()


async def test_mail_goes_by_starttls_with_a_login(
    context: Context, play: Play, operator: httpx.AsyncClient, mail: MailServer
) -> None:
    await create(operator, to={"type": "email", "addresses": ["a@example.com", "b@example.com"]})
    await end(play, await run(play), "failed", "ein Auftrag für München")
    await step(context)
    [message] = mail.taken
    assert message["subject"] == "nightly: failed: orders" and message["from"] == "Grid <grid@example.com>"
    assert message.get_content().startswith("orders failed: ein Auftrag für München")
    assert message["message-id"].endswith("@example.com>") and message["auto-submitted"] == "auto-generated"
    assert mail.recipients == [["a@example.com", "b@example.com"]]


async def test_mail_that_some_have_got_is_not_sent_again_and_the_others_are_named(
    context: Context, play: Play, operator: httpx.AsyncClient, mail: MailServer
) -> None:
    addresses = ["a@example.com", "left@example.com", "b@example.com"]
    alert = await create(operator, to={"type": "email", "addresses": addresses})
    mail.unknown = {"left@example.com"}
    await end(play, await run(play), "failed")
    await step(context)
    [sent] = (await ok(operator.get(f"/v1/alerts/{alert['alert_id']}/messages")))["items"]
    assert (sent["state"], sent["error"]) == ("delivered", "the server refused left@example.com")
    assert mail.recipients == [["a@example.com", "b@example.com"]]

    mail.unknown = set(addresses)
    await end(play, await run(play), "failed")
    await step(context)
    [nobody, _] = (await ok(operator.get(f"/v1/alerts/{alert['alert_id']}/messages")))["items"]
    assert nobody["state"] == "pending" and "no such user" in nobody["error"]


async def test_mail_is_not_given_to_a_server_that_nobody_vouches_for(
    context: Context, play: Play, operator: httpx.AsyncClient, mail: MailServer, tmp_path: Path
) -> None:
    alert = await create(operator, to={"type": "email", "addresses": ["a@example.com"]})
    context.settings.smtp_ca = str(Authority(tmp_path / "other.pem").path)
    await end(play, await run(play), "failed")
    await step(context)
    shown = await ok(operator.get(f"/v1/alerts/{alert['alert_id']}"))
    assert "certificate verify failed" in shown["last_error"] and mail.taken == []


async def test_a_wrong_password_of_the_mail_server_is_said_without_it(
    context: Context, play: Play, operator: httpx.AsyncClient, mail: MailServer
) -> None:
    alert = await create(operator, to={"type": "email", "addresses": ["a@example.com"]})
    context.settings.smtp_password = "wrong-one"
    await end(play, await run(play), "failed")
    await step(context)
    shown = await ok(operator.get(f"/v1/alerts/{alert['alert_id']}"))
    assert shown["last_error"].startswith("SMTPAuthenticationError") and "wrong-one" not in shown["last_error"]


@pytest.mark.both_emulators("Publish")
async def test_a_topic_gets_a_subject_and_a_text(
    context: Context, play: Play, operator: httpx.AsyncClient, aws: Aws
) -> None:
    async with open_client("sns", context.settings, None) as sns:
        topic = (await sns.create_topic(Name=f"alerts-{new_id().hex}"))["TopicArn"]
        queue_url = (await aws.sqs.create_queue(QueueName=f"in-{new_id().hex}"))["QueueUrl"]
        found = await aws.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
        await sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=found["Attributes"]["QueueArn"])
    await create(operator, to={"type": "sns", "topic_arn": topic})
    await end(play, await run(play), "failed", "ein Auftrag für München")
    await step(context)
    answer = await aws.sqs.receive_message(QueueUrl=queue_url, WaitTimeSeconds=5)
    [message] = [orjson.loads(each["Body"]) for each in answer["Messages"]]
    assert message["Subject"] == "nightly: failed: orders"
    assert message["Message"].startswith("orders failed: ein Auftrag für München\nJob ")
    assert message["MessageAttributes"]["type"]["Value"] == "alert.raised"


async def test_a_trial_message_is_sent_at_once(
    context: Context, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    alert = await create(operator, receiver)
    path = f"/v1/alerts/{alert['alert_id']}"
    await ok(operator.patch(path, json={"paused": True}))
    message = await ok(operator.post(f"{path}/test"))
    assert (message["event"], message["state"]) == ("alert.test", "pending")
    await step(context)
    assert told(receiver) == [("alert.test", "This is a trial message of the alert nightly. It tells of: failed.")]
    assert (await ok(operator.get(f"{path}/messages")))["items"][0]["state"] == "delivered"


async def test_quiet_hours_hold_what_is_found_and_tell_all_of_it_in_one_summary(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    now = datetime.now(UTC)
    quiet = {"begin": f"{now - timedelta(hours=1):%H:%M}", "end": f"{now + timedelta(hours=1):%H:%M}"}
    alert = await create(operator, receiver, on={"failed": True, "late": "10m"}, quiet=quiet)
    urgent = await create(operator, receiver, name="urgent", quiet=quiet, urgent=True)
    late = await run(play, minutes=11)
    await end(play, await run(play), "failed")
    await step(context)
    assert [orjson.loads(request.body)["data"]["alert"] for request in receiver.requests] == ["urgent"]
    await end(play, late)
    await step(context)
    held = (await ok(operator.get(f"/v1/alerts/{alert['alert_id']}/incidents")))["items"]
    assert all(timedelta(minutes=58) < datetime.fromisoformat(each["tell_at"]) - now for each in held)

    await ok(operator.delete(f"/v1/alerts/{urgent['alert_id']}"))
    await ok(operator.patch(f"/v1/alerts/{alert['alert_id']}", json={"quiet": None}))
    await play.database.execute("UPDATE incidents SET tell_at = now() WHERE held")  # the morning
    for _ in range(2):
        await step(context)
    summary = orjson.loads(receiver.requests[-1].body)
    assert len(receiver.requests) == 2
    assert (summary["type"], summary["data"]["title"]) == ("alert.summary", "nightly: 2 incidents")
    lines = sorted(summary["data"]["text"].split("\n"))
    assert lines[0].startswith("- Over since") and lines[1] == "- orders failed: 3 tasks broke"


async def test_a_flood_is_told_in_summaries(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    await create(operator, receiver)
    for _ in range(5):
        await end(play, await run(play), "failed")
    await step(context)
    assert [kind for kind, _ in told(receiver)] == ["alert.summary"]
    for _ in range(tell.MESSAGES_MAX + 5):
        await end(play, await run(play), "failed")
        await step(context)
    assert len(told(receiver)) == tell.MESSAGES_MAX

    await play.database.execute("UPDATE alert_messages SET created_at = created_at - interval '10 minutes'")
    await play.database.execute("UPDATE incidents SET tell_at = now() WHERE held")
    await step(context)
    assert told(receiver)[-1][0] == "alert.summary" and len(told(receiver)) == tell.MESSAGES_MAX + 1


async def count(play: Play, job_id: UUID, **records: int) -> None:
    """The job's only task ends, with these records."""
    await play.plan(job_id, 1)
    worker_id = await play.register()
    [task] = await play.run(worker_id, job_id)
    await play.complete(worker_id, finished(task, **{f"records_{name}": value for name, value in records.items()}))


async def test_too_many_rejects_and_records_that_do_not_add_up_are_told(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    await create(operator, receiver, on={"rejects": 2, "records": True})
    schedule_id = await add_schedule(play)
    even = await run(play, schedule_id, 30)
    await count(play, even, **{"in": 10, "out": 8, "rejected": 2})
    await end(play, even)
    await step(context)
    assert told(receiver) == []

    wrong = await run(play, schedule_id, 20)
    await count(play, wrong, **{"in": 10, "out": 5, "rejected": 3})
    await end(play, wrong)
    await step(context)
    assert sorted(text for _, text in told(receiver)) == [
        "orders rejected 3 records; up to 2 are allowed",
        "the records of orders do not add up: stage stage-0: 10 records in, 5 out, 3 rejected: 2 are unaccounted for",
    ]


async def test_a_run_that_takes_much_longer_than_usual_is_told(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    await create(operator, receiver, on={"slowed": 2})
    schedule_id = await add_schedule(play)
    for run_ago, minutes in ((90, 10), (80, 11), (70, 9), (60, 10), (50, 100), (40, 10), (30, 19)):
        job_id = await run(play, schedule_id, run_ago)
        await end(play, job_id)
        await play.database.execute(
            "UPDATE jobs SET finished_at = started_at + $2 * interval '1 minute' WHERE job_id = $1", job_id, minutes
        )
    await play.database.execute("UPDATE alerts SET created_at = created_at - interval '1 day'")
    await step(context)
    assert told(receiver) == []  # the long one had too few before it

    job_id = await run(play, schedule_id, 21)
    await end(play, job_id)
    await step(context)
    assert told(receiver) == [("alert.raised", "orders took 21 min; usually it takes 10 min")]


async def test_a_job_that_was_retried_ran_from_its_retry_on_and_is_not_a_usual_one(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    await create(operator, receiver, on={"slowed": 2})
    schedule_id = await add_schedule(play)
    usual = []
    for run_ago in (90, 80, 70, 60, 50):
        usual.append(await run(play, schedule_id, run_ago))
        await end(play, usual[-1])
    await play.database.execute("UPDATE jobs SET finished_at = started_at + interval '10 minutes'")
    await play.database.execute("UPDATE alerts SET created_at = created_at - interval '1 day'")
    job_id = await run(play, schedule_id, 40)
    await end(play, job_id, "failed")
    async with play.database.acquire() as connection:
        await jobs.retry_job(connection, job_id)
    await end(play, job_id)
    await step(context)
    assert told(receiver) == []

    await play.database.execute("UPDATE jobs SET retried_at = started_at WHERE job_id = $1", usual[0])
    await end(play, await run(play, schedule_id, 21))
    await step(context)
    assert told(receiver) == []  # four are too few to tell what is usual


async def test_a_pool_without_workers_is_told_until_it_has_one(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    await create(operator, receiver, on={"no_workers": "5m"})
    job_id = await run(play)
    await play.plan(job_id, 1)
    await play.dispatch(job_id)
    await step(context)
    await play.database.execute("UPDATE bundles SET queued_at = queued_at - interval '6 minutes'")
    for _ in range(2):
        await step(context)
    [(kind, text)] = told(receiver)
    assert kind == "alert.raised" and text.startswith("the pool default has no worker; its tasks have waited since")
    await play.register()
    await step(context)
    assert [kind for kind, _ in told(receiver)] == ["alert.raised", "alert.over"]


async def test_a_trigger_or_a_schedule_that_makes_no_job_is_told_until_it_does(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    await create(operator, receiver, on={"trigger_failed": True})
    await add_schedule(play)
    await play.database.execute(
        "INSERT INTO triggers (trigger_id, name, queue_url, job, last_error, last_error_at) "
        "VALUES ($1, 'incoming', 'q', '{}', 'no such bucket', now())",
        new_id(),
    )
    await play.database.execute("UPDATE schedules SET error = 'no processor clean'")
    for _ in range(2):
        await step(context)
    assert sorted(text for _, text in told(receiver)) == [
        "schedule night: no processor clean",
        "trigger incoming: no such bucket",
    ]
    await play.database.execute("UPDATE triggers SET last_message_at = now()")
    await play.database.execute("UPDATE schedules SET error = NULL")
    await step(context)
    assert [kind for kind, _ in told(receiver)] == ["alert.raised"] * 2 + ["alert.over"] * 2


async def test_old_messages_and_incidents_are_forgotten(
    context: Context, play: Play, operator: httpx.AsyncClient, receiver: Receiver
) -> None:
    await create(operator, receiver)
    await end(play, await run(play), "failed")
    await step(context)
    await maintain.step(context)
    assert await play.database.fetchval("SELECT count(*) FROM incidents") == 1
    await play.database.execute("UPDATE alert_messages SET created_at = now() - interval '31 days'")
    await play.database.execute("UPDATE incidents SET last_at = now() - interval '91 days'")
    await maintain.step(context)
    assert (
        await play.database.fetchval("SELECT (SELECT count(*) FROM incidents) + (SELECT count(*) FROM alert_messages)")
        == 0
    )


async def test_while_there_is_no_alert_ends_leave_nothing_to_look_at(context: Context, play: Play) -> None:
    await end(play, await run(play), "failed")
    assert await play.database.fetchval("SELECT count(*) FROM ended_jobs") == 0
