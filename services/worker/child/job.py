"""A child's job: JSON values that the worker makes (task/child_job, task/packages) and `program` reads.

A worker and its children always have the same release, so these may change with it.
"""

from typing import Any, Literal, NotRequired, TypedDict

from services.inputs.columns import Columns
from services.inputs.places import Source
from services.inputs.reader import Step

VALUE_BYTES_MAX = 4096  # of a value that a task returns, as JSON: it lives in the task's row
FILE_BYTES_MAX = 256 << 10  # of a file that is sent with a task of a session, or with its answer


class Job(TypedDict):
    directory: str  # the working directory at the start
    environment: dict[str, str]
    log: str  # gets everything that is printed


class ProgramJob(Job):
    """Run a program outside of any task."""

    kind: Literal["program"]
    arguments: list[str]


class TaskJob(Job):
    """The part that all tasks share: paths of files, and the steps that prepare the input for the processor."""

    input: str
    output: str
    steps: list[Step]
    checks: list[Step]
    params: dict[str, Any]
    paths: dict[str, str]  # of declared inputs and outputs, by name
    items: str | None  # in a fan-out stage: where the listing of its items goes


class CommandJob(TaskJob):
    kind: Literal["command"]
    arguments: list[str]
    records: str  # where the command may say how many records it has read and written


class PrepareJob(TaskJob):
    """Prepare the input for a container."""

    kind: Literal["prepare"]


class CollectJob(TaskJob):
    """Look at what a container has left."""

    kind: Literal["collect"]
    exit_code: int
    records: str  # as in CommandJob


class CallableJob(TaskJob):
    kind: Literal["callable"]
    function: str


class CopyJob(TaskJob):
    kind: Literal["copy"]


class RejectsOrigin(TypedDict):
    """The origin of rejected records: the task, and for each of its files the object that it is (a part of)."""

    stage: int
    index: int
    sources: dict[str, Source]
    input: NotRequired[str]  # in a later stage: the object of the job's input that those were made of


class RecordInput(TaskJob):
    """How the records of the input are read."""

    format: str | None  # by the files' names if None
    options: dict[str, Any]
    declared_columns: Columns


class FunctionJob(RecordInput):
    """Call a function with the task's `value`, or if it is not `by_value`, with what its input holds (child/item)."""

    kind: Literal["function"]
    function: str
    by_value: bool
    value: Any


class ReadingJob(RecordInput):
    """Where unreadable records go."""

    rejects: str
    rejects_max: int | None
    task: RejectsOrigin


class RecordsJob(ReadingJob):
    kind: Literal["records"]
    function: str
    output_format: str


class SqlJob(ReadingJob):
    kind: Literal["sql"]
    query: str
    found_columns: Columns | None  # those of the whole input, if they are decided
    output_format: str
    inputs: dict[str, str]  # of declared inputs, by name
    spill: str
    memory_bytes: int
    threads: int


class SessionFiles(TypedDict):
    """How tasks of a session find their files (child/session_files)."""

    output: str  # the file's name
    requires_output: bool
    places: dict[str, str]  # variables that name places in the task's own directory, such as TMPDIR: its `tmp`


class SessionInput(TypedDict):
    """A task's input in a session: a file of that name, whose bytes were sent with the task."""

    name: str
    bytes: int
    checks: list[Step]
    variables: dict[str, str]  # that say which object of the job's input it is


class SessionJob(Job):
    """Call a function with the value of each task of a stage, as long as the worker sends some (child/session).

    With `files`, it is a callable, and each task gets the paths of its own.
    """

    kind: Literal["session"]
    function: str
    params: dict[str, Any]
    files: SessionFiles | None
    values: str  # the directory of values that are too large for an answer
    filename: str  # of each
    tmp: str  # TMPDIR of the tasks
    job_id: str
    job_number: int  # as programs for array jobs know it
    overridden: list[str]  # variables that are the same for all tasks, by the processor's spec
    memory_bytes_max: int  # that this process may have after a task, to begin another


ChildJob = ProgramJob | CommandJob | PrepareJob | CollectJob | CallableJob | FunctionJob | CopyJob | RecordsJob | SqlJob
