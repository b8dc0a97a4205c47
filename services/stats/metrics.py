"""Prometheus metrics, read from the database at each scrape: every instance of the service tells the same.

Counters come from pool_stats, so they survive restarts and never go back. No label grows with the number of jobs.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from asyncpg import Record
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.contract.states import TASK_STATES
from services.engine.pool_tasks import count_tasks, unfinished_jobs
from services.platform.database import Connection, Database
from services.platform.settings import Settings
from services.stats.backlogs import read_backlogs
from services.stats.database_server import read_server
from services.stats.histogram import PER_OCTAVE, bound, cumulate
from services.stats.waiting import read_waiting

UNFINISHED = ("scheduled", "running", "paused", "cancelling", "failing")
LIVE = ("active", "draining")
LE_BUCKETS = range(8 * PER_OCTAVE, 38 * PER_OCTAVE, PER_OCTAVE)  # every octave from 0.24 ms to 36 h

_JOBS = "SELECT state, count(*) AS n FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled') GROUP BY state"

_WORKERS = """
    SELECT pool, state, count(*) AS n, sum(slots) AS slots, sum(busy) AS busy
    FROM workers WHERE state IN ('active', 'draining') GROUP BY pool, state"""

# One probe of tasks_ready for each running stage of these jobs, which are a page of those that have not ended.
_OLDEST_READY = """
    SELECT s.pool, extract(epoch FROM now() - min(first.ready_at))::float8 AS seconds
    FROM stages AS s JOIN jobs AS j USING (job_id) CROSS JOIN LATERAL (
        SELECT ready_at FROM tasks AS t
        WHERE t.job_id = s.job_id AND t.stage = s.stage AND t.job_id >= ANY($2) AND t.job_id < ANY($3)
          AND t.ready_at <= now() ORDER BY t.ready_at LIMIT 1
    ) AS first
    WHERE s.job_id = ANY($1::uuid[]) AND j.state = 'running' AND s.state = 'running' GROUP BY s.pool"""

# The bundles that no worker has: a few for each slot.
_OLDEST_QUEUED = """
    SELECT pool, extract(epoch FROM now() - min(queued_at))::float8 AS seconds FROM bundles
    WHERE worker_id IS NULL GROUP BY pool"""

# Workers are kept for some days after their end.
_NODES = """
    SELECT p.name AS pool, p.instances_missing, (p.scaling_error IS NOT NULL)::integer AS scaling_failing, (
            SELECT count(*) FROM workers AS w WHERE w.pool = p.name AND w.quarantine IS NOT NULL
        ) AS workers_quarantined
    FROM pools AS p ORDER BY p.name"""

_LAG = "SELECT extract(epoch FROM now() - rolled_up_at)::float8 FROM stats_watermark"


class Scrape(Collector):
    """What one scrape read."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


async def scrape(database: Database, settings: Settings) -> Scrape:
    """What the database knows now."""
    async with database.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        return Scrape(await _read(connection, settings))


async def _read(connection: Connection, settings: Settings) -> list[Metric]:
    pools = [row["name"] for row in await connection.fetch("SELECT name FROM pools ORDER BY name")]
    totals = await connection.fetch("SELECT * FROM pool_stats ORDER BY pool, outcome")
    return [
        _jobs(await connection.fetch(_JOBS)),
        _tasks(await count_tasks(connection), pools),
        *_workers(await connection.fetch(_WORKERS), pools),
        *_nodes(await connection.fetch(_NODES)),
        _oldest(await _read_oldest(connection), pools),
        *await read_waiting(connection, pools, settings),
        _attempts(totals),
        _attempt_seconds(totals),
        _moved("piecework_bytes", "Bytes of successful attempts", "direction", ("in", "out"), totals),
        _moved("piecework_records", "Records of successful attempts", "kind", ("in", "out", "rejected"), totals),
        _lag(await connection.fetchval(_LAG)),
        *await read_backlogs(connection),
        *await read_server(connection),
    ]


def _jobs(rows: Sequence[Any]) -> Metric:
    family = GaugeMetricFamily("piecework_jobs", "Jobs that have not ended, by state", labels=["state"])
    counts = {row["state"]: row["n"] for row in rows}
    for state in UNFINISHED:
        family.add_metric([state], counts.get(state, 0))
    return family


