"""What must hold of the templates as they are written, since no emulator keeps all of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cfnlint import decode
from cfnlint.api import ManualArgs, lint

from deploy.aws.includes import TEMPLATES, included

Resource = dict[str, Any]

# Those that AWS gives no tags, or whose tags cost nothing to leave out: they cost nothing themselves.
UNTAGGED = {
    "AWS::AutoScaling::LifecycleHook",
    "AWS::Budgets::Budget",
    "AWS::CloudWatch::Dashboard",
    "AWS::EC2::Route",
    "AWS::EC2::SubnetRouteTableAssociation",
    "AWS::EC2::VPCGatewayAttachment",
    "AWS::ElasticLoadBalancingV2::Listener",
    "AWS::IAM::InstanceProfile",
    "AWS::IAM::Policy",
    "AWS::Logs::MetricFilter",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::WAFv2::WebACLAssociation",
}

# They know no resources in IAM: https://docs.aws.amazon.com/service-authorization/latest/reference/
WITHOUT_RESOURCES = {
    "autoscaling:DescribeAutoScalingGroups",
    "ecr:GetAuthorizationToken",
    "ssm:UpdateInstanceInformation",
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
}


def load(path: Path) -> dict[str, Any]:
    template, faults = decode.decode(str(path))
    assert not faults, faults
    loaded: dict[str, Any] = template
    return loaded


def resources(*kinds: str) -> Iterator[tuple[str, Resource]]:
    for path in TEMPLATES:
        for name, resource in load(path)["Resources"].items():
            if not kinds or resource["Type"] in kinds:
                yield f"{path.stem}.{name}", resource


def statements() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, made in resources("AWS::IAM::Role", "AWS::IAM::Policy"):
        for each in made["Properties"].get("Policies", [made["Properties"]]):
            policy = each["Fn::If"][1] if "Fn::If" in each else each
            for statement in policy["PolicyDocument"]["Statement"]:
                yield f"{name}.{policy['PolicyName']}.{statement['Sid']}", statement


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_cfn_lint_finds_nothing(path: Path) -> None:
    """Its rule W3037 knows every action of IAM."""
    assert [str(match) for match in lint(path.read_text(), config=ManualArgs(regions=["us-east-1", "eu-west-1"]))] == []


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_has_what_it_includes_and_is_small_enough_to_be_sent(path: Path) -> None:
    assert path.read_text() == included(path.read_text()), "run `make templates`"
    assert len(path.read_bytes()) <= 51_200  # of CreateStack's TemplateBody


def test_user_data_is_as_small_as_ec2_wants_it() -> None:
    for name, template in resources("AWS::EC2::LaunchTemplate"):
        settings, script = template["Properties"]["LaunchTemplateData"]["UserData"]["Fn::Base64"]["Fn::Join"][1]
        assert len(settings["Fn::Sub"]) + len(script) < 16_384 - 1_500, name  # what `Sub` puts in is longer


def test_only_actions_that_know_no_resources_are_allowed_on_all() -> None:
    for name, statement in statements():
        assert statement["Effect"] == "Allow"
        if "*" in listed(statement["Resource"]):
            assert set(listed(statement["Action"])) <= WITHOUT_RESOURCES, name
        assert not any("*" in action for action in listed(statement["Action"])), name


def test_nobody_may_change_groups_queues_or_roles() -> None:
    allowed = {action for _, statement in statements() for action in listed(statement["Action"])}
    assert not {action for action in allowed if action.startswith("iam:")}
    assert not allowed & {"autoscaling:UpdateAutoScalingGroup", "sqs:CreateQueue", "ec2:RunInstances"}


def test_an_update_of_a_pool_changes_no_capacity() -> None:
    [(_, group)] = [(name, found) for name, found in resources("AWS::AutoScaling::AutoScalingGroup") if "pool" in name]
    assert group["Properties"]["MinSize"] == "0"
    assert "DesiredCapacity" not in group["Properties"]
    assert group["Properties"]["NewInstancesProtectedFromScaleIn"] is True
    [hook] = [found["Properties"] for _, found in resources("AWS::AutoScaling::LifecycleHook")]
    assert hook["LifecycleHookName"] == {"Fn::Sub": "${Grid}-${Pool}-drain"}, "which boot.sh tells the worker"
    assert (hook["HeartbeatTimeout"], hook["DefaultResult"]) == (120, "CONTINUE")
    assert "UpdatePolicy" not in group, "nodes are replaced by draining them"


def test_a_pool_mixes_spot_with_on_demand_and_gets_a_new_node_before_spot_takes_an_old_one() -> None:
    [group] = [found for name, found in resources("AWS::AutoScaling::AutoScalingGroup") if "pool" in name]
    mixed = group["Properties"]["MixedInstancesPolicy"]
    assert mixed["InstancesDistribution"]["SpotAllocationStrategy"] == "price-capacity-optimized"
    assert set(mixed["InstancesDistribution"]) >= {"OnDemandBaseCapacity", "OnDemandPercentageAboveBaseCapacity"}
    assert group["Properties"]["CapacityRebalance"] is True


def test_the_control_group_is_replaced_only_once_a_new_node_says_that_it_is_ready() -> None:
    [group] = [found for name, found in resources("AWS::AutoScaling::AutoScalingGroup") if "grid" in name]
    rolling = group["UpdatePolicy"]["AutoScalingRollingUpdate"]
    assert (rolling["MinInstancesInService"], rolling["WaitOnResourceSignals"]) == (1, True)
    assert group["CreationPolicy"]["ResourceSignal"]["Count"] == 1
    assert group["Properties"]["HealthCheckType"] == "EC2"


def test_the_owners_password_is_made_and_rotated_by_rds() -> None:
    """ministack keeps nothing of it."""
    [(_, database)] = resources("AWS::RDS::DBInstance")
    assert database["Properties"]["ManageMasterUserPassword"] is True
    assert "MasterUserPassword" not in database["Properties"]


def test_each_disk_database_queue_and_secret_takes_the_grids_key() -> None:
    key = {"Fn::If": ["Keyed", {"Ref": "KmsKeyArn"}, {"Ref": "AWS::NoValue"}]}
    encrypted = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": {"Ref": "KmsKeyArn"}}
    [(_, bucket)] = resources("AWS::S3::Bucket")
    [rule] = bucket["Properties"]["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["Fn::If"][:2] == ["Keyed", {"ServerSideEncryptionByDefault": encrypted, "BucketKeyEnabled": True}]
    places = {
        "AWS::RDS::DBInstance": lambda made: [made["KmsKeyId"]],
        "AWS::SecretsManager::Secret": lambda made: [made["KmsKeyId"]],
        "AWS::SQS::Queue": lambda made: [made["KmsMasterKeyId"]],
        "AWS::EC2::LaunchTemplate": lambda made: [
            device["Ebs"]["KmsKeyId"] for device in made["LaunchTemplateData"]["BlockDeviceMappings"]
        ],
    }
    for kind, keys in places.items():
        for name, made in resources(kind):
            assert keys(made["Properties"]) == [key], name


def test_data_outlive_their_stack() -> None:
    kept = {name: resource["DeletionPolicy"] for name, resource in resources() if "DeletionPolicy" in resource}
    assert {name: policy for name, policy in kept.items() if policy != "Delete"} == {
        "grid.Bucket": "Retain",
        "grid.BucketPolicy": "Retain",
        "grid.Database": "Snapshot",
    }
    for name, resource in resources("AWS::S3::Bucket", "AWS::RDS::DBInstance"):
        assert resource["UpdateReplacePolicy"] == resource["DeletionPolicy"], name


def test_the_bucket_aborts_uploads_and_expires_interim_data() -> None:
    """No emulator takes the rules from a template."""
    [(_, bucket)] = resources("AWS::S3::Bucket")
    rules = {rule["Id"]: rule for rule in bucket["Properties"]["LifecycleConfiguration"]["Rules"]}
    assert rules["abort-unfinished-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 8}
    assert (rules["expire-interim-data"]["Prefix"], rules["expire-interim-data"]["ExpirationInDays"]) == (
        "interim/",
        30,
    )


def test_everything_that_costs_has_the_grids_tag() -> None:
    tag = {"Key": "piecework:grid", "Value": {"Ref": "Grid"}}
    for name, resource in resources():
        properties = resource.get("Properties", {})
        if resource["Type"] in UNTAGGED:
            continue
        if resource["Type"] == "AWS::EC2::LaunchTemplate":
            kinds = {
                spec["ResourceType"]: spec["Tags"] for spec in properties["LaunchTemplateData"]["TagSpecifications"]
            }
            assert set(kinds) == {"instance", "volume"} and all(tag in tags for tags in kinds.values()), name
            continue
        tags = [{key: found[key] for key in ("Key", "Value")} for found in properties.get("Tags", [])]
        assert tag in tags, name


def test_every_alarm_tells_somebody() -> None:
    """ministack drops it."""
    found = list(resources("AWS::CloudWatch::Alarm"))
    assert len(found) >= 9
    for name, alarm in found:
        assert alarm["Properties"]["AlarmActions"] in ([{"Ref": "Alarms"}], [{"Ref": "AlarmTopic"}]), name


def test_everybody_may_connect_to_nothing_but_the_load_balancer() -> None:
    open_groups = {
        name
        for name, group in resources("AWS::EC2::SecurityGroup")
        for rule in listed(group["Properties"].get("SecurityGroupIngress", []))
        if "CidrIp" in rule and rule["CidrIp"] != {"Fn::GetAtt": ["Vpc", "CidrBlock"]}
    }
    assert open_groups == {"grid.BalancerSecurityGroup"}


def test_a_node_is_asked_with_tokens_one_hop_away_and_ends_when_it_is_powered_off() -> None:
    for name, template in resources("AWS::EC2::LaunchTemplate"):
        data = template["Properties"]["LaunchTemplateData"]
        options = data["MetadataOptions"]
        assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1), name
        assert data["InstanceInitiatedShutdownBehavior"] == "terminate", name
        assert all(device["Ebs"]["Encrypted"] for device in data["BlockDeviceMappings"]), name
