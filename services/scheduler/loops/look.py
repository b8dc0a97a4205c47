"""Look: asks for all loops whether anything is going on, so that they rest while nothing is.

What a loop would find when it looks by itself must be here: a lost notification then costs no more than a pause.
"""

import asyncio

from services.scheduler.loop import Context

_GOING_ON = """
    SELECT EXISTS (SELECT FROM jobs WHERE state IN ('running', 'cancelling', 'failing'))
        OR EXISTS (SELECT FROM bundles)
        OR EXISTS (SELECT FROM job_dependencies WHERE ended IS NOT NULL AND NOT seen)
        OR EXISTS (SELECT FROM queue_messages)
        OR EXISTS (SELECT FROM schedule_runs WHERE state = 'waiting')
        OR EXISTS (SELECT FROM webhook_deliveries WHERE state = 'pending')
        OR EXISTS (SELECT FROM alert_messages WHERE state = 'pending')
        OR EXISTS (SELECT FROM ended_jobs)
        OR EXISTS (SELECT FROM jobs WHERE finished_at IS NOT NULL
            AND keep_revision < (SELECT revision FROM retention_rules WHERE name = 'default')) AS anything,
        extract(epoch FROM least(
            (SELECT min(run_at) FROM jobs WHERE state = 'scheduled'),
            (SELECT min(next_run_at) FROM schedules WHERE NOT paused),
            (SELECT min(tell_at) FROM incidents WHERE tell_at IS NOT NULL),
            (SELECT min(expires_at) FROM jobs WHERE expires_at IS NOT NULL)) - now())::float8 AS due_seconds"""


async def step(context: Context) -> bool:
    """Look once, and end the quiet as soon as something is due, to the moment if that is before the next look."""
    quiet, idle_seconds = context.quiet, context.settings.idle_seconds
    row = await context.database.fetchrow(_GOING_ON)
    assert row is not None
    due = row["due_seconds"]
    if row["anything"] or (due is not None and due <= 0):
        quiet.end()
    else:
        quiet.begin(idle_seconds)
        if due is not None and due < idle_seconds:
            asyncio.get_running_loop().call_later(due, quiet.end)
    return False
