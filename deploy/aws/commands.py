"""What an operator does with a grid on AWS. All of it is safe to repeat."""

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import httpx
from botocore.exceptions import ClientError

from deploy.aws import access
from deploy.aws.cost import monthly
from deploy.aws.includes import HERE
from deploy.aws.largest import largest_node
from deploy.aws.nodes import await_nodes
from deploy.aws.stacks import DeployError, Say, Stack, Stacks
from deploy.aws.template import Template
from services.engine.prices import list_prices

_POOL_NEEDS = (
    *("Bucket", "Database", "DatabaseResource", "NodeSubnets", "PublicNodes", "WorkerSecurityGroup", "AlarmTopic"),
    "KmsKeyArn",
)
_AMI = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-"
_TYPES = {
    "arm64": "m7g.large,m6g.large,c7g.large,r7g.large",
    "x86_64": "m7i.large,m6i.large,m7a.large,c7i.large,r7i.large",
}
_FIRST_POOL = "default"
_NODES_MAX = 10  # of a new pool, unless it is said
NODE_SECONDS = 900.0  # how long new nodes may take until they work
_INSTANCES_PER_CALL = 50  # of SetInstanceProtection


class Cloud:
    """The account and region that the command works on."""

    def __init__(self, session: Any, cloudformation: Any, grid: str, say: Say, pause_seconds: float = 3.0) -> None:
        """Raises DeployError if the name could be that of another grid's stack."""
        if re.search(r"-(pool-.*|pool|network)$", grid):
            raise DeployError(f"--grid {grid}: stacks of pools are named so; take a name without -pool or -network")
        self.session = session
        self.stacks = Stacks(cloudformation, say, pause_seconds)
        self.grid = grid
        self.say = say
        self.pause_seconds = pause_seconds

    @property
    def network(self) -> str:
        return f"{self.grid}-network"

    def stack_of(self, pool: str) -> str:
        return f"{self.grid}-pool-{pool}"

    async def pools(self) -> list[str]:
        """The pools that have a stack."""
        prefix = self.stack_of("")
        return [name.removeprefix(prefix) for name in await self.stacks.names(prefix)]


def architecture(types: str) -> str:
    """arm64 or x86_64, by the names of instance types; raises DeployError for a mixture.

    A family is a letter, a generation, and letters of which a `g` is Graviton:
    https://docs.aws.amazon.com/ec2/latest/instancetypes/instance-type-names.html
    """
    found = {}
    for name in (each.strip() for each in types.split(",")):
        family = name.split(".")[0].lstrip("abcdefghijklmnopqrstuvwxyz-").lstrip("0123456789")
        found["arm64" if family.startswith("g") or name.startswith("a1.") else "x86_64"] = name
    if len(found) > 1:
        raise DeployError(
            f"a pool runs one image, but {found['arm64']} is arm64 and {found['x86_64']} is x86_64: make two pools"
        )
    return next(iter(found))


async def up(
    cloud: Cloud,
    network: Mapping[str, str],
    grid: Mapping[str, str],
    pool: Mapping[str, str],
    least: int,
    most: int,
    node_seconds: float = NODE_SECONDS,
) -> None:
    """The network, unless one is given, the grid and its first pool, whose least nodes then work."""
    async with cloud.session.client("sts") as sts:
        account = (await sts.get_caller_identity())["Account"]
    cloud.say(f"Grid {cloud.grid} in account {account}, region {cloud.session.region_name}")
    grid = dict(grid)
    known = await cloud.stacks.find(cloud.grid)
    _check_key(cloud, known, grid)
    if "VpcId" not in grid and (known is None or await cloud.stacks.find(cloud.network) is not None):
        made = await cloud.stacks.make(cloud.network, "network", {"Grid": cloud.grid, **network})
        grid |= {name: made[name] for name in ("VpcId", "NodeSubnets", "PublicNodes", "PublicSubnets")}
        grid["DatabaseSubnets"] = made["PrivateSubnets"]
    if "ControlInstanceType" in grid and "AmiParameter" not in grid:
        grid["AmiParameter"] = _AMI + architecture(grid["ControlInstanceType"])
    if known is None and "ImageUri" not in grid:
        raise DeployError("the grid is new: name its image (--image), which docs/aws.md says how to build")
    outputs = await cloud.stacks.make(cloud.grid, "grid", {"Grid": cloud.grid, **grid})
    if await _needs_first_pool(cloud, outputs):
        control = architecture(grid.get("ControlInstanceType", "t4g.small"))
        alike: dict[str, str] = {name: grid[name] for name in ("Version", "ImageUri", "AmiParameter") if name in grid}
        given = {"InstanceTypes": _TYPES[control], **alike, **pool}
        await make_pool(cloud, _FIRST_POOL, given, least, most, node_seconds=node_seconds)
    cloud.say(ending(outputs, await idle_dollars(cloud)))


