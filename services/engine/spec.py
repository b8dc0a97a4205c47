"""What a user submits: the job specification, shared by the API (which checks it) and the scheduler (which runs it)."""

import re
from typing import Annotated, Any, Literal, get_args
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)

from services.contract.fields import (
    DURATION,
    IMAGE_EXAMPLE,
    SIZE,
    ImageReference,
    Kept,
    Name,
    ObjectUri,
    PrefixUri,
    ProcessorReference,
    QueueUrl,
    Strict,
    VariableName,
)
from services.contract.output_name import check_template, is_template
from services.contract.resources import Needs
from services.contract.secret import SecretReference
from services.inputs.columns import check_type
from services.inputs.spec import Input, Inputs, RangeInput, Resplit

OWN_PROCESSORS = "piecework-"  # prefix of the names of Piecework's own processors
SPLIT_PROCESSOR = "piecework-split"  # name of the stage that splits what can only be split by reading every byte
COMPACT_PROCESSOR = "piecework-compact"  # of a parquet merge

# Files that the worker itself writes next to an output.
OWN_FILENAMES = ("log.txt", "rejects.jsonl", "piecework-items.jsonl", "manifest.json")


def _refuse_own(filename: str) -> str:
    if filename in OWN_FILENAMES:
        raise ValueError(f"Piecework itself writes a file named {filename}; choose another name")
    return filename


NAMES_MAX = 1000  # of what a specification names
PREDECESSORS_MAX = 100
BY_INDEX_MAX = 10_000  # tasks of an array, as in AWS Batch

ParamName = Annotated[str, Field(max_length=200)]
Params = Annotated[dict[ParamName, Any], Field(max_length=NAMES_MAX)]
Argument = Annotated[str, Field(max_length=131_072)]  # MAX_ARG_STRLEN, execve(2)
Filename = Annotated[Name, AfterValidator(_refuse_own)]


def _check_output(output: str) -> str:
    return check_template(output) if is_template(output) else _FILENAME.validate_python(output)


_FILENAME: TypeAdapter[str] = TypeAdapter(Filename)
OutputName = Annotated[
    str,
    Field(max_length=300),
    AfterValidator(_check_output),
    WithJsonSchema({"type": "string", "maxLength": 300, "examples": ["clean.csv", "{input.stem}.jpg"]}),
]
ColumnType = Annotated[Any, AfterValidator(check_type)]


class NoMerge(Strict):
    """The results stay as they are; manifest.json lists them."""

    type: Literal["none"] = "none"


class ConcatMerge(Strict):
    """The outputs are joined in task order by a server-side multipart copy; a CSV's header is kept once.

    Lines stay lines: an output that ends without a line end gets one before the next output.
    """

    type: Literal["concat"]
    filename: Filename = "result"
    lines: bool | None = Field(
        None, description="whether the outputs hold lines; absent: by their names, or else by their bytes"
    )


class ParquetMerge(Strict):
    """The outputs become one Parquet object with row groups of the size that Parquet readers expect."""

    type: Literal["parquet"]
    filename: Filename = "result.parquet"


class ReduceMerge(Strict):
    """A processor turns a directory of outputs into one output. More than `fan_in` outputs are reduced in levels."""

    type: Literal["reduce"]
    processor: ProcessorReference
    params: Params = {}
    inputs: dict[VariableName, ObjectUri] = Field(
        {}, max_length=NAMES_MAX, description="URI of each object that the processor declares"
    )
    fan_in: Annotated[int, Field(ge=2, le=10_000)] = Field(
        1000, description="outputs per task; if there are more, the tasks' results are reduced again until one is left"
    )
    filename: Filename | None = Field(None, description="name of the result; the processor's output name if absent")


Merge = Annotated[NoMerge | ConcatMerge | ParquetMerge | ReduceMerge, Field(discriminator="type")]


class Retry(Strict):
    """How often a failing task is tried, with exponential backoff and jitter between tries."""

    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    backoff_seconds: Annotated[float, Field(ge=0, le=3600), DURATION] = 1.0
    backoff_max_seconds: Annotated[float, Field(ge=0, le=86_400), DURATION] = 300.0


_Bytes = Annotated[int, Field(ge=16_777_216, le=35_184_372_088_832), SIZE]


