"""Webhooks: deliver what the outbox holds, signed (https://www.standardwebhooks.com), at least once.

A delivery is taken by moving its next try into the future, so a scheduler that dies while it sends costs only time; the
receiver knows a repeated delivery by its `webhook-id`.
"""

import asyncio
from collections import Counter
from uuid import UUID

import structlog
from asyncpg import Record

from services.engine.webhooks import disable, signing_secrets
from services.platform import tracing
from services.platform.database import Connection, dump_json
from services.platform.settings import Settings
from services.scheduler.loop import Context
from services.scheduler.metrics import WEBHOOKS_RUNNING
from services.scheduler.outgoing import LEASE_SECONDS, REQUEST_SECONDS, Client, Failure, Post, Sender, send, sign

log = structlog.get_logger()

DELIVERIES_AT_ONCE = 256
# Of one endpoint: one that is slow leaves room for the others. Where little room is left, each has only one.
ENDPOINT_AT_ONCE = 8
_CROWDED = DELIVERIES_AT_ONCE // 2
# Endpoints whose last try failed have one each, and all of them no more than this.
FAILING_AT_ONCE = DELIVERIES_AT_ONCE // 2

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


class Deliverer(Sender[tuple[UUID, UUID, bool]]):
    """Delivers to endpoints. The keys: endpoint, delivery, and whether the endpoint fails."""

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
            self._slots.start(key, _deliver(context, self._client, delivery))
        WEBHOOKS_RUNNING.set(len(self._slots.keys))
        return bool(due)


async def give_up(context: Context) -> bool:
    """End deliveries that nobody will take: of disabled endpoints, and late ones of paused endpoints."""
    status = await context.database.execute(_GIVE_UP, GIVEN_UP_MAX)
    return status != "UPDATE 0"


async def _deliver(context: Context, client: Client, delivery: Record) -> None:
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
    pause = failure.pause(delivery["tries"])
    async with context.database.acquire() as connection, connection.transaction():
        await connection.execute(
            _NOT_DELIVERED, delivery["delivery_id"], status_code, failure.error, pause, failure.gone
        )
        if not failure.ours:
            await _blame(context, connection, delivery, failure)


async def _send(context: Context, client: Client, delivery: Record) -> tuple[int | None, Failure | None]:
    """The status of the answer, if there was one; and why it failed, if it did."""
    try:
        async with asyncio.timeout(REQUEST_SECONDS * 2):
            return await send(client, _post(delivery, context.settings), "webhook", context.settings)
    except Exception as error:  # whatever is wrong with one endpoint must not hold up the others
        return None, Failure.of(error)


async def _blame(context: Context, connection: Connection, delivery: Record, failure: Failure) -> None:
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


def _post(delivery: Record, settings: Settings) -> Post:
    secrets = signing_secrets(dict(delivery), settings.secret_key)
    body = dump_json(delivery["payload"])
    headers = sign(f"msg_{delivery['delivery_id'].hex}", body, secrets)
    if traceparent := tracing.current_traceparent():
        headers["traceparent"] = traceparent
    return Post(delivery["url"], body, headers, delivery["tries"])
