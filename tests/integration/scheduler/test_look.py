"""While nothing goes on, one look finds whatever the loops that rest would find."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from services.engine import jobs
from services.scheduler.loop import Context
from services.scheduler.loops import look, retain
from tests.integration.engine.play import Play
from tests.until import until

ENDED = "UPDATE jobs SET state = 'succeeded', finished_at = now()"
LATER = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def quiet(context: Context) -> Context:
    """The context of a scheduler that hears what is notified; its first look that finds nothing begins the quiet."""
    context.quiet.is_heard = True
    context.settings.idle_seconds = 0.0
    return context


async def found(context: Context) -> bool:
    await look.step(context)
    return not context.quiet.is_on


async def test_a_job_is_found_until_it_has_ended_and_is_assessed(quiet: Context, play: Play) -> None:
    assert not await found(quiet)
    job_id = await play.submit()
    assert await found(quiet)
    await play.order(jobs.cancel_job, job_id)
    assert await found(quiet)
    await play.database.execute(ENDED)
    assert await found(quiet)
    await retain.step(quiet)
    assert not await found(quiet)


async def test_what_runs_of_a_paused_job_is_found(quiet: Context, play: Play) -> None:
    job_id, worker_id = await play.submit(), await play.register()
    await play.plan(job_id, 1)
    tasks = await play.run(worker_id, job_id)
    await play.order(jobs.pause_job, job_id)
    assert await found(quiet)
    await play.succeed(worker_id, tasks)
    assert not await found(quiet)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO queue_messages (queue_url, job_id, body) VALUES ('queue', $1, '{}')",
        """WITH endpoint AS (
            INSERT INTO webhook_endpoints (endpoint_id, url, secret) VALUES ($1, 'https://example.com', '')
            RETURNING endpoint_id
        ) INSERT INTO webhook_deliveries (delivery_id, endpoint_id, job_id, event, payload)
        SELECT $1, endpoint_id, $1, 'job.succeeded', '{}' FROM endpoint""",
        """INSERT INTO schedules (schedule_id, name, cron, time_zone, misfire, job, next_run_at)
        VALUES ($1, 'due', '* * * * *', 'UTC', 'run_all', '{}', now())""",
        "INSERT INTO ended_jobs (job_id) VALUES ($1)",
        """WITH alert AS (
            INSERT INTO alerts (alert_id, name, conditions, channel, address) VALUES ($1, 'a', '{}', 'slack', 'x')
            RETURNING alert_id
        ) INSERT INTO alert_messages (message_id, alert_id, event, payload, give_up_at)
        SELECT $1, alert_id, 'alert.test', '{}', now() FROM alert""",
        """WITH alert AS (
            INSERT INTO alerts (alert_id, name, conditions, channel, address) VALUES ($1, 'a', '{}', 'slack', 'x')
            RETURNING alert_id
        ) INSERT INTO incidents (incident_id, alert_id, condition, subject_kind, subject, name, message)
        SELECT $1, alert_id, 'failed', 'job', 'x', 'x', 'x' FROM alert""",
        """WITH schedule AS (
            INSERT INTO schedules (schedule_id, name, cron, time_zone, misfire, job, next_run_at)
            VALUES ($1, 'later', '* * * * *', 'UTC', 'run_all', '{}', now() + interval '1 day') RETURNING schedule_id
        ) INSERT INTO schedule_runs (schedule_id, scheduled_at, state, origin)
        SELECT schedule_id, now(), 'waiting', 'clock' FROM schedule""",
    ],
    ids=[
        *("a message", "a delivery", "a schedule", "the end of a job", "an alert's message", "an incident"),
        "a run of a schedule",
    ],
)
async def test_what_waits_is_found(quiet: Context, play: Play, statement: str) -> None:
    assert not await found(quiet)
    await play.database.execute(statement, uuid4())
    assert await found(quiet)


async def test_the_quiet_ends_to_the_moment_when_a_job_is_due(quiet: Context, play: Play) -> None:
    job_id = await play.submit(run_at=LATER.isoformat())
    assert not await found(quiet)

    await play.database.execute("UPDATE jobs SET run_at = now() + interval '0.1 s' WHERE job_id = $1", job_id)
    assert not await found(quiet)
    quiet.settings.idle_seconds = 3600.0  # the next look is far away
    assert not await found(quiet)
    await until(lambda: not quiet.quiet.is_on, seconds_max=10)
    assert await found(quiet)


async def test_what_expires_is_found(quiet: Context, play: Play) -> None:
    await play.submit()
    await play.database.execute(ENDED)
    await retain.step(quiet)
    assert not await found(quiet)
    await play.database.execute("UPDATE jobs SET expires_at = now()")
    assert await found(quiet)