def _check_key(cloud: Cloud, known: Stack | None, grid: Mapping[str, str]) -> None:
    """Raises DeployError where CloudFormation would put an empty database in the place of the one that is there."""
    if known is None or "KmsKeyArn" not in grid or "SnapshotId" in grid:
        return
    before = _given(known).get("KmsKeyArn", "")
    if before != grid["KmsKeyArn"]:
        raise DeployError(
            f"the grid {cloud.grid} was made with {before or 'keys of AWS'}, which its database keeps: for others, "
            "restore it from a snapshot (docs/aws.md)"
        )


async def _needs_first_pool(cloud: Cloud, outputs: Mapping[str, str]) -> bool:
    """Whether the grid has no pool, or the first one is not registered, since the command ended before it was."""
    pools = await cloud.pools()
    if pools != [_FIRST_POOL]:
        return not pools
    async with access.api(cloud.session, outputs) as api:
        return not await access.call(api, "GET", f"/v1/pools/{_FIRST_POOL}", absent={})


def _given(stack: Stack) -> dict[str, str]:
    """The parameters that a stack has."""
    return {each["ParameterKey"]: each.get("ParameterValue", "") for each in stack.get("Parameters", [])}


def _deployed(template: str, stack: Stack) -> Template:
    """The template of this clone with a stack's parameters; those of another release may have others."""
    path = HERE / f"{template}.yaml"
    known = Template(path).parameters
    return Template(path, {name: value for name, value in _given(stack).items() if name in known})


def _release(parameters: Mapping[str, str]) -> dict[str, str]:
    return {name: parameters[name] for name in ("Version", "ImageUri") if name in parameters}


async def templates(cloud: Cloud) -> tuple[Template | None, Template, list[Template]]:
    """Network, grid and pools with the parameters that they have; without a grid, as `up` makes them by default."""

    async def deployed(template: str, stack: str) -> Template | None:
        found = await cloud.stacks.find(stack)
        return None if found is None else _deployed(template, found)

    grid = await deployed("grid", cloud.grid)
    if grid is None:
        network, grid, pool = (Template(HERE / f"{name}.yaml") for name in ("network", "grid", "pool"))
        return network, grid, [pool]
    pools = [await deployed("pool", cloud.stack_of(pool)) for pool in await cloud.pools()]
    return await deployed("network", cloud.network), grid, [pool for pool in pools if pool is not None]


async def idle_dollars(cloud: Cloud) -> float:
    """A month without jobs, by list prices; what has an unknown price is left out."""
    network, grid, pools = await templates(cloud)
    prices = list_prices()
    lines = [line for template in (network, grid, *pools) if template for line in monthly(template, prices)]
    return sum(line.dollars for line in lines if line.dollars is not None)


def ending(outputs: Mapping[str, str], idle: float) -> str:
    """What to do next, and where everything is."""
    reached = outputs["ApiUrl"] or "http://127.0.0.1:8000, while `python -m deploy.aws tunnel` runs"
    stats = outputs["StatsUrl"] or "http://127.0.0.1:8001, in the same way"
    return f"""
  API         {reached}
  Statistics  {stats}
  First key   in the secret {outputs["BootstrapKey"]}
  Bucket      {outputs["Bucket"]}
  Dashboard   {outputs["Dashboard"]}
  Cost        about {idle:.0f} US dollars a month without jobs; `python -m deploy.aws cost` says of what"""


