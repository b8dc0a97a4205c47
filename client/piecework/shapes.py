"""What the services answer: the JSON objects as typed dictionaries. Times are ISO 8601 strings with a time zone."""

from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

T = TypeVar("T")

JobState = Literal["scheduled", "running", "paused", "cancelling", "failing", "succeeded", "failed", "cancelled"]
TaskState = Literal["ready", "queued", "running", "succeeded", "failed", "cancelled"]
WorkerState = Literal["active", "draining", "stopped", "lost"]
DeliveryState = Literal["pending", "delivered", "failed"]
Role = Literal["viewer", "submitter", "operator"]
Misfire = Literal["run_once", "run_all", "skip"]

FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})


class Page(TypedDict, Generic[T]):
    """One page of a listing; `next_cursor` asks for the next."""

    items: list[T]
    next_cursor: str | None


class Error(TypedDict):
    type: str
    message: str
    stage: NotRequired[int | str]


class StageProgress(TypedDict):
    """Tasks of a stage by state; `waiting` for the stage before."""

    waiting: int
    ready: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


# `in` is no name in Python.
StageRecords = TypedDict(
    "StageRecords",
    {"in": int, "out": int, "rejected": int, "filtered": int, "added": int, "balanced": bool | None},
)
"""Records of a stage; `balanced`: in + added = out + rejected + filtered (None: what went in was not counted)."""


class Stage(TypedDict):
    stage: int
    name: str
    kind: str
    processor: str
    pool: str
    state: str
    task_count: int | None
    planned: bool
    progress: StageProgress
    slowed: bool
    records: StageRecords
    started_at: str | None
    finished_at: str | None
    result: dict[str, Any] | None


class SplitPart(TypedDict):
    """`input` is what the part's task works on."""

    index: int
    bytes: int | None
    input: dict[str, Any]


class Split(TypedDict):
    """What an input would be split into; unless `exact`, `notes` say why `count` and `bytes` are estimates."""

    count: int
    bytes: int | None
    exact: bool
    notes: list[str]
    part_bytes: int | None
    parts: list[SplitPart]


class JobProgress(TypedDict):
    """Tasks of all stages."""

    tasks: int
    succeeded: int
    failed: int


class _JobFields(TypedDict):
    job_id: str
    name: str
    state: JobState
    priority: int
    share: str
    labels: dict[str, str]
    schedule_id: str | None
    trigger_id: str | None
    run_at: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    error: Error | None


class Job(_JobFields):
    spec: dict[str, Any]
    stages: list[Stage]
    warnings: list[str]


class JobSummary(_JobFields):
    progress: JobProgress


class Task(TypedDict):
    stage: int
    index: int
    state: TaskState
    attempt: int
    failures: int
    losses: int
    worker_id: str | None
    ready_at: str | None
    queued_at: str | None
    started_at: str | None
    finished_at: str | None
    input: dict[str, Any]
    output: dict[str, Any] | None
    error: Error | None


class Attempt(TypedDict):
    """One execution of a task."""

    attempt: int
    worker_id: str | None
    pool: str
    outcome: str
    started_at: str
    finished_at: str
    run_seconds: float
    exit_code: int | None
    error: Error | None
    bytes_in: int
    bytes_out: int
    records_in: int
    records_out: int
    records_rejected: int
    records_filtered: int
    records_added: int
    cpu_seconds: float
    memory_bytes_peak: int
    log: str | None


class TaskDetail(Task):
    attempts: list[Attempt]


class TaskLog(TypedDict):
    attempt: int
    uri: str
    url: str


class ResultFile(TypedDict):
    """`url` is a presigned link; `checksum_crc32` as S3 writes it, None if it is not known."""

    name: str
    uri: str
    bytes: int
    checksum_crc32: NotRequired[str | None]
    url: str


class Results(TypedDict):
    job_id: str
    files: list[ResultFile]
    manifest: ResultFile | None


class UploadPart(TypedDict):
    number: int
    url: str
    bytes: int


class UploadForm(TypedDict):
    """How to POST a file of a directory: `${filename}` in the field `key` stands for its name."""

    url: str
    fields: dict[str, str]


class Upload(TypedDict):
    """An announced upload: send each part to its presigned link, or each file of a directory by the form."""

    upload_id: str
    uri: str
    part_bytes: int
    parts: list[UploadPart]
    form: UploadForm | None


class UploadedPart(TypedDict):
    """A sent part, with the ETag that S3 answered."""

    number: int
    etag: str


