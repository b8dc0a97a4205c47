"""What the services take and answer: their JSON objects as typed dictionaries, named as in the OpenAPI documents.

Times are ISO 8601 strings with a time zone. A size or duration that you send may have a unit, such as `16MiB` and `2h`;
what a service answers is in bytes and seconds. Each service describes the fields under `/docs`.
"""

from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

from piecework.inputs import *  # noqa: F403 - the shapes of inputs, whichever there are
from piecework.inputs import Input, LinesResplit

T = TypeVar("T")

JobState = Literal["scheduled", "running", "paused", "cancelling", "failing", "succeeded", "failed", "cancelled"]
StageState = Literal["waiting", "running", "merging", "succeeded", "failed", "cancelled"]
TaskState = Literal["ready", "queued", "running", "succeeded", "failed", "cancelled"]
Outcome = Literal["succeeded", "failed", "lost", "timeout", "memory", "cancelled", "released"]
WorkerState = Literal["active", "draining", "stopped", "lost"]
DeliveryState = Literal["pending", "delivered", "failed"]
Event = Literal["job.succeeded", "job.failed", "job.cancelled"]
AlertEvent = Literal["alert.raised", "alert.over", "alert.summary", "alert.test"]
Channel = Literal["webhook", "slack", "teams", "email", "sns"]
Condition = Literal[
    "failed", "late", "not_started", "ran_over", "slowed", "rejects", "records", "no_workers", "trigger_failed"
]
SubjectKind = Literal["job", "schedule", "trigger", "pool"]
Role = Literal["viewer", "submitter", "developer", "operator"]
UploadState = Literal["running", "completed", "aborted"]
AuditOutcome = Literal["done", "refused"]
Misfire = Literal["run_once", "run_all", "skip"]
RunState = Literal["waiting", "submitted", "skipped", "refused"]
RunOrigin = Literal["clock", "request", "backfill"]
RunReason = Literal["missed", "paused", "request", "overlap"]
BusinessDays = Literal["only", "previous", "next"]
Overlap = Literal["allow", "skip", "queue", "cancel"]
ReasonCode = Literal[
    "job_paused",
    "no_scheduler",
    "loop_failing",
    "pool_paused",
    "queue_unreachable",
    "no_workers",
    "scaling_failed",
    "instances_missing",
    "no_fitting_worker",
    "slowed",
    "planning_put_off",
    "merge_put_off",
    "group_at_maximum",
    "messages_not_taken",
    "lost_output",
    "retry_at",
    "running_max",
    "waits_for_jobs",
    "scheduled",
    "waiting_for_items",
    "workers_starting",
    "lower_priority",
    "workers_busy",
    "barrier",
    "split",
    "previous_stage",
    "next_stage_full",
    "columns",
    "planning",
    "merge_waits",
    "merging",
    "ending",
    "starting",
    "interim_deleted",
    "records_uneven",
    "failures_tolerated",
    "objects_left_out",
]
Scalar = str | int | float | bool | None

FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})


class Page(TypedDict, Generic[T]):
    """One page of a listing; `next_cursor` asks for the next."""

    items: list[T]
    next_cursor: str | None


class NoMerge(TypedDict):
    """The results stay as they are."""

    type: NotRequired[Literal["none"]]


class ConcatMerge(TypedDict):
    """The outputs are joined in order."""

    type: Literal["concat"]
    filename: NotRequired[str]
    lines: NotRequired[bool | None]


class ParquetMerge(TypedDict):
    """The outputs become one Parquet file."""

    type: Literal["parquet"]
    filename: NotRequired[str]


class ReduceMerge(TypedDict):
    """A processor makes one output of all."""

    type: Literal["reduce"]
    processor: str
    params: NotRequired[dict[str, Any]]
    inputs: NotRequired[dict[str, str]]
    fan_in: NotRequired[int]
    filename: NotRequired[str | None]


class Retry(TypedDict):
    """How often a failing task is tried, and the pauses between its tries."""

    max_attempts: NotRequired[int]
    backoff_seconds: NotRequired[float | str]
    backoff_max_seconds: NotRequired[float | str]


