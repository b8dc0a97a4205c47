"""Incidents: a condition of a subject is open once for each rule, however often, and by however many, it is found."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from services.engine.alerts import Condition, SubjectKind
from services.platform.database import Connection, new_id


@dataclass(frozen=True, slots=True)
class Subject:
    """What an incident is about: all runs of a schedule, and all jobs of a trigger, are one subject."""

    kind: SubjectKind
    subject: str
    name: str
    job_id: UUID | None = None

    @classmethod
    def of_job(cls, job: Mapping[str, Any]) -> "Subject":
        """`job` has job_id, name, schedule_id, schedule (its name), trigger_id and trigger."""
        if job["schedule"] is not None:
            return cls("schedule", str(job["schedule_id"]), job["schedule"], job["job_id"])
        if job["trigger"] is not None:
            return cls("trigger", str(job["trigger_id"]), job["trigger"], job["job_id"])
        return cls("job", str(job["job_id"]), job["name"], job["job_id"])


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition that holds (`message` says what is wrong), or holds no more (None)."""

    alert_id: UUID
    condition: Condition
    subject: Subject
    message: str | None


# What was told already is told again when that is allowed. To find a lasting condition again, of the same job, says
# nothing new ($9).
_OPEN = """
    INSERT INTO incidents AS i (incident_id, alert_id, condition, subject_kind, subject, name, job_id, message)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::uuid[], $8::text[])
    ON CONFLICT (alert_id, condition, subject) WHERE over_at IS NULL DO UPDATE SET
        job_id = excluded.job_id, name = excluded.name, message = excluded.message, times = i.times + 1,
        last_at = now(),
        tell_at = CASE WHEN i.told_at IS NULL THEN i.tell_at ELSE i.told_at + (
            SELECT a.repeat_seconds FROM alerts AS a WHERE a.alert_id = i.alert_id) * interval '1 second' END
    WHERE i.condition <> ALL($9::text[]) OR i.job_id IS DISTINCT FROM excluded.job_id"""

# Of what was never told, nothing is to be told: it is told with its end if it was held.
_OVER = """
    UPDATE incidents AS i SET over_at = now(), last_at = now(),
        tell_at = CASE WHEN i.told_at IS NULL THEN i.tell_at ELSE now() END
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[]) AS o (alert_id, condition, subject, job_id)
    WHERE i.alert_id = o.alert_id AND i.condition = o.condition AND i.subject = o.subject AND i.over_at IS NULL
      AND (i.job_id IS NULL OR o.job_id IS NULL OR i.job_id <= o.job_id)"""


async def record(connection: Connection, findings: Iterable[Finding], lasting: Iterable[Condition] = ()) -> None:
    """Open what holds and close what is over, in the caller's transaction. The last finding about a subject counts."""
    found: dict[tuple[UUID, Condition, str], Finding] = {}
    over: dict[tuple[UUID, Condition, str], Finding] = {}
    for finding in findings:
        kind = over if finding.message is None else found
        kind[finding.alert_id, finding.condition, finding.subject.subject] = finding
    if over:
        keys = zip(*over, strict=True)
        await connection.execute(_OVER, *map(list, keys), [finding.subject.job_id for finding in over.values()])
    if found:
        rows = [
            (new_id(), each.alert_id, each.condition, s.kind, s.subject, s.name, s.job_id, each.message)
            for each in sorted(found.values(), key=lambda each: (each.alert_id, each.condition, each.subject.subject))
            for s in [each.subject]
        ]
        await connection.execute(_OPEN, *map(list, zip(*rows, strict=True)), list(lasting))
