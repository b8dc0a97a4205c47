"""Handles a bundle whose stage this worker can't read: it is left to workers of a newer release for a while."""

import logging
from uuid import UUID

import structlog

from services.contract.message import Message
from services.engine import transitions
from services.engine.attempt import AttemptReport
from services.platform.database import Database

log = structlog.get_logger()

_SECONDS_FIRST = 1.0  # until the bundle is offered again, then twice as long each time
_SECONDS_MAX = 60.0
_TIMES_MAX = 64  # about an hour


async def turn_down(database: Database, worker_id: UUID, message: Message, why: str) -> None:
    """Put the bundle off. After too many times, fail its tasks, so that the job tells its user why."""
    times = await transitions.put_off(
        database, message.bundle_id, seconds_first=_SECONDS_FIRST, seconds_max=_SECONDS_MAX, why=why
    )
    if times is None:
        return
    names = {"job": str(message.job_id), "stage": message.stage, "first": message.first, "why": why}
    if times <= _TIMES_MAX:
        log.log(logging.WARNING if times == 1 else logging.DEBUG, "bundle put off", **names, times=times)
        return
    tasks = await transitions.claim(database, worker_id, [message.bundle_id])
    explanation = f"{why}; no other worker took it in {times} offers: update the workers, then retry the job"
    error = {"type": "stage_unreadable", "message": explanation}
    reports = [
        AttemptReport(task.job_id, task.stage, task.index, task.attempt, "failed", 0.0, error=error, retryable=False)
        for task in tasks
    ]
    await transitions.complete(database, worker_id, reports, [message.bundle_id])
    log.error("bundle given up", **names, times=times)
