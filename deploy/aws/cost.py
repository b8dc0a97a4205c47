"""What the grid's resources cost in a month in which no job runs, and a pool's node in an hour, by list prices."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.aws.template import Template
from services.engine.prices import Prices, list_prices

HOURS = 730  # of a month, as AWS counts

# What costs nothing by itself: AWS bills what flows through it, is kept in it, or runs by it.
FREE = (
    *("AWS::EC2::VPC", "AWS::EC2::InternetGateway", "AWS::EC2::VPCGatewayAttachment", "AWS::EC2::Subnet"),
    *("AWS::EC2::RouteTable", "AWS::EC2::Route", "AWS::EC2::SubnetRouteTableAssociation", "AWS::EC2::SecurityGroup"),
    *("AWS::EC2::LaunchTemplate", "AWS::AutoScaling::LifecycleHook", "AWS::Budgets::Budget"),
    *("AWS::S3::Bucket", "AWS::S3::BucketPolicy", "AWS::SQS::Queue", "AWS::SNS::Topic", "AWS::SNS::Subscription"),
    *("AWS::RDS::DBSubnetGroup", "AWS::RDS::DBParameterGroup", "AWS::IAM::Role", "AWS::IAM::InstanceProfile"),
    *("AWS::IAM::Policy", "AWS::WAFv2::WebACLAssociation"),
    *("AWS::Logs::LogGroup", "AWS::Logs::MetricFilter", "AWS::CloudWatch::Dashboard"),
    *("AWS::ElasticLoadBalancingV2::TargetGroup", "AWS::ElasticLoadBalancingV2::Listener"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """US dollars a month, or an hour; None: the price is not known."""

    what: str
    dollars: float | None


def cost_table(network: Template | None, grid: Template, pools: Sequence[Template]) -> str:
    """The table of `python -m deploy.aws cost`. `network` is None where the VPC is there already."""
    prices = list_prices()
    idle = [line for template in (network, grid, *pools) if template for line in monthly(template, prices)]
    nodes = [line for pool in pools for line in node_hours(pool, prices)]
    width = max(len(line.what) for line in (*idle, *nodes))
    return "\n".join(
        [
            f"US dollars, by the list prices of {prices.region} on {prices.date}: {prices.note}.",
            "",
            "A month in which no job runs:",
            *(f"  {line.what:<{width}}  {_dollars(line.dollars, 2):>8}" for line in idle),
            f"  {'sum':<{width}}  {_sum(idle)}",
            "",
            "An hour of a node, while there is one:",
            *(f"  {line.what:<{width}}  {_dollars(line.dollars, 4):>8}" for line in nodes),
            "",
            f"Kept objects cost {prices.s3_gb_month} a GB and month. Logs, and data that leaves AWS, come on top.",
        ]
    )


def _sum(lines: Sequence[Line]) -> str:
    known = sum(line.dollars for line in lines if line.dollars is not None)
    unknown = sum(line.dollars is None for line in lines)
    return f"{known:8.2f}" + (f", and what {unknown} of them cost, which is unknown" if unknown else "")


def _dollars(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def monthly(template: Template, prices: Prices) -> Iterator[Line]:
    """A line for each resource that costs something while it idles; those of pools have no nodes then."""
    counted: dict[str, int] = {}
    for name, resource in template.resources().items():
        kind = resource["Type"]
        if kind in _PRICED:
            properties = template.resolve(_without_code(resource.get("Properties", {})))
            yield from _PRICED[kind](name, properties, template, prices)
        elif kind in _EACH:
            counted[kind] = counted.get(kind, 0) + 1
        elif kind not in FREE:
            yield Line(f"{name} ({kind})", None)
    for kind, count in counted.items():
        what, price = _EACH[kind]
        yield Line(f"{count} {what}", count * price(prices))


def node_hours(pool: Template, prices: Prices) -> Iterator[Line]:
    """On-Demand nodes of each type that the pool may have, with their disks. Spot costs less, how much less changes."""
    name = pool.parameters["Pool"]
    disk = int(pool.parameters["RootGb"]) * prices.disk_gb_month / HOURS
    for kind in pool.parameters["InstanceTypes"].split(","):
        price = prices.instance_hour.get(kind.strip())
        yield Line(f"{name}: {kind.strip()} On-Demand", None if price is None else price + disk)


def _without_code(properties: Any) -> Any:
    """Without what is only text for a machine."""
    return {key: value for key, value in properties.items() if key not in ("UserData", "DashboardBody")}


def _group(name: str, properties: Any, template: Template, prices: Prices) -> Iterator[Line]:
    """The least number of instances, with disks and addresses; a pool's group has none."""
    count = int(properties["MinSize"])
    if not count:
        return
    [launch] = [each for each in template.resources().values() if each["Type"] == "AWS::EC2::LaunchTemplate"]
    data = template.resolve(_without_code(launch["Properties"]["LaunchTemplateData"]))
    price = prices.instance_hour.get(data["InstanceType"])
    yield Line(f"{name}: {count} {data['InstanceType']}", None if price is None else count * price * HOURS)
    gigabytes = sum(int(device["Ebs"]["VolumeSize"]) for device in data["BlockDeviceMappings"])
    yield Line(f"{name}: {gigabytes} GB of disk", count * gigabytes * prices.disk_gb_month)
    if str(data["NetworkInterfaces"][0]["AssociatePublicIpAddress"]) == "true":
        yield Line(f"{name}: public address", count * prices.address_hour * HOURS)


def _database(name: str, properties: Any, _: Template, prices: Prices) -> Iterator[Line]:
    copies = 2 if str(properties["MultiAZ"]) == "true" else 1
    kind, gigabytes = properties["DBInstanceClass"], int(properties["AllocatedStorage"])
    price = prices.database_hour.get(kind)
    zones = "one zone" if copies == 1 else "two zones"
    yield Line(f"{name}: {kind} in {zones}", None if price is None else copies * price * HOURS)
    yield Line(f"{name}: {gigabytes} GB of disk", copies * gigabytes * prices.database_gb_month)


def _balancer(name: str, properties: Any, _: Template, prices: Prices) -> Iterator[Line]:
    yield Line(f"{name}: load balancer", prices.load_balancer_hour * HOURS)
    if properties["Scheme"] == "internet-facing":  # one for each subnet, of which there are two or more
        yield Line(f"{name}: 2 public addresses", 2 * prices.address_hour * HOURS)


def _endpoint(name: str, properties: Any, _: Template, prices: Prices) -> Iterator[Line]:
    if properties["VpcEndpointType"] != "Gateway":  # which alone is free
        yield Line(f"{name}: endpoint", len(properties["SubnetIds"]) * prices.endpoint_hour * HOURS)


_PRICED: Mapping[str, Callable[[str, Any, Template, Prices], Iterator[Line]]] = {
    "AWS::AutoScaling::AutoScalingGroup": _group,
    "AWS::RDS::DBInstance": _database,
    "AWS::ElasticLoadBalancingV2::LoadBalancer": _balancer,
    "AWS::EC2::VPCEndpoint": _endpoint,
}
_EACH: Mapping[str, tuple[str, Callable[[Prices], float]]] = {
    "AWS::EC2::NatGateway": ("NAT gateway", lambda prices: prices.nat_gateway_hour * HOURS),
    "AWS::EC2::EIP": ("public address", lambda prices: prices.address_hour * HOURS),
    "AWS::SecretsManager::Secret": ("secrets", lambda prices: prices.secret_month),
    "AWS::CloudWatch::Alarm": ("alarms", lambda prices: prices.alarm_month),
}
