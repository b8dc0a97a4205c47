"""Webhooks: deliver what the outbox holds, signed (https://www.standardwebhooks.com), at least once.

A delivery is taken by moving its next try into the future, so a scheduler that dies while it sends costs only time; the
receiver knows a repeated delivery by its `webhook-id`.
"""

import asyncio
import random
import socket
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from uuid import UUID

import httpx
import structlog
from asyncpg import Record
from standardwebhooks.webhooks import Webhook

from services.engine.webhooks import NoSecret, disable, signing_secrets
from services.platform import effects, tracing
from services.platform.addresses import is_public
from services.platform.database import Connection, dump_json
from services.platform.settings import Settings
from services.platform.version import VERSION
from services.scheduler.loop import Context
from services.scheduler.metrics import WEBHOOKS_RUNNING
from services.scheduler.slots import Slots

log = structlog.get_logger()

DELIVERIES_AT_ONCE = 256
# Of one endpoint: one that is slow leaves room for the others. Where little room is left, each has only one.
ENDPOINT_AT_ONCE = 8
_CROWDED = DELIVERIES_AT_ONCE // 2
# Endpoints whose last try failed have one each, and all of them no more than this.
FAILING_AT_ONCE = DELIVERIES_AT_ONCE // 2
REQUEST_SECONDS = 15.0
LEASE_SECONDS = 60.0  # longer than a request; then another scheduler tries
BACKOFF_SECONDS_FIRST = 5.0
BACKOFF_SECONDS_MAX = 3600.0
RETRY_AFTER_SECONDS_MAX = 6 * 3600.0  # an endpoint may not ask for longer
ERROR_CHARACTERS_MAX = 500

# An endpoint that fails this often in a row is paused: each pause is twice as long as the one before.
FAILURES_MAX = 5
PAUSE_SECONDS_FIRST = 10.0
PAUSE_SECONDS_MAX = 600.0
_BUSY = (429, 503)  # it asks for a pause

GIVEN_UP_MAX = 1_000  # deliveries, per step and endpoint

# A paused endpoint gets one delivery when its pause is over, from one scheduler: its next pause begins with it. The
# endpoints take turns, and those that fail come last. A delivery whose try lasts longer than its lease is not tried
# beside that ($7).
_TAKE = """
    WITH open AS (
        SELECT endpoint_id, failures > 0 AS failing, false AS probed FROM webhook_endpoints
        WHERE enabled AND paused_until IS NULL
        UNION ALL SELECT * FROM (
            SELECT endpoint_id, true, true FROM webhook_endpoints
            WHERE enabled AND paused_until <= now() FOR NO KEY UPDATE SKIP LOCKED) AS paused
    ), waiting AS (
        SELECT o.endpoint_id, o.failing, o.probed, d.*,
            row_number() OVER (PARTITION BY o.failing ORDER BY d.place, d.next_try_at) AS turn
        FROM open AS o LEFT JOIN unnest($5::uuid[], $6::integer[]) AS busy (endpoint_id, deliveries) USING (endpoint_id)
        CROSS JOIN LATERAL (
            SELECT locked.*, coalesce(busy.deliveries, 0) + row_number() OVER (ORDER BY next_try_at) AS place FROM (
                SELECT delivery_id, next_try_at FROM webhook_deliveries AS w
                WHERE w.endpoint_id = o.endpoint_id AND w.state = 'pending' AND w.next_try_at <= now()
                  AND w.delivery_id <> ALL($7::uuid[])
                ORDER BY next_try_at
                LIMIT greatest(CASE WHEN o.failing THEN 1 ELSE $4 END - coalesce(busy.deliveries, 0), 0)
                FOR UPDATE SKIP LOCKED
            ) AS locked
        ) AS d
    ), due AS (
        SELECT * FROM waiting WHERE NOT failing OR turn <= $3 ORDER BY failing, turn LIMIT $1
    ), probes AS (
        UPDATE webhook_endpoints SET paused_until = now() + $2 * interval '1 second'
        WHERE endpoint_id = ANY(ARRAY(SELECT endpoint_id FROM due WHERE probed))
    )
    UPDATE webhook_deliveries AS d SET tries = d.tries + 1, next_try_at = now() + $2 * interval '1 second'
    FROM due JOIN webhook_endpoints AS e USING (endpoint_id)
    WHERE d.delivery_id = due.delivery_id
    RETURNING d.delivery_id, d.job_id, d.payload, d.tries, due.failing, due.probed, e.url, e.endpoint_id, e.secret,
        e.generation, e.secret_digest, coalesce(e.previous_until > now(), false) AS overlapping"""

