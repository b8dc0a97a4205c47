"""Jobs, their tasks and attempts, their results."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, computed_field

from services.api.pagination import Page
from services.api.shapes.row import Row, Stored
from services.contract.source import TaskSource
from services.contract.states import TASK_STATES, JobState, Outcome, StageKind, StageState, TaskState
from services.engine.progress import Progress
from services.engine.reasons.reason import Reason, ReasonCode
from services.engine.records import StageRecords
from services.engine.spec import JobSpec


class Failure(BaseModel):
    """Why a job, task or attempt failed."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["exit_code"])
    message: str = Field(examples=["the command ended with exit code 1"])


class Stage(BaseModel):
    """One step of a job."""

    stage: int
    name: str
    kind: StageKind
    processor: str = Field(examples=["clean-flights@1"])
    pool: str
    state: StageState
    task_count: int | None = Field(
        description="including tasks to come; an estimate while an input of known size is split; null until it is "
        "known: a prefix is listed, a fan-out has ended"
    )
    planned: bool = Field(description="whether all tasks are known")
    progress: Progress
    seconds_left: float | None = Field(
        description="at the pace of what runs now; a task that takes far longer than others is expected to take as "
        "long again as it has so far. Null while it can't be told, as of a job that is paused"
    )
    slowed: bool = Field(description="most attempts fail, so the stage's tasks get only a tenth of the pool's slots")
    reasons: list[Reason] = Field(description="those of the job's reasons that are about this stage")
    records: StageRecords
    columns: dict[str, Any] = Field(
        description="types of columns: those declared, and those that SQL finds in samples of the whole input",
        examples=[{"id": "int64", "zip": "text"}],
    )
    started_at: datetime | None
    finished_at: datetime | None
    result: dict[str, Any] | None


class JobProgress(BaseModel):
    """Tasks of all stages together."""

    tasks: int = Field(description="known so far")
    succeeded: int
    failed: int


class _JobFields(Row):
    job_id: UUID
    name: str
    state: JobState
    priority: int
    share: str
    labels: dict[str, str]
    schedule_id: UUID | None
    trigger_id: UUID | None
    run_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: Failure | None
    created_by: str | None = Field(description="the principal that it belongs to; null: made before there were any")
    hold: bool = Field(description="nothing of it is deleted")
    interim_deleted_at: datetime | None = Field(description="since then its interim data are deleted")
    results_deleted_at: datetime | None = Field(description="since then its results are deleted")
    deleted_at: datetime | None = Field(description="since then all of it is being deleted")


class JobSummary(_JobFields):
    """A job in a list."""

    progress: JobProgress
    reasons: list[ReasonCode] = Field(description="why it waits; the job itself explains them")


class JobDependency(BaseModel):
    """A job that must have ended before this one starts."""

    job_id: UUID
    condition: Literal["succeeded", "any"] = Field(description="how it must have ended; any: in any way")
    by_index: bool = Field(description="each task waits for that job's task of the same index, not for all of them")
    ended: JobState | None = Field(description="how it has ended; null: it has not")


class Job(_JobFields):
    """A job with its specification and its stages."""

    spec: Stored[JobSpec]
    stages: list[Stage]
    predecessors: list[JobDependency] = Field(description="the jobs of `after`, and how they have ended")
    reasons: list[Reason] = Field(
        description="why the job waits or is slow, and what its results need; empty if all is well. "
        "What somebody can do something about comes first"
    )
    warnings: list[str] = Field(
        description="the messages of the reasons that are about results: record counts that do not add up, or records "
        "missing because failed tasks were tolerated",
        examples=[["stage clean: 100 records in, 98 out, 0 rejected: 2 are unaccounted for"]],
    )


class Deletion(BaseModel):
    """What is being deleted."""

    job_id: UUID
    deleted_at: datetime
    results: Literal["delete", "keep"]


class JobPage(Page[JobSummary]):
    """Jobs, newest first."""


class Source(Row):
    """The object of the job's input that a task works on, also in later stages."""

    uri: str = Field(description="of several objects, the first", examples=["s3://photos/2026/cat.png"])
    part: int | None = Field(description="which part of the object it is, from 0; null: all of it")
    objects: int | None = Field(description="how many objects it works on; null: one")


