"""The tables that the API lists, as SQLModel models. Alembic owns the schema (migrations/); a test compares both."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Column, Date, DateTime, Double, SmallInteger, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

_UTC = DateTime(timezone=True)


class Processor(SQLModel, table=True):
    """A version of a registered processor; `spec` is a ProcessorSpec."""

    __tablename__ = "processors"

    name: str = Field(primary_key=True)
    version: int = Field(primary_key=True)
    spec: dict[str, Any] = Field(sa_type=JSONB)
    description: str = ""
    created_at: datetime = Field(sa_type=_UTC)
    created_by: str | None = None
    deleted_at: datetime | None = Field(None, sa_type=_UTC)


class RetentionRule(SQLModel, table=True):
    """How long what jobs with these labels leave is kept; the rule `default` is for what no other says."""

    __tablename__ = "retention_rules"

    name: str = Field(primary_key=True)
    labels: dict[str, str] = Field(sa_type=JSONB)
    keep: dict[str, Any] = Field(sa_type=JSONB)
    revision: int = Field(1, sa_type=BigInteger)
    created_at: datetime = Field(sa_type=_UTC)


class WorkerPool(SQLModel, table=True):
    """A kind of worker node: its queues and its Auto Scaling group."""

    __tablename__ = "pools"

    name: str = Field(primary_key=True)
    queue_url: str
    dead_letter_url: str
    group_name: str | None = None
    capacity_min: int = 0
    capacity_max: int = 0
    capacity_desired: int = 0
    slots: int = 2
    price_per_hour: float | None = Field(None, sa_type=Double)
    spot_price_per_hour: float | None = Field(None, sa_type=Double)
    paused: bool = False
    scaled_at: datetime | None = Field(None, sa_type=_UTC)
    paused_at: datetime | None = Field(None, sa_type=_UTC)
    queue_error: str | None = None
    queue_error_at: datetime | None = Field(None, sa_type=_UTC)
    created_at: datetime = Field(sa_type=_UTC)
    scaling_error: str | None = None
    scaling_error_since: datetime | None = Field(None, sa_type=_UTC)
    instances: int | None = None
    instances_missing: int = 0
    instances_missing_since: datetime | None = Field(None, sa_type=_UTC)
    replacements: int = 0
    replace_at: datetime | None = Field(None, sa_type=_UTC)
    largest_node: dict[str, Any] | None = Field(None, sa_type=JSONB)


class Instance(SQLModel, table=True):
    """An instance of a pool's Auto Scaling group; `missing_since` if it has no live worker."""

    __tablename__ = "instances"

    instance_id: str = Field(primary_key=True)
    pool: str
    missing_since: datetime | None = Field(None, sa_type=_UTC)


class Worker(SQLModel, table=True):
    """One run of a worker node."""

    __tablename__ = "workers"

    worker_id: UUID = Field(primary_key=True)
    pool: str
    hostname: str
    instance_id: str | None = None
    pid: int
    slots: int
    busy: int = 0
    state: str = "active"
    started_at: datetime = Field(sa_type=_UTC)
    heartbeat_at: datetime = Field(sa_type=_UTC)
    stopped_at: datetime | None = Field(None, sa_type=_UTC)
    idle_since: datetime | None = Field(None, sa_type=_UTC)
    release: str | None = None
    isolation: str | None = None
    quarantine: str | None = None
    instance_type: str | None = None
    zone: str | None = None
    market: str | None = None
    cpus: float | None = Field(None, sa_type=Double)
    memory: int | None = Field(None, sa_type=BigInteger)
    gpus: int | None = None
    disk: int | None = Field(None, sa_type=BigInteger)
    engine: str | None = None
    drain_reason: str | None = None
    interrupted_at: datetime | None = Field(None, sa_type=_UTC)
    replace_instance: bool = False


