"""Where the time of a job that has ended went: each moment from its submission to its end has a phase.

The moments follow the tasks on which the job's end depended, the last one first: the task of the last stage that ended
last, then the one whose output it worked on, or, where that can't be told, the last one of the stage before. So the
phases add up to the time that the job took, and a shorter phase would have made the job shorter. It takes a few rows of
each stage.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args
from uuid import UUID

from services.platform.database import Connection

Phase = Literal[
    "scheduled", "planning", "queued", "fetching", "running", "putting", "retrying", "merging", "cancelling"
]
PHASES: tuple[Phase, ...] = get_args(Phase)

_ATTEMPTS = """
    SELECT outcome, started_at, finished_at, coalesce(fetch_seconds, 0) AS fetch_seconds,
        coalesce(put_seconds, 0) AS put_seconds
    FROM attempts WHERE job_id = $1 AND stage = $2 AND index = $3
    ORDER BY finished_at DESC, outcome = 'succeeded' DESC LIMIT 100"""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the job's time; its stage is None before the first one starts."""

    stage: int | None
    phase: Phase
    seconds: float


async def read_segments(
    connection: Connection, job: Row, stages: Sequence[Row], last: Sequence[int | None]
) -> list[Segment]:
    """The time of a job that has ended, in parts, the last one first.

    `last` has the task of each stage that ended last.
    """
    attempts: list[Sequence[Row]] = [[] for _ in stages]
    index: int | None = None
    for stage in reversed(stages):
        number = stage["stage"]
        follows = index is not None and number + 1 < len(stages) and stages[number + 1]["tasks_from"] == "successes"
        index = index if follows else last[number]
        if index is not None:
            attempts[number] = await _read_attempts(connection, job["job_id"], number, index)
    return list(_walk_back(job, stages, attempts))


async def _read_attempts(connection: Connection, job_id: UUID, stage: int, index: int) -> list[Row]:
    return [dict(row) for row in await connection.fetch(_ATTEMPTS, job_id, stage, index)]


def _walk_back(job: Row, stages: Sequence[Row], attempts: Sequence[Sequence[Row]]) -> Iterator[Segment]:
    """From the job's end to its submission; what overlaps counts once, for the later stage."""
    began_at: datetime = job["started_at"] or job["finished_at"]
    now: datetime = job["finished_at"]

    def back_to(time: datetime, stage: int | None, phase: Phase) -> Iterator[Segment]:
        nonlocal now
        if time < now:
            yield Segment(stage, phase, (now - time).total_seconds())
            now = time

    later: Row | None = None  # the stage after, if it has run anything
    ended: Phase = "merging" if job["state"] == "succeeded" else "cancelling"
    for stage in reversed(stages):
        number, tries = stage["stage"], attempts[stage["stage"]]
        if not tries:
            continue
        won, first = tries[0], min(row["started_at"] for row in tries)
        after, phase = (number, ended) if later is None else (later["stage"], _phase_before(later))
        yield from back_to(max(won["finished_at"], began_at), after, phase)
        put_at = won["finished_at"] - timedelta(seconds=won["put_seconds"])
        yield from back_to(max(put_at, won["started_at"], began_at), number, "putting")
        fetched_at = won["started_at"] + timedelta(seconds=won["fetch_seconds"])
        yield from back_to(max(fetched_at, began_at), number, "running")
        yield from back_to(max(won["started_at"], began_at), number, "fetching")
        yield from back_to(max(first, began_at), number, "retrying")
        if stage["tasks_at"] is not None:
            made_at = attempts[number - 1][0]["finished_at"] if number and attempts[number - 1] else began_at
            ready_at = stage["tasks_at"] if made_at > now else max(stage["tasks_at"], made_at)
            yield from back_to(max(ready_at, began_at), number, "queued")
        later = stage
    yield from back_to(began_at, None if later is None else 0, ended if later is None else _phase_before(stages[0]))
    yield from back_to(job["created_at"], None, "scheduled")


def _phase_before(stage: Row) -> Phase:
    """What a stage does between the end of the task before and its own first task: planned, its tasks are queued."""
    return "planning" if stage["tasks_at"] is not None else "queued"
