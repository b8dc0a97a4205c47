"""What the service answers: durations in seconds, sizes in bytes."""

from datetime import date, datetime
from uuid import UUID

from pydantic import BaseModel, Field

from services.engine.progress import Progress


class TaskCounts(Progress):
    """A stage's or job's tasks by state, exact at the moment of the answer."""

    tasks: int = Field(description="known so far: the sum of all states, `waiting` included")


class Durations(BaseModel):
    """How long successful attempts ran; the quantiles are within 9 %. Null before the first success."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    mean: float | None


class Straggler(BaseModel):
    """A task that runs much longer than its stage's others did."""

    index: int
    worker_id: UUID
    running_seconds: float


class TimeSpent(BaseModel):
    """Where the time went, in seconds: of the job from its submission to its end, along the tasks that its end waited
    for. The phases add up to that time; those of a stage are its part of it."""

    scheduled: float = Field(description="until the job started")
    planning: float = Field(description="tasks were being made")
    queued: float = Field(description="a task waited for a slot")
    fetching: float = Field(description="a task's input was being read")
    running: float
    putting: float = Field(description="a task's outputs were being written")
    retrying: float = Field(description="attempts that were lost or failed, and the waits after them")
    merging: float = Field(description="from the end of the last task to that of the job")
    cancelling: float = Field(description="the same of a job that did not succeed")


class SlotTime(BaseModel):
    """What the slots did for all tasks, in seconds of one slot; it adds up to `worker_seconds`. Workers of 0.1.0
    count all of it as running."""

    fetching: float
    running: float
    putting: float
    unsuccessful: float = Field(description="attempts that did not succeed")


class StageStats(BaseModel):
    """One stage; bytes and records are those of successful attempts, so that nothing counts twice."""

    stage: int
    name: str
    kind: str
    pool: str
    state: str
    started_at: datetime | None
    finished_at: datetime | None
    tasks: int = Field(description="known so far")
    progress: TaskCounts
    rate_per_second: float = Field(description="tasks that succeed per second: lately, or overall once it has finished")
    seconds_left: float | None = Field(description="null while it can't be told")
    duration_seconds: Durations
    attempts_by_outcome: dict[str, int]
    unsuccessful_attempts: dict[str, int] = Field(
        description="by cause, also those after which a task was not run again; `lost` ones had "
        "their worker vanish, `released` ones were given back without blame: their worker drained, could not start "
        "them soon enough, or had its hold on them withdrawn by the grid"
    )
    retries: int = Field(description="unsuccessful attempts whose task was to run again: all but those that failed it")
    bytes_in: int
    bytes_out: int
    records_in: int
    records_out: int
    records_rejected: int
    worker_seconds: float = Field(description="run time of all attempts, as their workers measured it")
    slot_time: SlotTime
    time_spent: TimeSpent | None = Field(description="null until the job has ended")
    cpu_seconds: float
    memory_bytes_peak: int
    stragglers: list[Straggler] = Field(description="the oldest, 20 at most")


class JobStats(BaseModel):
    """One job. Progress and rates are of now; what is told of attempts, as of `rolled_up_at`."""

    job_id: UUID
    name: str
    state: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    elapsed_seconds: float | None
    rolled_up_at: datetime = Field(description="all attempts that ended before this are counted")
    progress: TaskCounts
    rate_per_second: float
    seconds_left: float | None = Field(description="null while it can't be told, 0 when the job has ended")
    time_spent: TimeSpent | None = Field(description="null until the job has ended")
    stages: list[StageStats]


class NodeCost(BaseModel):
    """What the time of slots costs, in US dollars."""

    worker_seconds: float = Field(description="run time of all attempts, as their workers measured it")
    unpriced_seconds: float = Field(description="of these, those on nodes whose price is not known")
    nodes: float | None = Field(description="what the others cost; null: none of them has a known price")


class StageCost(NodeCost):
    """One stage."""

    stage: int
    name: str
    pool: str


class JobCost(NodeCost):
    """One job. What is not of nodes is estimated, by the list prices of a region and a date."""

    job_id: UUID
    rolled_up_at: datetime = Field(description="all attempts that ended before this are counted")
    sqs_requests_max: float = Field(description="at most: as if each attempt had a message of its own")
    s3_requests: float = Field(description="an input, an output and a log for each attempt")
    storage_per_month: float = Field(description="the outputs of the last stage, as long as they are kept")
    prices_region: str
    prices_date: date
    stages: list[StageCost]


class DayCost(NodeCost):
    """A day's attempts in a pool, of jobs that have the same value of a label."""

    day: date = Field(description="on which the attempts ended, by UTC")
    pool: str
    label: str | None = Field(description="null: they have no such label, or none was asked for")
    attempts: int


class CostList(BaseModel):
    """The newest days first."""

    items: list[DayCost]


class Minute(BaseModel):
    """One minute in which something ran."""

    minute: datetime
    succeeded: int = Field(description="attempts that ended so in this minute")
    failed: int = Field(description="attempts that failed, timed out, ran out of memory or lost their worker")
    busy_seconds: float = Field(description="slot-seconds used in this minute; the open attempts' follow when they end")
    bytes_in: int
    bytes_out: int


class Timeline(BaseModel):
    """Minutes in order; those in which nothing ran are left out."""

    items: list[Minute]


class WorkerStats(BaseModel):
    """One worker that lived in the window."""

    worker_id: UUID
    pool: str
    hostname: str
    state: str
    slots: int
    busy: int = Field(description="slots in use now")
    heartbeat_at: datetime
    busy_share: float = Field(description="slot-seconds used, of those it had in the window: 0 to 1")
    tasks_succeeded: int = Field(description="attempts of the window that succeeded")
    tasks_failed: int = Field(description="attempts of the window that did not, or whose worker was lost")


class WorkerStatsList(BaseModel):
    """Workers by pool and host name."""

    items: list[WorkerStats]


class PoolStats(BaseModel):
    """One pool, with all workers that lived in the window."""

    pool: str
    workers_live: int
    slots: int = Field(description="of live workers")
    busy: int = Field(description="slots in use now")
    busy_share: float = Field(description="slot-seconds used, of those its workers had in the window: 0 to 1")
    tasks_succeeded: int = Field(description="attempts of the window that succeeded")
    tasks_failed: int = Field(description="attempts of the window that did not, or whose worker was lost")
    backlog: int = Field(description="tasks of unfinished jobs that are ready or queued")


class PoolStatsList(BaseModel):
    """Pools by name."""

    items: list[PoolStats]
