"""Webhooks reach real receivers signed, are tried again while they fail, and never go where they must not."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from services.engine import jobs
from services.engine.webhooks import derive_secret, digest_of
from services.platform.database import new_id
from services.platform.tracing import within
from services.platform.version import VERSION
from services.scheduler.loop import Context
from services.scheduler.loops import maintain, webhooks
from tests.conftest import free_port
from tests.integration.engine.play import Play
from tests.integration.scheduler.conftest import drive

KEY = "of the tests alone, long enough to be one"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OK = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A real HTTP server that answers `answer`, forever if it ends in an ellipsis; None: not at all."""

    port: int = 0
    answer: bytes | None = OK
    endless: bool = False
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
            body = await reader.readexactly(int(headers["content-length"]))
            self.requests.append(Request(head[0].split()[1], headers, body))
            if self.answer is None:
                await reader.read()  # until the other side gives up
            else:
                writer.write(self.answer)
                while self.endless:
                    writer.write(b"x" * 65_536)
                    await writer.drain()
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


async def serve(receiver: Receiver, host: str = "127.0.0.1") -> AsyncIterator[Receiver]:
    async with await asyncio.start_server(receiver.handle, host, 0) as server:
        receiver.port = server.sockets[0].getsockname()[1]
        yield receiver


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async for receiver in serve(Receiver()):
        yield receiver


@pytest.fixture
async def silent() -> AsyncIterator[Receiver]:
    async for silent in serve(Receiver(answer=None)):
        yield silent


async def add_endpoint(play: Play, url: str, secret: str = SECRET) -> UUID:
    endpoint_id = new_id()
    await play.database.execute(
        "INSERT INTO webhook_endpoints (endpoint_id, url, secret) VALUES ($1, $2, $3)", endpoint_id, url, secret
    )
    return endpoint_id


async def end_jobs(play: Play, count: int = 1) -> list[UUID]:
    ended = []
    for _ in range(count):
        job_id = await play.submit(name="nightly")
        async with play.database.acquire() as connection:
            await jobs.end_job(connection, job_id, source="running", target="succeeded", settings=play.settings)
        ended.append(job_id)
    return ended


async def delivery(play: Play) -> dict[str, Any]:
    [row] = await play.database.fetch("SELECT *, now() AS now FROM webhook_deliveries")
    return dict(row)


async def make_due(play: Play) -> None:
    """The delivery's pause is over, and that of its endpoint."""
    await play.database.execute("UPDATE webhook_deliveries SET next_try_at = now()")
    await play.database.execute("UPDATE webhook_endpoints SET paused_until = now() WHERE paused_until IS NOT NULL")


async def step(context: Context) -> bool:
    """Steps until nothing is due; what the last one gave."""
    deliverer = webhooks.Deliverer()
    try:
        while more := await deliverer.step(context):
            await deliverer.settle()
        return more
    finally:
        await deliverer.stop()


async def test_the_receiver_gets_the_trace_of_the_job(context: Context, play: Play, receiver: Receiver) -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await add_endpoint(play, receiver.url)
    with within(traceparent):
        await end_jobs(play)
    await end_jobs(play)
    await step(context)
    assert {request.headers.get("traceparent") for request in receiver.requests} == {traceparent, None}


async def test_the_receiver_gets_the_event_signed(context: Context, play: Play, receiver: Receiver) -> None:
    await add_endpoint(play, receiver.url)
    [job_id] = await end_jobs(play)

    assert not await step(context)

    row = await delivery(play)
    assert (row["state"], row["status_code"], row["tries"], row["error"]) == ("delivered", 204, 1, None)
    assert row["delivered_at"] is not None
    [request] = receiver.requests
    assert request.path == "/hook"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == f"Piecework-Webhooks/{VERSION}"
    assert request.headers["webhook-id"] == f"msg_{row['delivery_id'].hex}"
    event = Webhook(SECRET).verify(request.body, request.headers)
    assert (event["type"], event["data"]["job_id"]) == ("job.succeeded", str(job_id))
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body.replace(b"nightly", b"nightlY"), request.headers)