_TRACEPARENT = "SELECT traceparent FROM jobs WHERE job_id = $1"

# What an endpoint that is paused meanwhile still takes does not end its pause: that of the one delivery does.
_DELIVERED = """
    WITH delivered AS (
        UPDATE webhook_deliveries SET state = 'delivered', status_code = $2, error = NULL, delivered_at = now()
        WHERE delivery_id = $1
    )
    UPDATE webhook_endpoints
    SET failures = 0, failing_since = NULL, pauses = 0, paused_until = NULL, last_error = NULL
    WHERE endpoint_id = $3 AND failures > 0 AND ($4 OR paused_until IS NULL)"""

_NOT_DELIVERED = """
    UPDATE webhook_deliveries SET status_code = $2, error = $3, next_try_at = now() + $4 * interval '1 second',
        state = CASE WHEN $5 OR now() + $4 * interval '1 second' > give_up_at THEN 'failed' ELSE 'pending' END
    WHERE delivery_id = $1 AND state = 'pending'"""

# `$3`: it is paused now; `$4`: for at least this many seconds; `$5`: this was its one delivery after a pause.
_BLAME = """
    UPDATE webhook_endpoints AS e SET failures = failures + 1, failing_since = coalesce(failing_since, now()),
        last_error = $2, pauses = pauses + (p.begins AND ($5 OR paused_until IS NULL))::integer,
        paused_until = CASE
            WHEN NOT p.begins THEN paused_until
            WHEN $5 THEN now() + p.pause
            ELSE greatest(paused_until, now() + p.pause) END
    FROM (
        SELECT endpoint_id, $3 OR $5 OR (paused_until IS NULL AND failures + 1 >= $6) AS begins,
            greatest($4, least($7 * 2 ^ least(pauses, 20), $8)) * interval '1 second' AS pause
        FROM webhook_endpoints WHERE endpoint_id = $1 AND enabled FOR NO KEY UPDATE
    ) AS p
    WHERE e.endpoint_id = p.endpoint_id
    RETURNING e.url, e.created_by, e.failures, e.failing_since,
        e.failing_since < now() - $9 * interval '1 day' AS for_days"""

_GIVE_UP = """
    UPDATE webhook_deliveries AS d SET state = 'failed', error = CASE
        WHEN over.enabled THEN coalesce(d.error || '; ', '') || 'given up while the endpoint was paused'
        ELSE 'not sent: the endpoint is disabled: ' || coalesce(over.disabled_reason, 'by an operator') END
    FROM (
        SELECT w.delivery_id, e.enabled, e.disabled_reason FROM webhook_endpoints AS e CROSS JOIN LATERAL (
            SELECT delivery_id FROM webhook_deliveries
            WHERE endpoint_id = e.endpoint_id AND state = 'pending'
              AND give_up_at <= CASE WHEN e.enabled THEN now() ELSE 'infinity' END
            LIMIT $1 FOR UPDATE SKIP LOCKED
        ) AS w WHERE NOT e.enabled OR e.paused_until IS NOT NULL
    ) AS over
    WHERE d.delivery_id = over.delivery_id"""


class Refused(Exception):
    """The endpoint's address is one that webhooks may not go to."""


