"""`piecework pools` and `piecework workers`: the grid itself."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer

from piecework.cli import names, refs
from piecework.cli.options import All, Limit, WorkerId
from piecework.cli.session import Session, command, group
from piecework.errors import InputError
from piecework.shapes import DrainedPool, Pool, Worker, WorkerState

LIVE: list[WorkerState] = ["active", "draining"]

PoolName = Annotated[str, typer.Argument(metavar="POOL", autocompletion=names.pools)]


def list_pools(session: Session, everything: All = False, limit: Limit = 50) -> None:
    """List pools with their workers and backlog."""
    session.show_list(session.client.list_pools(), everything, limit, lambda pools: _show_pools(session, pools))


def _show_pools(session: Session, pools: list[Pool]) -> None:
    from piecework import display

    display.table(
        session.out,
        ["~POOL", "STATE", ">WORKERS", ">BUSY", ">?MIN", ">?MAX", ">?DESIRED", ">RUNNING", ">QUEUED", ">READY"],
        (
            (
                pool["name"],
                _pool_state(pool),
                pool["workers_live"],
                f"{pool['slots_busy']}/{pool['slots_live']}",
                pool["capacity_min"],
                pool["capacity_max"],
                pool["capacity_desired"],
                pool["tasks_running"],
                pool["tasks_queued"],
                pool["tasks_ready"],
            )
            for pool in pools
        ),
    )


def _pool_state(pool: Pool) -> str:
    return "paused" if pool["paused"] else "active"


def show_pool(session: Session, name: PoolName) -> None:
    """Show a pool."""
    session.show(session.client.get_pool(name), lambda pool: _show_pool(session, pool))


def _show_pool(session: Session, pool: Pool) -> None:
    from piecework import display

    now = session.client.now()
    display.facts(
        session.out,
        [
            ("pool", pool["name"]),
            ("state", _pool_state(pool)),
            ("workers", f"{pool['workers_live']} with {pool['slots_busy']} of {pool['slots_live']} slots busy"),
            ("capacity", _describe_capacity(pool)),
            ("tasks", f"{pool['tasks_running']} running, {pool['tasks_queued']} queued, {pool['tasks_ready']} ready"),
            ("slots", f"{pool['slots']} a worker"),
            ("largest node", _hardware(pool.get("largest_node"))),
            ("price", _describe_price(pool)),
            ("group", pool["group_name"]),
            ("instances", _describe_instances(pool, now)),
            ("not scaled", pool["scaling_error"]),
            ("queue", pool["queue_url"]),
            ("dead letters", pool["dead_letter_url"]),
        ],
    )


def _describe_instances(pool: Pool, now: datetime) -> str | None:
    from piecework import display

    if not pool["instances_missing"]:
        return None if pool["instances"] is None else str(pool["instances"])
    told = f"{pool['instances_missing']} without a worker since {display.moment(pool['instances_missing_since'], now)}"
    if pool["replacements"]:
        next_at = display.moment(pool["replace_at"], now)
        told += f"; rounds of replacements: {pool['replacements']}, the next at {next_at}"
    return f"{pool['instances']}, {told}"


def _describe_price(pool: Pool) -> str | None:
    kinds = (("On-Demand", pool.get("price_per_hour")), ("Spot", pool.get("spot_price_per_hour")))
    told = [f"${price:g} a node-hour {kind}" for kind, price in kinds if price is not None]
    return ", ".join(told) or None


def _describe_capacity(pool: Pool) -> str:
    return f"{pool['capacity_desired']} desired, between {pool['capacity_min']} and {pool['capacity_max']}"


def put_pool(
    session: Session,
    name: PoolName,
    group: Annotated[str | None, typer.Option(help="Auto Scaling group of its nodes; without: not scaled.")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Slots of one node, to plan with.")] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="US dollars of a node; without: its list price.")
    ] = None,
    spot_price_per_hour: Annotated[float | None, typer.Option(min=0, help="The same of a Spot node.")] = None,
    queue_url: Annotated[str | None, typer.Option(help="SQS queue of your own; without: one is created.")] = None,
    dead_letter_url: Annotated[str | None, typer.Option(help="Its dead-letter queue.")] = None,
    largest_node: Annotated[
        str | None,
        typer.Option(metavar="cpus=N,memory=SIZE[,…]", help="The largest node that it may have; also gpus, disk."),
    ] = None,
) -> None:
    """Add or change a pool."""
    options: dict[str, Any] = {"group_name": group, "slots": slots}
    options |= {"queue_url": queue_url, "dead_letter_url": dead_letter_url}
    options |= {"largest_node": None if largest_node is None else _node(largest_node)}
    options |= {"price_per_hour": price_per_hour, "spot_price_per_hour": spot_price_per_hour}
    pool = session.client.put_pool(name, {field: value for field, value in options.items() if value is not None})
    session.show(pool, lambda pool: _show_pool(session, pool))


def _node(text: str) -> dict[str, Any]:
    """Of `cpus=16,memory=60GiB,gpus=1`. Raises InputError."""
    from piecework.jobfile import parse_value

    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(name.strip() and value for name, _, value in pairs):
        raise InputError(f"--largest-node: {text!r} is not a list such as cpus=16,memory=60GiB,gpus=1,disk=100GiB")
    return {name.strip(): parse_value(value) for name, _, value in pairs}


def pause_pool(session: Session, name: PoolName) -> None:
    """Start no more tasks in a pool; running ones finish."""
    session.show(session.client.pause_pool(name), lambda pool: print(f"{pool['name']} paused"))


def delete_pool(session: Session, name: PoolName) -> None:
    """Delete a pool that nothing needs any more; its queues stay."""
    session.client.delete_pool(name)
    session.show_done(f"deleted {name}; its queues stay, for you to delete")


def resume_pool(session: Session, name: PoolName) -> None:
    """Start tasks in a pool again."""
    session.show(session.client.resume_pool(name), lambda pool: print(f"{pool['name']} active"))


def set_capacity(
    session: Session,
    name: PoolName,
    minimum: Annotated[int | None, typer.Option("--min", min=0, metavar="NODES", help="Never fewer.")] = None,
    maximum: Annotated[int | None, typer.Option("--max", min=0, metavar="NODES", help="Never more.")] = None,
    desired: Annotated[
        int | None, typer.Option(min=0, metavar="NODES", help="From now on; by default it follows the load.")
    ] = None,
) -> None:
    """Set how many worker nodes a pool may have; what is not given stays."""
    if minimum is None and maximum is None and desired is None:
        raise InputError("--min, --max, --desired: give at least one of them")
    pool = session.client.get_pool(name)
    minimum = pool["capacity_min"] if minimum is None else minimum
    maximum = pool["capacity_max"] if maximum is None else maximum
    pool = session.client.set_pool_capacity(name, minimum, maximum, desired)
    session.show(pool, lambda pool: print(f"{pool['name']}: {_describe_capacity(pool)}"))


def list_workers(
    session: Session,
    pool: Annotated[str | None, typer.Option(help="Only workers of this pool.")] = None,
    state: Annotated[WorkerState | None, typer.Option(help="Only workers in this state.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything, stopped and lost ones too.")] = False,
    limit: Limit = 50,
) -> None:
    """List workers, newest first; without --state or --all those that are active or draining."""
    listing = session.client.list_workers(pool=pool, state=state or (None if everything else LIVE))
    session.show_list(listing, everything, limit, lambda workers: _show_workers(session, workers))


def _show_workers(session: Session, workers: list[Worker]) -> None:
    from piecework import display

    now = session.client.now()
    quarantined = any(worker["quarantine"] for worker in workers)
    draining = any(worker["drain_reason"] for worker in workers)
    on_ec2 = any(worker["instance_type"] for worker in workers)
    display.table(
        session.out,
        [
            *("WORKER_ID", "~POOL", "STATE", ">BUSY", "ISOLATION", "~?HOST", "?LAST SEEN", "?RELEASE"),
            *(["?INSTANCE", "?TYPE", "?ZONE", "?MARKET"] if on_ec2 else []),
            *(["~WHY IT DRAINS"] if draining else []),
            *(["~OUT OF SERVICE"] if quarantined else []),
        ],
        (
            (
                worker["worker_id"],
                worker["pool"],
                display.state(worker["state"]),
                f"{worker['busy']}/{worker['slots']}",
                worker["isolation"],
                worker["hostname"],
                display.relative(worker["heartbeat_at"], now),
                worker["release"],
                *([worker["instance_id"], worker["instance_type"], worker["zone"], worker["market"]] if on_ec2 else []),
                *([worker["drain_reason"]] if draining else []),
                *([worker["quarantine"]] if quarantined else []),
            )
            for worker in workers
        ),
    )


def show_worker(session: Session, worker_id: WorkerId) -> None:
    """Show a worker."""
    session.show(session.client.get_worker(worker_id), lambda worker: _show_worker(session, worker))


def _show_worker(session: Session, worker: Worker) -> None:
    from piecework import display

    now = session.client.now()
    display.facts(
        session.out,
        [
            ("worker", worker["worker_id"]),
            ("pool", worker["pool"]),
            ("state", display.state(worker["state"])),
            ("slots", f"{worker['busy']} of {worker['slots']} busy"),
            ("has", _hardware(worker)),
            ("isolation", worker["isolation"]),
            ("containers", worker["engine"]),
            ("host", worker["hostname"]),
            ("instance", _describe_instance(worker)),
            ("release", worker["release"]),
            ("process", worker["pid"]),
            ("started", display.moment(worker["started_at"], now)),
            ("last seen", display.moment(worker["heartbeat_at"], now)),
            ("stopped", display.moment(worker["stopped_at"], now)),
            ("why it drains", worker["drain_reason"]),
            ("interrupted", display.moment(worker["interrupted_at"], now)),
            ("out of service", worker["quarantine"]),
        ],
    )


def _describe_instance(worker: Worker) -> str | None:
    facts = (worker["instance_id"], worker["instance_type"], worker["zone"], worker["market"])
    return ", ".join(fact for fact in facts if fact is not None) or None


def _hardware(has: Any) -> str | None:
    """What a worker's node, or a pool's largest, has for its tasks; None: nobody says."""
    from piecework import display

    if has is None or has.get("cpus") is None:
        return None
    memory, disk = display.size(has["memory"]), display.size(has["disk"])
    return f"{has['cpus']:g} cpus, {memory} of memory, {has['gpus']} gpus, {disk} of disk"


def drain(
    session: Session,
    worker_id: Annotated[UUID | None, refs.WORKER.argument(), refs.WORKER] = None,
    pool: Annotated[str | None, typer.Option(help="All workers of this pool, instead of one.")] = None,
    release_not: Annotated[
        str | None, typer.Option(metavar="RELEASE", help="Of the pool, only those of other releases.")
    ] = None,
    started_before: Annotated[
        datetime | None, typer.Option(help="Of the pool, only those that started before (UTC).")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Have the pool's group launch others for them.")] = False,
    at_most: Annotated[
        int | None, typer.Option(min=1, metavar="WORKERS", help="Drain no more of the pool at a time.")
    ] = None,
) -> None:
    """Let a worker, or workers of a pool, finish what they run, take nothing more, and stop."""
    if (worker_id is None) == (pool is None):
        raise InputError("give either a WORKER or --pool")
    if worker_id is not None:
        if release_not is not None or started_before is not None or replace or at_most is not None:
            raise InputError("--release-not, --started-before, --replace, --at-most: give --pool with them")
        worker = session.client.drain_worker(worker_id)
        session.show(worker, lambda worker: print(f"{worker['worker_id']} {worker['state']}"))
        return
    assert pool is not None
    drained = session.client.drain_pool(
        pool,
        release_not=release_not,
        started_before=None if started_before is None else started_before.replace(tzinfo=UTC).isoformat(),
        replace_instance=replace,
        at_most=at_most,
    )
    session.show(drained, _tell_drained)


def _tell_drained(drained: DrainedPool) -> None:
    for worker_id in drained["worker_ids"]:
        print(f"{worker_id} draining")
    print(f"{drained['draining']} draining, {drained['remaining']} to follow")


def register(app: typer.Typer) -> None:
    pools = group(app, "pools", "Kinds of worker nodes and their capacity.")
    command(pools, "list")(list_pools)
    command(pools, "show")(show_pool)
    command(pools, "put")(put_pool)
    command(pools, "pause")(pause_pool)
    command(pools, "resume")(resume_pool)
    command(pools, "capacity")(set_capacity)
    command(pools, "delete")(delete_pool)
    workers = group(app, "workers", "Worker nodes.")
    command(workers, "list")(list_workers)
    command(workers, "show")(show_worker)
    command(workers, "drain")(drain)
