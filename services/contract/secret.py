"""References to secrets: where a value is, never the value.

    arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME        a secret of AWS Secrets Manager
    arn:…:secret:NAME#KEY                                    one key of a secret that is a JSON object
    arn:…:secret:NAME:KEY:STAGE:VERSION                      the same as Amazon ECS writes it; each part may be empty
    arn:aws:ssm:REGION:ACCOUNT:parameter/NAME                a parameter of AWS Systems Manager
    file:NAME                                                a file below the worker's directory of secrets
    env:NAME                                                 the worker's variable PIECEWORK_SECRET_NAME

ECS: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/secrets-envvar-secrets-manager.html
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, StringConstraints

_ARN = r"arn:aws[\w-]*:{service}:(?P<region>[a-z0-9-]+):\d{{12}}:"
_SECRET = re.compile(
    _ARN.format(service="secretsmanager") + r"secret:(?P<name>[\w/+=.@!-]+)"
    r"(?:#(?P<key>.+)|:(?P<ecs_key>[^:]*):(?P<stage>[^:]*):(?P<version>[^:]*))?"
)
_PARAMETER = re.compile(_ARN.format(service="ssm") + r"parameter/(?P<name>[\w./:-]+)")
_FILE = re.compile(r"file:(?P<name>[\w.-]+(?:/[\w.-]+)*)")
_VARIABLE = re.compile(r"env:(?P<name>[A-Za-z_]\w*)")

Source = Literal["secretsmanager", "ssm", "file", "env"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference, taken apart. `name` is what its source knows the secret by: for AWS, an ARN."""

    source: Source
    name: str
    region: str | None = None
    key: str | None = None
    stage: str | None = None
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Raises ValueError."""
        if found := _SECRET.fullmatch(text):
            part = {name: value or None for name, value in found.groupdict().items()}
            arn = text[: found.end("name")]
            key = part["key"] or part["ecs_key"]
            return cls("secretsmanager", arn, part["region"], key, part["stage"], part["version"])
        if found := _PARAMETER.fullmatch(text):
            return cls("ssm", text, found["region"])
        if (found := _FILE.fullmatch(text)) and not {".", ".."} & set(found["name"].split("/")):
            return cls("file", found["name"])
        if found := _VARIABLE.fullmatch(text):
            return cls("env", found["name"])
        raise ValueError(
            f"{text!r} is not a reference to a secret; write the ARN of a secret (arn:aws:secretsmanager:…) or of a "
            "parameter (arn:aws:ssm:…:parameter/NAME), file:NAME or env:NAME"
        )


def _check(text: str) -> str:
    Reference.parse(text)
    return text


SecretReference = Annotated[str, StringConstraints(max_length=2048), AfterValidator(_check)]