class Uploaded(TypedDict):
    upload_id: str
    uri: str
    bytes: int


class Schedule(TypedDict):
    schedule_id: str
    name: str
    cron: str
    time_zone: str
    misfire: Misfire
    paused: bool
    next_run_at: str | None
    last_run_at: str | None
    last_job_id: str | None
    error: str | None
    created_at: str
    job: dict[str, Any]
    upcoming: list[str]


class Trigger(TypedDict):
    trigger_id: str
    name: str
    queue_url: str
    prefix: str
    suffix: str
    match: dict[str, Any]
    paused: bool
    last_job_id: str | None
    last_message_at: str | None
    last_error: str | None
    last_error_at: str | None
    created_at: str
    job: dict[str, Any]


class Processor(TypedDict):
    name: str
    version: int
    description: str
    spec: dict[str, Any]
    created_at: str


class Package(TypedDict):
    """A package's place; `url` takes its archive, unless that is there already."""

    sha256: str
    uri: str
    bytes: int
    url: str | None


class ProcessorDetail(Processor):
    versions: list[int]


class Pool(TypedDict):
    name: str
    queue_url: str
    dead_letter_url: str
    group_name: str | None
    capacity_min: int
    capacity_max: int
    capacity_desired: int
    slots: int
    paused: bool
    workers_live: int
    slots_live: int
    slots_busy: int
    tasks_ready: int
    tasks_queued: int
    tasks_running: int


class Worker(TypedDict):
    worker_id: str
    pool: str
    hostname: str
    instance_id: str | None
    pid: int
    slots: int
    busy: int
    state: WorkerState
    started_at: str
    heartbeat_at: str
    stopped_at: str | None


class WebhookEndpoint(TypedDict):
    endpoint_id: str
    url: str
    events: list[str]
    enabled: bool
    created_at: str


class NewWebhookEndpoint(WebhookEndpoint):
    """`secret` signs the deliveries and is shown only here."""

    secret: str


class WebhookDelivery(TypedDict):
    delivery_id: str
    endpoint_id: str
    job_id: str
    event: str
    state: DeliveryState
    tries: int
    next_try_at: str
    status_code: int | None
    error: str | None
    created_at: str
    delivered_at: str | None


class ApiKey(TypedDict):
    key_id: str
    name: str
    role: Role
    created_at: str
    revoked_at: NotRequired[str | None]


class NewApiKey(ApiKey):
    """`secret` is the key itself and is shown only here."""

    secret: str


class TaskCounts(StageProgress):
    tasks: int


class Durations(TypedDict):
    """Seconds that successful attempts ran; null before the first."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    mean: float | None


class Straggler(TypedDict):
    index: int
    worker_id: str
    running_seconds: float


class StageStats(TypedDict):
    stage: int
    name: str
    kind: str
    pool: str
    state: str
    started_at: str | None
    finished_at: str | None
    tasks: int
    progress: TaskCounts
    rate_per_second: float
    seconds_left: float | None
    duration_seconds: Durations
    attempts_by_outcome: dict[str, int]
    unsuccessful_attempts: dict[str, int]
    retries: int
    bytes_in: int
    bytes_out: int
    records_in: int
    records_out: int
    records_rejected: int
    worker_seconds: float
    cpu_seconds: float
    memory_bytes_peak: int
    stragglers: list[Straggler]


class JobStats(TypedDict):
    job_id: str
    name: str
    state: JobState
    created_at: str
    started_at: str | None
    finished_at: str | None
    elapsed_seconds: float | None
    rolled_up_at: str
    progress: TaskCounts
    rate_per_second: float
    seconds_left: float | None
    stages: list[StageStats]


class Items(TypedDict, Generic[T]):
    """A whole listing."""

    items: list[T]


class Minute(TypedDict):
    """A minute in which something ran."""

    minute: str
    succeeded: int
    failed: int
    busy_seconds: float
    bytes_in: int
    bytes_out: int


class WorkerStats(TypedDict):
    worker_id: str
    pool: str
    hostname: str
    state: WorkerState
    slots: int
    busy: int
    heartbeat_at: str
    busy_share: float
    tasks_succeeded: int
    tasks_failed: int


class PoolStats(TypedDict):
    pool: str
    workers_live: int
    slots: int
    busy: int
    busy_share: float
    tasks_succeeded: int
    tasks_failed: int
    backlog: int