class Schedule(SQLModel, table=True):
    """A recurring submission; `job` is a JobSpec."""

    __tablename__ = "schedules"

    schedule_id: UUID = Field(primary_key=True)
    name: str
    cron: str
    time_zone: str
    misfire: str
    job: dict[str, Any] = Field(sa_type=JSONB)
    paused: bool = False
    next_run_at: datetime | None = Field(None, sa_type=_UTC)
    last_run_at: datetime | None = Field(None, sa_type=_UTC)
    last_job_id: UUID | None = None
    error: str | None = None
    created_at: datetime = Field(sa_type=_UTC)
    created_by: str | None = None
    key_id: UUID | None = None
    put_off_at: datetime | None = Field(None, sa_type=_UTC)
    runs_skipped: int = Field(0, sa_type=BigInteger)
    last_skipped_at: datetime | None = Field(None, sa_type=_UTC)
    paused_at: datetime | None = Field(None, sa_type=_UTC)
    template: bool = False
    overlap: str = "allow"
    not_on: list[str] = Field(sa_type=ARRAY(Text))
    business_days: str | None = None
    holidays: list[date] = Field(sa_type=ARRAY(Date))


class ScheduleRun(SQLModel, table=True):
    """What became of a schedule's run."""

    __tablename__ = "schedule_runs"

    schedule_id: UUID = Field(primary_key=True)
    scheduled_at: datetime = Field(primary_key=True, sa_type=_UTC)
    state: str
    origin: str
    reason: str | None = None
    error: str | None = None
    job_id: UUID | None = None
    decided_at: datetime = Field(sa_type=_UTC)
    backfill_id: UUID | None = None


class ScheduleBackfill(SQLModel, table=True):
    """A range of a schedule's past times whose runs are made up for."""

    __tablename__ = "schedule_backfills"

    backfill_id: UUID = Field(primary_key=True)
    schedule_id: UUID
    since: datetime = Field(sa_type=_UTC)
    until: datetime = Field(sa_type=_UTC)
    running_max: int
    cancelled: bool = False
    created_at: datetime = Field(sa_type=_UTC)
    created_by: str
    ended_at: datetime | None = Field(None, sa_type=_UTC)


class Trigger(SQLModel, table=True):
    """A queue whose messages submit jobs; `job` is a JobSpec with placeholders."""

    __tablename__ = "triggers"

    trigger_id: UUID = Field(primary_key=True)
    name: str
    queue_url: str
    prefix: str = ""
    suffix: str = ""
    match: dict[str, Any] = Field(sa_type=JSONB)
    job: dict[str, Any] = Field(sa_type=JSONB)
    paused: bool = False
    last_job_id: UUID | None = None
    last_message_at: datetime | None = Field(None, sa_type=_UTC)
    last_error: str | None = None
    last_error_at: datetime | None = Field(None, sa_type=_UTC)
    created_at: datetime = Field(sa_type=_UTC)
    created_by: str | None = None
    key_id: UUID | None = None
    unreadable_since: datetime | None = Field(None, sa_type=_UTC)
    lag_seconds: float | None = Field(None, sa_type=Double)


class Job(SQLModel, table=True):
    """A job; `spec` is the JobSpec as submitted."""

    __tablename__ = "jobs"

    job_id: UUID = Field(primary_key=True)
    name: str
    spec: dict[str, Any] = Field(sa_type=JSONB)
    state: str
    priority: int = 0
    share: str = "default"
    labels: dict[str, str] = Field(sa_type=JSONB)
    schedule_id: UUID | None = None
    trigger_id: UUID | None = None
    trigger_message: str | None = None
    run_at: datetime | None = Field(None, sa_type=_UTC)
    error: dict[str, Any] | None = Field(None, sa_type=JSONB)
    created_at: datetime = Field(sa_type=_UTC)
    started_at: datetime | None = Field(None, sa_type=_UTC)
    finished_at: datetime | None = Field(None, sa_type=_UTC)
    retried_at: datetime | None = Field(None, sa_type=_UTC)
    created_by: str | None = None
    key_id: UUID | None = None
    tasks_known: int = Field(0, sa_type=BigInteger)
    paused_at: datetime | None = Field(None, sa_type=_UTC)
    traceparent: str | None = None
    hold: bool = False
    keep_revision: int = Field(0, sa_type=BigInteger)
    expires_at: datetime | None = Field(None, sa_type=_UTC)
    interim_deleted_at: datetime | None = Field(None, sa_type=_UTC)
    results_deleted_at: datetime | None = Field(None, sa_type=_UTC)
    deleted_at: datetime | None = Field(None, sa_type=_UTC)
    deletion: dict[str, Any] | None = Field(None, sa_type=JSONB)