class StageSpec(TypedDict):
    """One step of a job: a processor that is applied to every task."""

    name: NotRequired[str | None]
    processor: str
    params: NotRequired[dict[str, Any]]
    inputs: NotRequired[dict[str, str]]
    fan_out: NotRequired[bool]
    barrier: NotRequired[bool]
    resplit: NotRequired[LinesResplit | None]
    pool: NotRequired[str]
    pools: NotRequired[list[str] | None]
    next_pool_after_seconds: NotRequired[float | str | None]
    retry: NotRequired[Retry]
    timeout_seconds: NotRequired[float | str]
    memory_bytes: NotRequired[int | str | None]
    cpus: NotRequired[float | None]
    memory: NotRequired[int | str | None]
    gpus: NotRequired[int | None]
    disk: NotRequired[int | str | None]
    running_max: NotRequired[int | None]
    tolerated_failures: NotRequired[int | str]
    rejects_max: NotRequired[int | None]
    columns: NotRequired[dict[str, Any]]


class Keep(TypedDict):
    """How long what a job leaves is kept, from its end: seconds, text such as "90d", or "forever"."""

    interim: NotRequired[float | str | Literal["forever"] | None]
    results: NotRequired[float | str | Literal["forever"] | None]
    records: NotRequired[float | str | Literal["forever"] | None]


class Predecessor(TypedDict):
    """A job that must have ended before another one starts."""

    job_id: str
    condition: NotRequired[Literal["succeeded", "any"]]
    by_index: NotRequired[bool]


class JobSpec(TypedDict):
    """A job as it is submitted."""

    name: NotRequired[str]
    input: Input | list[Input]
    stages: list[StageSpec]
    merge: NotRequired[NoMerge | ConcatMerge | ParquetMerge | ReduceMerge]
    results: NotRequired[str | None]
    output_queue: NotRequired[str | None]
    priority: NotRequired[int]
    share: NotRequired[str]
    labels: NotRequired[dict[str, str]]
    run_at: NotRequired[str | None]
    reuse: NotRequired[bool]
    keep: NotRequired[Keep | None]
    after: NotRequired[list[Predecessor] | None]
    after_failure: NotRequired[Literal["fail", "skip"] | None]


class Deletion(TypedDict):
    """What is being deleted."""

    job_id: str
    deleted_at: str
    results: Literal["delete", "keep"]


class RetentionRule(TypedDict):
    """How long what jobs with these labels leave is kept."""

    name: str
    labels: dict[str, str]
    keep: Keep
    created_at: str


class Failure(TypedDict):
    """Why a job, a task or an attempt failed; some types have more fields than these."""

    type: str
    message: str


class AppendedItems(TypedDict):
    """What an open job has so far; `chunks` is the number of the next one."""

    job_id: str
    chunks: int
    items: int


class CancelledItems(TypedDict):
    """Those of some items of an open job that are cancelled, now or before; the others had ended."""

    job_id: str
    cancelled: list[int]


class Value(TypedDict):
    """How a task has ended: `value` is what it returned; if its output is an object, `url` links to that.

    If it failed, `log_url` links to what its last attempt printed.
    """

    index: int
    state: TaskState
    attempt: int
    value: Any
    url: str | None
    error: Failure | None
    log_url: str | None


class Values(TypedDict):
    """Tasks that have ended, in this order, and the cursor `after` them; `ended` says that nothing follows."""

    values: list[Value]
    after: str
    ended: bool


class Progress(TypedDict):
    """Tasks of a stage by state; `waiting` for the stage before."""

    waiting: int
    ready: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


# `in` is a keyword, so the fields can't be written as a class.
StageRecords = TypedDict(
    "StageRecords",
    {"in": int, "out": int, "rejected": int, "filtered": int, "added": int, "balanced": bool | None},
)
"""Records of a stage; `balanced`: in + added = out + rejected + filtered (None: what went in was not counted)."""


class Reason(TypedDict):
    """Why a job or a stage waits, is slow, or has results that need a look."""

    code: ReasonCode
    message: str
    stage: NotRequired[int | None]
    since: NotRequired[str | None]
    details: NotRequired[dict[str, Any]]


