"""The templates deployed as they are on both emulators, and what is then there, asked by API.

CREATE_COMPLETE says little: moto leaves out what it does not know, and both drop properties. So each fact is asked for,
and where an emulator is known to drop it, the fact must be missing: a hole that is closed is to be noticed.
"""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError

from deploy.aws.includes import TEMPLATES
from deploy.local.emulator import Emulator
from tests.aws.stacks import KEY, LEFT_OUT, REFUSED, TASK_ROLE, Deployed, deploy, deploy_with_options
from tests.aws.test_templates import load
from tests.emulators import NAMES

ALL = {path.stem: load(path) for path in TEMPLATES}


@pytest.fixture(scope="module")
def deployments(whole_ministack: Emulator, whole_moto: Emulator) -> Iterator[dict[str, Deployed]]:
    yield {"ministack": deploy(whole_ministack, "ministack"), "moto": deploy(whole_moto, "moto")}


@pytest.fixture(scope="module")
def with_options(whole_ministack: Emulator, whole_moto: Emulator) -> Iterator[dict[str, Deployed]]:
    made = {"ministack": whole_ministack, "moto": whole_moto}
    yield {name: deploy_with_options(emulator, name) for name, emulator in made.items()}


@pytest.mark.parametrize("emulator", NAMES)
@pytest.mark.parametrize("template", ALL)
def test_every_resource_is_made_but_those_that_are_known_to_be_left_out(
    deployments: dict[str, Deployed], with_options: dict[str, Deployed], emulator: str, template: str
) -> None:
    if emulator in REFUSED.get(template, {}):
        pytest.skip(REFUSED[template][emulator])
    kinds = {name: resource["Type"] for name, resource in ALL[template]["Resources"].items()}
    made = deployments[emulator].resources(template) | with_options[emulator].resources(template)
    assert {made[name]["ResourceStatus"] for name in made} == {"CREATE_COMPLETE"}
    assert {kinds[name] for name in kinds.keys() - made.keys()} <= LEFT_OUT[emulator]


def test_each_template_is_taken_by_one_emulator_at_least() -> None:
    assert all(set(NAMES) - set(REFUSED.get(template, {})) for template in ALL)


Ask = Callable[[Deployed], Any]


@dataclass
class Fact:
    """Something that must be true of a deployment; `holes` has the emulators that drop it, and how."""

    says: str
    template: str
    ask: Ask
    holes: dict[str, str] = field(default_factory=dict)


def bucket(deployed: Deployed) -> str:
    return deployed.outputs["grid"]["Bucket"]


def database(deployed: Deployed) -> Any:
    [found] = deployed.client("rds").describe_db_instances(DBInstanceIdentifier=deployed.id("grid", "Database"))[
        "DBInstances"
    ]
    return found


def queue(deployed: Deployed, output: str) -> Any:
    url = deployed.outputs["pool"][output]
    return deployed.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]


def group(deployed: Deployed) -> Any:
    [found] = deployed.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=["piecework-default"])[
        "AutoScalingGroups"
    ]
    return found


def launch_data(deployed: Deployed, template: str, name: str) -> Any:
    [version] = deployed.client("ec2").describe_launch_template_versions(
        LaunchTemplateId=deployed.id(template, name), Versions=["$Latest"]
    )["LaunchTemplateVersions"]
    return version["LaunchTemplateData"]


def user_data(deployed: Deployed, template: str, name: str) -> str:
    return base64.b64decode(launch_data(deployed, template, name)["UserData"]).decode()


def inline_policies(deployed: Deployed, template: str, name: str) -> dict[str, Any]:
    iam, role = deployed.client("iam"), deployed.id(template, name)
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    found = {each: iam.get_role_policy(RoleName=role, PolicyName=each)["PolicyDocument"] for each in names}
    return {name: json.loads(policy) if isinstance(policy, str) else policy for name, policy in found.items()}


def resources_of(policy: dict[str, Any], sid: str) -> list[str]:
    [statement] = [found for found in policy["Statement"] if found["Sid"] == sid]
    return statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]


