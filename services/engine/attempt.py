"""What a worker is told about an attempt, and what it reports about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import ConfigDict

from services.contract.source import TaskSource
from services.contract.states import ReportedOutcome, StageKind
from services.contract.task_input import TaskInput
from services.engine.spec import ProcessorSpec, StageOptions
from services.inputs.columns import Columns
from services.inputs.spec import RangeInput


class StageWork(StageOptions):
    """What a worker must know about a stage. Nothing changes but that its `array` becomes known; a retry that changes
    more gives it another `revision`.

    `array` has the number of each task by its index. It is None as long as the stage, or the one whose tasks it follows
    one by one, is still being planned, and it is not known from the job's specification.
    """

    model_config = ConfigDict(frozen=True)

    job_id: UUID
    stage: int
    revision: int = 0
    job_name: str
    stage_name: str
    kind: StageKind
    processor: str
    processor_version: int
    spec: ProcessorSpec
    timeout_seconds: float
    interim: bool = False  # only later stages and the merge need its outputs
    named_results: bool = False  # its outputs are results, by the names that the template of its processor makes
    names_since: int = 0  # the revision with which all its tasks began again, and with them the names of its outputs
    array: RangeInput | None = None
    traceparent: str | None = None  # the job's trace
    is_open: bool = False  # of an open job: whoever waits for its values is told
    found_columns: Columns | None = None  # of the records of all its tasks, as samples show them


@dataclass(frozen=True, slots=True)
class ClaimedTask:
    """A task this worker now runs; `attempt` is the fencing token of its completion."""

    bundle_id: UUID
    job_id: UUID
    stage: int
    index: int
    attempt: int
    input: TaskInput
    source: TaskSource | None = None


@dataclass(frozen=True, slots=True)
class LostOutput:
    """An object that an attempt made (services/contract/layout.py: Maker), and that is gone or holds other bytes."""

    stage: int
    index: int
    attempt: int
    uri: str


@dataclass(slots=True)
class AttemptReport:
    """How one attempt ended, as its worker saw it; durations in seconds, sizes in bytes.

    `lost` is what of its input earlier tasks must make again: then it is released. So it is if the node could not run
    it: `losses_max` then says after how many losses the task fails all the same.
    """

    job_id: UUID
    stage: int
    index: int
    attempt: int
    outcome: ReportedOutcome
    run_seconds: float
    output: dict[str, Any] | None = None  # as TaskOutput writes it
    error: dict[str, Any] | None = None
    retryable: bool = True
    losses_max: int | None = None
    exit_code: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    records_in: int = 0
    records_out: int = 0
    records_rejected: int = 0
    records_filtered: int = 0
    records_added: int = 0
    cpu_seconds: float = 0.0
    memory_bytes_peak: int = 0
    log: str | None = None
    fetch_seconds: float | None = None  # of run_seconds, until its input was there
    put_seconds: float | None = None  # of run_seconds, for its outputs and its log
    lost: Sequence[LostOutput] = ()
    ended_at: float | None = None  # by the worker's monotonic clock; None: now
