"""A job's statistics: its live counters together with what is rolled up of its attempts."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from services.contract.states import MEASURED, TASK_STATES, UNSUCCESSFUL
from services.engine.progress import Progress, bound_by_oldest, count_progress, tasks_known
from services.platform.database import Connection, Database
from services.platform.problems import not_found
from services.platform.settings import Settings
from services.stats.histogram import quantile
from services.stats.pace import rate, seconds_lately, seconds_left, succeeded_lately
from services.stats.rollup import WatermarkAhead, roll_up
from services.stats.shapes import Durations, JobStats, SlotTime, StageStats, Straggler, TaskCounts, Timeline, TimeSpent
from services.stats.time_spent import PHASES, Segment, read_segments

RECENT_MINUTES = 2  # whole minutes that a rate looks back, besides the one that runs
STRAGGLERS_MAX = 20

_JOB = """
    SELECT job_id, name, state, created_at, started_at, finished_at, now() AS now,
        rolled_up_at, date_trunc('minute', rolled_up_at) - $2 * interval '1 minute' AS recent_from
    FROM jobs CROSS JOIN stats_watermark WHERE job_id = $1"""

_STAGES = """
    SELECT s.stage, s.name, s.kind, s.pool, s.state, s.tasks_from, s.fan_in, s.planned, s.tasks_expected,
        s.started_at, s.finished_at, s.tasks_at, c.*, (
        SELECT coalesce(sum(m.succeeded), 0)::bigint FROM stage_minutes AS m
        WHERE m.job_id = s.job_id AND m.stage = s.stage AND m.minute >= $2
    ) AS rolled_up_lately
    FROM stages AS s CROSS JOIN LATERAL stage_sums(s.job_id, s.stage) AS c
    WHERE s.job_id = $1 ORDER BY s.stage"""

_TOTALS = "SELECT * FROM stage_stats WHERE job_id = $1"

# The tasks of those bundles whose tasks the scheduler would back up, were the stage's end near (`offer_backups`). Of a
# bundle's tasks no more run than its worker has slots; the others wait in it, and have not been slow themselves.
_STRAGGLERS = """
    SELECT slow.stage, found.index, found.worker_id, found.running_seconds
    FROM unnest($2::smallint[], $3::float8[]) AS slow (stage, task_seconds_max)
    CROSS JOIN LATERAL (
        SELECT t.index, b.worker_id, extract(epoch FROM now() - t.started_at)::float8 AS running_seconds
        FROM (
            SELECT first, count, worker_id, claimed_at FROM bundles
            WHERE job_id = $1 AND stage = slow.stage AND worker_id IS NOT NULL
              AND is_late(claimed_at, count, $4, slow.task_seconds_max)
            ORDER BY claimed_at LIMIT $5
        ) AS b
        JOIN workers AS w USING (worker_id)
        CROSS JOIN LATERAL (
            SELECT index, started_at FROM tasks
            WHERE job_id = $1 AND stage = slow.stage AND index >= b.first AND index < b.first + b.count
              AND state = 'running' AND worker_id = b.worker_id
            ORDER BY index LIMIT w.slots
        ) AS t
        ORDER BY running_seconds DESC, t.index LIMIT $5
    ) AS found
    ORDER BY slow.stage, running_seconds DESC, index"""

_TIMELINE = """
    SELECT minute, sum(succeeded)::bigint AS succeeded, sum(failed)::bigint AS failed,
        sum(busy_seconds) AS busy_seconds, sum(bytes_in)::bigint AS bytes_in, sum(bytes_out)::bigint AS bytes_out
    FROM stage_minutes WHERE job_id = $1 GROUP BY minute ORDER BY minute"""


@dataclass(frozen=True, slots=True)
class Totals:
    """What is rolled up of a stage: its rows of stage_stats by outcome."""

    rows: Mapping[str, Mapping[str, Any]]

    @property
    def succeeded(self) -> int:
        return int(self.sum("attempts", ["succeeded"]))

    @property
    def mean(self) -> float | None:
        return self.rows["succeeded"]["run_seconds"] / self.succeeded if self.succeeded else None

    def sum(self, column: str, outcomes: Sequence[str]) -> Any:
        return sum(self.rows[outcome][column] for outcome in outcomes if outcome in self.rows)

    @property
    def last_index(self) -> int | None:
        """The task that ended last, of those that ended by themselves."""
        rows = [self.rows[outcome] for outcome in (*MEASURED, "lost") if outcome in self.rows]
        ended = [row for row in rows if row["last_finished_at"]]  # null: rolled up by the release before
        return max(ended, key=lambda row: row["last_finished_at"])["last_index"] if ended else None

    def slot_time(self) -> SlotTime:
        """Of what workers measured: it adds up to worker_seconds."""
        won = self.rows.get("succeeded", {"run_seconds": 0.0, "fetch_seconds": 0.0, "put_seconds": 0.0})
        fetching, putting = won["fetch_seconds"], won["put_seconds"]
        return SlotTime(
            fetching=fetching,
            running=won["run_seconds"] - fetching - putting,
            putting=putting,
            unsuccessful=self.sum("run_seconds", [outcome for outcome in MEASURED if outcome != "succeeded"]),
        )

    def durations(self) -> Durations:
        if not self.succeeded:
            return Durations(p50=None, p95=None, p99=None, max=None, mean=None)
        row = self.rows["succeeded"]
        longest = row["run_seconds_max"]
        p50, p95, p99 = (min(quantile(row["histogram"], share) or 0.0, longest) for share in (0.5, 0.95, 0.99))
        return Durations(p50=p50, p95=p95, p99=p99, max=longest, mean=self.mean)


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage's row with its progress, its roll-up, and the tasks found to be slow."""

    row: Mapping[str, Any]
    progress: Progress
    totals: Totals
    known: bool  # whether all its tasks are
    stragglers: list[Straggler]

    @property
    def remaining(self) -> int:
        return self.progress.waiting + self.progress.ready + self.progress.queued + self.progress.running

    @property
    def lately(self) -> int:
        return succeeded_lately(self.progress.succeeded, self.totals.succeeded, self.row["rolled_up_lately"])


