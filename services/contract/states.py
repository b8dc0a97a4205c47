"""The names that database, API, messages and client share, each set defined once."""

from typing import Literal, get_args

JobState = Literal["scheduled", "running", "paused", "cancelling", "failing", "succeeded", "failed", "cancelled"]
StageState = Literal["waiting", "running", "merging", "succeeded", "failed", "cancelled"]
StageKind = Literal["map", "reduce", "split"]
TasksFrom = Literal["input", "successes", "outputs", "items", "resplit", "reduce"]  # what a stage's tasks are made of
TaskState = Literal["ready", "queued", "running", "succeeded", "failed", "cancelled"]
WorkerState = Literal["active", "draining", "stopped", "lost"]
Isolation = Literal["sandbox", "uid", "process"]  # how strongly a worker keeps tasks apart, the strongest first
DeliveryState = Literal["pending", "delivered", "failed"]
Misfire = Literal["run_once", "run_all", "skip"]
RunState = Literal["waiting", "submitted", "skipped", "refused"]  # of a schedule's run; its job has states of its own
RunOrigin = Literal["clock", "request", "backfill"]  # what asked for a schedule's run
RunReason = Literal["missed", "paused", "request", "overlap"]  # why a schedule's run was skipped, or waits
BusinessDays = Literal["only", "previous", "next"]  # what becomes of a run on another day: none, or it moves
Overlap = Literal["allow", "skip", "queue", "cancel"]  # of a run that is due while a job of its schedule runs

# How an attempt ended, as reported by its worker or found by others. `released` is not the task's fault.
ReportedOutcome = Literal["succeeded", "failed", "timeout", "memory", "released"]
Outcome = Literal["succeeded", "failed", "lost", "timeout", "memory", "cancelled", "released"]

JobEvent = Literal["job.succeeded", "job.failed", "job.cancelled"]  # told to webhooks and to a job's queue
TaskEvent = Literal["task.succeeded"]  # told to a job's queue

ISOLATIONS: tuple[Isolation, ...] = get_args(Isolation)
TASK_STATES: tuple[TaskState, ...] = get_args(TaskState)
JOB_EVENTS: tuple[JobEvent, ...] = get_args(JobEvent)

TERMINAL = ("succeeded", "failed", "cancelled")  # of jobs, stages and tasks alike
UNSUCCESSFUL: tuple[Outcome, ...] = ("failed", "timeout", "memory", "lost", "released")
MEASURED: tuple[Outcome, ...] = ("succeeded", "failed", "timeout", "memory")  # a worker measured their run time

RECORD_COUNTS = ("records_in", "records_out", "records_rejected", "records_filtered", "records_added")