class Stage(SQLModel, table=True):
    """A stage of a job, with its processor's version as resolved at submission."""

    __tablename__ = "stages"

    job_id: UUID = Field(primary_key=True)
    stage: int = Field(primary_key=True, sa_type=SmallInteger)
    name: str
    kind: str
    processor: str
    processor_version: int
    params: dict[str, Any] = Field(sa_type=JSONB)
    inputs: dict[str, str] = Field(sa_type=JSONB)
    options: dict[str, Any] | None = Field(None, sa_type=JSONB)
    pool: str
    tasks_from: str
    resplit: dict[str, Any] | None = Field(None, sa_type=JSONB)
    fan_in: int | None = None
    barrier: bool = False
    fan_out: bool = False
    output_queue: str | None = None
    state: str
    chains: bool = False
    planned: bool = False
    plan_cursor: dict[str, Any] | None = Field(None, sa_type=JSONB)
    task_count: int = Field(0, sa_type=BigInteger)
    tasks_expected: int | None = Field(None, sa_type=BigInteger)
    put_off_at: datetime | None = Field(None, sa_type=_UTC)
    put_off_since: datetime | None = Field(None, sa_type=_UTC)
    put_off_error: str | None = None
    tasks_at: datetime | None = Field(None, sa_type=_UTC)
    revision: int = 0
    attempt_base: int = Field(0, sa_type=SmallInteger)
    processors_before: list[dict[str, Any]] | None = Field(None, sa_type=JSONB)
    columns_due: bool = False
    max_attempts: int
    backoff_seconds: float = Field(sa_type=Double)
    backoff_max_seconds: float = Field(sa_type=Double)
    retry_budget: int = Field(100, sa_type=BigInteger)
    timeout_seconds: float = Field(sa_type=Double)
    memory_bytes: int | None = Field(None, sa_type=BigInteger)
    tolerated_failures: int = Field(sa_type=BigInteger)
    rejects_max: int | None = Field(None, sa_type=BigInteger)
    result: dict[str, Any] | None = Field(None, sa_type=JSONB)
    started_at: datetime | None = Field(None, sa_type=_UTC)
    finished_at: datetime | None = Field(None, sa_type=_UTC)
    merge_id: UUID | None = None
    merge_until: datetime | None = Field(None, sa_type=_UTC)
    needs: dict[str, Any] | None = Field(None, sa_type=JSONB)
    pools: list[str] | None = Field(None, sa_type=ARRAY(Text))
    next_pool_after_seconds: float | None = Field(None, sa_type=Double)
    open_seconds: float | None = Field(None, sa_type=Double)
    appended_at: datetime | None = Field(None, sa_type=_UTC)
    tolerated_percent: float | None = Field(None, sa_type=Double)


class Task(SQLModel, table=True):
    """A task; `(job_id, stage, index)` names it, `attempt` is its fencing token."""

    __tablename__ = "tasks"

    job_id: UUID = Field(primary_key=True)
    stage: int = Field(primary_key=True, sa_type=SmallInteger)
    index: int = Field(primary_key=True)
    state: str
    attempt: int = Field(0, sa_type=SmallInteger)
    failures: int = Field(0, sa_type=SmallInteger)
    losses: int = Field(0, sa_type=SmallInteger)
    worker_id: UUID | None = None
    ready_at: datetime | None = Field(None, sa_type=_UTC)
    queued_at: datetime | None = Field(None, sa_type=_UTC)
    started_at: datetime | None = Field(None, sa_type=_UTC)
    backup_attempt: int | None = Field(None, sa_type=SmallInteger)
    backup_worker_id: UUID | None = None
    backup_started_at: datetime | None = Field(None, sa_type=_UTC)
    finished_at: datetime | None = Field(None, sa_type=_UTC)
    input: dict[str, Any] = Field(sa_type=JSONB)
    output: dict[str, Any] | None = Field(None, sa_type=JSONB)
    error: dict[str, Any] | None = Field(None, sa_type=JSONB)


