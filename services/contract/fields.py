"""Types of the fields of specifications; their errors say in words what is wrong."""

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from services.contract.location import Location


def _matches(pattern: str, fix: str) -> Callable[[str], str]:
    """A validator whose error says in words what a regular expression only implies."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(fix)
        return value

    return check


_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_NAME_FIX = "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 100 characters"
_VARIABLE = "[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = f"{_NAME}(@[1-9][0-9]{{0,8}})?"

Name = Annotated[
    str,
    AfterValidator(_matches(_NAME, f"write {_NAME_FIX}")),
    WithJsonSchema({"type": "string", "pattern": f"^{_NAME}$"}),
]
ProcessorReference = Annotated[
    str,
    AfterValidator(_matches(_REFERENCE, f"write `name` (newest version) or `name@version`; a name is {_NAME_FIX}")),
    WithJsonSchema({"type": "string", "pattern": f"^{_REFERENCE}$", "examples": ["clean-flights@1"]}),
]
VariableName = Annotated[
    str,
    AfterValidator(_matches(_VARIABLE, "write letters, digits and '_', beginning with a letter or '_'")),
    WithJsonSchema({"type": "string", "pattern": f"^{_VARIABLE}$"}),
]


class Strict(BaseModel):
    """Unknown fields are errors: a misspelt option must not be silently ignored."""

    model_config = ConfigDict(extra="forbid")


def _check_prefix(value: str) -> str:
    Location.parse(value)
    return value


def _check_object(value: str) -> str:
    if not Location.parse(value).key:
        raise ValueError("this names a bucket only; write s3://bucket/key")
    return value


# An SQS queue's.
QueueUrl = Annotated[
    str, Field(max_length=1024, pattern=r"^https?://\S+$", examples=["https://sqs.eu-west-1.amazonaws.com/1234/done"])
]

_UriText = Annotated[str, Field(max_length=1100, examples=["s3://piecework/uploads/flights.csv"])]
ObjectUri = Annotated[_UriText, AfterValidator(_check_object)]
PrefixUri = Annotated[_UriText, AfterValidator(_check_prefix)]
