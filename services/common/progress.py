"""The progress of a job's stages, from their counters: the API and the stats service tell the same numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

COUNTS = ("ready", "queued", "running", "succeeded", "failed", "cancelled")

# SQL: the sums of a stage's counters, by the names of COUNTS, and its attempts; `s` is the row of stages.
SUM_COUNTERS = f"""
    SELECT {", ".join(f"coalesce(sum({name}), 0)::bigint AS {name}" for name in (*COUNTS, "attempts"))}
    FROM stage_counters AS sc WHERE sc.job_id = s.job_id AND sc.stage = s.stage"""


class Progress(BaseModel):
    """A stage's tasks by state, exact at the moment of the answer."""

    waiting: int = Field(description="tasks that will come when those of the stage before have succeeded")
    ready: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


def is_slowed(stage: Mapping[str, Any]) -> bool:
    """Whether a stage has used up its retry budget: then only a few of its tasks run at a time.

    `stage` has max_attempts and retry_budget, and its counters' sums of attempts and succeeded. Each success earns one
    failure, so that a stage whose trouble is over soon runs at full speed again (a token bucket of retries, as in the
    standard retry mode of the AWS SDKs).
    """
    failures_allowed = stage["succeeded"] + stage["retry_budget"]
    return bool(stage["max_attempts"] > 1 and stage["attempts"] - stage["succeeded"] > failures_allowed)


def count_progress(stages: Sequence[Mapping[str, Any]]) -> list[Progress]:
    """The progress of a job's stages, in order, from their counters' sums, `kind`, `state` and `chains`.

    A chained stage still waits for every task of the stage before that has not ended; a reduce is one task to come.
    """
    progress: list[Progress] = []
    for number, stage in enumerate(stages):
        counts = {name: int(stage[name]) for name in COUNTS}
        before = progress[number - 1] if number and stages[number - 1]["chains"] else None
        if before is not None:
            waiting = before.waiting + before.ready + before.queued + before.running
        elif stage["kind"] == "reduce" and stage["state"] == "waiting":
            waiting = 1
        else:
            waiting = 0
        progress.append(Progress(waiting=waiting, **counts))
    return progress