async def make_pool(
    cloud: Cloud,
    pool: str,
    given: Mapping[str, str],
    least: int | None,
    most: int | None,
    prices: Mapping[str, float] = MappingProxyType({}),
    node_seconds: float = NODE_SECONDS,
) -> dict[str, str]:
    """The pool's stack and its row; its capacity is set if it is given, or the pool is new. `least` nodes then work.

    `prices` are `price_per_hour` and `spot_price_per_hour`; the row keeps those that are not given.
    """
    grid = await cloud.stacks.outputs(cloud.grid)
    if lacking := [name for name in _POOL_NEEDS if name not in grid]:
        raise DeployError(f"the stack {cloud.grid} is of an older release, and has no {lacking[0]}: run `up` first")
    given = dict(given)
    if "InstanceTypes" in given and "AmiParameter" not in given:
        given["AmiParameter"] = _AMI + architecture(given["InstanceTypes"])
    known = await cloud.stacks.find(cloud.stack_of(pool))
    if known is None:
        control = await cloud.stacks.find(cloud.grid)
        assert control is not None
        given = _release(_given(control)) | given
        most = max(_NODES_MAX, least or 0) if most is None else most
    if most is not None and (least or 0) > most:
        raise DeployError(f"--min {least} is more than --max {most}")
    if (most or least or 0) > _ceiling(given if known is None else _given(known) | given):
        given["MaxNodes"] = str(most or least)
    made = await cloud.stacks.make(
        cloud.stack_of(pool),
        "pool",
        {"Grid": cloud.grid, "Pool": pool, **{name: grid[name] for name in _POOL_NEEDS}, **given},
    )
    largest = await _largest_node(cloud, pool)
    async with access.api(cloud.session, grid) as api:
        before = {} if known is None else await access.call(api, "GET", f"/v1/pools/{pool}", absent={})
        kept = {name: before.get(name) for name in ("price_per_hour", "spot_price_per_hour")}
        await access.call(
            api,
            "PUT",
            f"/v1/pools/{pool}",
            **(kept | dict(prices)),
            largest_node=largest,
            queue_url=made["QueueUrl"],
            dead_letter_url=made["DeadLetterUrl"],
            group_name=made["GroupName"],
            slots=int(made["Slots"]),
        )
        if least is None and most is None and before:
            cloud.say(f"Pool {pool} is registered")
            return made
        if most is None:
            most = max(before.get("capacity_max", _NODES_MAX), least or 0)
        if least is None:
            least = min(before.get("capacity_min", 0), most)
        await access.call(api, "PUT", f"/v1/pools/{pool}/capacity", min=least, max=most)
        cloud.say(f"Pool {pool} is registered: {least} to {most} nodes")
        if least:
            await _await_nodes(cloud, api, pool, made["GroupName"], node_seconds, least)
    return made


def _ceiling(pool: Mapping[str, str]) -> float:
    """MaxNodes of the pool's stack; what is not a number, CloudFormation refuses."""
    given = (Template(HERE / "pool.yaml").parameters | dict(pool))["MaxNodes"]
    return int(given) if given.isdecimal() else math.inf


async def _await_nodes(
    cloud: Cloud, api: httpx.AsyncClient, pool: str, group: str, node_seconds: float, least: int = 0
) -> None:
    async with cloud.session.client("autoscaling") as autoscaling:
        await await_nodes(
            autoscaling,
            api,
            pool,
            group,
            least=least,
            patience_seconds=node_seconds,
            pause_seconds=cloud.pause_seconds,
            say=cloud.say,
        )


async def _largest_node(cloud: Cloud, pool: str) -> dict[str, Any] | None:
    found = await cloud.stacks.find(cloud.stack_of(pool))
    assert found is not None
    parameters = _deployed("pool", found).parameters
    async with cloud.session.client("ec2") as ec2:
        largest = await largest_node(ec2, parameters)
    if largest is None:
        cloud.say(f"Pool {pool}: AWS knows none of the types {parameters['InstanceTypes']} in this region")
    return largest


