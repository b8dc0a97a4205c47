"""Scale: each pool's Auto Scaling group follows its backlog, between the pool's bounds.

Out by SetDesiredCapacity. In by draining chosen idle workers: each ends in order and terminates its own instance
(TerminateInstanceInAutoScalingGroup with ShouldDecrementDesiredCapacity), so that nobody's task is cut off.

The pool's bounds are its row's alone. The group's MinSize and MaxSize belong to whoever made the group, and are never
changed: a tool that puts its own back (CloudFormation) would cut off what runs. They limit the pool, which says so.

What counts is live workers. An instance without one for `register_seconds` is dead: it never registered, or its worker
could not end it; so is one whose worker took itself out of service. The dead are ended first if there are too many
instances, and replaced otherwise, round by round: the pause between two rounds doubles, up to an hour, so that an image
that never works costs few launches. The pool's row tells all of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from asyncpg import Record
from botocore.exceptions import ClientError

from services.contract.resources import Needs
from services.contract.task_error import describe
from services.engine.nodes import Nodes, known_nodes
from services.engine.pools import explain_group_limit, note_scaling_error, within_group
from services.engine.running import fetch_running
from services.platform.s3_faults import S3_ERRORS, error_code
from services.scheduler.loop import Context

log = structlog.get_logger()

# Assumed task time until the stage's first task has ended; it is long enough that a new job starts nodes.
UNMEASURED_BACKLOG_SECONDS = 10.0

_ENDS_MAX = 20  # instances ended in one look, well below the rate at which AWS throttles
_AWAY_SECONDS = 60.0  # without a look: nobody knows how long instances had no worker, so they get their time again
_PRESENT = ("Pending", "InService")  # lifecycle states of instances that work, or soon will

# A pool is looked at by one scheduler at a time: whoever moves scaled_at.
_DUE = """
    WITH due AS MATERIALIZED (
        SELECT name, scaled_at FROM pools WHERE group_name IS NOT NULL
          AND (scaled_at IS NULL OR scaled_at <= now() - $1 * interval '1 second')
        ORDER BY scaled_at NULLS FIRST LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    UPDATE pools AS p SET scaled_at = now() FROM due WHERE p.name = due.name
    RETURNING p.name, p.group_name, p.capacity_min, p.capacity_max, p.capacity_desired, p.slots, p.replacements,
        coalesce(p.replace_at <= now(), true) AS may_replace,
        coalesce(due.scaled_at < now() - $2 * interval '1 second', true) AS was_away"""

_BACKLOG = """
    SELECT needs, coalesce(sum(left_over), 0)::bigint AS tasks,
        coalesce(sum(left_over * coalesce(task_seconds, $6)), 0) AS seconds
    FROM (
        SELECT s.needs, r.task_seconds, CASE
            WHEN r.pool = $5 THEN r.ready + r.queued + r.running
                + CASE WHEN s.planned THEN 0 ELSE greatest(s.tasks_expected - s.task_count, 0) END
                - CASE WHEN s.pools IS NULL THEN 0 ELSE (
                    SELECT coalesce(sum(b.count), 0) FROM bundles AS b
                    WHERE b.job_id = r.job_id AND b.stage = r.stage AND b.pool <> $5 AND b.backup_of IS NULL) END
            ELSE (
                SELECT coalesce(sum(b.count), 0) FROM bundles AS b
                WHERE b.job_id = r.job_id AND b.stage = r.stage AND b.pool = $5) + (
                SELECT count(*) FROM (SELECT FROM tasks AS t WHERE t.job_id = r.job_id AND t.stage = r.stage
                  AND t.ready_at <= now() - (array_position(s.pools, $5) - 1) * s.next_pool_after_seconds
                    * interval '1 second' LIMIT 10000) AS due)
            END AS left_over
        FROM running_stages AS r JOIN stages AS s USING (job_id, stage)
        WHERE s.state = 'running' AND (s.job_id, s.stage) > ($1, $2) AND (s.job_id, s.stage) <= ($3, $4)
          AND (r.pool = $5 OR $5 = ANY(s.pools))
    ) AS stages GROUP BY needs"""

_DRAIN = """
    UPDATE workers SET state = 'draining', drain_reason = 'it was idle, and its pool needs fewer nodes'
    WHERE worker_id = ANY(ARRAY(
        SELECT worker_id FROM workers
        WHERE pool = $1 AND state = 'active' AND busy = 0 AND idle_since < now() - $3 * interval '1 second'
        ORDER BY idle_since LIMIT $2 FOR UPDATE SKIP LOCKED))
    RETURNING worker_id"""

_WORKERS = """
    SELECT instance_id, state, quarantine IS NOT NULL OR replace_instance AS is_replaced FROM workers
    WHERE pool = $1 AND state IN ('active', 'draining')"""

_UNFIT = "SELECT instance_id FROM workers WHERE pool = $1 AND quarantine IS NOT NULL AND instance_id = ANY($2::text[])"

_KNOWN = """
    SELECT instance_id, extract(epoch FROM now() - missing_since)::float8 AS missing_seconds
    FROM instances WHERE pool = $1 ORDER BY missing_since, instance_id"""

_SEE = """
    WITH gone AS (
        DELETE FROM instances WHERE instance_id = ANY($4::text[])
    )
    INSERT INTO instances (instance_id, pool, missing_since)
    SELECT unnest($2::text[]), $1, now() UNION ALL SELECT unnest($3::text[]), $1, NULL
    ON CONFLICT (instance_id) DO UPDATE SET pool = excluded.pool, missing_since = excluded.missing_since"""

_TELL = """
    UPDATE pools SET capacity_desired = coalesce($2, capacity_desired), instances = $3, instances_missing = $4,
        instances_missing_since = (SELECT min(missing_since) FROM instances WHERE pool = $1),
        scaling_error = $5, scaling_error_since = CASE WHEN $5::text IS NOT NULL THEN
            CASE WHEN scaling_error IS NULL THEN now() ELSE scaling_error_since END END,
        replacements = CASE WHEN $6 AND replace_at < now() - $7 * interval '1 second' THEN 0 ELSE replacements END,
        replace_at = CASE WHEN $6 AND replace_at < now() - $7 * interval '1 second' THEN NULL ELSE replace_at END
    WHERE name = $1"""

_PAUSE = """
    UPDATE pools SET replacements = least(replacements + 1, 1000),
        replace_at = now() + least(60 * 2 ^ least(replacements, 6), 3600) * interval '1 second'
    WHERE name = $1"""


@dataclass(frozen=True, slots=True)
class Seen:
    """A pool's instances and workers. `missing` instances have no live worker, those longest without one first."""

    instances: int
    missing: int
    dead: Sequence[str]  # of these, those that will not come
    active: int  # workers
    draining: int  # workers that will take their places in the group with them
    error: str | None = None


async def step(context: Context) -> bool:
    """Adjust one due pool's group; True if another may be due."""
    pool = await context.database.fetchrow(_DUE, context.settings.scale_seconds, _AWAY_SECONDS)
    if pool is None:
        return False
    try:
        await _adjust(context, pool)
    except S3_ERRORS as error:  # AWS's
        await note_scaling_error(context.database, pool["name"], describe(error))
        raise
    return True


async def _adjust(context: Context, pool: Record) -> None:
    answer = await context.aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[pool["group_name"]])
    if not answer["AutoScalingGroups"]:
        error = f"there is no Auto Scaling group {pool['group_name']} in this account and region"
        log.warning("no such Auto Scaling group", pool=pool["name"], group=pool["group_name"])
        await _see_instances(context, pool, [], set())
        await context.database.execute(_TELL, pool["name"], None, None, 0, error, False, 0.0)
        return
    group = answer["AutoScalingGroups"][0]
    backlogs = await _read_backlogs(context, pool)
    wanted = wanted_capacity(dict(pool), backlogs, context.settings.scale_out_seconds)
    desired = within_group(wanted, group)
    seen = await _look(context, pool, group)
    patience = context.settings.register_seconds
    limit = explain_group_limit(wanted, group)
    told = (pool["name"], desired, seen.instances, seen.missing, limit or seen.error, not seen.missing, patience)
    await context.database.execute(_TELL, *told)
    await _scale(context, pool, group, desired, seen)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is left to do of tasks that ask for the same, of which a node runs `per_node` at once."""

    tasks: int
    seconds: float
    per_node: int


async def _read_backlogs(context: Context, pool: Record) -> list[Backlog]:
    """Without tasks that fit on no node of the pool."""
    rows = await fetch_running(context.database, _BACKLOG, pool["name"], UNMEASURED_BACKLOG_SECONDS)
    asked = any(row["needs"] for row in rows)
    nodes = await known_nodes(context.database, pool["name"]) if asked else Nodes([])

    def per_node(needs: Needs | None) -> int:
        if needs is None:
            return int(pool["slots"])
        return nodes.per_node(needs) if nodes.kinds else 1  # the first one tells

    backlogs = [Backlog(row["tasks"], float(row["seconds"]), per_node(Needs.of(row["needs"]))) for row in rows]
    return [backlog for backlog in backlogs if backlog.per_node]


def wanted_capacity(pool: Mapping[str, Any], backlogs: Sequence[Backlog], scale_out_seconds: float) -> int:
    """The number of nodes to work off the backlogs within `scale_out_seconds`, but no more than they have tasks."""
    seconds = sum(backlog.seconds / backlog.per_node for backlog in backlogs)
    by_time = max(math.ceil(seconds / scale_out_seconds), 1)
    by_tasks = math.ceil(sum(backlog.tasks / backlog.per_node for backlog in backlogs))
    wanted: int = max(pool["capacity_min"], min(by_time, by_tasks, pool["capacity_max"]))
    return wanted


async def _look(context: Context, pool: Record, group: Mapping[str, Any]) -> Seen:
    """Compare the group's instances with the pool's workers, and note since when each instance has none."""
    workers = await context.database.fetch(_WORKERS, pool["name"])
    members = group.get("Instances", [])
    instances = [each["InstanceId"] for each in members if each["LifecycleState"].startswith(_PRESENT)]
    missing = await _see_instances(context, pool, instances, {worker["instance_id"] for worker in workers})
    nameless = sum(worker["instance_id"] is None for worker in workers)
    dead: list[str] = []
    if not nameless:
        unfit = {row["instance_id"] for row in await context.database.fetch(_UNFIT, pool["name"], list(missing))}
        patience = context.settings.register_seconds
        dead = [each for each, seconds in missing.items() if each in unfit or seconds >= patience]
    return Seen(
        len(instances),
        max(0, len(missing) - nameless),
        dead,
        active=sum(worker["state"] == "active" for worker in workers),
        draining=sum(worker["state"] == "draining" and not worker["is_replaced"] for worker in workers),
        error=_explain_nameless(nameless) if nameless < len(missing) and nameless else None,
    )


def _explain_nameless(workers: int) -> str:
    return (
        f"{workers} of its workers do not say which instance they run on, so none without a worker can be replaced: "
        "set PIECEWORK_INSTANCE_ID on each"
    )


async def _see_instances(
    context: Context, pool: Record, instances: Sequence[str], working: set[str | None]
) -> dict[str, float]:
    """Note which of the group's instances have a live worker. Returns the others, with how long they had none."""
    rows = await context.database.fetch(_KNOWN, pool["name"])
    known: dict[str, float | None] = {row["instance_id"]: row["missing_seconds"] for row in rows}
    present = set(instances)
    missing = [each for each in (*known, *instances) if each in present and each not in working]
    since = {each: 0.0 if pool["was_away"] else known.get(each) or 0.0 for each in missing}
    lost = [each for each in since if pool["was_away"] or known.get(each) is None]
    found = [each for each in instances if each in working and (each not in known or known[each] is not None)]
    gone = list(known.keys() - present)
    if lost or found or gone:
        await context.database.execute(_SEE, pool["name"], lost, found, gone)
    return since


