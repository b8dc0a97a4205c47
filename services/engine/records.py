"""Record arithmetic: a record that went into a stage came out, was rejected, or was dropped on purpose.

For the attempts that won: in + added = out + rejected + filtered. (A record that becomes a list of n adds n - 1.) The
job reports where this does not hold. It also reports tolerated failures: the records of failed tasks are in no result.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from services.contract.states import RECORD_COUNTS
from services.engine.reasons.reason import Reason, ReasonCode
from services.inputs.groups import describe_markers
from services.platform.database import Connection, Database

_STAGES = """
    SELECT s.stage, s.name, s.kind, s.processor || '@' || s.processor_version AS processor, s.state, s.tasks_from,
        coalesce((p.spec ->> 'filters')::boolean, false) AS filters,
        (s.plan_cursor ->> 'left_out')::int AS left_out, c.*
    FROM stages AS s JOIN processors AS p ON p.name = s.processor AND p.version = s.processor_version
    CROSS JOIN LATERAL stage_sums(s.job_id, s.stage) AS c
    WHERE s.job_id = $1 ORDER BY s.stage"""


class StageRecords(BaseModel):
    """The records of a stage's attempts that won."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    into: int = Field(alias="in")
    out: int
    rejected: int
    filtered: int = Field(description="dropped by the processor")
    added: int = Field(description="records beyond the first, where one record became a list")
    balanced: bool | None = Field(
        description="whether in + added = out + rejected + filtered; filtered counts only if the processor says "
        "`filters: true`, and in equals the previous stage's out; null: the records that went in were not counted"
    )


async def counted_stages(database: Connection | Database, job_id: UUID) -> list[dict[str, Any]]:
    """A job's stages, in order, with their sums: what `check_records` asks for."""
    return [dict(row) for row in await database.fetch(_STAGES, job_id)]


def check_records(stages: Sequence[Mapping[str, Any]]) -> tuple[list[StageRecords], list[Reason]]:
    """The records of a job's stages, in order, and a reason to look at them for each count that does not add up.

    Of each stage: name, kind, state, tasks_from, its stage_sums, `filters` of its processor's specification, and how
    many marker objects of its input were `left_out`.
    """
    records: list[StageRecords] = []
    reasons: list[Reason] = []
    for number, stage in enumerate(stages):
        counted = stage["kind"] == "map" and stage["records_in"] > 0  # else they are made there, or not counted
        wrong = [_gap(stage), number and _break(stages[number - 1], stage)] if counted else []
        left_out = describe_markers(stage["left_out"]) if stage["left_out"] else None
        uneven = _say(stage, number, "records_uneven", wrong)
        tolerated = _say(stage, number, "failures_tolerated", [_tolerated(stage)])
        sums = {name.removeprefix("records_"): stage[name] for name in RECORD_COUNTS}
        records.append(StageRecords.model_validate({**sums, "balanced": not uneven if counted else None}))
        reasons += uneven + tolerated + _say(stage, number, "objects_left_out", [left_out])
    return records, reasons


def _say(
    stage: Mapping[str, Any], number: int, code: ReasonCode, sentences: Sequence[str | int | None]
) -> list[Reason]:
    return [
        Reason(code=code, message=f"stage {stage['name']}: {sentence}", stage=number)
        for sentence in sentences
        if sentence
    ]


def _has_ended(stage: Mapping[str, Any]) -> bool:
    return stage["state"] in ("merging", "succeeded")


def _tolerated(stage: Mapping[str, Any]) -> str | None:
    """What is missing from a stage that has ended although some of its tasks failed."""
    if not (_has_ended(stage) and stage["failed"]):
        return None
    if stage["failed"] == 1:
        return "1 task failed and was tolerated; its records are not in the results"
    return f"{stage['failed']:,} tasks failed and were tolerated; their records are not in the results"


def _gap(stage: Mapping[str, Any]) -> str | None:
    """The counts that do not add up within a stage."""
    names = ["in", *(["added"] if stage["records_added"] else []), "out", "rejected"]
    names += ["filtered"] if stage["records_filtered"] else []
    said = ", ".join(f"{stage[f'records_{name}']:,} {name}" for name in names)
    said = said.replace(" in,", " records in,", 1)
    gone = stage["records_out"] + stage["records_rejected"] + stage["records_filtered"]
    missing = stage["records_in"] + stage["records_added"] - gone
    if missing > 0:
        return f"{said}: {missing:,} {'is' if missing == 1 else 'are'} unaccounted for"
    if missing < 0:
        return f"{said}: {-missing:,} more than went in"
    if stage["records_filtered"] and not stage["filters"]:
        return f"{said}, but its processor does not say that it filters (`filters: true`)"
    return None


def _break(before: Mapping[str, Any], stage: Mapping[str, Any]) -> str | None:
    """The counts that do not add up between two stages, if each task works on the output of one task before it."""
    follows = stage["tasks_from"] in ("successes", "outputs") and before["kind"] == "map"
    counted = any(before[name] for name in RECORD_COUNTS)
    whole = _has_ended(before) and _has_ended(stage) and not stage["failed"]
    if not (follows and counted and whole) or stage["records_in"] == before["records_out"]:
        return None
    return f"{stage['records_in']:,} records in, but {before['records_out']:,} came out of stage {before['name']}"
