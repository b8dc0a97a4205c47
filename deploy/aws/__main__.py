"""One command for a grid on AWS: `python -m deploy.aws up`; see docs/aws.md."""

import argparse
import asyncio
import os
import sys
from contextlib import AsyncExitStack
from functools import partial

import aioboto3
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOTokenLoadError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from deploy.aws import access, commands
from deploy.aws.cost import cost_table
from deploy.aws.stacks import DeployError
from deploy.local.process import ROOT

_REFUSED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException")
_say = partial(print, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.aws", description="A Piecework grid on AWS (docs/aws.md).")
    parser.add_argument("--grid", default="piecework", help="the grid's name (%(default)s)")
    parser.add_argument("--region", help="the AWS region; else that of the environment or the profile")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    up = verbs.add_parser("up", help="make the grid, or bring it up to date, and its first pool")
    up.add_argument("--image", help="the image of the services; docs/aws.md says how to build it")
    up.add_argument("--version", help="the release that the image holds (that of this clone)")
    up.add_argument("--egress", choices=("nat", "public", "endpoints"), help="how nodes reach AWS (docs/aws.md)")
    up.add_argument("--budget", help="monthly budget in US dollars")
    up.add_argument("--email", help="who gets alarms")
    up.add_argument("--certificate", help="ARN of ACM's certificate of the API's name")
    up.add_argument("--name", help="the API's name, that of the certificate")
    up.add_argument("--types", help="instance types of the first pool, as in m7g.large,m6g.large")
    up.add_argument("--min", type=_count, default=0, help="nodes of the first pool at least (%(default)s)")
    up.add_argument("--max", type=_count, default=10, help="nodes of the first pool at most (%(default)s)")
    _waits(up)
    _settable(up, "grid.yaml; your own network: VpcId, NodeSubnets, DatabaseSubnets, PublicSubnets")

    pool = verbs.add_parser("pool", help="add a pool, or change it")
    pool.add_argument("pool")
    pool.add_argument("--types", help="instance types, as in m7g.xlarge,m6g.xlarge or c7g.*")
    pool.add_argument("--min", type=_count, help="nodes at least")
    pool.add_argument("--max", type=_count, help="nodes at most")
    _waits(pool)
    pool.add_argument("--on-demand", metavar="PERCENT", help="how many percent are On-Demand")
    pool.add_argument("--price", type=float, help="US dollars an hour of a node (list price of its type)")
    pool.add_argument("--spot-price", type=float, help="the same of a Spot node, of which there is no list")
    pool.add_argument("--slots", help="tasks that a node runs at a time")
    pool.add_argument("--image", help="the image of the worker")
    pool.add_argument("--version", help="the release that the image holds")
    _settable(pool, "pool.yaml")

    roll = verbs.add_parser("roll", help="replace workers of other versions, as they drain")
    roll.add_argument("pool", nargs="?", default="default")
    roll.add_argument("--at-once", type=_count, default=2, help="how many drain at a time (%(default)s)")
    _waits(roll)
    roll.add_argument(
        "--all", action="store_true", help="all that run now: after a change that is not of the version, such as disks"
    )

    tunnel = verbs.add_parser("tunnel", help="lead ports 8000 and 8001 of this machine to the API and the statistics")
    tunnel.add_argument("--port", type=_port, default=8000, help="the API's; that of the statistics is the next one")

    verbs.add_parser("cost", help="what a month without jobs costs, and an hour of a node, by list prices")
    verbs.add_parser("status", help="show the stacks, their versions and nodes")

    destroy = verbs.add_parser("destroy", help="delete everything but the bucket and a last snapshot of the database")
    destroy.add_argument("--pool", action="append", default=[], help="only this pool")
    destroy.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of nodes")
    return int(text)


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65534")
    return int(text)


def _waits(parser: argparse.ArgumentParser) -> None:
    minutes = commands.NODE_SECONDS / 60
    what = "how long new nodes may take to work (%(default)g)"
    parser.add_argument("--wait", metavar="MINUTES", type=float, default=minutes, help=what)


def _settable(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        *("--set", "-s"), action="append", default=[], metavar="NAME=VALUE", help=f"any parameter of {what}"
    )


def _parameters(options: argparse.Namespace, **named: str) -> dict[str, str]:
    """Parameters of a template: those of options by name, and of --set. Raises DeployError."""
    given = {parameter: getattr(options, name) for name, parameter in named.items()}
    for pair in options.set:
        name, equals, value = pair.partition("=")
        if not equals:
            raise DeployError(f"--set {pair}: write NAME=VALUE")
        given[name] = value
    if given.get("ImageUri") is not None and given.get("Version") is None:
        given["Version"] = (ROOT / "VERSION").read_text().strip()
    return {name: value for name, value in given.items() if value is not None}


async def _run(options: argparse.Namespace) -> None:
    session = aioboto3.Session(region_name=options.region)
    if not session.region_name:
        raise DeployError("no region: set AWS_DEFAULT_REGION, for example to eu-west-1, or give --region")
    async with AsyncExitStack() as stack:
        cloudformation = await stack.enter_async_context(session.client("cloudformation"))
        pause = float(os.environ.get("PIECEWORK_DEPLOY_PAUSE_SECONDS", "3"))
        cloud = commands.Cloud(session, cloudformation, options.grid, _say, pause)
        match options.verb:
            case "up":
                grid = _parameters(
                    options,
                    image="ImageUri",
                    version="Version",
                    certificate="CertificateArn",
                    name="ApiName",
                    email="AlarmEmail",
                )
                network = {"Egress": options.egress, "BudgetUsd": options.budget, "AlarmEmail": options.email}
                types = {} if options.types is None else {"InstanceTypes": options.types}
                given = {name: value for name, value in network.items() if value is not None}
                await commands.up(cloud, given, grid, types, options.min, options.max, options.wait * 60)
            case "pool":
                given = _parameters(
                    options,
                    types="InstanceTypes",
                    on_demand="OnDemandPercent",
                    slots="Slots",
                    image="ImageUri",
                    version="Version",
                )
                named = {"price_per_hour": options.price, "spot_price_per_hour": options.spot_price}
                prices = {name: price for name, price in named.items() if price is not None}
                least, most, node_seconds = options.min, options.max, options.wait * 60
                await commands.make_pool(cloud, options.pool, given, least, most, prices, node_seconds)
            case "roll":
                await commands.roll(cloud, options.pool, options.at_once, options.all, options.wait * 60)
            case "tunnel":
                outputs = await cloud.stacks.outputs(cloud.grid)
                for number, service in enumerate(("api", "stats")):
                    port = await stack.enter_async_context(
                        access.tunnel(session, outputs, service, options.port + number)
                    )
                    _say(f"{service}: http://127.0.0.1:{port}")
                await asyncio.Event().wait()
            case "cost":
                _say(cost_table(*await commands.templates(cloud)))
            case "status":
                await commands.status(cloud)
            case "destroy":
                await commands.destroy(cloud, options.pool)


def main() -> int:
    """Run the command; returns the exit code, after one line on standard error if it is not 0."""
    options = _parser().parse_args()
    if options.verb == "destroy" and not options.yes:
        what = f"the pools {', '.join(options.pool)}" if options.pool else f"the grid {options.grid} with all its pools"
        if _ask(f"Delete {what}? Write its name ({options.grid}): ") != options.grid:
            print("deploy: nothing is deleted", file=sys.stderr)
            return 1
    try:
        asyncio.run(_run(options))
    except DeployError as error:
        wrong = str(error)
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        wrong = f"no AWS credentials: {error}; set AWS_PROFILE, or run `aws configure` or `aws sso login`"
    except (SSOTokenLoadError, UnauthorizedSSOTokenError, TokenRetrievalError):
        wrong = "the AWS credentials have expired: run `aws sso login`"
    except NoRegionError:
        wrong = "no region: set AWS_DEFAULT_REGION, for example to eu-west-1, or give --region"
    except EndpointConnectionError as error:
        wrong = f"AWS can't be reached: {error}"
    except ClientError as error:
        wrong = _refusal(error)
    except BotoCoreError as error:
        wrong = f"the AWS library refuses: {' '.join(str(error).split())}"
    except KeyboardInterrupt:
        print("interrupted: repeat the command, and it goes on from where AWS is by then", file=sys.stderr)
        return 130
    else:
        return 0
    print(f"deploy: {wrong}", file=sys.stderr)
    return 1


def _ask(question: str) -> str:
    """The answer; none if nobody is there to give one."""
    try:
        return input(question).strip()
    except EOFError:
        print()
        return ""


def _refusal(error: ClientError) -> str:
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    if code in _REFUSED:
        return f"these credentials may not do this: {message} ({error.operation_name}); docs/aws.md lists what it takes"
    if code in _EXPIRED:
        return f"AWS does not take these credentials: {message}; get new ones"
    if code == "AlreadyExistsException":
        return f"the name is taken: {message}; give another --grid"
    if "LimitExceeded" in code:
        return f"a quota is reached: {message}; ask for more in Service Quotas"
    return f"AWS refuses {error.operation_name}: {message or code}"


if __name__ == "__main__":
    sys.exit(main())
