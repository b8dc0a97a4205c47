"""Webhooks: deliver what the outbox holds, signed (https://www.standardwebhooks.com), at least once.

A delivery is taken by moving its next try into the future, so a scheduler that dies while it sends costs only time; the
receiver knows a repeated delivery by its `webhook-id`.
"""

import asyncio
import random
import socket
from datetime import UTC, datetime

import httpx
import structlog
from asyncpg import Record
from standardwebhooks.webhooks import Webhook

from services.platform import effects
from services.platform.addresses import is_public
from services.platform.database import dump_json
from services.platform.version import VERSION
from services.scheduler.loop import Context

log = structlog.get_logger()

DELIVERIES_AT_ONCE = 16
REQUEST_SECONDS = 15.0
LEASE_SECONDS = 60.0  # longer than a request; then another scheduler tries
BACKOFF_SECONDS_FIRST = 5.0
BACKOFF_SECONDS_MAX = 3600.0
ERROR_CHARACTERS_MAX = 500

_TAKE = """
    UPDATE webhook_deliveries AS d SET tries = d.tries + 1, next_try_at = now() + $2 * interval '1 second'
    FROM (
        SELECT delivery_id FROM webhook_deliveries WHERE state = 'pending' AND next_try_at <= now()
        ORDER BY next_try_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ) AS due JOIN webhook_deliveries AS w USING (delivery_id) JOIN webhook_endpoints AS e USING (endpoint_id)
    WHERE d.delivery_id = due.delivery_id
    RETURNING d.delivery_id, d.payload, d.tries, e.url, e.secret"""

_DELIVERED = """
    UPDATE webhook_deliveries SET state = 'delivered', status_code = $2, error = NULL, delivered_at = now()
    WHERE delivery_id = $1"""

_NOT_DELIVERED = """
    UPDATE webhook_deliveries SET status_code = $2, error = $3, next_try_at = now() + $4 * interval '1 second',
        state = CASE WHEN now() + $4 * interval '1 second' > give_up_at THEN 'failed' ELSE 'pending' END
    WHERE delivery_id = $1 AND state = 'pending'"""


class Refused(Exception):
    """The endpoint's address is one that webhooks may not go to."""


async def step(context: Context) -> bool:
    """Try the deliveries that are due; True if there may be more."""
    due = await context.database.fetch(_TAKE, DELIVERIES_AT_ONCE, LEASE_SECONDS)
    async with httpx.AsyncClient(timeout=REQUEST_SECONDS, follow_redirects=False, trust_env=False) as client:
        await asyncio.gather(*(_deliver(context, client, delivery) for delivery in due))
    return len(due) == DELIVERIES_AT_ONCE


async def _deliver(context: Context, client: httpx.AsyncClient, delivery: Record) -> None:
    status_code, error = None, None
    try:
        async with asyncio.timeout(REQUEST_SECONDS * 2):
            request = await _request(client, delivery, context.settings.webhook_private_addresses)
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


async def _request(client: httpx.AsyncClient, delivery: Record, private_allowed: bool) -> httpx.Request:
    """The signed request. It goes to the very address that was checked, whatever the name resolves to later."""
    url = httpx.URL(delivery["url"])
    addresses = await _resolve(url, private_allowed)
    address = addresses[(delivery["tries"] - 1) % len(addresses)]  # each try goes to the next: one may be down
    body = dump_json(delivery["payload"])
    message_id, now = f"msg_{delivery['delivery_id'].hex}", datetime.now(UTC)
    headers = {
        "content-type": "application/json",
        "user-agent": f"Piecework-Webhooks/{VERSION}",
        "host": url.netloc.decode(),
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(delivery["secret"]).sign(message_id, now, body),
    }
    return client.build_request(
        "POST", url.copy_with(host=address), content=body, headers=headers, extensions={"sni_hostname": url.host}
    )


async def _resolve(url: httpx.URL, private_allowed: bool) -> list[str]:
    """The addresses of the URL's host; raises Refused if any is private, loopback or otherwise not public."""
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not private_allowed:
        for address in addresses:
            if not is_public(address):
                raise Refused(
                    f"{url.host} is {address}, not a public address; PIECEWORK_WEBHOOK_PRIVATE_ADDRESSES=true allows it"
                )
    return addresses
