"""Types of the fields of specifications; their errors say in words what is wrong."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_before_validator_function

from services.contract.location import Location
from services.contract.units import DURATION_PATTERN, SIZE_PATTERN, parse_duration, parse_size


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
_VARIABLE = "[A-Za-z_][A-Za-z0-9_]{0,199}"
# https://github.com/distribution/reference: host, path in small letters, tag, digest.
_IMAGE = (
    r"([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?(:[0-9]{1,5})?/)?[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*"
    r"(/[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
IMAGE_EXAMPLE = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/align:2.1"
_REFERENCE = f"{_NAME}(@[1-9][0-9]{{0,8}})?"

Name = Annotated[
    str,
    AfterValidator(_matches(_NAME, f"write {_NAME_FIX}")),
    WithJsonSchema({"type": "string", "maxLength": 100, "pattern": f"^{_NAME}$"}),
]
ProcessorReference = Annotated[
    str,
    AfterValidator(_matches(_REFERENCE, f"write `name` (newest version) or `name@version`; a name is {_NAME_FIX}")),
    WithJsonSchema({"type": "string", "maxLength": 110, "pattern": f"^{_REFERENCE}$", "examples": ["clean-flights@1"]}),
]
ImageReference = Annotated[
    str,
    Field(max_length=500),
    AfterValidator(
        _matches(_IMAGE, f"write [registry/]repository[:tag][@sha256:digest] in small letters, such as {IMAGE_EXAMPLE}")
    ),
    WithJsonSchema({"type": "string", "maxLength": 500, "pattern": f"^{_IMAGE}$"}),
]
VariableName = Annotated[
    str,
    AfterValidator(_matches(_VARIABLE, "write letters, digits and '_', beginning with a letter or '_', at most 200")),
    WithJsonSchema({"type": "string", "maxLength": 200, "pattern": f"^{_VARIABLE}$"}),
]


_MEASURE_CHARACTERS_MAX = 100


@dataclass(frozen=True)
class _Measure:
    """Lets a number also be written with a unit. What is stored and shown is the number."""

    parse: Callable[[str], int | float]
    pattern: str
    examples: tuple[str, ...]

    def _read(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if len(value) > _MEASURE_CHARACTERS_MAX:
            raise ValueError(f"write at most {_MEASURE_CHARACTERS_MAX} characters")
        try:
            return self.parse(value)
        except ValueError:
            try:
                return float(value)  # such as 1e3
            except ValueError:
                pass
            raise

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self._read, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        text = {"type": "string", "maxLength": _MEASURE_CHARACTERS_MAX, "pattern": self.pattern}
        text["examples"] = list(self.examples)
        return {"anyOf": [handler(schema), text]}


# In an annotation, behind the number's bounds.
SIZE = _Measure(parse_size, SIZE_PATTERN, ("16MiB", "1.5GB"))
DURATION = _Measure(parse_duration, DURATION_PATTERN, ("30s", "2h"))

_YEARS_100 = 3_155_760_000


def _read_kept(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    if value == "forever":
        return value
    try:
        return read(value)
    except ValidationError as error:
        raise ValueError(f"{value!r} is not a time to keep something: write 90d, 12h, seconds, or forever") from error


# How long something is kept: seconds, also with a unit, or "forever".
Kept = Annotated[Literal["forever"] | Annotated[float, Field(ge=0, le=_YEARS_100), DURATION], WrapValidator(_read_kept)]


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
