"""What waits to be done, and for how long: schedules, triggers, webhooks, messages of users' queues, merges, capacity.

A backlog is counted up to a bound, so that a scrape takes as long with a large one; its age is always exact.
"""

from prometheus_client.core import Metric

from services.platform.database import Connection
from services.stats.gauges import counter, gauge

COUNTED_MAX = 1_000  # of each queue and endpoint
ENDPOINTS_MAX = 500  # of webhooks, and as many triggers, schedules and queues: labels must be few

_LATE = """
    SELECT coalesce(max(extract(epoch FROM now() - next_run_at)), 0)::float8 AS seconds,
        count(*) FILTER (WHERE put_off_at IS NOT NULL) AS put_off
    FROM schedules WHERE NOT paused AND next_run_at <= now()"""

_SKIPPED = "SELECT name, runs_skipped FROM schedules ORDER BY name LIMIT $1"

_TRIGGERS = """
    SELECT name, coalesce(lag_seconds, 0)::float8 AS lag_seconds,
        (coalesce(last_error_at > coalesce(last_message_at, '-infinity'), false))::integer AS failing
    FROM triggers AS t WHERE NOT paused ORDER BY name LIMIT $1"""

_WEBHOOKS = """
    SELECT e.endpoint_id, pending.deliveries, coalesce(oldest.seconds, 0) AS seconds
    FROM (SELECT endpoint_id FROM webhook_endpoints ORDER BY endpoint_id LIMIT $2) AS e
    CROSS JOIN LATERAL (
        SELECT count(*) AS deliveries FROM (
            SELECT FROM webhook_deliveries AS d
            WHERE d.endpoint_id = e.endpoint_id AND d.state = 'pending' LIMIT $1
        ) AS counted
    ) AS pending
    LEFT JOIN LATERAL (
        SELECT extract(epoch FROM now() - d.created_at)::float8 AS seconds FROM webhook_deliveries AS d
        WHERE d.endpoint_id = e.endpoint_id AND d.state = 'pending' ORDER BY d.give_up_at LIMIT 1
    ) AS oldest ON true"""

_ALERTS = """
    SELECT a.name, opened.incidents, coalesce(oldest.seconds, 0) AS seconds
    FROM (SELECT alert_id, name FROM alerts ORDER BY alert_id LIMIT $2) AS a
    CROSS JOIN LATERAL (
        SELECT count(*) AS incidents FROM (
            SELECT FROM incidents AS i WHERE i.alert_id = a.alert_id AND i.over_at IS NULL LIMIT $1) AS counted
    ) AS opened
    LEFT JOIN LATERAL (
        SELECT extract(epoch FROM now() - min(m.created_at))::float8 AS seconds FROM alert_messages AS m
        WHERE m.alert_id = a.alert_id AND m.state = 'pending'
    ) AS oldest ON true"""

# The distinct queues, without reading all of their messages.
_OUTBOX = """
    WITH RECURSIVE queue AS (
        (SELECT queue_url FROM queue_messages ORDER BY queue_url LIMIT 1)
        UNION ALL SELECT (
            SELECT m.queue_url FROM queue_messages AS m WHERE m.queue_url > queue.queue_url ORDER BY 1 LIMIT 1
        ) FROM queue WHERE queue_url IS NOT NULL
    )
    SELECT regexp_replace(queue_url, '^.*/', '') AS queue, counted.messages, oldest.seconds
    FROM (SELECT queue_url FROM queue WHERE queue_url IS NOT NULL LIMIT $2) AS queue
    CROSS JOIN LATERAL (
        SELECT count(*) AS messages FROM (
            SELECT FROM queue_messages AS m WHERE m.queue_url = queue.queue_url LIMIT $1
        ) AS messages
    ) AS counted
    CROSS JOIN LATERAL (
        SELECT extract(epoch FROM now() - created_at)::float8 AS seconds FROM queue_messages AS m
        WHERE m.queue_url = queue.queue_url ORDER BY txid, message_id LIMIT 1
    ) AS oldest"""

_MERGES = """
    SELECT count(*) AS merges, count(*) FILTER (WHERE put_off_at IS NOT NULL) AS put_off,
        coalesce(max(extract(epoch FROM now() - s.finished_at)), 0)::float8 AS seconds
    FROM stages AS s JOIN jobs AS j USING (job_id) WHERE s.state = 'merging' AND j.state = 'running'"""

