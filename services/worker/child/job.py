"""What a child is told to do: JSON values that its worker makes (task/child_job, task/packages) and `program` reads.

A worker and its children are always of one release, so these may change with it.
"""

from typing import Any, Literal, TypedDict

from services.inputs.places import Source
from services.inputs.reader import Step


class _Job(TypedDict):
    directory: str  # where the work begins
    environment: dict[str, str]
    log: str  # what is printed goes there


class ProgramJob(_Job):
    """Run a program; there is no task."""

    kind: Literal["program"]
    arguments: list[str]


class TaskJob(_Job):
    """What all tasks have: paths of files, and what has to be done with the input before the processor sees it."""

    input: str
    output: str
    steps: list[Step]
    checks: list[Step]
    params: dict[str, Any]
    paths: dict[str, str]  # of declared inputs and outputs, by name
    items: str | None  # of a fan-out stage: where the listing of its items goes


class CommandJob(TaskJob):
    kind: Literal["command"]
    arguments: list[str]
    records: str  # where the command may say how many records it has read and written


class CallableJob(TaskJob):
    kind: Literal["callable"]
    function: str


class CopyJob(TaskJob):
    kind: Literal["copy"]


class RejectsOrigin(TypedDict):
    """What rejected records are told to be of: the task, and the objects that its files are (parts of), by name."""

    stage: int
    index: int
    sources: dict[str, Source]


class ReadingJob(TaskJob):
    """How the records of the input are read, and where those go that can't be."""

    format: str | None  # by the files' names if None
    options: dict[str, Any]
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
    output_format: str
    inputs: dict[str, str]  # of declared inputs, by name
    spill: str
    memory_bytes: int
    threads: int


ChildJob = ProgramJob | CommandJob | CallableJob | CopyJob | RecordsJob | SqlJob
