"""What jobs cost, in US dollars: the time of parts of nodes by their price, and estimates of what is not measured.

The roll-up prices each attempt: its part of what its pool's operator says that a node costs an hour, or else of the
list price of an On-Demand node's type. The part is a slot's share, or the largest share of what the task asks for. What
has no known price is told as seconds, never as nothing.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from services.contract.states import MEASURED
from services.engine.prices import list_prices
from services.platform.database import Database
from services.platform.problems import not_found
from services.stats.shapes import CostList, JobCost, StageCost

# At most: each attempt's task is sent, received and deleted in a message of its own.
SQS_REQUESTS = 3
# Of an attempt: its input is read; its output and its log are written.
S3_GETS, S3_PUTS = 1, 2

_STAGES = """
    SELECT s.stage, s.name, s.pool, coalesce(t.attempts, 0)::bigint AS attempts,
        coalesce(t.run_seconds, 0) AS worker_seconds, coalesce(t.priced_seconds, 0) AS priced_seconds,
        coalesce(t.cost, 0) AS cost, coalesce(t.bytes_out, 0)::bigint AS bytes_out
    FROM stages AS s LEFT JOIN LATERAL (
        SELECT sum(attempts) AS attempts, sum(run_seconds) AS run_seconds, sum(priced_seconds) AS priced_seconds,
            sum(cost) AS cost, sum(bytes_out) FILTER (WHERE outcome = 'succeeded') AS bytes_out
        FROM stage_stats WHERE job_id = s.job_id AND stage = s.stage AND outcome = ANY($2::text[])
    ) AS t ON true
    WHERE s.job_id = $1 ORDER BY s.stage"""

_DAYS = """
    SELECT day, pool, labels ->> $3::text AS label, sum(attempts)::bigint AS attempts,
        sum(run_seconds) AS worker_seconds, sum(priced_seconds) AS priced_seconds, sum(cost) AS cost
    FROM cost_days WHERE day > (now() AT TIME ZONE 'UTC')::date - $1::integer AND ($2::text IS NULL OR pool = $2)
    GROUP BY day, pool, labels ->> $3::text ORDER BY day DESC, pool, label NULLS LAST"""


async def read_job_cost(database: Database, job_id: UUID) -> JobCost:
    """What a job has cost so far; raises a 404."""
    rolled_up_at = await database.fetchval(
        "SELECT rolled_up_at FROM jobs CROSS JOIN stats_watermark WHERE job_id = $1", job_id
    )
    if rolled_up_at is None:
        raise not_found("job", job_id)
    rows = [dict(row) for row in await database.fetch(_STAGES, job_id, list(MEASURED))]
    prices, attempts = list_prices(), sum(row["attempts"] for row in rows)
    stages = [StageCost(**{name: row[name] for name in ("stage", "name", "pool")}, **node_cost(row)) for row in rows]
    return JobCost(
        job_id=job_id,
        rolled_up_at=rolled_up_at,
        **node_cost({name: sum(row[name] for row in rows) for name in ("worker_seconds", "priced_seconds", "cost")}),
        sqs_requests_max=attempts * SQS_REQUESTS * prices.sqs_request,
        s3_requests=attempts * (S3_GETS * prices.s3_get + S3_PUTS * prices.s3_put),
        storage_per_month=sum(row["bytes_out"] for row in rows[-1:]) / 1e9 * prices.s3_gb_month,
        prices_region=prices.region,
        prices_date=prices.date,
        stages=stages,
    )


def node_cost(row: Mapping[str, Any]) -> dict[str, float | None]:
    """`nodes` is null if nothing of the time has a price."""
    unpriced = max(0.0, row["worker_seconds"] - row["priced_seconds"])
    is_rounding = unpriced <= row["worker_seconds"] * 1e-9  # sums of the same numbers, in another order
    known = row["priced_seconds"] > 0 or row["worker_seconds"] == 0
    return {
        "worker_seconds": row["worker_seconds"],
        "unpriced_seconds": 0.0 if is_rounding else unpriced,
        "nodes": row["cost"] if known else None,
    }


async def read_costs(database: Database, days: int, of_pool: str | None, by_label: str | None) -> CostList:
    """The last days, today included, by pool and by the values of a label if one is given."""
    rows = await database.fetch(_DAYS, days, of_pool, by_label)
    items = [{name: row[name] for name in ("day", "pool", "label", "attempts")} | node_cost(dict(row)) for row in rows]
    return CostList.model_validate({"items": items})
