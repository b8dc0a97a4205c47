"""Webhooks: deliver what the outbox holds, signed (https://www.standardwebhooks.com), at least once.

A delivery is taken by moving its next try into the future, so a scheduler that dies while it sends costs only time; the
receiver knows a repeated delivery by its `webhook-id`.
"""

import asyncio
import random
import socket
from collections import Counter
from datetime import UTC, datetime
from uuid import UUID

import httpx
import structlog
from asyncpg import Record
from standardwebhooks.webhooks import Webhook

from services.engine.webhooks import signing_secrets
from services.platform import effects
from services.platform.addresses import is_public
from services.platform.database import dump_json
from services.platform.settings import Settings
from services.platform.version import VERSION
from services.scheduler.loop import Context

log = structlog.get_logger()

DELIVERIES_AT_ONCE = 256
# Of one endpoint: one that is slow leaves room for the others. Where little room is left, each has only one.
ENDPOINT_AT_ONCE = 8
_CROWDED = DELIVERIES_AT_ONCE // 2
WAIT_SECONDS = 1.0  # for a delivery to end, while others may become due
REQUEST_SECONDS = 15.0
LEASE_SECONDS = 60.0  # longer than a request; then another scheduler tries
BACKOFF_SECONDS_FIRST = 5.0
BACKOFF_SECONDS_MAX = 3600.0
ERROR_CHARACTERS_MAX = 500

_TAKE = """
    UPDATE webhook_deliveries AS d SET tries = d.tries + 1, next_try_at = now() + $2 * interval '1 second'
    FROM (
        SELECT locked.*, row_number() OVER (PARTITION BY endpoint_id ORDER BY next_try_at) AS place FROM (
            SELECT delivery_id, endpoint_id, next_try_at FROM webhook_deliveries
            WHERE state = 'pending' AND next_try_at <= now() AND endpoint_id <> ALL($4::uuid[])
            ORDER BY next_try_at LIMIT $1 FOR UPDATE SKIP LOCKED
        ) AS locked
    ) AS due LEFT JOIN unnest($5::uuid[], $6::integer[]) AS busy (endpoint_id, deliveries) USING (endpoint_id)
        JOIN webhook_endpoints AS e USING (endpoint_id)
    WHERE d.delivery_id = due.delivery_id AND due.place <= $3 - coalesce(busy.deliveries, 0)
    RETURNING d.delivery_id, d.payload, d.tries, e.url, e.endpoint_id, e.secret, e.generation, e.secret_digest,
        coalesce(e.previous_until > now(), false) AS overlapping"""

_DELIVERED = """
    UPDATE webhook_deliveries SET state = 'delivered', status_code = $2, error = NULL, delivered_at = now()
    WHERE delivery_id = $1"""

_NOT_DELIVERED = """
    UPDATE webhook_deliveries SET status_code = $2, error = $3, next_try_at = now() + $4 * interval '1 second',
        state = CASE WHEN now() + $4 * interval '1 second' > give_up_at THEN 'failed' ELSE 'pending' END
    WHERE delivery_id = $1 AND state = 'pending'"""


class Refused(Exception):
    """The endpoint's address is one that webhooks may not go to."""


class Deliverer:
    """Delivers beside each other, so that no endpoint waits for another one."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[None], UUID] = {}  # each delivery's endpoint
        self._client: httpx.AsyncClient | None = None

    async def step(self, context: Context) -> bool:
        """Start deliveries that are due, as far as there is room; True while any is under way."""
        if not await self._start(context) and self._running:
            await asyncio.wait(self._running, timeout=WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return bool(self._running)

    async def settle(self) -> None:
        """Wait for the deliveries that are under way."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def stop(self) -> None:
        """Break off what is under way: it is tried again when its lease ends."""
        for delivery in self._running:
            delivery.cancel()
        await self.settle()
        if self._client is not None:
            await self._client.aclose()

    async def _start(self, context: Context) -> int:
        free = DELIVERIES_AT_ONCE - len(self._running)
        if not free:
            return 0
        each = 1 if len(self._running) >= _CROWDED else ENDPOINT_AT_ONCE
        busy = Counter(self._running.values())
        full = [endpoint_id for endpoint_id, deliveries in busy.items() if deliveries >= each]
        due = await context.database.fetch(
            _TAKE, free, LEASE_SECONDS, each, full, list(busy.keys()), list(busy.values())
        )
        for delivery in due:
            task = asyncio.create_task(_deliver(context, self._open(), delivery))
            self._running[task] = delivery["endpoint_id"]
            task.add_done_callback(self._end)
        return len(due)

    def _end(self, delivery: asyncio.Task[None]) -> None:
        del self._running[delivery]
        if not delivery.cancelled() and (error := delivery.exception()):  # it is tried again when its lease ends
            log.warning("delivery not recorded", error=repr(error))

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            self._client = httpx.AsyncClient(
                timeout=REQUEST_SECONDS, limits=limits, follow_redirects=False, trust_env=False
            )
        return self._client


async def _deliver(context: Context, client: httpx.AsyncClient, delivery: Record) -> None:
    status_code, error = None, None
    try:
        async with asyncio.timeout(REQUEST_SECONDS * 2):
            request = await _request(client, delivery, context.settings)
            # The answer's body is of no interest: an endless one must not fill our memory.
            with effects.passing("http", "webhook"):
                response = await client.send(request, stream=True)
            status_code = response.status_code
            await response.aclose()
        if not 200 <= status_code < 300:
            error = f"answered {status_code}"
    except Exception as failure:  # whatever is wrong with one endpoint must not hold up the others
        error = f"{type(failure).__name__}: {failure}"[:ERROR_CHARACTERS_MAX]
    if error is None:
        await context.database.execute(_DELIVERED, delivery["delivery_id"], status_code)
        return
    log.info("webhook not delivered", delivery=str(delivery["delivery_id"]), tries=delivery["tries"], error=error)
    pause = min(BACKOFF_SECONDS_FIRST * 2 ** min(delivery["tries"] - 1, 20), BACKOFF_SECONDS_MAX)
    pause *= random.uniform(0.8, 1.2)
    await context.database.execute(_NOT_DELIVERED, delivery["delivery_id"], status_code, error, pause)


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