def rules(deployed: Deployed, name: str) -> Any:
    [found] = deployed.client("ec2").describe_security_groups(GroupIds=[deployed.id("grid", name)])["SecurityGroups"]
    return found["IpPermissions"]


def alarms(deployed: Deployed) -> bool:
    return len(deployed.client("cloudwatch").describe_alarms()["MetricAlarms"]) >= 9


def boots(template: str, name: str, kind: str) -> Ask:
    def ask(deployed: Deployed) -> bool:
        script = user_data(deployed, template, name)
        return script.startswith("#!/bin/bash\n") and f"KIND='{kind}'" in script and "${" not in script.split("END")[1]

    return ask


def ends_when_off(deployed: Deployed) -> bool:
    return bool(launch_data(deployed, "pool", "Template")["InstanceInitiatedShutdownBehavior"] == "terminate")


def rebalances(deployed: Deployed) -> bool:
    return bool(group(deployed)["CapacityRebalance"])


def begins_empty(deployed: Deployed) -> bool:
    found = group(deployed)
    return (found["MinSize"], found["DesiredCapacity"], found["MaxSize"]) == (0, 0, 50)


def tagged(deployed: Deployed) -> bool:
    tags = {tag["Key"]: tag["Value"] for tag in group(deployed)["Tags"]}
    return tags.items() >= {"piecework:grid": "piecework", "piecework:pool": "default"}.items()


