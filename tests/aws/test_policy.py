"""The gate's evaluator decides as AWS documents, and fails on what it does not know."""

from typing import Any

import pytest

from tests.aws.gate.calls import operations
from tests.aws.gate.policy import Need, Policies, UnknownToGate
from tests.aws.gated import roles_of
from tests.aws.roles import policies_of

QUEUE = "arn:aws:sqs:us-east-1:000000000000:grid-default"
SEND = Need("sqs:SendMessage", QUEUE)

# Actions of S3 that are not operations' names, in the Service Authorization Reference.
S3_ACTIONS = {"ListBucket", "ListBucketMultipartUploads", "ListMultipartUploadParts", "GetObjectVersion"}
# Services that have no operations in botocore.
ELSEWHERE = {"rds-db", "ssmmessages"}


def policies(*statements: dict[str, Any]) -> Policies:
    full = [{"Sid": f"S{number}", "Effect": "Allow", **each} for number, each in enumerate(statements)]
    return Policies({"p": {"Version": "2012-10-17", "Statement": full}})


def allows(need: Need, *statements: dict[str, Any]) -> bool:
    return policies(*statements).allow(need)


SENDING = {"Action": "sqs:SendMessage", "Resource": QUEUE}


def test_what_no_statement_allows_is_denied() -> None:
    assert allows(SEND, SENDING)
    assert not allows(Need("sqs:ReceiveMessage", QUEUE), SENDING)
    assert not allows(Need("sqs:SendMessage", f"{QUEUE}-2"), SENDING)
    assert not policies().allow(SEND)


def test_a_denial_wins() -> None:
    assert not allows(SEND, SENDING, {"Effect": "Deny", "Action": "sqs:*", "Resource": "*"})
    assert allows(SEND, SENDING, {"Effect": "Deny", "Action": "sqs:Delete*", "Resource": "*"})


def test_names_of_actions_ignore_case_and_resources_do_not() -> None:
    assert allows(SEND, {"Action": "SQS:sendmessage", "Resource": QUEUE})
    assert not allows(SEND, {"Action": "sqs:SendMessage", "Resource": QUEUE.replace("grid", "Grid")})


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("*", True),
        ("arn:aws:sqs:us-east-1:000000000000:grid-*", True),
        ("arn:aws:sqs:us-east-1:000000000000:grid-defaul?", True),
        ("arn:aws:sqs:*:*:grid-default", True),
        ("arn:aws:sqs:*:grid-default", "not an ARN"),
        ("arn:aws:sqs:us-east-1:000000000000:grid", False),
        ("arn:aws:sqs:us-east-1*:grid-default:", False),
        ("arn:aws:sqs:us-east-1:000000000000:[a-z]*", False),
    ],
)
def test_wildcards_stay_in_their_segment(pattern: str, fits: bool | str) -> None:
    statement = {"Action": "sqs:SendMessage", "Resource": pattern}
    if isinstance(fits, str):
        with pytest.raises(UnknownToGate, match=fits):
            allows(SEND, statement)
    else:
        assert allows(SEND, statement) is fits


def test_all_but_these_actions_and_resources() -> None:
    assert allows(SEND, {"NotAction": "sqs:DeleteQueue", "Resource": "*"})
    assert not allows(SEND, {"NotAction": ["sqs:Send*", "s3:*"], "Resource": "*"})
    assert not allows(SEND, {"Action": "*", "NotResource": [QUEUE, f"{QUEUE}-dead-letter"]})
    assert allows(SEND, {"Action": "*", "NotResource": f"{QUEUE}-dead-letter"})


