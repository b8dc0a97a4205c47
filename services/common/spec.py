"""What a user submits: the job specification, shared by the API (which checks it) and the scheduler (which runs it)."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from services.common.layout import Location


def _matches(pattern: str, mend: str) -> Callable[[str], str]:
    """A validator whose error says in words what a regular expression only implies."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(mend)
        return value

    return check


_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_NAME_MEND = "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 100 characters"
_VARIABLE = "[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = f"{_NAME}(@[1-9][0-9]{{0,8}})?"

Name = Annotated[
    str,
    AfterValidator(_matches(_NAME, f"write {_NAME_MEND}")),
    WithJsonSchema({"type": "string", "pattern": f"^{_NAME}$"}),
]
ProcessorReference = Annotated[
    str,
    AfterValidator(_matches(_REFERENCE, f"write `name` (newest version) or `name@version`; a name is {_NAME_MEND}")),
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


_UriText = Annotated[str, Field(max_length=1100, examples=["s3://piecework/uploads/flights.csv"])]
ObjectUri = Annotated[_UriText, AfterValidator(_check_object)]
PrefixUri = Annotated[_UriText, AfterValidator(_check_prefix)]


class LinesInput(Strict):
    """Line-oriented objects, cut by byte range at line ends; the CSV header is carried to each part."""

    type: Literal["lines"]
    uri: ObjectUri
    format: Literal["text", "jsonl", "csv"] = "text"
    part_bytes: Annotated[int, Field(ge=1, le=5_368_709_120)] = 8_388_608


class ObjectsInput(Strict):
    """Every object under a prefix is a task."""

    type: Literal["objects"]
    prefix: PrefixUri
    include: Annotated[str, Field(max_length=1024)] = Field("*", description="glob on the key after the prefix")


class ItemsInput(Strict):
    """Every JSON value of the list is a task."""

    type: Literal["items"]
    items: Annotated[list[Any], Field(min_length=1)]


class RangeInput(Strict):
    """An array job: `count` tasks that differ by their index."""

    type: Literal["range"]
    count: Annotated[int, Field(ge=1, le=10_000_000)]


class ParquetInput(Strict):
    """A Parquet object, cut between row groups by its footer."""

    type: Literal["parquet"]
    uri: ObjectUri
    row_groups: Annotated[int, Field(ge=1, le=1_000_000)] = Field(1, description="row groups per task")


Input = Annotated[LinesInput | ObjectsInput | ItemsInput | RangeInput | ParquetInput, Field(discriminator="type")]


class NoMerge(Strict):
    """The results stay as they are; manifest.json lists them."""

    type: Literal["none"] = "none"


class ConcatMerge(Strict):
    """The outputs are joined in task order by a server-side multipart copy."""

    type: Literal["concat"]
    filename: Name = "result"


class ReduceMerge(Strict):
    """A processor gets the directory of all outputs and makes one."""

    type: Literal["reduce"]
    processor: ProcessorReference
    params: dict[str, Any] = {}
    filename: Name | None = Field(None, description="name of the result; the processor's output name if absent")


Merge = Annotated[NoMerge | ConcatMerge | ReduceMerge, Field(discriminator="type")]


class Retry(Strict):
    """How often a failing task is tried, with exponential backoff and jitter between tries."""

    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    backoff_seconds: Annotated[float, Field(ge=0, le=3600)] = 1.0
    backoff_max_seconds: Annotated[float, Field(ge=0, le=86_400)] = 300.0


class StageSpec(Strict):
    """One step: a processor applied to every task. Task i of a later stage works on the output of task i before it."""

    name: Name | None = None
    processor: ProcessorReference = Field(description="`name` (newest version) or `name@version`")
    params: dict[str, Any] = {}
    pool: Name = "default"
    retry: Retry = Retry()
    timeout_seconds: Annotated[float, Field(gt=0, le=604_800)] = 3600.0
    memory_bytes: Annotated[int, Field(ge=16_777_216, le=35_184_372_088_832)] | None = None
    tolerated_failures: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        0, description="failed tasks that do not fail the stage"
    )
    rejects_max: Annotated[int, Field(ge=0, le=1_000_000_000_000)] | None = Field(
        None, description="rejected records per task; absent: no limit"
    )


class JobSpec(Strict):
    """A job as submitted."""

    name: Name = "job"
    input: Input
    stages: Annotated[list[StageSpec], Field(min_length=1)]
    merge: Merge = NoMerge()
    priority: Annotated[int, Field(ge=-100, le=100)] = Field(0, description="higher runs first")
    share: Name = Field("default", description="jobs of one share divide its part of a pool")
    labels: dict[Name, Annotated[str, Field(max_length=256)]] = {}
    run_at: AwareDatetime | None = Field(None, description="start no earlier than this")

    @model_validator(mode="after")
    def _name_stages(self) -> "JobSpec":
        for number, stage in enumerate(self.stages):
            stage.name = stage.name or f"stage-{number}"
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stage names must differ, got {names}")
        return self


class ProcessorSpec(Strict):
    """What a registered processor runs; exactly one of command, callable, records, builtin.

    Commands know `{input}`, `{output}`, `{index}` and `{params.NAME}`. A callable is `module:function(input: Path,
    output: Path, **params)`; a records function is `module:function(record, **params)` returning a record, None to
    drop it, or raising to reject it.
    """

    command: Annotated[list[str], Field(min_length=1)] | None = None
    callable: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    records: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    builtin: Literal["noop", "copy"] | None = None
    output: Name = Field("output", description="file name of the task's output")
    output_format: Literal["jsonl", "csv"] = Field(
        "jsonl",
        description="of a records function; csv for a command or callable says that its output begins with a header "
        "line, which a concat merge keeps once",
    )
    environment: dict[VariableName, str] = {}
    idempotent: bool = Field(
        False,
        description="a task may run twice at the same time without harm; then one that takes far longer than its "
        "peers gets a backup attempt on another worker",
    )
    params_schema: dict[str, Any] | None = Field(None, description="JSON Schema of the stage's params")

    @field_validator("output")
    @classmethod
    def _not_ours(cls, output: str) -> str:
        if output in ("log.txt", "rejects.jsonl"):
            raise ValueError(f"the worker writes {output} itself, beside the output; choose another name")
        return output

    @model_validator(mode="after")
    def _one_kind(self) -> "ProcessorSpec":
        kinds = [k for k in ("command", "callable", "records", "builtin") if getattr(self, k) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of command, callable, records, builtin; got {kinds or 'none'}")
        return self