class StageCounter(SQLModel, table=True):
    """A shard of a stage's counters (its number is `slot`): the sum over the shards equals the stage's task rows."""

    __tablename__ = "stage_counters"

    job_id: UUID = Field(primary_key=True)
    stage: int = Field(primary_key=True, sa_type=SmallInteger)
    slot: int = Field(primary_key=True, sa_type=SmallInteger)
    ready: int = Field(0, sa_type=BigInteger)
    queued: int = Field(0, sa_type=BigInteger)
    running: int = Field(0, sa_type=BigInteger)
    succeeded: int = Field(0, sa_type=BigInteger)
    failed: int = Field(0, sa_type=BigInteger)
    cancelled: int = Field(0, sa_type=BigInteger)
    attempts: int = Field(0, sa_type=BigInteger)
    busy_seconds: float = Field(0, sa_type=Double)
    wasted_seconds: float = Field(0, sa_type=Double)
    records_in: int = Field(0, sa_type=BigInteger)
    records_out: int = Field(0, sa_type=BigInteger)
    records_rejected: int = Field(0, sa_type=BigInteger)
    records_filtered: int = Field(0, sa_type=BigInteger)
    records_added: int = Field(0, sa_type=BigInteger)


class TaskKey(SQLModel, table=True):
    """The content key of a task of a job that reuses outputs."""

    __tablename__ = "task_keys"

    key: bytes = Field(primary_key=True)
    job_id: UUID = Field(primary_key=True)
    stage: int = Field(primary_key=True, sa_type=SmallInteger)
    index: int = Field(primary_key=True)


class Attempt(SQLModel, table=True):
    """One execution of a task: the fact table of the statistics. Its SQL key is the row itself (append only)."""

    __tablename__ = "attempts"

    job_id: UUID = Field(primary_key=True)
    stage: int = Field(primary_key=True, sa_type=SmallInteger)
    index: int = Field(primary_key=True)
    attempt: int = Field(primary_key=True, sa_type=SmallInteger)
    worker_id: UUID | None = None
    pool: str
    outcome: str
    started_at: datetime = Field(sa_type=_UTC)
    finished_at: datetime = Field(sa_type=_UTC)
    run_seconds: float = Field(sa_type=Double)
    exit_code: int | None = None
    error: dict[str, Any] | None = Field(None, sa_type=JSONB)
    bytes_in: int = Field(0, sa_type=BigInteger)
    bytes_out: int = Field(0, sa_type=BigInteger)
    records_in: int = Field(0, sa_type=BigInteger)
    records_out: int = Field(0, sa_type=BigInteger)
    records_rejected: int = Field(0, sa_type=BigInteger)
    records_filtered: int = Field(0, sa_type=BigInteger)
    records_added: int = Field(0, sa_type=BigInteger)
    cpu_seconds: float = Field(0, sa_type=Double)
    memory_bytes_peak: int = Field(0, sa_type=BigInteger)
    log: str | None = None
    fetch_seconds: float | None = Field(None, sa_type=Double)
    put_seconds: float | None = Field(None, sa_type=Double)
    reused_from: dict[str, Any] | None = Field(None, sa_type=JSONB)


class WebhookEndpoint(SQLModel, table=True):
    """An endpoint of webhooks."""

    __tablename__ = "webhook_endpoints"

    endpoint_id: UUID = Field(primary_key=True)
    url: str
    secret: str
    events: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    enabled: bool = True
    created_at: datetime = Field(sa_type=_UTC)
    created_by: str | None = None
    generation: int = 0
    secret_digest: str | None = None
    previous_until: datetime | None = Field(None, sa_type=_UTC)
    failures: int = 0
    failing_since: datetime | None = Field(None, sa_type=_UTC)
    pauses: int = 0
    paused_until: datetime | None = Field(None, sa_type=_UTC)
    last_error: str | None = None
    disabled_at: datetime | None = Field(None, sa_type=_UTC)
    disabled_reason: str | None = None


class WebhookDelivery(SQLModel, table=True):
    """The outbox: one event for one endpoint, recorded in the transaction of its change."""

    __tablename__ = "webhook_deliveries"

    delivery_id: UUID = Field(primary_key=True)
    endpoint_id: UUID
    job_id: UUID
    event: str
    payload: dict[str, Any] = Field(sa_type=JSONB)
    state: str = "pending"
    tries: int = 0
    next_try_at: datetime = Field(sa_type=_UTC)
    give_up_at: datetime = Field(sa_type=_UTC)
    status_code: int | None = None
    error: str | None = None
    created_at: datetime = Field(sa_type=_UTC)
    delivered_at: datetime | None = Field(None, sa_type=_UTC)