_CAPACITY = """
    SELECT p.name AS pool, p.capacity_desired AS desired, p.capacity_max AS maximum,
        greatest(p.capacity_desired - (
            SELECT count(*) FROM workers AS w WHERE w.pool = p.name AND w.state IN ('active', 'draining')
        ), 0) AS missing
    FROM pools AS p WHERE p.group_name IS NOT NULL ORDER BY p.name"""

# Jobs of which something is to be deleted by now (index jobs_expire), and how far back their records go.
_RETENTION = """
    SELECT (
            SELECT count(*) FROM (SELECT FROM jobs WHERE expires_at <= now() ORDER BY expires_at LIMIT $1) AS due
        ) AS jobs, coalesce((
            SELECT extract(epoch FROM now() - created_at) FROM jobs
            WHERE job_id >= first_job_at('2020-01-01Z') ORDER BY job_id LIMIT 1), 0)::float8 AS seconds"""


async def read_backlogs(connection: Connection) -> list[Metric]:
    """One family after the other; no statement reads more than a bounded number of rows of a table that grows."""
    schedules = await connection.fetch(_LATE)
    skipped = await connection.fetch(_SKIPPED, ENDPOINTS_MAX)
    triggers = await connection.fetch(_TRIGGERS, ENDPOINTS_MAX)
    webhooks = await connection.fetch(_WEBHOOKS, COUNTED_MAX, ENDPOINTS_MAX)
    alerts = await connection.fetch(_ALERTS, COUNTED_MAX, ENDPOINTS_MAX)
    outbox = await connection.fetch(_OUTBOX, COUNTED_MAX, ENDPOINTS_MAX)
    merges = await connection.fetch(_MERGES)
    capacity = await connection.fetch(_CAPACITY)
    retention = await connection.fetch(_RETENTION, COUNTED_MAX)
    name, endpoint, queue, pool = (
        {"schedule": "name"},
        {"endpoint": "endpoint_id"},
        {"queue": "queue"},
        {"pool": "pool"},
    )
    of_trigger, of_alert = {"trigger": "name"}, {"alert": "name"}
    return [
        gauge(
            "piecework_schedules_late_seconds", "How late the latest due run of a schedule is", {}, schedules, "seconds"
        ),
        gauge("piecework_schedules_put_off", "Schedules whose due run is over a quota", {}, schedules, "put_off"),
        counter("piecework_schedule_runs_skipped", "Missed runs not made up for", name, skipped, "runs_skipped"),
        gauge(
            "piecework_trigger_lag_seconds", "How long its last message had waited", of_trigger, triggers, "lag_seconds"
        ),
        gauge("piecework_trigger_failing", "1: an error came after its last message", of_trigger, triggers, "failing"),
        gauge(
            "piecework_webhook_deliveries_pending", "Deliveries to do, up to 1,000", endpoint, webhooks, "deliveries"
        ),
        gauge("piecework_webhook_oldest_seconds", "Age of the oldest delivery to do", endpoint, webhooks, "seconds"),
        gauge("piecework_incidents_open", "What is found and not over, up to 1,000", of_alert, alerts, "incidents"),
        gauge("piecework_alert_oldest_seconds", "Age of the oldest message to deliver", of_alert, alerts, "seconds"),
        gauge(
            "piecework_outbox_messages", "Messages to a user's queue to send, up to 1,000", queue, outbox, "messages"
        ),
        gauge("piecework_outbox_oldest_seconds", "Age of the oldest message to send", queue, outbox, "seconds"),
        gauge("piecework_merges", "Jobs and stages that wait for their merge, or are merged", {}, merges, "merges"),
        gauge("piecework_merges_put_off", "Merges of these that failed and are tried again", {}, merges, "put_off"),
        gauge("piecework_merges_oldest_seconds", "How long the oldest of these merges is due", {}, merges, "seconds"),
        gauge(
            "piecework_jobs_to_delete", "Jobs of which something is to be deleted, up to 1,000", {}, retention, "jobs"
        ),
        gauge("piecework_jobs_oldest_seconds", "Age of the oldest job on record", {}, retention, "seconds"),
        gauge("piecework_workers_desired", "Nodes that the pool should have", pool, capacity, "desired"),
        gauge("piecework_workers_max", "Nodes that the pool may have", pool, capacity, "maximum"),
        gauge("piecework_workers_missing", "Desired nodes without a live worker", pool, capacity, "missing"),
    ]