def only_tls(deployed: Deployed) -> bool:
    policy = json.loads(deployed.client("s3").get_bucket_policy(Bucket=bucket(deployed))["Policy"])
    [statement] = policy["Statement"]
    return statement["Effect"] == "Deny" and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def encrypted(deployed: Deployed) -> bool:
    answer = deployed.client("s3").get_bucket_encryption(Bucket=bucket(deployed))
    [rule] = answer["ServerSideEncryptionConfiguration"]["Rules"]
    return bool(rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256")


def blocked(deployed: Deployed) -> bool:
    answer = deployed.client("s3").get_public_access_block(Bucket=bucket(deployed))
    return all(answer["PublicAccessBlockConfiguration"].values())


def lifecycle(deployed: Deployed) -> bool:
    rules = deployed.client("s3").get_bucket_lifecycle_configuration(Bucket=bucket(deployed))["Rules"]
    return {rule["ID"] for rule in rules} == {"abort-unfinished-uploads", "expire-interim-data"}


def redrive(deployed: Deployed) -> bool:
    policy = json.loads(queue(deployed, "QueueUrl")["RedrivePolicy"])
    dead = queue(deployed, "DeadLetterUrl")["QueueArn"]
    return str(policy["maxReceiveCount"]) == "100" and policy["deadLetterTargetArn"] == dead


def hook(deployed: Deployed) -> bool:
    [found] = deployed.client("autoscaling").describe_lifecycle_hooks(AutoScalingGroupName="piecework-default")[
        "LifecycleHooks"
    ]
    assert found["LifecycleTransition"].endswith("TERMINATING")
    return bool(found["DefaultResult"] == "CONTINUE" and found["HeartbeatTimeout"] == 120)


def with_tokens(template: str, name: str) -> Ask:
    def ask(deployed: Deployed) -> bool:
        options = launch_data(deployed, template, name)["MetadataOptions"]
        return options["HttpTokens"] == "required" and options["HttpPutResponseHopLimit"] == 1

    return ask


def mixed(deployed: Deployed) -> bool:
    distribution = group(deployed)["MixedInstancesPolicy"]["InstancesDistribution"]
    return (distribution["OnDemandBaseCapacity"], distribution["SpotAllocationStrategy"]) == (
        1,
        "price-capacity-optimized",
    )


def worker_reaches_own_queue_only(deployed: Deployed) -> bool:
    policies = inline_policies(deployed, "pool", "Role")
    [arn] = resources_of(policies["worker"], "TakeTasks")
    return arn.endswith(":piecework-default")


def worker_is_one_database_user(deployed: Deployed) -> bool:
    policies = inline_policies(deployed, "pool", "Role")
    [arn] = resources_of(policies["boot"], "LogIn")
    return arn.endswith("/piecework_worker_login") and "dbuser:db-" in arn


def secrets_of_control(deployed: Deployed) -> bool:
    policies = inline_policies(deployed, "grid", "ControlRole")
    return len(resources_of(policies["boot"], "ReadSecrets")) == 3


def ports_of_database(deployed: Deployed) -> bool:
    found = rules(deployed, "DatabaseSecurityGroup")
    return all(
        (rule["FromPort"], rule["ToPort"], rule.get("IpRanges", [])) == (15432, 15432, []) and rule["UserIdGroupPairs"]
        for rule in found
    ) and bool(found)


def only_balancer_is_open(deployed: Deployed) -> bool:
    names = ("ControlSecurityGroup", "WorkerSecurityGroup", "DatabaseSecurityGroup", "BalancerSecurityGroup")
    return {name for name in names for rule in rules(deployed, name) if rule.get("IpRanges")} == {
        "BalancerSecurityGroup"
    }


def retained(deployed: Deployed) -> bool:
    found = deployed.client("logs").describe_log_groups(logGroupNamePrefix="/piecework/")["logGroups"]
    return bool(found) and all(each["retentionInDays"] == 30 for each in found)


def listener(deployed: Deployed) -> bool:
    [found] = deployed.client("elbv2").describe_listeners(ListenerArns=[deployed.id("grid", "ApiListener")])[
        "Listeners"
    ]
    return (found["Protocol"], found["SslPolicy"]) == ("HTTPS", "ELBSecurityPolicy-TLS13-1-2-2021-06")


def probe(deployed: Deployed) -> bool:
    [found] = deployed.client("elbv2").describe_target_groups(TargetGroupArns=[deployed.id("grid", "ApiTargets")])[
        "TargetGroups"
    ]
    return bool(found["HealthCheckPath"] == "/healthz")


def bootstrap_key(deployed: Deployed) -> bool:
    secret = deployed.client("secretsmanager").get_secret_value(SecretId=deployed.outputs["grid"]["BootstrapKey"])
    return len(secret["SecretString"]) == 40


def routes(deployed: Deployed) -> bool:
    ec2 = deployed.client("ec2")
    tables = ec2.describe_route_tables(RouteTableIds=[deployed.id("network", "PrivateRoutes")])["RouteTables"]
    return any(route.get("NatGatewayId") for route in tables[0]["Routes"])


def gateway(deployed: Deployed) -> bool:
    of_vpc = [{"Name": "vpc-id", "Values": [deployed.outputs["network"]["VpcId"]]}]
    [found] = deployed.client("ec2").describe_vpc_endpoints(Filters=of_vpc)["VpcEndpoints"]
    return found["VpcEndpointType"] == "Gateway" and len(found["RouteTableIds"]) == 2


def zones(deployed: Deployed) -> bool:
    ids = deployed.outputs["network"]["PrivateSubnets"].split(",")
    subnets = deployed.client("ec2").describe_subnets(SubnetIds=ids)["Subnets"]
    return len({subnet["AvailabilityZone"] for subnet in subnets}) == 2


def bucket_with_key(deployed: Deployed) -> bool:
    answer = deployed.client("s3").get_bucket_encryption(Bucket=bucket(deployed))
    [rule] = answer["ServerSideEncryptionConfiguration"]["Rules"]
    default = rule["ApplyServerSideEncryptionByDefault"]
    return (default["SSEAlgorithm"], default["KMSMasterKeyID"], rule["BucketKeyEnabled"]) == ("aws:kms", KEY, True)


def secret_with_key(deployed: Deployed) -> bool:
    answer = deployed.client("secretsmanager").describe_secret(SecretId=deployed.outputs["grid"]["BootstrapKey"])
    return bool(answer["KmsKeyId"] == KEY)


def disk_with_key(template: str, name: str) -> Ask:
    def ask(deployed: Deployed) -> bool:
        [device] = launch_data(deployed, template, name)["BlockDeviceMappings"]
        return bool(device["Ebs"]["KmsKeyId"] == KEY)

    return ask


def queues_with_key(deployed: Deployed) -> bool:
    found = [queue(deployed, output) for output in ("QueueUrl", "DeadLetterUrl")]
    return all(each["KmsMasterKeyId"] == KEY and each.get("SqsManagedSseEnabled") != "true" for each in found)


def uses_key(template: str, name: str) -> Ask:
    return lambda deployed: resources_of(inline_policies(deployed, template, name)["key"], "UseKey") == [KEY]


def assumes_one_role(deployed: Deployed) -> bool:
    policies = inline_policies(deployed, "pool", "Role")
    return resources_of(policies["tasks"], "AssumeRoleOfTasks") == [TASK_ROLE]


def endpoints(deployed: Deployed) -> set[str]:
    of_vpc = [{"Name": "vpc-id", "Values": [deployed.outputs["network"]["VpcId"]]}]
    found = deployed.client("ec2").describe_vpc_endpoints(Filters=of_vpc)["VpcEndpoints"]
    assert all(each["PrivateDnsEnabled"] and each["Groups"] for each in found if each["VpcEndpointType"] == "Interface")
    return {each["ServiceName"].partition("us-east-1.")[2] for each in found}


def by_endpoints_alone(deployed: Deployed) -> bool:
    ec2, outputs = deployed.client("ec2"), deployed.outputs["network"]
    [table] = ec2.describe_route_tables(RouteTableIds=[deployed.id("network", "PrivateRoutes")])["RouteTables"]
    out = [route for route in table["Routes"] if route.get("DestinationCidrBlock") == "0.0.0.0/0"]
    private = outputs["NodeSubnets"] == outputs["PrivateSubnets"] and outputs["PublicNodes"] == "false"
    return private and not out and endpoints(deployed) == CALLED | {"s3"}


# What boot.sh, its agents and the services call.
CALLED = {
    *("sqs", "autoscaling", "secretsmanager", "logs", "ecr.api", "ecr.dkr"),
    *("ssm", "ssmmessages", "cloudformation", "sts"),
}

NO_KEY = {"ministack": "drops the key of a launch template's disk"}
NO_JSON = {"moto": "tells policies of CloudFormation as Python writes them"}

FACTS = [
    Fact("the bucket encrypts", "grid", encrypted),
    Fact("the bucket refuses what comes without TLS", "grid", only_tls),
    Fact("the bucket is closed to the public", "grid", blocked),
    Fact("the bucket has its lifecycle rules", "grid", lifecycle, {"ministack": "drops the rules"}),
    Fact("the database is encrypted", "grid", lambda at: database(at)["StorageEncrypted"]),
    Fact("the database is protected from deletion", "grid", lambda at: database(at)["DeletionProtection"]),
    Fact("the database lets IAM's users in", "grid", lambda at: database(at)["IAMDatabaseAuthenticationEnabled"]),
    Fact("the database keeps backups for a week", "grid", lambda at: database(at)["BackupRetentionPeriod"] == 7),
    Fact("the database has no public address", "grid", lambda at: not database(at)["PubliclyAccessible"]),
    Fact("the database listens on a port of its own", "grid", lambda at: database(at)["Endpoint"]["Port"] == 15432),
    Fact("only nodes reach the database", "grid", ports_of_database),
    Fact("everybody reaches the load balancer only", "grid", only_balancer_is_open),
    Fact("the API speaks HTTPS", "grid", listener),
    Fact("a database that restarts takes no target out", "grid", probe),
    Fact("the control node asks its metadata with tokens", "grid", with_tokens("grid", "ControlTemplate")),
    Fact("the control node reads three secrets", "grid", secrets_of_control),
    Fact("the first key is in a secret", "grid", bootstrap_key),
    Fact("the control node boots by boot.sh", "grid", boots("grid", "ControlTemplate", "control")),
    Fact("there are alarms", "grid", alarms),
    Fact("logs are kept for 30 days", "pool", retained),
    Fact("a message is tried 100 times", "pool", redrive),
    Fact("queues encrypt", "pool", lambda at: queue(at, "QueueUrl")["SqsManagedSseEnabled"] == "true"),
    Fact("a message is hidden for 30 s", "pool", lambda at: queue(at, "QueueUrl")["VisibilityTimeout"] == "30"),
    Fact("a node that ends is waited for", "pool", hook, {"moto": "makes no hook"}),
    Fact("a node asks its metadata with tokens", "pool", with_tokens("pool", "Template")),
    Fact("a node that powers off is gone", "pool", ends_when_off),
    Fact("a pool begins empty, below its ceiling", "pool", begins_empty),
    Fact("a pool is Spot beyond its base", "pool", mixed, {"ministack": "drops the policy"}),
    Fact("a pool replaces what Spot will take", "pool", rebalances, {"ministack": "drops it", "moto": "drops it"}),
    Fact("no balance of zones ends a node", "pool", lambda at: group(at)["NewInstancesProtectedFromScaleIn"]),
    Fact("a pool has the grid's tags", "pool", tagged),
    Fact("a worker reaches its own queue", "pool", worker_reaches_own_queue_only, NO_JSON),
    Fact("a worker is one user of the database", "pool", worker_is_one_database_user, NO_JSON),
    Fact("a node boots by boot.sh", "pool", boots("pool", "Template", "worker")),
    Fact("private nodes reach the internet by NAT", "network", routes),
    Fact("S3 is reached without NAT", "network", gateway),
    Fact("subnets are in two zones", "network", zones),
]  # fmt: skip


OPTIONS = [
    Fact("the bucket encrypts with the grid's key", "grid", bucket_with_key, {"ministack": "drops the key"}),
    Fact("the database has the grid's key", "grid", lambda at: database(at)["KmsKeyId"] == KEY),
    Fact("secrets have the grid's key", "grid", secret_with_key),
    Fact("the control node's disk has the grid's key", "grid", disk_with_key("grid", "ControlTemplate"), NO_KEY),
    Fact("the control node may use the grid's key", "grid", uses_key("grid", "ControlRole")),
    Fact("queues have the grid's key", "pool", queues_with_key, {"moto": "says that a key of SQS encrypts, too"}),
    Fact("nodes' disks have the grid's key", "pool", disk_with_key("pool", "Template"), NO_KEY),
    Fact("nodes may use the grid's key", "pool", uses_key("pool", "Role"), NO_JSON),
    Fact("nodes may assume the role of tasks alone", "pool", assumes_one_role, NO_JSON),
    Fact("nodes reach the services that they call, and nothing else", "network", by_endpoints_alone),
]  # fmt: skip


def true(fact: Fact, deployed: Deployed) -> bool:
    try:
        return bool(fact.ask(deployed))
    except (ClientError, KeyError, ValueError):
        return False


def cases(facts: list[Fact]) -> list[Any]:
    return [
        pytest.param(name, fact, id=f"{name}: {fact.says}")
        for fact in facts
        for name in NAMES
        if name not in REFUSED.get(fact.template, {})
    ]


def check(fact: Fact, emulator: str, deployed: Deployed) -> None:
    if emulator in fact.holes:
        assert not true(fact, deployed), f"{emulator} keeps it now: it is a hole no more"
    else:
        assert fact.ask(deployed)


@pytest.mark.parametrize(("emulator", "fact"), cases(FACTS))
def test_a_fact_is_true_of_the_deployment(deployments: dict[str, Deployed], emulator: str, fact: Fact) -> None:
    check(fact, emulator, deployments[emulator])


@pytest.mark.parametrize(("emulator", "fact"), cases(OPTIONS))
def test_a_fact_is_true_of_a_deployment_with_options(
    with_options: dict[str, Deployed], emulator: str, fact: Fact
) -> None:
    check(fact, emulator, with_options[emulator])


def test_what_neither_emulator_keeps_is_asserted_of_the_template() -> None:
    """In test_templates.py."""
    facts = FACTS + OPTIONS
    nowhere = {fact.says for fact in facts if not set(NAMES) - set(fact.holes) - set(REFUSED.get(fact.template, {}))}
    assert nowhere == {
        "the bucket has its lifecycle rules",
        "a pool replaces what Spot will take",
        "the bucket encrypts with the grid's key",
        "the control node's disk has the grid's key",
    }
