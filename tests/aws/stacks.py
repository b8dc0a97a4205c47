"""Deploys the templates on an emulator as they are, and says what an emulator lacks for it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from deploy.aws.includes import HERE
from deploy.local.emulator import Emulator
from tests.aws.conftest import Client, client_of

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/piecework:0.2.0"
CERTIFICATE = "arn:aws:acm:us-east-1:123456789012:certificate/12345678-1234-1234-1234-123456789012"
KEY = "arn:aws:kms:us-east-1:123456789012:key/12345678-1234-1234-1234-123456789012"
TASK_ROLE = "arn:aws:iam::123456789012:role/tasks"
AMI = "/test/ami"  # what the AMI's parameter is on ministack, which has none of AWS's own

# Resources that an emulator makes none of, by type. moto leaves them out in silence.
LEFT_OUT: dict[str, set[str]] = {
    "ministack": {"AWS::WAFv2::WebACLAssociation"},
    "moto": {
        "AWS::AutoScaling::LifecycleHook",
        "AWS::Budgets::Budget",
        "AWS::CloudWatch::Alarm",
        "AWS::Logs::MetricFilter",
    },
}
# Templates that an emulator refuses as a whole.
REFUSED = {
    "network": {"ministack": "it has no NAT gateway, address or budget"},
    "grid": {"moto": "it knows no DbiResourceId of a database"},
}


@dataclass
class Deployed:
    """The stacks of one grid on one emulator, by template, with their outputs."""

    emulator: str
    client: Client
    grid: str = "piecework"
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)

    def make(self, template: str, **parameters: str) -> None:
        """Create the template's stack; raises AssertionError if it does not come up."""
        cloudformation = self.client("cloudformation")
        cloudformation.create_stack(
            StackName=self.stack(template),
            TemplateBody=(HERE / f"{template}.yaml").read_text(),
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value}
                for key, value in {"Grid": self.grid, **parameters}.items()
            ],
            Capabilities=["CAPABILITY_IAM"],
        )
        deadline = time.monotonic() + 60
        while (stack := self.describe(template))["StackStatus"] == "CREATE_IN_PROGRESS":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert stack["StackStatus"] == "CREATE_COMPLETE", stack
        self.outputs[template] = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}

    def stack(self, template: str) -> str:
        """The name of the template's stack: the template's own, in the grid that most tests look at."""
        return template if self.grid == "piecework" else f"{self.grid}-{template}"

    def describe(self, template: str) -> Any:
        [stack] = self.client("cloudformation").describe_stacks(StackName=self.stack(template))["Stacks"]
        return stack

    def resources(self, template: str) -> dict[str, Any]:
        """What was made, by logical name."""
        answer = self.client("cloudformation").describe_stack_resources(StackName=self.stack(template))
        return {made["LogicalResourceId"]: made for made in answer["StackResources"] if "LogicalResourceId" in made}

    def id(self, template: str, name: str) -> str:
        return str(self.resources(template)[name]["PhysicalResourceId"])


def deploy_with_options(emulator: Emulator, name: str) -> Deployed:
    """A grid with a key of its own, whose nodes reach AWS by endpoints, and whose tasks have a role."""
    return deploy(emulator, name, "keyed", {"Egress": "endpoints"}, {"KmsKeyArn": KEY}, {"TaskRoleArn": TASK_ROLE})


def deploy(
    emulator: Emulator,
    name: str,
    grid_name: str = "piecework",
    of_network: Mapping[str, str] = MappingProxyType({}),
    of_grid: Mapping[str, str] = MappingProxyType({}),
    of_pool: Mapping[str, str] = MappingProxyType({}),
) -> Deployed:
    """All that the emulator takes: network, grid and pool on moto and ministack together."""
    deployed = Deployed(name, client_of(emulator), grid_name)
    ami = {}
    if name == "ministack":
        deployed.client("ssm").put_parameter(Name=AMI, Value="ami-0123456789abcdef0", Type="String", Overwrite=True)
        ami = {"AmiParameter": AMI}
    if name not in REFUSED["network"]:
        deployed.make("network", BudgetUsd="100", AlarmEmail="somebody@example.com", **of_network)
        vpc = deployed.outputs["network"]["VpcId"]
    else:
        vpc = deployed.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    found = deployed.client("ec2").describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])
    subnets = ",".join(subnet["SubnetId"] for subnet in found["Subnets"][:2])
    release = {"Version": "0.2.0", "ImageUri": IMAGE, **ami}
    if name not in REFUSED["grid"]:
        deployed.make(
            "grid",
            VpcId=vpc,
            NodeSubnets=subnets,
            DatabaseSubnets=subnets,
            PublicSubnets=subnets,
            CertificateArn=CERTIFICATE,
            ApiName="grid.example.com",
            AlarmEmail="somebody@example.com",
            **of_grid,
            **release,
        )
    grid = deployed.outputs.get("grid") or {
        "Bucket": "piecework-bucket",
        "Database": "database.example.com:15432",
        "DatabaseResource": "db-ABCDEFGHIJKL",
        "NodeSubnets": subnets,
        "PublicNodes": "false",
        "WorkerSecurityGroup": "sg-0123456789abcdef0",
        "AlarmTopic": "arn:aws:sns:us-east-1:123456789012:alarms",
        "KmsKeyArn": of_grid.get("KmsKeyArn", ""),
    }
    needed = (
        "Bucket",
        "Database",
        "DatabaseResource",
        "NodeSubnets",
        "PublicNodes",
        "WorkerSecurityGroup",
        "AlarmTopic",
        "KmsKeyArn",
    )
    of_grid = {name: grid[name] for name in needed}
    deployed.make("pool", OnDemandBase="1", MaxNodes="50", **of_grid, **of_pool, **release)
    return deployed