class ApiKey(SQLModel, table=True):
    """The callers of the API; only a hash of the secret is stored."""

    __tablename__ = "api_keys"

    key_id: UUID = Field(primary_key=True)
    name: str
    role: str
    key_hash: str
    created_at: datetime = Field(sa_type=_UTC)
    revoked_at: datetime | None = Field(None, sa_type=_UTC)
    principal: str
    all: bool
    shares: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    labels: dict[str, str] = Field(sa_type=JSONB)
    pools: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    priority_max: int | None = None
    expires_at: datetime | None = Field(None, sa_type=_UTC)
    last_used_at: datetime | None = Field(None, sa_type=_UTC)
    created_by: str | None = None
    quotas: dict[str, Any] = Field(sa_type=JSONB)


class Share(SQLModel, table=True):
    """A share with quotas of its own; others have those of the settings."""

    __tablename__ = "shares"

    name: str = Field(primary_key=True)
    quotas: dict[str, Any] = Field(sa_type=JSONB)
    created_at: datetime = Field(sa_type=_UTC)


class Upload(SQLModel, table=True):
    """Raw data that a user uploads to S3."""

    __tablename__ = "uploads"

    upload_id: UUID = Field(primary_key=True)
    uri: str
    bytes: int = Field(sa_type=BigInteger)
    multipart_id: str | None = None
    completed_at: datetime | None = Field(None, sa_type=_UTC)
    created_at: datetime = Field(sa_type=_UTC)
    created_by: str | None = None
    final_uri: str | None = None
    aborted_at: datetime | None = Field(None, sa_type=_UTC)
    key_id: UUID | None = None
    used_at: datetime | None = Field(None, sa_type=_UTC)
    removed_at: datetime | None = Field(None, sa_type=_UTC)
    sha256: str | None = None


class AuditEntry(SQLModel, table=True):
    """A change, or a refused one: append only."""

    __tablename__ = "audit_log"

    audit_id: UUID = Field(primary_key=True)
    at: datetime = Field(sa_type=_UTC)
    key_id: UUID | None = None
    principal: str | None = None
    role: str
    action: str
    outcome: str
    subject_kind: str
    subject: str | None = None
    summary: dict[str, Any] = Field(sa_type=JSONB)
    address: str | None = None
    request_id: str | None = None


class Alert(SQLModel, table=True):
    """A rule: which condition of which jobs is told to whom."""

    __tablename__ = "alerts"

    alert_id: UUID = Field(primary_key=True)
    name: str
    conditions: dict[str, Any] = Field(sa_type=JSONB)
    job_id: UUID | None = None
    job_name: str | None = None
    labels: dict[str, str] = Field(sa_type=JSONB)
    schedule: str | None = None
    pool: str | None = None
    channel: str
    address: str
    sealed: str | None = None
    generation: int = 1
    secret_digest: str | None = None
    repeat_seconds: float | None = Field(None, sa_type=Double)
    quiet: dict[str, Any] | None = Field(None, sa_type=JSONB)
    urgent: bool = False
    paused: bool = False
    looks_at: datetime = Field(sa_type=_UTC)
    looked_until: dict[str, Any] = Field(sa_type=JSONB)
    created_at: datetime = Field(sa_type=_UTC)
    created_by: str | None = None


class Incident(SQLModel, table=True):
    """What a rule has found: a condition of a subject, open until it is over."""

    __tablename__ = "incidents"

    incident_id: UUID = Field(primary_key=True)
    alert_id: UUID
    condition: str
    subject_kind: str
    subject: str
    name: str
    job_id: UUID | None = None
    message: str
    times: int = Field(1, sa_type=BigInteger)
    found_at: datetime = Field(sa_type=_UTC)
    last_at: datetime = Field(sa_type=_UTC)
    told_at: datetime | None = Field(None, sa_type=_UTC)
    tell_at: datetime | None = Field(None, sa_type=_UTC)
    held: bool = False
    over_at: datetime | None = Field(None, sa_type=_UTC)


class AlertMessage(SQLModel, table=True):
    """The outbox of alerts: one message of one rule."""

    __tablename__ = "alert_messages"

    message_id: UUID = Field(primary_key=True)
    alert_id: UUID
    event: str
    payload: dict[str, Any] = Field(sa_type=JSONB)
    state: str = "pending"
    tries: int = 0
    next_try_at: datetime = Field(sa_type=_UTC)
    give_up_at: datetime = Field(sa_type=_UTC)
    error: str | None = None
    created_at: datetime = Field(sa_type=_UTC)
    delivered_at: datetime | None = Field(None, sa_type=_UTC)
