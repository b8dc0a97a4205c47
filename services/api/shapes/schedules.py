"""Schedules: recurring submissions."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field

from services.api.pagination import Page
from services.api.shapes.row import Row, Stored
from services.contract.fields import Name, Strict
from services.contract.states import Misfire
from services.engine.spec import JobSpec
from services.platform.cron import check_cron, check_zone


class ScheduleSpec(Strict):
    """When to submit which job."""

    name: Name
    cron: Annotated[str, Field(max_length=200), AfterValidator(check_cron)] = Field(
        description="minute hour day-of-month month day-of-week; `L` is the last day of the month",
        examples=["0 2 L * *"],
    )
    time_zone: Annotated[str, Field(max_length=100), AfterValidator(check_zone)] = Field(
        "UTC", description="an IANA name", examples=["Europe/Berlin"]
    )
    misfire: Misfire = Field("run_once", description="what to do about missed runs")
    job: JobSpec = Field(description="without `run_at`")


class Schedule(Row):
    """A recurring submission."""

    schedule_id: UUID
    name: str
    cron: str
    time_zone: str
    misfire: Misfire
    paused: bool
    next_run_at: datetime | None = Field(description="null while paused")
    last_run_at: datetime | None
    last_job_id: UUID | None
    error: str | None = Field(description="why the last run could not be submitted")
    runs_skipped: int = Field(description="runs that were missed while no scheduler ran, and not made up for")
    last_skipped_at: datetime | None = Field(description="when the last of them was due")
    created_at: datetime
    created_by: str | None = Field(description="the principal that it belongs to; null: made before there were any")
    job: Stored[JobSpec]
    upcoming: list[datetime] = Field(description="the next three runs")


class SchedulePage(Page[Schedule]):
    """Schedules, newest first."""