async def read_job_stats(database: Database, job_id: UUID, settings: Settings) -> JobStats:
    """The statistics of a job; raises a 404.

    What a reader of a job that has ended can still miss is rolled up first, so that the answer is final.
    """
    job = await database.fetchrow(_JOB, job_id, RECENT_MINUTES)
    if job is not None and job["finished_at"] and job["rolled_up_at"] < job["finished_at"]:
        with suppress(WatermarkAhead):  # which the background roll-up reports
            await roll_up(database)
    async with database.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        job = await connection.fetchrow(_JOB, job_id, RECENT_MINUTES)
        if job is None:
            raise not_found("job", job_id)
        stages = await _read_stages(connection, dict(job), settings)
        segments: list[Segment] = []
        if job["finished_at"]:
            last = [stage.totals.last_index for stage in stages]
            segments = await read_segments(connection, dict(job), [stage.row for stage in stages], last)
        return _job_stats(dict(job), stages, segments)


async def read_job_timeline(database: Database, job_id: UUID) -> Timeline:
    """The minutes of a job; raises a 404."""
    if not await database.fetchval("SELECT EXISTS (SELECT FROM jobs WHERE job_id = $1)", job_id):
        raise not_found("job", job_id)
    rows = await database.fetch(_TIMELINE, job_id)
    return Timeline.model_validate({"items": [dict(row) for row in rows]})


async def _read_stages(connection: Connection, job: Mapping[str, Any], settings: Settings) -> list[Stage]:
    rows = [dict(row) for row in await connection.fetch(_STAGES, job["job_id"], job["recent_from"])]
    by_outcome: list[dict[str, Mapping[str, Any]]] = [{} for _ in rows]
    for total in await connection.fetch(_TOTALS, job["job_id"]):
        by_outcome[total["stage"]][total["outcome"]] = dict(total)
    totals = [Totals(outcomes) for outcomes in by_outcome]
    stragglers = await _find_stragglers(connection, job["job_id"], rows, settings)
    columns = (rows, count_progress(rows), totals, tasks_known(rows), stragglers)
    return [Stage(*stage) for stage in zip(*columns, strict=True)]


async def _find_stragglers(
    connection: Connection, job_id: UUID, rows: Sequence[Mapping[str, Any]], settings: Settings
) -> list[list[Straggler]]:
    """By stage; none of a stage of which no usual run time is known."""
    slow = {
        row["stage"]: settings.straggler_factor * row["task_seconds"]
        for row in rows
        if row["running"] and row["task_seconds"] is not None
    }
    stragglers: list[list[Straggler]] = [[] for _ in rows]
    if slow:
        limits = (list(slow), list(slow.values()), settings.straggler_seconds, STRAGGLERS_MAX)
        for found in await connection.fetch(_STRAGGLERS, job_id, *limits):
            stragglers[found["stage"]].append(Straggler.model_validate(dict(found)))
    return stragglers


