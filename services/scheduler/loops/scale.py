"""Scale: each pool's Auto Scaling group follows its backlog, between the pool's bounds.

Out by SetDesiredCapacity. In by draining chosen idle workers: each ends in order and terminates its own instance
(TerminateInstanceInAutoScalingGroup with ShouldDecrementDesiredCapacity), so that nobody's task is cut off.
"""

import math
from collections.abc import Mapping
from typing import Any

import structlog
from asyncpg import Record

from services.scheduler.loop import Context

log = structlog.get_logger()

# Assumed task time until the stage's first task has ended; it is long enough that a new job starts nodes.
UNMEASURED_BACKLOG_SECONDS = 10.0

# A pool is looked at by one scheduler at a time: whoever moves scaled_at.
_DUE = """
    UPDATE pools SET scaled_at = now()
    WHERE name = (
        SELECT name FROM pools WHERE group_name IS NOT NULL
          AND (scaled_at IS NULL OR scaled_at <= now() - $1 * interval '1 second')
        ORDER BY scaled_at NULLS FIRST LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING name, group_name, capacity_min, capacity_max, capacity_desired, slots"""

_BACKLOG = """
    SELECT coalesce(sum(left_over), 0)::bigint AS tasks,
        coalesce(sum(left_over * coalesce(task_seconds, $2)), 0) AS seconds
    FROM (
        SELECT r.task_seconds, r.ready + r.queued + r.running
            + CASE WHEN s.planned THEN 0 ELSE greatest(s.tasks_expected - s.task_count, 0) END AS left_over
        FROM running_stages AS r JOIN stages AS s USING (job_id, stage) WHERE r.pool = $1
    ) AS stages"""

_DRAIN = """
    UPDATE workers SET state = 'draining' WHERE worker_id = ANY(ARRAY(
        SELECT worker_id FROM workers
        WHERE pool = $1 AND state = 'active' AND busy = 0 AND idle_since < now() - $3 * interval '1 second'
        ORDER BY idle_since LIMIT $2 FOR UPDATE SKIP LOCKED))
    RETURNING worker_id"""


async def step(context: Context) -> bool:
    """Adjust one due pool's group; True if another may be due."""
    pool = await context.database.fetchrow(_DUE, context.settings.scale_seconds)
    if pool is None:
        return False
    answer = await context.aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[pool["group_name"]])
    if not answer["AutoScalingGroups"]:
        log.warning("no such Auto Scaling group", pool=pool["name"], group=pool["group_name"])
        return True
    group = answer["AutoScalingGroups"][0]
    await _set_bounds(context, pool, group)
    [backlog] = await context.database.fetch(_BACKLOG, pool["name"], UNMEASURED_BACKLOG_SECONDS)
    desired = wanted_capacity(dict(pool), dict(backlog), context.settings.scale_out_seconds)
    await _scale(context, pool, group["DesiredCapacity"], desired)
    return True


def wanted_capacity(pool: Mapping[str, Any], backlog: Mapping[str, Any], scale_out_seconds: float) -> int:
    """The number of nodes to work off the backlog within `scale_out_seconds`, but no more than it has tasks."""
    by_time = max(math.ceil(float(backlog["seconds"]) / (pool["slots"] * scale_out_seconds)), 1)
    by_tasks = math.ceil(backlog["tasks"] / pool["slots"])
    wanted: int = max(pool["capacity_min"], min(by_time, by_tasks, pool["capacity_max"]))
    return wanted


async def _set_bounds(context: Context, pool: Record, group: dict[str, int]) -> None:
    """Give the group the pool's bounds; never below what runs: AWS would terminate nodes at once, busy ones too."""
    bounds = (pool["capacity_min"], max(pool["capacity_max"], group["DesiredCapacity"]))
    if (group["MinSize"], group["MaxSize"]) != bounds:
        await context.aws.autoscaling.update_auto_scaling_group(
            AutoScalingGroupName=pool["group_name"], MinSize=bounds[0], MaxSize=bounds[1]
        )


async def _scale(context: Context, pool: Record, current: int, desired: int) -> None:
    if desired > current:
        await context.aws.autoscaling.set_desired_capacity(
            AutoScalingGroupName=pool["group_name"], DesiredCapacity=desired
        )
        log.info("scaling out", pool=pool["name"], before=current, after=desired)
    elif desired < current:
        draining = await context.database.fetchval(
            "SELECT count(*) FROM workers WHERE pool = $1 AND state = 'draining'", pool["name"]
        )
        surplus = max(current - desired - draining, 0)
        workers = await context.database.fetch(_DRAIN, pool["name"], surplus, context.settings.scale_in_seconds)
        if workers:
            log.info("scaling in", pool=pool["name"], workers=[str(row["worker_id"]) for row in workers])
    if desired != pool["capacity_desired"]:
        await context.database.execute("UPDATE pools SET capacity_desired = $2 WHERE name = $1", pool["name"], desired)