class Deliverer:
    """Delivers beside each other, so that no endpoint waits for another one."""

    def __init__(self) -> None:
        self._slots = Slots[tuple[UUID, UUID, bool]]()  # endpoint, delivery, and whether the endpoint fails
        self._client: httpx.AsyncClient | None = None

    @property
    def ended(self) -> asyncio.Event:
        """Set when a delivery ends: there is room for another one."""
        return self._slots.ended

    async def step(self, context: Context) -> bool:
        """Start deliveries that are due, as far as there is room; True if there were any."""
        running = self._slots.keys
        free = DELIVERIES_AT_ONCE - len(running)
        if not free:
            return False
        free_of_failing = FAILING_AT_ONCE - sum(failing for _, _, failing in running)
        each = 1 if len(running) >= _CROWDED else ENDPOINT_AT_ONCE
        busy = Counter(endpoint_id for endpoint_id, _, _ in running)
        tried = [delivery_id for _, delivery_id, _ in running]
        due = await context.database.fetch(
            _TAKE, free, LEASE_SECONDS, free_of_failing, each, list(busy.keys()), list(busy.values()), tried
        )
        for delivery in due:
            key = (delivery["endpoint_id"], delivery["delivery_id"], delivery["failing"])
            self._slots.start(key, _deliver(context, self._open(), delivery))
        WEBHOOKS_RUNNING.set(len(self._slots.keys))
        return bool(due)

    async def settle(self) -> None:
        """Wait for the deliveries that are under way."""
        await self._slots.settle()

    async def stop(self) -> None:
        """Break off what is under way: it is tried again when its lease ends."""
        await self._slots.stop()
        if self._client is not None:
            await self._client.aclose()

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            self._client = httpx.AsyncClient(
                timeout=REQUEST_SECONDS, limits=limits, follow_redirects=False, trust_env=False
            )
        return self._client


async def give_up(context: Context) -> bool:
    """End deliveries that nobody will take: of disabled endpoints, and late ones of paused endpoints."""
    status = await context.database.execute(_GIVE_UP, GIVEN_UP_MAX)
    return status != "UPDATE 0"


@dataclass(slots=True)
class _Failure:
    """Why a delivery failed, and what the endpoint asks for."""

    error: str
    status_code: int | None = None
    retry_after: float | None = None  # seconds
    ours: bool = False  # it says nothing about the endpoint

    @property
    def gone(self) -> bool:
        return self.status_code == 410


async def _deliver(context: Context, client: httpx.AsyncClient, delivery: Record) -> None:
    """The receiver gets the trace of the job, whether or not spans are recorded."""
    trace = await context.database.fetchval(_TRACEPARENT, delivery["job_id"])
    with tracing.span("webhook", trace, kind="client", job=delivery["job_id"], tries=delivery["tries"]) as span:
        status_code, failure = await _send(context, client, delivery)
        if failure is not None:
            span.fail(failure.error)
    if failure is None:
        ended = (delivery["delivery_id"], status_code, delivery["endpoint_id"], delivery["probed"])
        await context.database.execute(_DELIVERED, *ended)
        return
    log.info(
        "webhook not delivered", delivery=str(delivery["delivery_id"]), tries=delivery["tries"], error=failure.error
    )
    pause = min(BACKOFF_SECONDS_FIRST * 2 ** min(delivery["tries"] - 1, 20), BACKOFF_SECONDS_MAX)
    pause = max(pause * random.uniform(0.8, 1.2), failure.retry_after or 0.0)
    async with context.database.acquire() as connection, connection.transaction():
        await connection.execute(
            _NOT_DELIVERED, delivery["delivery_id"], status_code, failure.error, pause, failure.gone
        )
        if not failure.ours:
            await _blame(context, connection, delivery, failure)