_FAILURES_MAX = 10_000_000
_PERCENTAGE = r"^(100|[0-9]{1,2}(\.[0-9]{1,6})?)%$"


def _check_failures(value: Any) -> Any:
    if isinstance(value, str) and len(value) <= 10 and re.fullmatch(_PERCENTAGE, value):
        return value
    if type(value) is int and 0 <= value <= _FAILURES_MAX:
        return value
    raise ValueError(f"write a number from 0 to {_FAILURES_MAX:,}, or a percentage of the stage's tasks such as 5%")


TolerableFailures = Annotated[
    int | str,
    BeforeValidator(_check_failures),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": _FAILURES_MAX},
                {"type": "string", "maxLength": 10, "pattern": _PERCENTAGE, "examples": ["5%"]},
            ]
        }
    ),
]


class StageNeeds(BaseModel):
    """What each task of a stage needs of its node. What is absent is the slot's share of it, and of GPUs none."""

    cpus: Annotated[float, Field(ge=0.01, le=4096)] | None = Field(
        None, description="cores that each task needs: a node runs as many tasks beside each other as fit"
    )
    memory: _Bytes | None = Field(
        None, description="memory that each task needs, which is its limit, too, unless memory_bytes is more"
    )
    gpus: Annotated[int, Field(ge=1, le=64)] | None = Field(None, description="GPUs that each task has for itself")
    disk: _Bytes | None = Field(None, description="free disk space that each task needs for its working directory")

    @property
    def needs(self) -> Needs | None:
        """None if it asks for nothing."""
        asked = Needs(self.cpus, self.memory, self.gpus, self.disk)
        return asked if asked.to_json() else None


class StageOptions(StageNeeds):
    """The options of a stage that only workers read: stored as one value, `stages.options`, and a part of `StageWork`.

    A new option is added here and where a worker acts on it. A worker that does not know it ignores it.
    """

    params: Params = {}
    inputs: dict[VariableName, ObjectUri] = Field(
        {}, max_length=NAMES_MAX, description="URI of each object that the processor declares"
    )
    fan_out: bool = Field(
        False,
        description="each task yields items (files of its output directory, lines of its output, elements of "
        "the list it returns), and each item is a task of the next stage",
    )
    memory_bytes: _Bytes | None = None
    rejects_max: Annotated[int, Field(ge=0, le=1_000_000_000_000)] | None = Field(
        None, description="rejected records per task; absent: no limit"
    )
    columns: dict[Annotated[str, Field(max_length=1024)], ColumnType] = Field(
        {},
        max_length=10_000,
        description="types of columns of CSV, JSON, XML, for SQL and record functions: text, int64, float64, bool, "
        "date, timestamp, decimal(P,S), json; [type] for a list; a mapping for an object. Others are text in CSV and "
        "XML; in JSON, SQL finds them from samples of the whole input",
    )


class StageSpec(StageOptions, Strict):
    """One step: a processor applied to every task. Task i of a later stage works on the output of task i of the stage
    before, as soon as that exists; unless that stage fans out, or this one has a barrier or a resplit."""

    name: Name | None = None
    processor: ProcessorReference = Field(description="`name` (newest version) or `name@version`")
    barrier: bool = Field(False, description="start no task before all tasks of the previous stage have ended")
    resplit: Resplit | None = Field(
        None, description="join the outputs of the previous stage into one object and split it like this"
    )
    pool: Name = "default"
    pools: Annotated[list[Name], Field(min_length=1, max_length=10)] | None = Field(
        None, description="pools in order of preference, in place of `pool`: see next_pool_after_seconds"
    )
    next_pool_after_seconds: Annotated[float, Field(ge=1, le=604_800), DURATION] | None = Field(
        None, description="a task that has not begun in a pool by then is for the next one, too; absent: 300"
    )
    retry: Retry = Retry()
    timeout_seconds: Annotated[float, Field(gt=0, le=604_800), DURATION] = 3600.0
    running_max: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        None, description="tasks that run at the same time, wherever they do; absent: no limit but the pool's slots"
    )
    tolerated_failures: TolerableFailures = Field(
        0, description="failed tasks that do not fail the stage: a number, or a share of its tasks such as `5%`"
    )

    @property
    def tolerated_percent(self) -> float | None:
        """None if the failures that are tolerated are a number."""
        return float(self.tolerated_failures[:-1]) if isinstance(self.tolerated_failures, str) else None

    @model_validator(mode="after")
    def _prefer_pools(self) -> "StageSpec":
        if self.pools is None:
            if self.next_pool_after_seconds is not None:
                raise ValueError("next_pool_after_seconds: there is no next pool; name several in `pools`")
            return self
        if len(set(self.pools)) < len(self.pools):
            raise ValueError(f"pools must differ, got {self.pools}")
        if "pool" in self.model_fields_set and self.pool != self.pools[0]:
            raise ValueError(f"pool: {self.pool} is not the first of `pools`; leave it out")
        self.pool = self.pools[0]
        return self