async def test_a_job_end_is_delivered_once_to_each_endpoint_by_however_many_schedulers(
    context: Context, other: Context, play: Play, receiver: Receiver
) -> None:
    for n in range(2):
        await add_endpoint(play, f"{receiver.url}/{n}")
    ended = await end_jobs(play, 20)

    async def all_delivered() -> bool:
        return bool(
            await play.database.fetchval("SELECT count(*) = 40 FROM webhook_deliveries WHERE state = 'delivered'")
        )

    async def both(_: Context) -> bool:
        await asyncio.gather(step(context), step(other))
        return True

    await drive(context, both, until=all_delivered)

    received = [(request.path, orjson.loads(request.body)["data"]["job_id"]) for request in receiver.requests]
    assert sorted(received) == sorted((f"/hook/{n}", str(job_id)) for n in range(2) for job_id in ended)


REFUSALS: list[tuple[str, bytes | None, str, int | None]] = [
    ("an error", b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "answered 500", 500),
    ("a redirect", b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", "answered 302", 302),
    ("garbage", b"what?\r\n\r\n", "RemoteProtocolError", None),
    ("nothing", b"", "RemoteProtocolError", None),
    ("silence", None, "Timeout", None),
]


@pytest.mark.parametrize(("answer", "why", "status_code"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS])
async def test_anything_but_success_is_tried_again_and_recorded(
    context: Context,
    play: Play,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes | None,
    why: str,
    status_code: int | None,
) -> None:
    monkeypatch.setattr(webhooks, "REQUEST_SECONDS", 0.2)
    receiver.answer = answer
    await add_endpoint(play, receiver.url)
    await end_jobs(play)

    await step(context)

    row = await delivery(play)
    assert (row["state"], row["tries"], row["status_code"]) == ("pending", 1, status_code)
    assert why in row["error"]
    assert [request.path for request in receiver.requests] == ["/hook"]  # a redirect is not followed
    await step(context)
    assert len(receiver.requests) == 1  # not before its time

    receiver.answer = OK
    await make_due(play)
    await step(context)

    row = await delivery(play)
    assert (row["state"], row["tries"], row["status_code"], row["error"]) == ("delivered", 2, 204, None)
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


async def test_tries_come_ever_later_until_it_is_given_up(context: Context, play: Play) -> None:
    await add_endpoint(play, f"http://127.0.0.1:{free_port()}/")
    await end_jobs(play)
    pauses = []
    for _ in range(12):
        await make_due(play)
        await step(context)
        row = await delivery(play)
        pauses.append((row["next_try_at"] - row["now"]).total_seconds())
        assert "ConnectError" in row["error"]

    for pause, expected in zip(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600], strict=True):
        assert expected * 0.75 < pause <= expected * 1.2

    await play.database.execute("UPDATE webhook_deliveries SET give_up_at = now() + interval '1 minute'")
    await make_due(play)
    await step(context)
    assert (await delivery(play))["state"] == "failed"
    await make_due(play)
    assert not await step(context)
    assert (await delivery(play))["tries"] == 13


async def test_a_scheduler_that_dies_while_it_sends_costs_only_time(
    context: Context, play: Play, receiver: Receiver
) -> None:
    receiver.answer = None
    await add_endpoint(play, receiver.url)
    await end_jobs(play)
    stepping = asyncio.create_task(step(context))

    async def received() -> bool:
        return bool(receiver.requests)

    await drive(context, until=received)
    stepping.cancel()
    await asyncio.wait({stepping})

    row = await delivery(play)
    assert (row["state"], row["tries"]) == ("pending", 1)
    assert row["next_try_at"] - row["now"] <= timedelta(seconds=webhooks.LEASE_SECONDS)
    receiver.answer = OK
    await make_due(play)
    await step(context)
    assert (await delivery(play))["state"] == "delivered"
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


async def test_a_try_that_outlasts_its_lease_goes_on_alone(
    context: Context, play: Play, receiver: Receiver, silent: Receiver
) -> None:
    await add_endpoint(play, silent.url)
    await end_jobs(play)
    deliverer = webhooks.Deliverer()
    await deliverer.step(context)
    await make_due(play)
    await play.database.execute("UPDATE webhook_endpoints SET failures = 1")
    await add_endpoint(play, receiver.url)
    await end_jobs(play)

    async def delivered() -> bool:
        return bool(receiver.requests)

    await drive(context, deliverer.step, until=delivered)

    tries = await play.database.fetchval("SELECT max(tries) FROM webhook_deliveries")
    assert (len(silent.requests), tries) == (1, 1)
    await deliverer.stop()


