"""Kinds of worker nodes: their queues, their capacity."""

import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path
from sqlmodel import select

from services.api import tables
from services.api.connections import Api, Connections, Session
from services.api.pagination import Pages
from services.api.problems import BODY
from services.api.queues import check_visibility
from services.api.security import Operator, Viewer
from services.api.shapes.grid import Capacity, DrainedPool, Pool, PoolDrain, PoolPage, PoolSpec
from services.api.strict_json import StrictRoute
from services.engine import pools, removal, workers
from services.engine.pool_tasks import count_tasks
from services.platform.database import Connection
from services.platform.database import Database as ConnectionPool
from services.platform.problems import conflict, invalid, not_found, problems

router = APIRouter(prefix="/pools", tags=["pools"], route_class=StrictRoute)

PoolName = Annotated[str, Path(max_length=100, examples=["default"])]

_POOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_DEAD_LETTER = "-dead-letter"
_QUEUE_NAME_CHARACTERS = 80  # that SQS allows

PUT_EXAMPLES: Any = {
    "queues": {"summary": "With queues made for it, not scaled", "value": {"slots": 2}},
    "scaled": {"summary": "Scaled by an Auto Scaling group", "value": {"slots": 16, "group_name": "piecework-large"}},
    "gpus": {
        "summary": "With GPUs, as tasks may ask for them",
        "value": {"slots": 4, "group_name": "gpu", "largest_node": {"cpus": 16, "memory": "60GiB", "gpus": 1}},
    },
}
CAPACITY_EXAMPLES: Any = {"bounds": {"summary": "Up to ten nodes", "value": {"min": 0, "max": 10, "desired": 2}}}
DRAIN_EXAMPLES: Any = {
    "release": {
        "summary": "Replace those of other releases, two at a time",
        "value": {"release_not": "0.2.0", "replace_instance": True, "at_most": 2},
    }
}

_WORKERS = """
    SELECT p.name, w.*
    FROM unnest($1::text[]) AS p (name) CROSS JOIN LATERAL (
        SELECT count(*) AS workers_live, coalesce(sum(slots), 0) AS slots_live, coalesce(sum(busy), 0) AS slots_busy
        FROM workers WHERE pool = p.name AND state IN ('active', 'draining')
    ) AS w"""


async def _show(connection: Connection | ConnectionPool, rows: Iterable[dict[str, Any]]) -> list[Pool]:
    """The pools with their current workers and tasks."""
    pools = list(rows)
    workers = {row["name"]: dict(row) for row in await connection.fetch(_WORKERS, [pool["name"] for pool in pools])}
    tasks = await count_tasks(connection)
    return [
        Pool.model_validate(
            pool
            | workers[pool["name"]]
            | {f"tasks_{state}": tasks[pool["name"]][state] for state in ("ready", "queued", "running")}
        )
        for pool in pools
    ]


async def _load(connection: Connection | ConnectionPool, name: str) -> Pool:
    """Raises a 404."""
    row = await connection.fetchrow("SELECT * FROM pools WHERE name = $1", name)
    if row is None:
        raise not_found("pool", name)
    [pool] = await _show(connection, [dict(row)])
    return pool


@router.get("", operation_id="list_pools", summary="List pools")
async def list_pools(_key: Viewer, api: Api, session: Session, pages: Pages) -> PoolPage:
    """Pools by name, with their current workers and tasks."""
    rows, next_cursor = await pages.fetch(session, select(tables.WorkerPool), tables.WorkerPool.name)
    return PoolPage(items=await _show(api.database, [row.model_dump() for row in rows]), next_cursor=next_cursor)


@router.get("/{name}", operation_id="get_pool", responses=problems(404), summary="Inspect a pool")
async def get_pool(_key: Viewer, api: Api, name: PoolName) -> Pool:
    """A pool with its current workers and tasks."""
    return await _load(api.database, name)


@router.put("/{name}", operation_id="put_pool", responses=problems(*BODY, 502), summary="Add or change a pool")
async def put_pool(
    caller: Operator, api: Api, name: PoolName, spec: Annotated[PoolSpec, Body(openapi_examples=PUT_EXAMPLES)]
) -> Pool:
    """Add a pool, or change its queues, group, slots and prices, but not its capacity and pause. Safe to repeat."""
    characters_max = _QUEUE_NAME_CHARACTERS - len(api.settings.queue_prefix + _DEAD_LETTER)
    if _POOL_NAME.fullmatch(name) is None or len(name) > characters_max:
        fix = f"write letters, digits, '_' and '-' (SQS allows no more), at most {characters_max} characters"
        raise invalid("name", name, fix)
    if spec.group_name is not None:
        await _find_group(api, spec.group_name)
    queue_url, dead_letter_url = spec.queue_url, spec.dead_letter_url
    if queue_url is None or dead_letter_url is None:
        queue_url, dead_letter_url = await _own_queues(api, name)
    else:
        await check_visibility(api, queue_url, "queue_url")
    async with api.transaction() as connection:
        await pools.register_pool(
            connection,
            name,
            queue_url=queue_url,
            dead_letter_url=dead_letter_url,
            group_name=spec.group_name,
            slots=spec.slots,
            largest_node=None if spec.largest_node is None else spec.largest_node.capacity,
        )
        await pools.set_prices(connection, name, spec.price_per_hour, spec.spot_price_per_hour)
        await caller.record(connection, name, **spec.model_dump(exclude_none=True))
        return await _load(connection, name)