class Keep(Strict):
    """How long what a job leaves is kept, from its end; what is not given is as the retention rules say."""

    interim: Kept | None = Field(None, description="what only later stages and the merge need")
    results: Kept | None = Field(None, description="results and the manifest, unless they are in a place of your own")
    records: Kept | None = Field(None, description="the job itself with its tasks, attempts, statistics and logs")


class Predecessor(Strict):
    """A job that must have ended before this one starts; as text `JOB_ID`, `JOB_ID:CONDITION` or `JOB_ID:index`."""

    job_id: UUID
    condition: Literal["succeeded", "any"] = Field("succeeded", description="how it must have ended; any: in any way")
    by_index: bool = Field(
        False,
        description="each task waits for the task of the same index of that job's last stage, not for all of them: "
        "both are arrays of the same size",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        job_id, colon, condition = value.partition(":")
        if condition == "index":
            return {"job_id": job_id, "by_index": True}
        return {"job_id": job_id, **({"condition": condition} if colon else {})}


class JobSpec(Strict):
    """A job as submitted."""

    name: Name = "job"
    input: Inputs
    stages: Annotated[list[StageSpec], Field(min_length=1, max_length=1000)]
    merge: Merge = NoMerge()
    results: PrefixUri | None = Field(
        None, description="prefix of the results, in a folder named after the job's id; absent: Piecework's own"
    )
    output_queue: QueueUrl | None = Field(
        None, description="an SQS queue that gets a message for every succeeded task, then one for the end of the job"
    )
    priority: Annotated[int, Field(ge=-100, le=100)] = Field(0, description="jobs of higher priority run first")
    share: Name = Field("default", description="jobs with the same share divide that share's part of the pool")
    labels: dict[Name, Annotated[str, Field(max_length=256)]] = Field({}, max_length=64)
    run_at: AwareDatetime | None = Field(None, description="earliest time to start")
    reuse: bool = Field(
        False,
        description="tasks take the outputs of earlier jobs that say so, too, if input, code and params are the same",
    )
    keep: Keep | None = Field(None, examples=[{"interim": "1d", "results": "forever", "records": "90d"}])
    after: Annotated[list[Predecessor], Field(max_length=PREDECESSORS_MAX)] | None = Field(
        None, description="start when these jobs have ended; each an object, or text: `JOB_ID` or `JOB_ID:any`"
    )
    after_failure: Literal["fail", "skip"] | None = Field(
        None,
        description="what becomes of the job if a job of `after` does not end as it must: it fails, or is skipped, "
        "which cancels it; absent: fail",
    )

    @property
    def inputs(self) -> list[Input]:
        """The input, or the inputs, in order."""
        return self.input if isinstance(self.input, list) else [self.input]

    @property
    def is_for_later(self) -> bool:
        """Whether it waits for a time or for other jobs: what it reads may not be there yet."""
        return self.run_at is not None or bool(self.after)

    def stored(self) -> dict[str, Any]:
        """As it is stored: without what says nothing and is not known to services of the release before."""
        silent = {name for name in ("keep", "reuse", "after", "after_failure") if not getattr(self, name)}
        stored = self.model_dump(mode="json", exclude=silent)
        for stage in stored["stages"]:
            optional = (*StageNeeds.model_fields, "pools", "next_pool_after_seconds")
            for name in [name for name in optional if stage[name] is None]:
                del stage[name]
        return stored

    @model_validator(mode="after")
    def _name_stages(self) -> "JobSpec":
        for number, stage in enumerate(self.stages):
            stage.name = stage.name or f"stage-{number}"
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stage names must differ, got {names}")
        return self

    @model_validator(mode="after")
    def _wait(self) -> "JobSpec":
        named = [predecessor.job_id for predecessor in self.after or ()]
        if twice := [str(job_id) for job_id in set(named) if named.count(job_id) > 1]:
            raise ValueError(f"after: {', '.join(sorted(twice))} is named twice; name each job once")
        if self.after_failure is not None and not named:
            raise ValueError("after_failure: the job waits for no other; name jobs in `after`, or leave it out")
        if any(predecessor.by_index for predecessor in self.after or ()):
            self._follow()
        return self

    def _follow(self) -> None:
        """Raises ValueError unless the job's tasks can follow those of another job by their index."""
        if not isinstance(self.input, RangeInput):
            raise ValueError("after: only an array waits for another one by_index: give an input of type range")
        if len(self.input.numbers) > BY_INDEX_MAX:
            raise ValueError(f"after: an array that waits by_index has at most {BY_INDEX_MAX:,} tasks")


_WrittenKind = Literal["image", "command", "callable", "function", "records", "sql"]  # by the processor's author
_Builtin = Literal["noop", "copy", "split", "compact"]
ProcessorKind = _WrittenKind | _Builtin
_WRITTEN_KINDS: tuple[_WrittenKind, ...] = get_args(_WrittenKind)


class ProcessorSpec(Strict):
    """What a registered processor runs; exactly one of image, command, callable, function, records, sql, builtin.

    With an image, `command` is what its container runs. Commands know `{input}`, `{output}`, `{index}`,
    `{params.NAME}`, `{inputs.NAME}` and `{outputs.NAME}`. A callable is
    `module:function(input: Path, output: Path, **params)`; a function is `module:function(item, **params)` returning
    any JSON value; a records function is `module:function(record, **params)` returning a record, a list of records,
    None to drop it, or raising to reject it. SQL is a DuckDB query of `input`.
    """

    image: ImageReference | None = Field(
        None, description="a container image; a tag is looked up once for each job", examples=[IMAGE_EXAMPLE]
    )
    entrypoint: Annotated[list[Argument], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="replaces the image's entrypoint, and its command"
    )
    command: Annotated[list[Argument], Field(min_length=1, max_length=1000)] | None = None
    callable: Annotated[str, Field(max_length=1000, pattern=r"^[\w.]+:\w+$")] | None = None
    function: Annotated[str, Field(max_length=1000, pattern=r"^[\w.]+:\w+$")] | None = Field(
        None, description="a Python function of an item that returns a JSON value", examples=["prices:price_of"]
    )
    records: Annotated[str, Field(max_length=1000, pattern=r"^[\w.]+:\w+$")] | None = None
    sql: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=65_536)] | None = None
    builtin: _Builtin | None = None
    package: Annotated[str, Field(max_length=64, pattern="^[0-9a-f]{64}$")] | None = Field(
        None, description="SHA-256 of the pushed package (`piecework processors push`) that holds the code"
    )
    inputs: dict[VariableName, ObjectUri | None] = Field(
        {},
        max_length=NAMES_MAX,
        description="objects that each task gets in addition to its input; null: the stage must give the URI",
    )
    output: OutputName = Field(
        "output",
        description="file name of the task's output; `{input.stem}`, `{input.filename}` and `{input.part}` stand for "
        "those of the object that the task works on, `{index}` for its index",
    )
    output_directory: bool = Field(
        False, description="the output is a directory of files, each an item of a fan-out stage"
    )
    output_required: bool | None = Field(
        None, description="a task that writes no output fails; null: only if its command names `{output}`"
    )
    outputs: dict[VariableName, Filename] = Field({}, max_length=NAMES_MAX, description="file names of further outputs")
    output_format: Literal["jsonl", "csv", "parquet"] = Field(
        "jsonl",
        description="output format of a records function or SQL; csv for a command or callable means that its output "
        "begins with a header line, which a concat merge keeps once",
    )
    filters: bool = Field(False, description="the processor drops records on purpose: record counts need not add up")
    environment: Annotated[dict[VariableName, Argument], Field(max_length=NAMES_MAX)] = {}
    secrets: Annotated[dict[VariableName, SecretReference], Field(max_length=100)] | None = Field(
        None,
        description="variables whose values the worker fetches, by reference: the ARN of a secret of AWS Secrets "
        "Manager (`#KEY` for one key of its JSON) or of an SSM parameter, `file:NAME`, `env:NAME`",
        examples=[{"DB_PASSWORD": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:claims-db#password"}],
    )
    idempotent: bool = Field(
        False,
        description="a task may run twice at the same time without harm; a task that takes far longer than its "
        "peers then gets a backup attempt on another worker",
    )
    params_schema: dict[ParamName, Any] | None = Field(
        None, max_length=NAMES_MAX, description="JSON Schema of the stage's params"
    )
    network: bool = Field(
        True, description="tasks may use the network; false needs a worker whose isolation can take it from them"
    )
    share_children: bool = Field(
        False,
        description="the tasks of all jobs may share one warm process, which is then one domain of trust; otherwise a "
        "process serves one job",
    )
    allow_options: Annotated[list[ParamName], Field(max_length=100)] | None = Field(
        None,
        description="params of a command that may begin with '-' where they begin an argument, so that whoever submits "
        "a job chooses options of the program",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_stored(cls, value: Any) -> Any:
        """An image's command is stored as `arguments`, so that no release before takes it for a command of the node."""
        if isinstance(value, dict) and "image" in value and "arguments" in value:
            return {name: each for name, each in value.items() if name != "arguments"} | {"command": value["arguments"]}
        return value

    @property
    def kind(self) -> ProcessorKind:
        """The form of the processor; for a builtin, its name."""
        if self.builtin is not None:
            return self.builtin
        return next(kind for kind in _WRITTEN_KINDS if getattr(self, kind) is not None)

    @property
    def arguments(self) -> list[str]:
        """Of the program that it runs, with the program itself; of an image's own program, only the further ones."""
        return [*(self.entrypoint or ()), *(self.command or ())]

    @property
    def requires_output(self) -> bool:
        """Whether a task fails that writes no output: no file, or no file in its directory."""
        if self.output_required is not None:
            return self.output_required
        return not self.output_directory and any("{output}" in argument for argument in self.arguments)

    @model_validator(mode="after")
    def _fits_together(self) -> "ProcessorSpec":
        kinds = [kind for kind in (*_WRITTEN_KINDS, "builtin") if getattr(self, kind) is not None]
        if self.image is not None and "command" in kinds:
            kinds.remove("command")
        if len(kinds) != 1:
            raise ValueError(
                "give exactly one of image (with or without a command), command, callable, function, records, sql, "
                f"builtin; got {kinds or 'none'}"
            )
        if self.function is not None:
            self._check_values()
        if is_template(self.output) and (self.output_directory or self.function is not None):
            what = "a directory of files" if self.output_directory else "a value"
            raise ValueError(f"output: {self.output} names one file, but each task makes {what}: leave it out")
        if self.entrypoint is not None and self.image is None:
            raise ValueError("entrypoint: only an image has one; name the program in command")
        if self.package is not None and self.image is not None:
            raise ValueError("package: an image brings its code itself; leave it out, or pass files as inputs")
        if self.output_required and self.builtin == "noop":
            raise ValueError("output_required: noop never writes an output; leave it out")
        names = [name.upper() for name in (*self.inputs, *self.outputs)]  # as in PIECEWORK_INPUT_NAME
        if len(set(names)) < len(names):
            raise ValueError(f"inputs and outputs must have different names, got {[*self.inputs, *self.outputs]}")
        if both := self.environment.keys() & (self.secrets or {}):
            raise ValueError(f"secrets and environment both set {', '.join(sorted(both))}; leave one out")
        filenames = [self.output, *self.outputs.values()]
        if self.kind in ("records", "sql"):
            filenames.append(f"{self.output}.{self.output_format}")  # if the output's name does not tell it
        if len(set(filenames)) < len(filenames):
            raise ValueError(f"output and outputs must name different files, got {filenames}")
        return self

    def _check_values(self) -> None:
        """Raises ValueError for options of processors that write files: a function returns values."""
        for name in ("output_directory", "output_required", "outputs"):
            if getattr(self, name):
                raise ValueError(f"{name}: a function returns its value and writes no files; leave it out")
        if self.output_format != "jsonl":
            raise ValueError("output_format: a function's value is JSON; leave it out")
        if not self.output.endswith(".json") and "." in self.output:
            raise ValueError(f"output: a value too large for its row becomes a JSON file; {self.output} is not *.json")