def source_of(input: Any) -> Source | None:
    source = TaskSource.of(input)
    return Source.model_validate(source) if source else None


class Task(Row):
    """One part of a stage."""

    stage: int
    index: int
    state: TaskState
    attempt: int = Field(description="number of the newest attempt; 0 before the first")
    failures: int
    losses: int = Field(description="attempts whose worker was lost; they do not count as failures")
    processor: str = Field(description="what its newest attempt ran; while it waits, what the next one will run")
    worker_id: UUID | None
    ready_at: datetime | None
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    input: dict[str, Any]
    output: dict[str, Any] | None
    error: Failure | None

    @computed_field(description="null: it works on no object of the job's input, or on outputs of many tasks")  # type: ignore[prop-decorator]
    @property
    def source(self) -> Source | None:
        return source_of(self.input)


class FailureKind(BaseModel):
    """Failed attempts whose errors differ at most in numbers and places, and the first of them."""

    fingerprint: str = Field(description="of the errors; `error` in a list of tasks", examples=["3f2a91c07bd4"])
    attempts: int
    tasks: int = Field(description="that have such an attempt, also those that have succeeded since")
    first_at: datetime
    last_at: datetime
    stage: int
    index: int
    attempt: int
    error: Failure
    source: Source | None


class Failures(BaseModel):
    """The kinds of failures of a job, the most frequent first."""

    items: list[FailureKind]
    complete: bool = Field(description="false: there are more failed attempts than were looked at, by stage and index")


class TaskPage(Page[Task]):
    """Tasks by stage and index."""


class Attempt(Row):
    """One execution of a task; durations in seconds, sizes in bytes."""

    job_id: UUID
    stage: int
    index: int
    attempt: int
    worker_id: UUID | None
    processor: str = Field(description="what it ran", examples=["clean-flights@4"])
    pool: str
    outcome: Outcome
    started_at: datetime
    finished_at: datetime
    run_seconds: float
    exit_code: int | None
    error: Failure | None = Field(description="why it failed; of a success, why its output had to be made again")
    bytes_in: int
    bytes_out: int
    records_in: int
    records_out: int
    records_rejected: int
    records_filtered: int
    records_added: int
    cpu_seconds: float
    memory_bytes_peak: int
    log: str | None = Field(description="S3 URI of the attempt's log")
    reused_from: dict[str, Any] | None = Field(
        description="it ran nothing: this attempt of an earlier job (job_id, stage, index, attempt) made its output"
    )


class TaskDetail(Task):
    """A task with its finished attempts."""

    attempts: list[Attempt]


class TaskLog(BaseModel):
    """Where an attempt's output is."""

    attempt: int
    uri: str
    url: str = Field(description="presigned; valid for a limited time")
    running: bool = Field(description="the attempt runs: this is what it has printed so far")


class ResultFile(BaseModel):
    """A downloadable object."""

    name: str
    uri: str
    bytes: int
    checksum_crc32: str | None = Field(
        None,
        description="CRC-32 of the object in S3's form: base64 of four bytes; null if the CRC of a part is unknown",
        examples=["y/Q5Jg=="],
    )
    url: str = Field(description="presigned; valid for a limited time")


class Results(BaseModel):
    """The results of a job."""

    job_id: UUID
    files: list[ResultFile]
    manifest: ResultFile


class Part(Row):
    """What one task of a stage has made, or why it has made nothing."""

    stage: int
    index: int
    state: TaskState
    attempt: int
    input: dict[str, Any]
    files: list[ResultFile] = Field(description="empty unless it has succeeded and written files")
    value: Any = Field(description="the small value that it returned")
    error: Failure | None


class PartPage(Page[Part]):
    """Parts by the index of their task."""


def sum_progress(progress: Sequence[Progress]) -> JobProgress:
    return JobProgress(
        tasks=sum(stage.waiting + sum(getattr(stage, name) for name in TASK_STATES) for stage in progress),
        succeeded=sum(stage.succeeded for stage in progress),
        failed=sum(stage.failed for stage in progress),
    )
