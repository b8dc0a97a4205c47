"""boot.sh as it is, in machines with systemd: a control node's services come up, and a worker's node runs a job."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.images.engine import Engine
from piecework import Client
from services.platform.version import VERSION
from tests.aws.conftest import client_of
from tests.aws.test_deploy import deploy, network
from tests.images.cloud import Cloud, cloud
from tests.images.machine import Machine, machine

BOOT_SECONDS = 600


@pytest.fixture
def around(engine: Engine, tmp_path: Path) -> Iterator[Cloud]:
    if not engine.ours:
        pytest.skip("the machines are of Debian's packages, for which an engine of our own is started")
    with cloud(engine, tmp_path) as made:
        yield made


def user_data(aws: Any, stack: str, name: str) -> str:
    """What EC2 gives an instance of the launch template."""
    resource = aws("cloudformation").describe_stack_resource(StackName=stack, LogicalResourceId=name)
    template = resource["StackResourceDetail"]["PhysicalResourceId"]
    [version] = aws("ec2").describe_launch_template_versions(LaunchTemplateId=template)["LaunchTemplateVersions"]
    data = base64.b64decode(version["LaunchTemplateData"]["UserData"]).decode()
    for secret in aws("secretsmanager").list_secrets()["SecretList"]:  # which the emulator refers to by name
        data = data.replace(f"'{secret['Name']}'", f"'{secret['ARN']}'")
    return data


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    give_up_at = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < give_up_at, condition.__qualname__
        time.sleep(0.5)
    return answer


def states(node: Machine, *services: str) -> dict[str, tuple[str, ...]]:
    """Of each service: its state, how it tells systemd of itself, what it has told, and how often it was restarted."""
    asked = ("ActiveState", "Type", "StatusText", "NRestarts")
    said = {
        service: dict(
            line.split("=", 1)
            for line in node.run(f"systemctl show piecework-{service} --property {','.join(asked)}").splitlines()
        )
        for service in services
    }
    return {service: tuple(found[name] for name in asked) for service, found in said.items()}


WELL = ("active", "notify", "working", "0")
ENDED = ("succeeded", "failed", "cancelled")


# Who a task is, and which places it reaches.
PROBE = """
import os, socket, sys
print(os.getuid())
for place in sys.argv[1:]:
    host, _, port = place.partition(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
        print(place, "open")
    except ConnectionRefusedError:
        print(place, "shut")
"""


@pytest.mark.timeout(1800)
def test_nodes_boot_into_a_grid_that_runs_a_job(around: Cloud, server_image: str, small: str, tmp_path: Path) -> None:
    aws, api = client_of(around.emulator), f"http://{around.prefix}.10:8000"

    def run(*arguments: str) -> str:
        done = deploy(around.emulator.url, *arguments, PIECEWORK_API_URL=api)
        return done.stdout + done.stderr

    def secret(name: str) -> str:
        [found] = [each for each in aws("secretsmanager").list_secrets()["SecretList"] if name in each["Name"]]
        return str(aws("secretsmanager").get_secret_value(SecretId=found["ARN"])["SecretString"])

    def log(uri: str) -> list[str]:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return str(aws("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode()).splitlines()

    def instances() -> list[str]:
        [group] = aws("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=["piecework-default"])[
            "AutoScalingGroups"
        ]
        return [instance["InstanceId"] for instance in group["Instances"]]

    image, busybox = around.push(server_image, f"piecework:{VERSION}"), around.push(small, "busybox:1")
    aws("ssm").put_parameter(Name="/test/ami", Value="ami-0123456789abcdef0", Type="String")
    said = run("up", "--image", image, *network(around.emulator), "--set=AmiParameter=/test/ami")
    assert "piecework-pool-default: CREATE_COMPLETE" in said, said
    around.rds.owner_password = json.loads(secret("rds!db"))["password"]
    data = user_data(aws, "piecework", "ControlTemplate")
    around.name_database(data.partition("DATABASE='")[2].partition("'")[0])

    with machine(around, "control", 10, data, {"instance-id": "i-00000000000c0ffee"}, tmp_path) as control:
        wait_until(control.has_booted, BOOT_SECONDS)

        assert states(control, "api", "stats", "scheduler") == dict.fromkeys(("api", "stats", "scheduler"), WELL)
        assert "cfn-signal --success true --stack piecework --resource ControlGroup" in control.said("played")
        control.run("systemctl start piecework-health")
        assert set(control.said("piecework/health.log").splitlines()) == {"piecework-health: ready"}
        said = run("pool", "default", "--max", "2")
        assert "Pool default is registered: 0 to 2 nodes" in said, said

        with Client(api, secret("BootstrapKey")) as client:
            places = ["169.254.169.254:80", around.rds.place, around.emulator.url.removeprefix("http://")]
            client.register_processor("probe", {"command": ["python", "-c", PROBE, *places], "output_required": False})
            client.register_processor("boxed", {"image": busybox, "command": ["id", "-u"], "output_required": False})
            jobs = [
                client.submit_job({"input": {"type": "range", "count": 2}, "stages": [{"processor": name}]})["job_id"]
                for name in ("probe", "boxed")
            ]
            [instance] = wait_until(instances)  # the scheduler has asked for it

            data = user_data(aws, "piecework-pool-default", "Template")
            with machine(around, "worker", 20, data, {"instance-id": instance}, tmp_path) as node:
                wait_until(node.has_booted, BOOT_SECONDS)
                wait_until(lambda: all(client.get_job(job)["state"] in ENDED for job in jobs))

                assert [client.get_job(job)["state"] for job in jobs] == ["succeeded"] * 2, node.last_words()
                assert states(node, "worker") == {"worker": WELL}
                user, *reached = log(client.get_task_log(jobs[0], 0, 0)["uri"])
                assert 52_000 <= int(user) <= 52_999
                assert reached == [f"{places[0]} shut", f"{places[1]} shut", f"{places[2]} open"]
                [worker] = client.list_workers(pool="default")
                assert (worker["instance_id"], worker["release"]) == (instance, VERSION)

                client.drain_worker(worker["worker_id"])
                wait_until(lambda: not node.is_on())  # the emulator ends no instance, so the power does
    users = {f"piecework_{name}_login" for name in ("api", "scheduler", "stats", "worker")}
    assert (set(around.rds.let_in), around.rds.refused) == (users | {"piecework_owner"}, [])