def _tasks(counts: Mapping[str, Mapping[str, int]], pools: Sequence[str]) -> Metric:
    family = GaugeMetricFamily(
        "piecework_tasks", "Tasks of jobs that have not ended, by state", labels=["pool", "state"]
    )
    for pool in pools:
        for state in TASK_STATES:
            family.add_metric([pool, state], counts[pool][state])
    return family


def _workers(rows: Sequence[Any], pools: Sequence[str]) -> list[Metric]:
    workers = GaugeMetricFamily("piecework_workers", "Live workers, by state", labels=["pool", "state"])
    slots = GaugeMetricFamily("piecework_slots", "Slots of live workers", labels=["pool"])
    busy = GaugeMetricFamily("piecework_slots_busy", "Slots in use, of live workers", labels=["pool"])
    counts = {(row["pool"], row["state"]): row["n"] for row in rows}
    for pool in pools:
        for state in LIVE:
            workers.add_metric([pool, state], counts.get((pool, state), 0))
        slots.add_metric([pool], sum(row["slots"] for row in rows if row["pool"] == pool))
        busy.add_metric([pool], sum(row["busy"] for row in rows if row["pool"] == pool))
    return [workers, slots, busy]


def _nodes(rows: Sequence[Any]) -> list[Metric]:
    meanings = {
        "workers_quarantined": "Workers of the last days that took themselves out of service",
        "instances_missing": "Instances of the pool's group without a live worker",
        "scaling_failing": "1 if the pool's group can't be read or changed",
    }
    families: list[Metric] = []
    for name, meaning in meanings.items():
        family = GaugeMetricFamily(f"piecework_{name}", meaning, labels=["pool"])
        for row in rows:
            family.add_metric([row["pool"]], row[name])
        families.append(family)
    return families


async def _read_oldest(connection: Connection) -> list[Record]:
    """For each pool some rows with the seconds that something has waited."""
    pages = [await connection.fetch(_OLDEST_READY, *page) for page in await unfinished_jobs(connection)]
    return [*chain.from_iterable(pages), *await connection.fetch(_OLDEST_QUEUED)]


def _oldest(rows: Sequence[Any], pools: Sequence[str]) -> Metric:
    family = GaugeMetricFamily(
        "piecework_queue_oldest_seconds",
        "How long the oldest task of a running job that has not started has been ready or queued",
        labels=["pool"],
    )
    for pool in pools:
        family.add_metric([pool], max((row["seconds"] for row in rows if row["pool"] == pool), default=0.0))
    return family


def _attempts(totals: Sequence[Any]) -> Metric:
    family = CounterMetricFamily("piecework_attempts", "Attempts that ended, by outcome", labels=["pool", "outcome"])
    for row in totals:
        family.add_metric([row["pool"], row["outcome"]], row["attempts"])
    return family


def _attempt_seconds(totals: Sequence[Any]) -> Metric:
    family = HistogramMetricFamily(
        "piecework_attempt_seconds", "Run time of attempts, by outcome", labels=["pool", "outcome"]
    )
    for row in totals:
        counts = cumulate(row["histogram"], LE_BUCKETS)
        buckets = [(str(bound(le)), count) for le, count in zip(LE_BUCKETS, counts, strict=True)]
        family.add_metric([row["pool"], row["outcome"]], [*buckets, ("+Inf", row["attempts"])], row["run_seconds"])
    return family


def _moved(name: str, documentation: str, label: str, values: Sequence[str], totals: Sequence[Any]) -> Metric:
    """A counter of the columns `{bytes or records}_{value}`."""
    family = CounterMetricFamily(name, documentation, labels=["pool", label])
    column = name.removeprefix("piecework_")
    for row in totals:
        if row["outcome"] == "succeeded":
            for value in values:
                family.add_metric([row["pool"], value], row[f"{column}_{value}"])
    return family


def _lag(seconds: float) -> Metric:
    return GaugeMetricFamily(
        "piecework_rollup_lag_seconds", "Age of the newest moment up to which all attempts are counted", value=seconds
    )