@pytest.mark.parametrize(
    ("operator", "values", "on_prefix", "without"),
    [
        ("StringEquals", "jobs/1/", True, False),
        ("StringEquals", ["jobs/", "jobs/1/"], True, False),
        ("StringEquals", "jobs/*", False, False),
        ("StringEqualsIfExists", "uploads/", False, True),
        ("StringNotEquals", "jobs/1/", False, True),
        ("StringNotEquals", "uploads/", True, True),
        ("StringLike", "jobs/*", True, False),
        ("StringLike", ["uploads/*", "packages/*"], False, False),
        ("StringNotLike", "jobs/*", False, True),
        ("Null", "true", False, True),
        ("Null", "false", True, False),
    ],
)
def test_conditions(operator: str, values: str | list[str], on_prefix: bool, without: bool) -> None:
    statement = {"Action": "s3:ListBucket", "Resource": "*", "Condition": {operator: {"s3:prefix": values}}}
    assert allows(Need("s3:ListBucket", "arn:aws:s3:::b", {"s3:prefix": "jobs/1/"}), statement) is on_prefix
    assert allows(Need("s3:ListBucket", "arn:aws:s3:::b"), statement) is without


def test_all_conditions_must_hold() -> None:
    condition = {"StringEquals": {"aws:ResourceTag/grid": "g", "aws:ResourceTag/pool": "p"}}
    statement = {"Action": "autoscaling:*", "Resource": "*", "Condition": condition}
    arn = "arn:aws:autoscaling:us-east-1:000000000000:autoScalingGroup:1:autoScalingGroupName/g-p"
    assert allows(Need("autoscaling:SetDesiredCapacity", arn, tags={"grid": "g", "pool": "p"}), statement)
    assert not allows(Need("autoscaling:SetDesiredCapacity", arn, tags={"grid": "g"}), statement)
    with pytest.raises(UnknownToGate, match="the tags of"):
        allows(Need("autoscaling:SetDesiredCapacity", arn), statement)


@pytest.mark.parametrize(
    "statement",
    [
        SENDING | {"Principal": "*"},
        SENDING | {"Effect": "Audit"},
        SENDING | {"Resource": "arn:aws:sqs:us-east-1:000000000000:${aws:username}"},
        SENDING | {"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}},
        SENDING | {"Condition": {"StringEquals": {"aws:SourceVpc": "vpc-1"}}},
    ],
)
def test_what_it_does_not_know_it_does_not_judge(statement: dict[str, Any]) -> None:
    with pytest.raises(UnknownToGate):
        policies(statement)


def test_the_parts_of_statements_that_nothing_needed_are_named() -> None:
    roles = policies(
        {"Action": ["sqs:SendMessage", "sqs:ReceiveMessage"], "Resource": [QUEUE, f"{QUEUE}-2"]},
        {"Effect": "Deny", "Action": "sqs:DeleteQueue", "Resource": "*"},
    )
    assert roles.unused([SEND]) == [f"p.S0: {QUEUE}-2", "p.S0: sqs:ReceiveMessage"]


def test_each_action_of_the_policies_exists() -> None:
    for document in policies_of(str).values():
        for statement in document["Statement"]:
            actions = statement["Action"]
            for action in [actions] if isinstance(actions, str) else actions:
                service, _, name = action.partition(":")
                known = service in ELSEWHERE or name in operations(service) | S3_ACTIONS
                assert known, f"{action} in {statement['Sid']}"


@pytest.mark.parametrize(
    "action",
    [
        "TerminateInstanceInAutoScalingGroup",
        "SetInstanceHealth",
        "RecordLifecycleActionHeartbeat",
        "CompleteLifecycleAction",
    ],
)
def test_a_worker_may_end_nodes_of_its_own_group_alone(action: str) -> None:
    arn = "arn:aws:autoscaling:us-east-1:000000000000:autoScalingGroup:1234:autoScalingGroupName/grid-"
    worker = roles_of("grid")["worker"]

    assert worker.allow(Need(f"autoscaling:{action}", f"{arn}default"))
    assert not worker.allow(Need(f"autoscaling:{action}", f"{arn}gpu"))
    assert not worker.allow(Need(f"autoscaling:{action}", f"{arn}default-2"))