async def roll(
    cloud: Cloud, pool: str, at_once: int, everyone: bool = False, node_seconds: float = NODE_SECONDS
) -> None:
    """Drain the pool's workers of other versions, or all that run now, some at a time; tasks that run end first.

    Each ends its instance without making the group smaller, so that the group launches one of the new template. Ends
    when these work; raises DeployError if they do not within `node_seconds` after the last one has drained.
    """
    made = await cloud.stacks.outputs(cloud.stack_of(pool))
    wanted = made["Version"]
    grid = await cloud.stacks.outputs(cloud.grid)
    which = {"started_before": datetime.now(UTC).isoformat()} if everyone else {"release_not": wanted}
    told = None
    async with access.api(cloud.session, grid) as api:
        while True:
            left = await access.call(
                api, "POST", f"/v1/pools/{pool}/drain", **which, replace_instance=True, at_most=at_once
            )
            now = left["draining"], left["remaining"]
            if now == (0, 0):
                break
            if now != told:
                cloud.say(f"{pool}: {now[0]} workers drain, {now[1]} are to follow")
                told = now
            await asyncio.sleep(cloud.pause_seconds)
        await _await_nodes(cloud, api, pool, made["GroupName"], node_seconds)
    cloud.say(f"{pool}: all older workers are gone" if everyone else f"{pool}: all workers are of version {wanted}")


async def status(cloud: Cloud) -> None:
    """The grid's stacks, their versions, and how many nodes run."""
    names = [cloud.network, cloud.grid, *(cloud.stack_of(pool) for pool in await cloud.pools())]
    async with cloud.session.client("autoscaling") as autoscaling:
        for name in names:
            stack = await cloud.stacks.find(name)
            if stack is None:
                cloud.say(f"{name:<32} none")
                continue
            outputs = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
            group = outputs.get("GroupName") or outputs.get("ControlGroup")
            nodes = ""
            if group is not None:
                answer = await autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])
                nodes = f"{sum(len(found['Instances']) for found in answer['AutoScalingGroups'])} nodes"
            cloud.say(f"{name:<32} {stack['StackStatus']:<20} {outputs.get('Version', ''):<12} {nodes}")


async def destroy(cloud: Cloud, pools: Sequence[str] = ()) -> None:
    """Delete the pools that are named, or all that the grid has; the bucket and a last snapshot stay."""
    for pool in pools or await cloud.pools():
        await _release_nodes(cloud, pool)
        await cloud.stacks.delete(cloud.stack_of(pool))
    if pools:
        return
    grid = await cloud.stacks.find(cloud.grid)
    outputs = {} if grid is None else {each["OutputKey"]: each["OutputValue"] for each in grid.get("Outputs", [])}
    if "DatabaseId" in outputs:
        await _unprotect_database(cloud, outputs["DatabaseId"])
    gone = [await cloud.stacks.delete(name) for name in (cloud.grid, cloud.network)]
    if not any(gone):
        cloud.say(f"There is no grid {cloud.grid} in this account and region")
        return
    bucket = outputs.get("Bucket", f"whose name begins with {cloud.grid}-bucket-")
    cloud.say(f"What stays, and costs by the gigabyte: the bucket {bucket}, and the database's last snapshot")


async def _unprotect_database(cloud: Cloud, name: str) -> None:
    """Let the stack's deletion delete it; it may be gone, or being deleted, by a command that was interrupted."""
    async with cloud.session.client("rds") as rds:
        with suppress(rds.exceptions.DBInstanceNotFoundFault, rds.exceptions.InvalidDBInstanceStateFault):
            await rds.modify_db_instance(DBInstanceIdentifier=name, DeletionProtection=False, ApplyImmediately=True)


async def _release_nodes(cloud: Cloud, pool: str) -> None:
    """Let the group's deletion end its nodes: they are protected from anybody but the grid."""
    async with cloud.session.client("autoscaling") as autoscaling:
        name = f"{cloud.grid}-{pool}"
        answer = await autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])
        ids = [found["InstanceId"] for group in answer["AutoScalingGroups"] for found in group["Instances"]]
        for start in range(0, len(ids), _INSTANCES_PER_CALL):
            with suppress(ClientError):  # one of them has just ended; the stack's deletion tells if that matters
                await autoscaling.set_instance_protection(
                    AutoScalingGroupName=name,
                    InstanceIds=ids[start : start + _INSTANCES_PER_CALL],
                    ProtectedFromScaleIn=False,
                )
