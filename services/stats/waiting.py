"""The jobs and tasks that wait, counted by the reason that comes first, as the API tells it."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from prometheus_client.core import GaugeMetricFamily, Metric

from services.engine.reasons.explain import explain
from services.engine.reasons.facts import Facts, read_facts
from services.engine.reasons.reason import CODES, OF_RESULTS, Reason
from services.platform.database import Connection
from services.platform.settings import Settings

JOBS_MAX = 1_000  # that are asked, the oldest first: whoever waits longest is told
_AT_ONCE = 200

# What is asked has begun or is to: a job for later waits as its user wants.
_WAITING = """
    SELECT job_id FROM jobs WHERE state IN ('running', 'paused', 'cancelling', 'failing')
       OR state = 'scheduled' AND run_at <= now()
    ORDER BY job_id LIMIT $1"""

_REASONS = [code for code in CODES if code not in OF_RESULTS]


async def read_waiting(connection: Connection, pools: Sequence[str], settings: Settings) -> list[Metric]:
    """Gauges of jobs by their first reason, and of unstarted tasks by that of their stage; by pool."""
    jobs: Counter[tuple[str, str]] = Counter()
    tasks: Counter[tuple[str, str]] = Counter()
    ids = [row["job_id"] for row in await connection.fetch(_WAITING, JOBS_MAX)]
    for start in range(0, len(ids), _AT_ONCE):
        facts = await read_facts(connection, ids[start : start + _AT_ONCE], settings.ready_tasks_max)
        for job_id, reasons in explain(facts).items():
            _count(facts, job_id, reasons, jobs, tasks)
    return [
        _gauge("piecework_waiting_jobs", "Jobs that wait or are slow, by their first reason", jobs, pools),
        _gauge("piecework_waiting_tasks", "Tasks that have not started, by their stage's first reason", tasks, pools),
    ]


def _count(
    facts: Facts,
    job_id: UUID,
    reasons: Sequence[Reason],
    jobs: Counter[tuple[str, str]],
    tasks: Counter[tuple[str, str]],
) -> None:
    stages = {stage["stage"]: stage for stage in facts.stages[job_id]}
    if reasons:
        jobs[stages[reasons[0].stage or 0]["pool"], reasons[0].code] += 1
    for number, stage in stages.items():
        first = next((reason.code for reason in reasons if reason.stage in (number, None)), None)
        if first is not None and stage["ready"] + stage["queued"]:
            tasks[stage["pool"], first] += stage["ready"] + stage["queued"]


def _gauge(name: str, documentation: str, counts: Counter[tuple[str, str]], pools: Sequence[str]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=["pool", "reason"])
    for pool in pools:
        for reason in _REASONS:
            family.add_metric([pool, reason], counts[pool, reason])
    return family
