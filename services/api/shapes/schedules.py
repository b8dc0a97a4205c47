"""Schedules: recurring submissions."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from services.api.pagination import Page
from services.api.shapes.row import Row, Stored
from services.contract.fields import Name, Strict
from services.contract.states import BusinessDays, JobState, Misfire, Overlap, RunOrigin, RunReason, RunState
from services.engine.errors import SpecError
from services.engine.run_times import SAMPLE, fill_times, find_faults
from services.engine.spec import JobSpec
from services.engine.timetable import HOLIDAYS
from services.platform.cron import check_cron, check_days, check_zone


def _fault_of(error: SpecError) -> PydanticCustomError:
    return PydanticCustomError("placeholder", "{fix}", {"fix": error.fix})


@dataclass(frozen=True, slots=True)
class JobTemplate:
    """A job specification that may have placeholders for the times of a run: as written, and as of a sample run."""

    written: dict[str, Any]
    sample: JobSpec

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(cls._read, handler.generate_schema(JobSpec))

    @classmethod
    def _read(cls, value: Any, read: ValidatorFunctionWrapHandler) -> "JobTemplate":
        faults = [
            InitErrorDetails(type=_fault_of(fault), loc=path, input=fault.value) for path, fault in find_faults(value)
        ]
        if faults:
            raise ValidationError.from_exception_data("job", faults)
        return cls(value, read(fill_times(value, SAMPLE)))


def _check_days(days: str) -> str:
    return days if days == HOLIDAYS else check_days(days)


Time = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC))]
Days = Annotated[str, Field(max_length=200), AfterValidator(_check_days)]
Cron = Annotated[str, Field(max_length=200), AfterValidator(check_cron)]
TimeZone = Annotated[str, Field(max_length=100), AfterValidator(check_zone)]


def _check_name(name: str) -> str:
    try:
        UUID(name)
    except ValueError:
        return name
    raise ValueError("this is how an id looks, by which schedules are named, too; choose another name")


ScheduleName = Annotated[Name, AfterValidator(_check_name)]
Ical = Annotated[str, Field(max_length=500_000)]

_CRON = "minute hour day-of-month month day-of-week; `L` is the last day of the month"

_NOT_ON = (
    "days on which it does not run: day-of-month month day-of-week, as in `cron`, or `holidays`; `L * *` is the last "
    "day of each month"
)
_BUSINESS_DAYS = (
    "what becomes of a run that does not fall on a business day, which is a Monday to Friday that is not a holiday: "
    "none (`only`), or it moves to the business day before (`previous`) or after (`next`)"
)
_ICAL = "holidays, as the text of an iCalendar file (RFC 5545); its events are once, or every year"
_OVERLAP = (
    "a run that is due while a job of the schedule has not ended: begins (`allow`), is left out (`skip`), waits for "
    "its turn (`queue`), or has that job cancelled and begins when it has ended (`cancel`)"
)
_JOB = (
    "without `run_at`; `{run_date}`, `{scheduled_at}` and `{previous_run_at}`, also with a format such as "
    "`{run_date:%Y/%m/%d}`, stand for the times of a run in its name, input, results, labels, params and inputs"
)


class ScheduleSpec(Strict):
    """When to submit which job."""

    name: ScheduleName
    cron: Cron = Field(description=_CRON, examples=["0 2 L * *"])
    time_zone: TimeZone = Field("UTC", description="an IANA name", examples=["Europe/Berlin"])
    misfire: Misfire = Field("run_once", description="what to do about missed runs")
    overlap: Overlap = Field("allow", description=_OVERLAP)
    not_on: Annotated[list[Days], Field(max_length=20)] = Field([], description=_NOT_ON, examples=[["L * *"]])
    business_days: BusinessDays | None = Field(None, description=_BUSINESS_DAYS)
    ical: Ical | None = Field(None, description=_ICAL)
    job: JobTemplate = Field(description=_JOB)


class ScheduleChange(Strict):
    """What is to change of a schedule; what is not given stays."""

    name: ScheduleName | None = None
    cron: Cron | None = Field(None, description=_CRON, examples=["0 3 L * *"])
    time_zone: TimeZone | None = Field(None, examples=["Europe/Berlin"])
    misfire: Misfire | None = None
    overlap: Overlap | None = Field(None, description=_OVERLAP)
    not_on: Annotated[list[Days], Field(max_length=20)] | None = Field(None, description=_NOT_ON)
    business_days: BusinessDays | None = Field(None, description=f"{_BUSINESS_DAYS}; null: it stays")
    ical: Ical | None = Field(None, description=f"{_ICAL}; null: there are none")
    job: JobTemplate | None = Field(None, description=f"the whole job, {_JOB}")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.changes:
            raise ValueError(f"give what is to change: {', '.join(type(self).model_fields)}")
        return self

    @property
    def changes(self) -> set[str]:
        """The fields to change."""
        nullable = {"business_days", "ical"}
        return {name for name in self.model_fields_set if name in nullable or getattr(self, name) is not None}


class RunRequest(Strict):
    """Which run of a schedule is asked for."""

    scheduled_at: Time | None = Field(
        None, description="the time for which the run counts, not in the future; absent: now"
    )


class Schedule(Row):
    """A recurring submission."""

    schedule_id: UUID
    name: str
    cron: str
    time_zone: str
    misfire: Misfire
    overlap: Overlap
    not_on: list[str] = Field(description=_NOT_ON)
    business_days: BusinessDays | None = Field(description=_BUSINESS_DAYS)
    holidays: list[date] = Field(description="those of its iCalendar file, for ten years from when it was sent")
    paused: bool
    paused_at: datetime | None = Field(description="runs that came due since then are recorded as skipped at its end")
    next_run_at: datetime | None = Field(description="null while paused")
    last_run_at: datetime | None = Field(description="`scheduled_at` of the last run that has a job; without backfills")
    last_job_id: UUID | None = Field(description="the job of that run")
    error: str | None = Field(description="why the last run could not be submitted")
    runs_skipped: int = Field(description="runs that were missed while no scheduler ran, and not made up for")
    last_skipped_at: datetime | None = Field(description="when the last of them was due")
    created_at: datetime
    created_by: str | None = Field(description="the principal that it belongs to; null: made before there were any")
    job: Stored[JobSpec]
    upcoming: list[datetime] = Field(description="the next three runs")


class ScheduleRun(Row):
    """What became of a schedule's run."""

    scheduled_at: datetime = Field(description="when it was due, which names the run")
    state: RunState = Field(description="`waiting` for its turn, `submitted`, `skipped`, or `refused` as a job")
    origin: RunOrigin = Field(description="what asked for it: the `clock`, a `request`, or a `backfill`")
    reason: RunReason | None = Field(
        description="why it was skipped: no scheduler looked (`missed`), the schedule was `paused`, a `request`, or an "
        "`overlap` with an earlier job, for which it may also wait"
    )
    error: str | None = Field(description="why its job was refused")
    decided_at: datetime = Field(description="when it became what it is")
    backfill_id: UUID | None = Field(description="the backfill that it belongs to")
    job_id: UUID | None
    job_state: JobState | None = Field(description="null: it has no job, or the job was deleted")
    started_at: datetime | None = Field(description="when its job started")
    finished_at: datetime | None = Field(description="when its job ended")
    late_seconds: float | None = Field(description="from `scheduled_at` to the start of its job")


class ScheduleRunPage(Page[ScheduleRun]):
    """Runs of a schedule, the latest first."""


class BackfillSpec(Strict):
    """The range of a schedule's past times whose runs are to be made up for."""

    since: Time = Field(description="the first time", examples=["2026-01-01T00:00:00+01:00"])
    until: Time = Field(description="the last time, not in the future", examples=["2026-01-31T23:59:59+01:00"])
    running_max: Annotated[int, Field(ge=1, le=100)] = Field(1, description="jobs of it that run at the same time")


class BackfillRuns(BaseModel):
    """Runs of a backfill, by what has become of them."""

    waiting: int
    submitted: int
    skipped: int
    refused: int


class Backfill(Row):
    """Runs of a range of a schedule's past times, which are made up for."""

    backfill_id: UUID
    schedule_id: UUID
    since: datetime
    until: datetime
    running_max: int
    runs: BackfillRuns = Field(description="without those that had their jobs before")
    cancelled: bool
    created_at: datetime
    created_by: str
    ended_at: datetime | None = Field(description="when the last of its runs began, or it was cancelled")


class BackfillPage(Page[Backfill]):
    """Backfills of a schedule, the latest first."""


class SchedulePage(Page[Schedule]):
    """Schedules, newest first."""