async def _own_queues(api: Connections, name: str) -> tuple[str, str]:
    """The queue and the dead-letter queue that the pool has, or else new ones."""
    row = await api.database.fetchrow("SELECT queue_url, dead_letter_url FROM pools WHERE name = $1", name)
    if row is not None:
        return row["queue_url"], row["dead_letter_url"]
    # Creating an existing queue returns the same URL, so a crash before the row is written costs nothing.
    queue = f"{api.settings.queue_prefix}{name}"
    return await _create_queue(api, queue), await _create_queue(api, f"{queue}{_DEAD_LETTER}")


async def _create_queue(api: Connections, name: str) -> str:
    answer = await api.aws.sqs.create_queue(QueueName=name)
    url: str = answer["QueueUrl"]
    return url


async def _find_group(api: Connections, name: str) -> dict[str, Any]:
    """The Auto Scaling group; raises a 422 for `group_name`."""
    answer = await api.aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])
    groups: list[dict[str, Any]] = answer["AutoScalingGroups"]
    if not groups:
        raise invalid("group_name", name, "there is no such Auto Scaling group in this account and region")
    return groups[0]


@router.put(
    "/{name}/capacity",
    operation_id="set_pool_capacity",
    responses=problems(*BODY, 404, 409, 502),
    summary="Set a pool's capacity",
)
async def set_pool_capacity(
    caller: Operator, api: Api, name: PoolName, capacity: Annotated[Capacity, Body(openapi_examples=CAPACITY_EXAMPLES)]
) -> Pool:
    """Set how many nodes the pool may have, and add nodes at once if `desired` is more than its group has.

    Nodes are never cut off: the scheduler drains surplus ones when they are idle. The group's own MinSize and MaxSize
    do not change; if they forbid what the pool wants, `scaling_error` says so.
    """
    pool = await _load(api.database, name)
    if pool.group_name is None:
        fix = f"give it a group_name first (put_pool; `piecework pools put {name} --group GROUP`)"
        raise conflict(f"the pool {name} has no Auto Scaling group; {fix}")
    group = await _find_group(api, pool.group_name)
    # First our row: if we crash here, the scheduler adjusts the group to it.
    async with api.transaction() as connection:
        desired: int | None = await connection.fetchval(
            "UPDATE pools SET capacity_min = $2, capacity_max = $3, "
            "capacity_desired = least(greatest(coalesce($4, capacity_desired), $2), $3) "
            "WHERE name = $1 RETURNING capacity_desired",
            name,
            capacity.min,
            capacity.max,
            capacity.desired,
        )
        if desired is None:
            raise not_found("pool", name)
        if (error := pools.explain_group_limit(desired, group)) is not None:
            await pools.note_scaling_error(connection, name, error)
        changed = await _load(connection, name)
        await caller.record(connection, name, **capacity.model_dump(exclude_none=True))
    if (nodes := pools.within_group(desired, group)) > group["DesiredCapacity"]:
        await api.aws.autoscaling.set_desired_capacity(AutoScalingGroupName=pool.group_name, DesiredCapacity=nodes)
    return changed


@router.post("/{name}/pause", operation_id="pause_pool", responses=problems(404), summary="Pause a pool")
async def pause_pool(caller: Operator, api: Api, name: PoolName) -> Pool:
    """Start no more tasks in the pool; running tasks end as usual."""
    async with api.transaction() as connection:
        await pools.pause_pool(connection, name)
        await caller.record(connection, name)
        return await _load(connection, name)


@router.post("/{name}/resume", operation_id="resume_pool", responses=problems(404), summary="Resume a pool")
async def resume_pool(caller: Operator, api: Api, name: PoolName) -> Pool:
    """Start tasks in the pool again."""
    async with api.transaction() as connection:
        await pools.resume_pool(connection, name)
        await caller.record(connection, name)
        return await _load(connection, name)


@router.post(
    "/{name}/drain", operation_id="drain_pool", responses=problems(*BODY, 404), summary="Drain workers of a pool"
)
async def drain_pool(
    caller: Operator, api: Api, name: PoolName, drain: Annotated[PoolDrain, Body(openapi_examples=DRAIN_EXAMPLES)]
) -> DrainedPool:
    """Drain the pool's workers, or only those of other releases or from before a moment, some at a time.

    Each takes no more tasks from its next heartbeat on, ends its running ones, and stops. Safe to repeat.
    """
    async with api.transaction() as connection:
        drained = await workers.drain_pool(connection, name, _describe_drain(drain), **drain.model_dump())
        await caller.record(connection, name, **drain.model_dump(exclude_none=True, mode="json"))
    return DrainedPool.model_validate(asdict(drained))


def _describe_drain(drain: PoolDrain) -> str:
    which = [f"of another release than {drain.release_not}"] if drain.release_not is not None else []
    which += [f"from before {drain.started_before:%Y-%m-%d %H:%M:%S %Z}"] if drain.started_before is not None else []
    aim = "replaces" if drain.replace_instance else "drains"
    return f"an operator {aim} the pool's workers {' and '.join(which)}".rstrip()


@router.delete(
    "/{name}", operation_id="delete_pool", status_code=204, responses=problems(404, 409), summary="Delete a pool"
)
async def delete_pool(caller: Operator, api: Api, name: PoolName) -> None:
    """Delete a pool that nothing needs; its queues stay, for you to delete.

    It is refused while it has an Auto Scaling group or workers, and while a job that has not ended, or can be retried,
    a schedule, a trigger or a key names it.
    """
    async with api.transaction() as connection:
        await removal.delete_pool(connection, name)
        await caller.record(connection, name)