async def _scale(context: Context, pool: Record, group: Mapping[str, Any], desired: int, seen: Seen) -> None:
    current: int = group["DesiredCapacity"]
    surplus = current - desired - seen.draining
    dead = list(seen.dead[:_ENDS_MAX])
    too_many = dead[: max(0, surplus)]
    await _end_instances(context, pool, too_many, replace=False)
    if desired > current:
        await context.aws.autoscaling.set_desired_capacity(
            AutoScalingGroupName=pool["group_name"], DesiredCapacity=desired
        )
        log.info("scaling out", pool=pool["name"], before=current, after=desired)
    # Those that are starting may never come: what is wanted stays covered by workers that live.
    elif (idle := min(surplus - len(too_many), seen.active - desired)) > 0:
        workers = await context.database.fetch(_DRAIN, pool["name"], idle, context.settings.scale_in_seconds)
        if workers:
            log.info("scaling in", pool=pool["name"], workers=[str(row["worker_id"]) for row in workers])
    if pool["may_replace"] and (broken := dead[len(too_many) :]):
        if len(seen.dead) <= _ENDS_MAX:  # first: if we die in between, the rest waits for the next round
            await context.database.execute(_PAUSE, pool["name"])
        await _end_instances(context, pool, broken, replace=True)


async def _end_instances(context: Context, pool: Record, instances: Sequence[str], *, replace: bool) -> None:
    """End instances of the group, which then launches others if they are to be replaced."""
    for instance_id in instances:
        try:
            await context.aws.autoscaling.terminate_instance_in_auto_scaling_group(
                InstanceId=instance_id, ShouldDecrementDesiredCapacity=not replace
            )
        except ClientError as error:
            if error_code(error) != "ValidationError":  # which says that it is gone already
                raise
            log.info("instance not ended", pool=pool["name"], instance=instance_id, error=str(error))
    if instances:
        log.warning("dead instances ended", pool=pool["name"], instances=instances, replaced=replace)
