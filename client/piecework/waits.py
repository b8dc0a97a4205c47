"""Why a job waits, in a few words and in sentences. An older server does not tell."""

from collections.abc import Sequence

from piecework.shapes import Job, JobSummary, Reason, ReasonCode, Stage

# What passes in the course of any job: the few words are enough.
_COMMON: frozenset[ReasonCode] = frozenset(
    {
        *("waiting_for_items", "waits_for_jobs", "running_max", "lower_priority", "workers_busy", "workers_starting"),
        *("barrier", "split", "previous_stage", "next_stage_full", "columns", "planning"),
        *("merge_waits", "merging", "ending", "starting"),
    }
)
_OF_RESULTS: frozenset[ReasonCode] = frozenset(
    {"interim_deleted", "records_uneven", "failures_tolerated", "objects_left_out"}
)


def waits(reasons: Sequence[Reason]) -> list[Reason]:
    """Without those that are about results, which are a job's warnings."""
    return [reason for reason in reasons if reason["code"] not in _OF_RESULTS]


def why(of: Job | Stage | JobSummary) -> str:
    """The first reason, in a few words: `no workers`; empty if there is none."""
    codes: list[str] = [one if isinstance(one, str) else one["code"] for one in of.get("reasons", [])]
    return next((code.replace("_", " ") for code in codes if code not in _OF_RESULTS), "")


def alarms(job: Job) -> list[str]:
    """The sentences that a person should read now."""
    return [reason["message"] for reason in waits(job.get("reasons", [])) if reason["code"] not in _COMMON]