async def test_an_endless_answer_is_not_read(context: Context, play: Play, receiver: Receiver) -> None:
    receiver.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"
    receiver.endless = True
    await add_endpoint(play, receiver.url)
    await end_jobs(play)

    await step(context)

    assert (await delivery(play))["state"] == "delivered"


@pytest.mark.parametrize(
    ("url", "secret"),
    [("ftp://127.0.0.1/x", SECRET), ("http://exa mple/", SECRET), ("http://[::1/", SECRET), ("", SECRET),
     ("{receiver}", "whsec_not base64!"), ("{receiver}", "")],
)  # fmt: skip
async def test_an_endpoint_that_can_not_work_holds_up_no_other(
    context: Context, play: Play, receiver: Receiver, url: str, secret: str
) -> None:
    broken = await add_endpoint(play, url.replace("{receiver}", receiver.url), secret)
    await add_endpoint(play, receiver.url)
    await end_jobs(play)

    await step(context)

    rows = await play.database.fetch("SELECT endpoint_id, state, error FROM webhook_deliveries")
    states = {row["endpoint_id"] == broken: (row["state"], row["error"] is None) for row in rows}
    assert states == {True: ("pending", False), False: ("delivered", True)}


# Where webhooks may go.


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0.0.0.0", "10.1.2.3", "192.168.0.1", "169.254.169.254", "2130706433", "[::1]",
     "[::ffff:127.0.0.1]", "[fd00::1]", "[fe80::1]"],
)  # fmt: skip
async def test_private_addresses_are_refused_unless_allowed(
    context: Context, play: Play, receiver: Receiver, host: str
) -> None:
    strict = replace(context, settings=context.settings.model_copy(update={"webhook_private_addresses": False}))
    await add_endpoint(play, f"http://{host}:{receiver.port}/")
    await end_jobs(play)

    await step(strict)

    row = await delivery(play)
    assert row["state"] == "pending"
    assert row["error"].startswith("Refused: ")
    assert "PIECEWORK_WEBHOOK_PRIVATE_ADDRESSES=true" in row["error"]
    assert receiver.requests == []


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> Callable[[], int]:
    """Every name has these addresses; gives the number of times one was asked for."""
    asked = 0

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        nonlocal asked
        asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    return lambda: asked


