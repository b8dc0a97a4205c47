"""References to secrets."""

import pytest
from pydantic import ValidationError

from services.contract.secret import Reference
from services.engine.spec import ProcessorSpec

ARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:claims/db-AbCdEf"
PARAMETER = "arn:aws-us-gov:ssm:us-gov-west-1:123456789012:parameter/claims/password"


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        (ARN, Reference("secretsmanager", ARN, "eu-central-1")),
        (f"{ARN}#password", Reference("secretsmanager", ARN, "eu-central-1", "password")),
        (f"{ARN}:password::", Reference("secretsmanager", ARN, "eu-central-1", "password")),
        (f"{ARN}::AWSPREVIOUS:", Reference("secretsmanager", ARN, "eu-central-1", None, "AWSPREVIOUS")),
        (f"{ARN}:k::v1", Reference("secretsmanager", ARN, "eu-central-1", "k", None, "v1")),
        (PARAMETER, Reference("ssm", PARAMETER, "us-gov-west-1")),
        ("file:db/password.txt", Reference("file", "db/password.txt")),
        ("env:DB_PASSWORD", Reference("env", "DB_PASSWORD")),
    ],
)
def test_each_form_is_understood(text: str, reference: Reference) -> None:
    assert Reference.parse(text) == reference


@pytest.mark.parametrize(
    "text",
    [
        *("hunter2", "file:../key", "file:a/../../key", "file:/etc/passwd", "file:a//b", "file:.", "env:", "env:A-B"),
        *("env:A=B", "ENV:A", "arn:aws:s3:::bucket/key", f"{ARN}:password"),
        "arn:aws:ssm:eu-central-1:123456789012:document/x",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="is not a reference to a secret"):
        ProcessorSpec(command=["true"], secrets={"A": text})


def test_a_variable_has_one_source() -> None:
    with pytest.raises(ValidationError, match="secrets and environment both set TOKEN; leave one out"):
        ProcessorSpec(command=["true"], secrets={"TOKEN": "env:TOKEN"}, environment={"TOKEN": "1"})