class Stage(TypedDict):
    stage: int
    name: str
    kind: Literal["map", "reduce", "split"]
    processor: str
    pool: str
    state: StageState
    task_count: int | None
    planned: bool
    progress: Progress
    seconds_left: float | None
    slowed: bool
    reasons: list[Reason]
    records: StageRecords
    columns: dict[str, Any]
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
    columns: dict[str, Any] | None
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
    error: Failure | None
    created_by: str | None
    hold: bool
    interim_deleted_at: str | None
    results_deleted_at: str | None
    deleted_at: str | None


class JobDependency(TypedDict):
    """A job that another one waits for, and how it has ended (None: it has not)."""

    job_id: str
    condition: Literal["succeeded", "any"]
    by_index: bool
    ended: JobState | None


class Job(_JobFields):
    spec: JobSpec
    stages: list[Stage]
    predecessors: list[JobDependency]
    reasons: list[Reason]
    warnings: list[str]


class JobSummary(_JobFields):
    progress: JobProgress
    reasons: list[ReasonCode]


class Source(TypedDict):
    """The object of the job's input that a task works on, also in later stages: of several objects the first."""

    uri: str
    part: int | None
    objects: int | None


class Task(TypedDict):
    stage: int
    index: int
    state: TaskState
    attempt: int
    failures: int
    losses: int
    processor: str
    worker_id: str | None
    ready_at: str | None
    queued_at: str | None
    started_at: str | None
    finished_at: str | None
    input: dict[str, Any]
    output: dict[str, Any] | None
    error: Failure | None
    source: Source | None


class TrialObject(TypedDict):
    """An object that is read, and a presigned link to it."""

    uri: str
    version: str | None
    url: str


class Trial(TypedDict):
    """A task as a worker gets it, with links to what it reads."""

    job_id: str
    stage: int
    index: int
    attempt: int
    input: dict[str, Any]
    work: dict[str, Any]
    place: str
    objects: list[TrialObject]


class FailureKind(TypedDict):
    """Failed attempts whose errors differ at most in numbers and places, and the first of them."""

    fingerprint: str
    attempts: int
    tasks: int
    first_at: str
    last_at: str
    stage: int
    index: int
    attempt: int
    error: Failure
    source: Source | None


class Failures(TypedDict):
    """The kinds of failures of a job, the most frequent first; whether all failed attempts were looked at."""

    items: list[FailureKind]
    complete: bool


class Attempt(TypedDict):
    """One execution of a task."""

    job_id: str
    stage: int
    index: int
    attempt: int
    worker_id: str | None
    processor: str
    pool: str
    outcome: Outcome
    started_at: str
    finished_at: str
    run_seconds: float
    exit_code: int | None
    error: Failure | None
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
    reused_from: dict[str, Any] | None


class TaskDetail(Task):
    attempts: list[Attempt]


class TaskLog(TypedDict):
    attempt: int
    uri: str
    url: str
    running: bool


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
    manifest: ResultFile


class Part(TypedDict):
    """What one task has made, or why it has made nothing."""

    stage: int
    index: int
    state: TaskState
    attempt: int
    input: dict[str, Any]
    files: list[ResultFile]
    value: Any
    error: Failure | None


class UploadLink(TypedDict):
    """Where to send a part."""

    number: int
    url: str
    bytes: int


class UploadForm(TypedDict):
    """How to POST a file of a directory: `${filename}` in the field `key` stands for its name."""

    url: str
    fields: dict[str, str]


class UploadedPart(TypedDict):
    """A sent part, with the ETag that S3 answered."""

    number: int
    etag: str


class Upload(TypedDict):
    """An announced upload: send each part to its presigned link, or each file of a directory by the form; S3 has those
    that are `uploaded`."""

    upload_id: str
    uri: str
    multipart_id: str | None
    part_bytes: int
    parts: list[UploadLink]
    form: NotRequired[UploadForm | None]
    uploaded: NotRequired[list[UploadedPart]]
    completed: NotRequired[bool]


class UploadSummary(TypedDict):
    """An upload in a list."""

    upload_id: str
    uri: str
    bytes: int
    state: UploadState
    created_by: str | None
    created_at: str
    completed_at: str | None
    aborted_at: str | None


