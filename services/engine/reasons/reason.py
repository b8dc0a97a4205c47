"""What a reason is, and which there are: docs/why.md has a line for each code."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType

# In the order in which a job tells them: first what somebody must do, then what passes by itself, then what is normal;
# at last what the results need.
_Code = Literal[
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
ReasonCode = TypeAliasType("ReasonCode", _Code)  # which gives it a name in the OpenAPI document
CODES: tuple[ReasonCode, ...] = get_args(_Code)
OF_RESULTS: frozenset[ReasonCode] = frozenset(
    {"interim_deleted", "records_uneven", "failures_tolerated", "objects_left_out"}
)

_PLACES = {code: place for place, code in enumerate(CODES)}


class Reason(BaseModel):
    """Why a job or one of its stages does not run, or goes slowly, or what is to be said of its results."""

    code: ReasonCode = Field(examples=["no_workers"])
    message: str = Field(description="what is the matter, and what to do about it")
    stage: int | None = Field(None, description="the stage that it is about; null: the whole job")
    since: datetime | None = Field(None, description="null: not known")
    details: dict[str, Any] = Field(
        default_factory=dict, description="what the message names, for programs", examples=[{"pool": "default"}]
    )


def in_order(reasons: Iterable[Reason]) -> list[Reason]:
    """Those that somebody can do something about come first."""
    return sorted(reasons, key=lambda reason: (_PLACES[reason.code], reason.stage or 0))


def codes_of(reasons: Iterable[Reason]) -> list[ReasonCode]:
    """Each code once."""
    return list(dict.fromkeys(reason.code for reason in reasons))


def warnings_of(reasons: Iterable[Reason]) -> list[str]:
    """The sentences about results."""
    return [reason.message for reason in reasons if reason.code in OF_RESULTS]