async def _send(context: Context, client: httpx.AsyncClient, delivery: Record) -> tuple[int | None, _Failure | None]:
    """The status of the answer, if there was one; and why it failed, if it did."""
    status_code = None
    try:
        async with asyncio.timeout(REQUEST_SECONDS * 2):
            request = await _request(client, delivery, context.settings)
            # The answer's body is of no interest: an endless one must not fill our memory.
            with effects.passing("http", "webhook"):
                response = await client.send(request, stream=True)
            status_code = response.status_code
            await response.aclose()
    except Exception as error:  # whatever is wrong with one endpoint must not hold up the others
        said = f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS_MAX]
        return status_code, _Failure(said, status_code, ours=isinstance(error, NoSecret))
    if 200 <= status_code < 300:
        return status_code, None
    wait = retry_after(response.headers.get("retry-after"))
    return status_code, _Failure(f"answered {status_code}", status_code, wait)


def retry_after(value: str | None) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110, section 10.2.3), no more than RETRY_AFTER_SECONDS_MAX.

    None if there is none, or it makes no sense.
    """
    if value is None:
        return None
    try:
        if value.strip().isascii() and value.strip().isdigit():
            seconds = float(value)
        else:
            at = parsedate_to_datetime(value)
            seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_SECONDS_MAX)


async def _blame(context: Context, connection: Connection, delivery: Record, failure: _Failure) -> None:
    """Count the failure; pause the endpoint, or disable it, if it is time to."""
    endpoint = await connection.fetchrow(
        _BLAME,
        delivery["endpoint_id"],
        failure.error,
        failure.retry_after is not None or failure.status_code in _BUSY,
        failure.retry_after or 0.0,
        delivery["probed"],
        FAILURES_MAX,
        PAUSE_SECONDS_FIRST,
        PAUSE_SECONDS_MAX,
        context.settings.webhook_disable_days,
    )
    if endpoint is None:  # deleted or disabled meanwhile
        return
    if failure.gone:
        await disable(connection, delivery["endpoint_id"], "it answered 410 Gone")
    elif endpoint["for_days"] and endpoint["failures"] >= FAILURES_MAX:
        since = f"{endpoint['failing_since']:%Y-%m-%dT%H:%M:%SZ}"
        await disable(
            connection, delivery["endpoint_id"], f"it has failed since {since}; the last error: {failure.error}"
        )


async def _request(client: httpx.AsyncClient, delivery: Record, settings: Settings) -> httpx.Request:
    """The signed request. It goes to the very address that was checked, whatever the name resolves to later."""
    url = httpx.URL(delivery["url"])
    addresses = await _resolve(url, settings)
    address = addresses[(delivery["tries"] - 1) % len(addresses)]  # each try goes to the next: one may be down
    body = dump_json(delivery["payload"])
    secrets = signing_secrets(dict(delivery), settings.secret_key)
    message_id, now = f"msg_{delivery['delivery_id'].hex}", datetime.now(UTC)
    headers = {
        "content-type": "application/json",
        "user-agent": f"Piecework-Webhooks/{VERSION}",
        "host": url.netloc.decode(),
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, now, body) for secret in secrets),
    }
    if traceparent := tracing.current_traceparent():
        headers["traceparent"] = traceparent
    return client.build_request(
        "POST", url.copy_with(host=address), content=body, headers=headers, extensions={"sni_hostname": url.host}
    )


async def _resolve(url: httpx.URL, settings: Settings) -> list[str]:
    """The addresses of the URL's host; raises Refused for its port, and if any is private or otherwise not public."""
    port = {"http": 80, "https": 443}[url.scheme] if url.port is None else url.port
    found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not settings.webhook_private_addresses:
        for address in addresses:
            if not is_public(address):
                raise Refused(
                    f"{url.host} is {address}, not a public address; PIECEWORK_WEBHOOK_PRIVATE_ADDRESSES=true allows it"
                )
    if not settings.webhooks_may_use(port):
        raise Refused(f"port {port} is not one that webhooks may go to; PIECEWORK_WEBHOOK_PORTS allows more")
    return addresses