class CompletedUpload(TypedDict):
    upload_id: str
    uri: str
    bytes: int


class Schedule(TypedDict):
    schedule_id: str
    name: str
    cron: str
    time_zone: str
    misfire: Misfire
    overlap: Overlap
    not_on: list[str]
    business_days: BusinessDays | None
    holidays: list[str]
    paused: bool
    paused_at: str | None
    next_run_at: str | None
    last_run_at: str | None
    last_job_id: str | None
    error: str | None
    runs_skipped: int
    last_skipped_at: str | None
    created_at: str
    created_by: str | None
    job: JobSpec
    upcoming: list[str]


class ScheduleChange(TypedDict, total=False):
    """What is to change of a schedule."""

    name: str | None
    cron: str | None
    time_zone: str | None
    misfire: Misfire | None
    overlap: Overlap | None
    not_on: list[str] | None
    business_days: BusinessDays | None
    ical: str | None
    job: JobSpec | None


class ScheduleRun(TypedDict):
    """What became of a schedule's run."""

    scheduled_at: str
    state: RunState
    origin: RunOrigin
    reason: RunReason | None
    error: str | None
    decided_at: str
    backfill_id: str | None
    job_id: str | None
    job_state: JobState | None
    started_at: str | None
    finished_at: str | None
    late_seconds: float | None


class BackfillRuns(TypedDict):
    """Runs of a backfill, by what has become of them."""

    waiting: int
    submitted: int
    skipped: int
    refused: int


class Backfill(TypedDict):
    """Runs of a range of a schedule's past times, which are made up for."""

    backfill_id: str
    schedule_id: str
    since: str
    until: str
    running_max: int
    runs: BackfillRuns
    cancelled: bool
    created_at: str
    created_by: str
    ended_at: str | None


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
    unreadable_since: str | None
    lag_seconds: float | None
    created_at: str
    created_by: str | None
    job: dict[str, Any]


class ProcessorSpec(TypedDict, total=False):
    """What a processor runs: exactly one of image, command, callable, function, records, sql, builtin."""

    image: str | None
    entrypoint: list[str] | None
    command: list[str] | None
    callable: str | None
    function: str | None
    records: str | None
    sql: str | None
    builtin: Literal["noop", "copy", "split", "compact"] | None
    package: str | None
    inputs: dict[str, str | None]
    output: str
    output_directory: bool
    output_required: bool | None
    outputs: dict[str, str]
    output_format: Literal["jsonl", "csv", "parquet"]
    filters: bool
    environment: dict[str, str]
    secrets: dict[str, str] | None
    idempotent: bool
    params_schema: dict[str, Any] | None
    network: bool
    share_children: bool
    allow_options: list[str] | None


class ProcessorTrial(TypedDict):
    """A version of a processor, with links to its package and to the declared inputs that it names itself."""

    name: str
    version: int
    spec: ProcessorSpec
    place: str
    objects: list[TrialObject]


class Processor(TypedDict):
    name: str
    version: int
    description: str
    spec: ProcessorSpec
    created_at: str
    created_by: str | None


class Package(TypedDict):
    """A package's place; `url` takes its archive, unless that is there already."""

    sha256: str
    uri: str
    bytes: int
    url: str | None


class ProcessorDetail(Processor):
    versions: list[int]


class Node(TypedDict):
    """What a node has for tasks that ask for something."""

    cpus: float
    memory: int | str
    gpus: NotRequired[int]
    disk: NotRequired[int | str]


class PoolSpec(TypedDict, total=False):
    """The queues, group and slots of a pool."""

    queue_url: str | None
    dead_letter_url: str | None
    group_name: str | None
    slots: int
    largest_node: Node | None
    price_per_hour: float | None
    spot_price_per_hour: float | None


class DrainedPool(TypedDict):
    worker_ids: list[str]
    draining: int
    remaining: int