def _job_stats(job: Mapping[str, Any], stages: Sequence[Stage], segments: Sequence[Segment]) -> JobStats:
    return JobStats(
        **{name: job[name] for name in ("job_id", "name", "state", "created_at", "started_at", "finished_at")},
        elapsed_seconds=_elapsed(job, job["now"]),
        rolled_up_at=job["rolled_up_at"],
        progress=_count(stages),
        rate_per_second=_rate(job, job, stages),
        seconds_left=_seconds_left(job, job, stages),
        time_spent=_time_spent(segments) if job["finished_at"] else None,
        stages=[_stage_stats(job, stage, segments) for stage in stages],
    )


def _time_spent(segments: Sequence[Segment]) -> TimeSpent:
    seconds = dict.fromkeys(PHASES, 0.0)
    for segment in segments:
        seconds[segment.phase] += segment.seconds
    return TimeSpent.model_validate(seconds)


def _stage_stats(job: Mapping[str, Any], stage: Stage, segments: Sequence[Segment]) -> StageStats:
    row, totals, counts = stage.row, stage.totals, _count([stage])
    by_outcome = {outcome: int(total["attempts"]) for outcome, total in sorted(totals.rows.items())}
    unsuccessful = {cause: by_outcome.get(cause, 0) for cause in UNSUCCESSFUL}
    volumes = ("bytes_in", "bytes_out", "records_in", "records_out", "records_rejected")
    return StageStats(
        **{name: row[name] for name in ("stage", "name", "kind", "pool", "state", "started_at", "finished_at")},
        tasks=counts.tasks,
        progress=counts,
        rate_per_second=_rate(row, job, [stage]),
        seconds_left=_seconds_left(row, job, [stage]),
        duration_seconds=totals.durations(),
        attempts_by_outcome=by_outcome,
        unsuccessful_attempts=unsuccessful,
        # Each failed task was ended by one of these attempts, which may not be rolled up yet.
        retries=max(0, sum(unsuccessful.values()) - counts.failed),
        **{name: totals.sum(name, ["succeeded"]) for name in volumes},
        worker_seconds=totals.sum("run_seconds", MEASURED),
        slot_time=totals.slot_time(),
        time_spent=_time_spent([one for one in segments if one.stage == row["stage"]]) if job["finished_at"] else None,
        cpu_seconds=totals.sum("cpu_seconds", MEASURED),
        memory_bytes_peak=max((total["memory_bytes_peak"] for total in totals.rows.values()), default=0),
        stragglers=stage.stragglers,
    )


def _count(stages: Sequence[Stage]) -> TaskCounts:
    counts = {name: sum(getattr(stage.progress, name) for stage in stages) for name in ("waiting", *TASK_STATES)}
    return TaskCounts(tasks=sum(counts.values()), **counts)


def _elapsed(of: Mapping[str, Any], now: datetime) -> float | None:
    """How long a job or stage has run, or ran; None before it starts."""
    return ((of["finished_at"] or now) - of["started_at"]).total_seconds() if of["started_at"] else None


def _rate(of: Mapping[str, Any], job: Mapping[str, Any], stages: Sequence[Stage]) -> float:
    """The rate of a job or stage: overall once it has ended, else that of the recent minutes."""
    if of["finished_at"]:
        return rate(sum(stage.progress.succeeded for stage in stages), _elapsed(of, job["now"]) or 0.0)
    seconds = seconds_lately(of["started_at"], job["recent_from"], job["now"])
    return rate(sum(stage.lately for stage in stages), seconds)


def _seconds_left(of: Mapping[str, Any], job: Mapping[str, Any], stages: Sequence[Stage]) -> float | None:
    """The time left of a job or stage; None while it does not run or not all of its tasks are known."""
    if of["finished_at"]:
        return 0.0
    if job["state"] != "running" or not all(stage.known for stage in stages):
        return None
    left = seconds_left(
        [stage.remaining for stage in stages],
        [stage.lately for stage in stages],
        [stage.totals.mean for stage in stages],
        seconds_lately(of["started_at"], job["recent_from"], job["now"]),
    )
    for stage in stages:
        for straggler in stage.stragglers[:1]:
            left = bound_by_oldest(left or 0.0, stage.row["task_seconds"], straggler.running_seconds)
    return left