@pytest.mark.parametrize("address", ["10.0.0.7", "64:ff9b::a00:7", "2002:a00:7::", "::ffff:0:10.0.0.7", "fec0::7"])
async def test_a_name_with_one_private_address_is_refused(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    strict = replace(context, settings=context.settings.model_copy(update={"webhook_private_addresses": False}))
    await add_endpoint(play, "https://hooks.example.com/")
    await end_jobs(play)
    with monkeypatch.context() as resolving:
        resolve_to(resolving, "93.184.216.34", address)
        await step(strict)

    assert f"hooks.example.com is {address}, not a public address" in (await delivery(play))["error"]


async def test_a_request_goes_to_the_address_that_was_checked_and_names_its_host(
    context: Context, play: Play, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_endpoint(play, f"http://hooks.example.com:{receiver.port}/a?b=c")
    await end_jobs(play)
    with monkeypatch.context() as resolving:
        asked = resolve_to(resolving, "127.0.0.1")
        await step(context)
        assert asked() == 1

    assert (await delivery(play))["state"] == "delivered"
    [request] = receiver.requests
    assert (request.path, request.headers["host"]) == ("/a?b=c", f"hooks.example.com:{receiver.port}")


async def test_the_next_try_goes_to_the_next_address(
    context: Context, play: Play, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_endpoint(play, f"http://hooks.example.com:{receiver.port}/")
    await end_jobs(play)
    with monkeypatch.context() as resolving:
        resolve_to(resolving, "127.0.0.2", "127.0.0.1")  # nobody listens at the first
        await step(context)
        assert (await delivery(play))["state"] == "pending"
        await make_due(play)
        await step(context)

    assert (await delivery(play))["state"] == "delivered"


async def test_an_endpoint_may_have_an_ipv6_address(context: Context, play: Play) -> None:
    try:
        servers = serve(Receiver(), "::1")
        receiver = await anext(servers)
    except OSError:
        pytest.skip("this machine has no IPv6")
    await add_endpoint(play, f"http://[::1]:{receiver.port}/")
    await end_jobs(play)

    await step(context)

    assert (await delivery(play))["state"] == "delivered"
    assert receiver.requests[0].headers["host"] == f"[::1]:{receiver.port}"
    await servers.aclose()  # type: ignore[attr-defined]


# Slow receivers, and secrets.


async def test_slow_receivers_hold_up_no_other(context: Context, play: Play, receiver: Receiver) -> None:
    silent = Receiver(answer=None)
    async for slow in serve(silent):
        for number in range(16):
            await add_endpoint(play, f"{slow.url}/{number}")
        await end_jobs(play, webhooks.ENDPOINT_AT_ONCE * 2)
        await add_endpoint(play, receiver.url)
        [job_id] = await end_jobs(play)
        deliverer = webhooks.Deliverer()

        async def delivered() -> bool:
            return bool(receiver.requests) and len({request.path for request in silent.requests}) == 16

        await drive(context, deliverer.step, until=delivered)

        assert orjson.loads(receiver.requests[0].body)["data"]["job_id"] == str(job_id)
        paths = [request.path for request in silent.requests]
        assert max(map(paths.count, paths)) <= webhooks.ENDPOINT_AT_ONCE
        await deliverer.stop()


async def derived(play: Play, url: str, generation: int = 1, **columns: Any) -> UUID:
    """An endpoint of this release."""
    endpoint_id = await add_endpoint(play, url, columns.get("secret", ""))
    digest = digest_of(derive_secret(KEY, endpoint_id, generation))
    await play.database.execute(
        "UPDATE webhook_endpoints SET generation = $2, secret_digest = $3, previous_until = now() + $4::interval "
        "WHERE endpoint_id = $1",
        endpoint_id,
        generation,
        digest,
        columns.get("overlap"),
    )
    return endpoint_id


async def signed_with(play: Play, context: Context, receiver: Receiver, *secrets: str) -> list[bool]:
    """Which of the secrets verify the next message, and no other signature is there."""
    await end_jobs(play)
    await step(context)
    request = receiver.requests[-1]
    verified = []
    for secret in secrets:
        try:
            Webhook(secret).verify(request.body, request.headers)
            verified.append(True)
        except WebhookVerificationError:
            verified.append(False)
    assert len(request.headers["webhook-signature"].split()) == sum(verified)
    return verified


async def test_a_derived_secret_signs_and_both_do_while_they_overlap(
    context: Context, play: Play, receiver: Receiver
) -> None:
    endpoint_id = await derived(play, receiver.url, generation=2, overlap=timedelta(hours=1))
    first, second = (derive_secret(KEY, endpoint_id, generation) for generation in (1, 2))

    assert await signed_with(play, context, receiver, first, second) == [True, True]
    await play.database.execute("UPDATE webhook_endpoints SET previous_until = now() - interval '1 second'")
    assert await signed_with(play, context, receiver, first, second) == [False, True]


async def test_a_secret_that_a_release_before_stored_signs_until_the_overlap_ends_and_is_forgotten(
    context: Context, play: Play, receiver: Receiver
) -> None:
    endpoint_id = await add_endpoint(play, receiver.url)
    assert await signed_with(play, context, receiver, SECRET) == [True]
    await play.database.execute("DELETE FROM webhook_endpoints")

    endpoint_id = await derived(play, receiver.url, secret=SECRET, overlap=timedelta(hours=1))
    new = derive_secret(KEY, endpoint_id, 1)
    await maintain.step(context)
    assert await signed_with(play, context, receiver, SECRET, new) == [True, True]
    await play.database.execute("UPDATE webhook_endpoints SET previous_until = now() - interval '1 second'")
    assert await signed_with(play, context, receiver, SECRET, new) == [False, True]
    await maintain.step(context)
    assert await play.database.fetchval("SELECT secret FROM webhook_endpoints") == ""


@pytest.mark.parametrize("key", [None, "another key, which is long enough too"])
async def test_nothing_is_signed_with_another_key(
    context: Context, play: Play, receiver: Receiver, key: str | None
) -> None:
    await derived(play, receiver.url)
    await end_jobs(play)

    await step(replace(context, settings=context.settings.model_copy(update={"secret_key": key})))

    assert "PIECEWORK_SECRET_KEY" in (await delivery(play))["error"]
    assert receiver.requests == []
    await make_due(play)
    await step(context)
    assert (await delivery(play))["state"] == "delivered"


async def test_webhooks_go_to_few_ports_of_public_addresses(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = replace(context, settings=context.settings.model_copy(update={"webhook_private_addresses": False}))
    await add_endpoint(play, "https://hooks.example.com:6379/")
    await end_jobs(play)
    with monkeypatch.context() as resolving:
        resolve_to(resolving, "93.184.216.34")
        await step(strict)

    assert "PIECEWORK_WEBHOOK_PORTS" in (await delivery(play))["error"]


# Endpoints that fail.


async def endpoint_of(play: Play, endpoint_id: UUID) -> dict[str, Any]:
    row = await play.database.fetchrow(
        "SELECT *, now() AS now FROM webhook_endpoints WHERE endpoint_id = $1", endpoint_id
    )
    return dict(row or {})


async def states_of(play: Play, endpoint_id: UUID) -> dict[tuple[str, str | None], int]:
    """The number of the endpoint's deliveries by state and error."""
    rows = await play.database.fetch(
        "SELECT state, error, count(*) FROM webhook_deliveries WHERE endpoint_id = $1 GROUP BY 1, 2", endpoint_id
    )
    return {(row["state"], row["error"]): row["count"] for row in rows}


async def end_pauses(play: Play) -> None:
    await play.database.execute("UPDATE webhook_endpoints SET paused_until = now() WHERE paused_until IS NOT NULL")


def answering(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "Content-Length: 0", *headers, "", ""]).encode()


async def test_a_live_endpoint_gets_all_while_a_silent_one_holds_what_it_has(
    context: Context, play: Play, receiver: Receiver, silent: Receiver
) -> None:
    await add_endpoint(play, silent.url)
    live = await add_endpoint(play, receiver.url)
    await end_jobs(play, 80)
    deliverer = webhooks.Deliverer()

    async def delivered() -> bool:
        return await states_of(play, live) == {("delivered", None): 80}

    await drive(context, deliverer.step, until=delivered)

    assert len(receiver.requests) == 80
    assert len(silent.requests) <= webhooks.ENDPOINT_AT_ONCE  # and not one of them has ended
    await deliverer.stop()


async def test_new_deliveries_find_places_however_many_endpoints_fail(
    context: Context, play: Play, receiver: Receiver, silent: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "DELIVERIES_AT_ONCE", 4)
    monkeypatch.setattr(webhooks, "_CROWDED", 2)
    monkeypatch.setattr(webhooks, "FAILING_AT_ONCE", 2)
    for number in range(6):
        await add_endpoint(play, f"{silent.url}/{number}")
    await play.database.execute("UPDATE webhook_endpoints SET failures = 1")
    await end_jobs(play)
    deliverer = webhooks.Deliverer()
    await deliverer.step(context)
    live = await add_endpoint(play, receiver.url)
    await end_jobs(play, 5)

    async def delivered() -> bool:
        return await states_of(play, live) == {("delivered", None): 5}

    await drive(context, deliverer.step, until=delivered)

    assert len(silent.requests) <= 2
    await deliverer.stop()


async def test_an_endpoint_that_fails_in_a_row_is_paused_then_tried_by_one_delivery(
    context: Context, other: Context, play: Play, receiver: Receiver
) -> None:
    receiver.answer = answering("500 Oops")
    endpoint_id = await add_endpoint(play, receiver.url)
    await end_jobs(play, 30)

    await step(context)

    tried = len(receiver.requests)
    assert webhooks.FAILURES_MAX <= tried <= webhooks.ENDPOINT_AT_ONCE
    row = await endpoint_of(play, endpoint_id)
    assert (row["failures"], row["pauses"], row["last_error"]) == (tried, 1, "answered 500")
    assert row["failing_since"] is not None
    pauses = [row["paused_until"] - row["now"]]
    for probes in (1, 2):
        await end_pauses(play)
        await asyncio.gather(step(context), step(other))
        assert len(receiver.requests) == tried + probes
        row = await endpoint_of(play, endpoint_id)
        pauses.append(row["paused_until"] - row["now"])
    for pause, expected in zip(pauses, (10, 20, 40), strict=True):
        assert timedelta(seconds=expected - 5) < pause <= timedelta(seconds=expected)

    receiver.answer = OK
    await end_pauses(play)
    await make_due(play)
    await step(context)

    assert await states_of(play, endpoint_id) == {("delivered", None): 30}
    row = await endpoint_of(play, endpoint_id)
    assert (row["failures"], row["failing_since"], row["paused_until"], row["last_error"]) == (0, None, None, None)


async def test_an_endpoint_that_is_gone_is_disabled_and_what_waits_for_it_says_so(
    context: Context, play: Play, receiver: Receiver
) -> None:
    receiver.answer = answering("410 Gone")
    gone = await add_endpoint(play, receiver.url)
    await end_jobs(play, 20)

    await step(context)
    while await webhooks.give_up(context):
        pass

    row = await endpoint_of(play, gone)
    assert (row["enabled"], row["disabled_reason"]) == (False, "it answered 410 Gone")
    assert row["disabled_at"] is not None
    states = await states_of(play, gone)
    assert {state for state, _ in states} == {"failed"} and sum(states.values()) == 20
    why = "not sent: the endpoint is disabled: it answered 410 Gone"
    assert {error for _, error in states} == {"answered 410", why}
    [entry] = await play.database.fetch("SELECT * FROM audit_log WHERE action = 'disable_webhook_endpoint'")
    assert (entry["subject"], entry["role"]) == (str(gone), "scheduler")
    assert entry["summary"] == {"reason": "it answered 410 Gone"}
    tried = len(receiver.requests)
    await end_jobs(play)
    await step(context)
    assert (len(receiver.requests), sum((await states_of(play, gone)).values())) == (tried, 20)


async def test_an_endpoint_that_fails_for_days_is_disabled(context: Context, play: Play, receiver: Receiver) -> None:
    receiver.answer = answering("500 Oops")
    endpoint_id = await add_endpoint(play, receiver.url)
    await end_jobs(play)
    await step(context)
    await play.database.execute(
        "UPDATE webhook_endpoints SET failing_since = now() - $1 * interval '1 day'",
        context.settings.webhook_disable_days,
    )
    for failures in range(2, webhooks.FAILURES_MAX + 1):
        assert (await endpoint_of(play, endpoint_id))["enabled"], "a few failures in many days are not enough"
        await make_due(play)
        await step(context)
        assert (await endpoint_of(play, endpoint_id))["failures"] == failures

    row = await endpoint_of(play, endpoint_id)
    assert not row["enabled"]
    assert "it has failed since" in row["disabled_reason"] and "answered 500" in row["disabled_reason"]


async def test_what_is_late_for_a_paused_endpoint_is_given_up(context: Context, play: Play, receiver: Receiver) -> None:
    paused, well = await add_endpoint(play, receiver.url), await add_endpoint(play, receiver.url)
    await end_jobs(play, 3)
    await play.database.execute("UPDATE webhook_deliveries SET give_up_at = now() - interval '1 second'")
    await play.database.execute(
        "UPDATE webhook_endpoints SET failures = 9, paused_until = now() + interval '1 minute' WHERE endpoint_id = $1",
        paused,
    )

    assert await webhooks.give_up(context)
    assert not await webhooks.give_up(context)

    assert await states_of(play, paused) == {("failed", "given up while the endpoint was paused"): 3}
    assert await states_of(play, well) == {("pending", None): 3}


@pytest.mark.parametrize("status", ["429 Slow down", "503 Busy"])
async def test_an_endpoint_that_asks_for_time_gets_it(
    context: Context, play: Play, receiver: Receiver, status: str
) -> None:
    receiver.answer = answering(status, "Retry-After: 3000")
    endpoint_id = await add_endpoint(play, receiver.url)
    await end_jobs(play)

    await step(context)

    row, endpoint = await delivery(play), await endpoint_of(play, endpoint_id)
    for time in (row["next_try_at"], endpoint["paused_until"]):
        assert timedelta(seconds=2900) < time - row["now"] <= timedelta(seconds=3000)
    receiver.answer = OK
    await end_jobs(play)
    await step(context)
    assert len(receiver.requests) == 1


async def test_a_scheduler_without_the_key_does_not_blame_the_endpoint(
    context: Context, play: Play, receiver: Receiver
) -> None:
    endpoint_id = await derived(play, receiver.url)
    await end_jobs(play, webhooks.FAILURES_MAX * 2)

    await step(replace(context, settings=context.settings.model_copy(update={"secret_key": None})))

    row = await endpoint_of(play, endpoint_id)
    assert (row["failures"], row["paused_until"]) == (0, None)