class Pool(TypedDict):
    name: str
    queue_url: str
    dead_letter_url: str
    group_name: str | None
    capacity_min: int
    capacity_max: int
    capacity_desired: int
    slots: int
    largest_node: Node | None
    price_per_hour: float | None
    spot_price_per_hour: float | None
    paused: bool
    workers_live: int
    slots_live: int
    slots_busy: int
    tasks_ready: int
    tasks_queued: int
    tasks_running: int
    instances: int | None
    instances_missing: int
    instances_missing_since: str | None
    replacements: int
    replace_at: str | None
    scaling_error: str | None
    scaling_error_since: str | None


class Worker(TypedDict):
    worker_id: str
    pool: str
    hostname: str
    instance_id: str | None
    instance_type: str | None
    zone: str | None
    market: str | None
    release: str | None
    pid: int
    slots: int
    busy: int
    state: WorkerState
    isolation: Literal["sandbox", "uid", "process"] | None
    cpus: float | None
    memory: int | None
    gpus: int | None
    disk: int | None
    engine: str | None
    started_at: str
    heartbeat_at: str
    stopped_at: str | None
    quarantine: str | None
    drain_reason: str | None
    interrupted_at: str | None
    replace_instance: bool


class WebhookEndpoint(TypedDict):
    endpoint_id: str
    url: str
    events: list[Event]
    enabled: bool
    failures: int
    failing_since: str | None
    paused_until: str | None
    last_error: str | None
    disabled_at: str | None
    disabled_reason: str | None
    created_at: str
    created_by: str | None
    previous_until: str | None


class CreatedWebhookEndpoint(WebhookEndpoint):
    """`secret` signs the deliveries and is shown only here."""

    secret: str


class Delivery(TypedDict):
    delivery_id: str
    endpoint_id: str
    job_id: str
    event: Event
    payload: dict[str, Any]
    state: DeliveryState
    tries: int
    next_try_at: str
    give_up_at: str
    status_code: int | None
    error: str | None
    created_at: str
    delivered_at: str | None


class Conditions(TypedDict, total=False):
    """What an alert tells of; durations in seconds, or as text such as `6h`."""

    failed: bool
    late: float | str | None
    not_started: float | str | None
    ran_over: float | str | None
    slowed: float | None
    rejects: int | None
    records: bool
    no_workers: float | str | None
    trigger_failed: bool


class QuietHours(TypedDict):
    """Times of day, such as 22:00, in an IANA time zone."""

    begin: str
    end: str
    time_zone: NotRequired[str]


class ToWebhook(TypedDict):
    type: Literal["webhook"]
    url: str


class ToSlack(TypedDict):
    type: Literal["slack"]
    url: str


class ToTeams(TypedDict):
    type: Literal["teams"]
    url: str


class ToEmail(TypedDict):
    type: Literal["email"]
    addresses: list[str]


class ToSns(TypedDict):
    type: Literal["sns"]
    topic_arn: str


Receiver = ToWebhook | ToSlack | ToTeams | ToEmail | ToSns


class Told(TypedDict):
    """Where an alert is told; of Slack and Teams the host alone."""

    type: Channel
    address: str


class Alert(TypedDict):
    alert_id: str
    name: str
    on: Conditions
    job_id: str | None
    job_name: str | None
    labels: dict[str, str]
    schedule: str | None
    pool: str | None
    to: Told
    repeat_seconds: float | None
    quiet: QuietHours | None
    urgent: bool
    paused: bool
    open_incidents: int
    last_message: DeliveryState | None
    last_error: str | None
    created_at: str
    created_by: str | None


class CreatedAlert(Alert):
    """`secret` signs the messages to a webhook and is shown only here."""

    secret: str | None


class Incident(TypedDict):
    """A condition that held for a subject; `over_at` is None while it does."""

    incident_id: str
    alert_id: str
    condition: Condition
    subject_kind: SubjectKind
    subject: str
    name: str
    job_id: str | None
    message: str
    times: int
    found_at: str
    last_at: str
    told_at: str | None
    tell_at: str | None
    over_at: str | None


class AlertMessage(TypedDict):
    """What was told, and whether it arrived."""

    message_id: str
    alert_id: str
    event: AlertEvent
    payload: dict[str, Any]
    state: DeliveryState
    tries: int
    next_try_at: str
    give_up_at: str
    error: str | None
    created_at: str
    delivered_at: str | None


class ApiKey(TypedDict):
    """Whose a key is, and what it may do."""

    key_id: str
    name: str
    role: Role
    principal: str
    all: bool
    shares: list[str]
    labels: dict[str, str]
    pools: list[str]
    priority_max: int | None
    expires_at: str | None
    last_used_at: str | None
    created_at: str
    created_by: str | None
    revoked_at: str | None


class CreatedApiKey(ApiKey):
    """`secret` is the key itself and is shown only here."""

    secret: str


class AuditEntry(TypedDict):
    """A change, or a refused one: who, what, when, from where."""

    audit_id: str
    at: str
    key_id: str | None
    principal: str | None
    role: str
    action: str
    outcome: AuditOutcome
    subject_kind: str
    subject: str | None
    summary: dict[str, Any]
    address: str | None
    request_id: str | None


class KeyQuotas(TypedDict, total=False):
    requests_per_second: float | None
    jobs_max: int | None
    tasks_max: int | None
    schedules_max: int | None
    triggers_max: int | None
    upload_bytes_max: int | None
    upload_bytes_day_max: int | None


class ShareQuotas(TypedDict, total=False):
    jobs_max: int | None
    tasks_max: int | None
    priority_max: int | None


class Quota(TypedDict):
    """`used` is null of a rate, and of a limit of each job."""

    name: str
    limit: float
    used: float | None


class KeyUse(TypedDict):
    """The key's quotas: those of its own, and all that hold."""

    name: str
    own: KeyQuotas
    quotas: list[Quota]


class Share(TypedDict):
    name: str
    own: ShareQuotas


class ShareUse(Share):
    quotas: list[Quota]


class TaskCounts(Progress):
    """Tasks of a stage or a job by state, and how many there are."""

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


class TimeSpent(TypedDict):
    """Seconds from a job's submission to its end, by what they were spent on."""

    scheduled: float
    planning: float
    queued: float
    fetching: float
    running: float
    putting: float
    retrying: float
    merging: float
    cancelling: float


class SlotTime(TypedDict):
    """Seconds of slots, of all tasks together."""

    fetching: float
    running: float
    putting: float
    unsuccessful: float


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
    slot_time: SlotTime
    time_spent: TimeSpent | None
    cpu_seconds: float
    memory_bytes_peak: int
    stragglers: list[Straggler]


class JobStats(TypedDict):
    job_id: str
    name: str
    state: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    elapsed_seconds: float | None
    rolled_up_at: str
    progress: TaskCounts
    rate_per_second: float
    seconds_left: float | None
    time_spent: TimeSpent | None
    stages: list[StageStats]


class StageCost(TypedDict):
    """US dollars."""

    worker_seconds: float
    unpriced_seconds: float
    nodes: float | None
    stage: int
    name: str
    pool: str


class JobCost(TypedDict):
    """US dollars."""

    worker_seconds: float
    unpriced_seconds: float
    nodes: float | None
    job_id: str
    rolled_up_at: str
    sqs_requests_max: float
    s3_requests: float
    storage_per_month: float
    prices_region: str
    prices_date: str
    stages: list[StageCost]


class DayCost(TypedDict):
    """US dollars."""

    worker_seconds: float
    unpriced_seconds: float
    nodes: float | None
    day: str
    pool: str
    label: str | None
    attempts: int


class CostList(TypedDict):
    items: list[DayCost]


class Minute(TypedDict):
    """A minute in which something ran."""

    minute: str
    succeeded: int
    failed: int
    busy_seconds: float
    bytes_in: int
    bytes_out: int


class Timeline(TypedDict):
    """Minutes in order."""

    items: list[Minute]


class WorkerStats(TypedDict):
    worker_id: str
    pool: str
    hostname: str
    state: str
    slots: int
    busy: int
    heartbeat_at: str
    busy_share: float
    tasks_succeeded: int
    tasks_failed: int


class WorkerStatsList(TypedDict):
    items: list[WorkerStats]


class PoolStats(TypedDict):
    pool: str
    workers_live: int
    slots: int
    busy: int
    busy_share: float
    tasks_succeeded: int
    tasks_failed: int
    backlog: int


class PoolStatsList(TypedDict):
    items: list[PoolStats]
