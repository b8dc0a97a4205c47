"""All rows of the task protocol at one moment, and what a model of them can tell beyond the invariants."""

from collections.abc import Mapping
from dataclasses import dataclass
from unittest.mock import ANY

from services.engine.attempt import AttemptReport
from services.platform.database import Connection
from tests.invariants import (
    COUNTERS,
    TERMINAL,
    Row,
    Rows,
    Task,
    begun,
    by_task,
    covered_by,
    running_attempts,
    stage_of,
    task_of,
)

Attempt = tuple[Task, int]

_TABLES = {
    "jobs": "SELECT job_id, state FROM jobs ORDER BY created_at, job_id",
    "stages": "SELECT job_id, stage, pool, state, chains, max_attempts, attempt_base FROM stages ORDER BY stage",
    "tasks": "SELECT *, ready_at <= now() AS due FROM tasks ORDER BY job_id, stage, index",
    "bundles": """SELECT *, CASE WHEN worker_id IS NULL THEN send_at <= now() END AS due
        FROM bundles ORDER BY job_id, stage, first, send_at, backup_of IS NULL, count""",
    "attempts": "SELECT * FROM attempts",
    "counters": COUNTERS,
    "lost": "SELECT * FROM lost_outputs",
    "pools": "SELECT name, paused FROM pools ORDER BY name",
    "workers": """SELECT worker_id, state, CASE WHEN state = 'active' THEN heartbeat_at < now() - interval '1 day'
        ELSE EXISTS (SELECT FROM bundles AS b WHERE b.worker_id = w.worker_id) END AS reapable FROM workers AS w""",
}
# One statement, so that it is one moment; ids come as text.
_READ = "SELECT " + ", ".join(
    f"(SELECT coalesce(jsonb_agg(r), '[]') FROM ({query}) AS r) AS {name}" for name, query in _TABLES.items()
)


@dataclass(frozen=True)
class Snapshot(Rows):
    """Rows as JSON has them."""

    lost: list[Row]
    paused_pools: dict[str, bool]
    workers: dict[str, Row]

    @classmethod
    async def read(cls, connection: Connection) -> "Snapshot":
        rows = await connection.fetchrow(_READ)
        assert rows is not None
        return cls(
            jobs={row["job_id"]: row for row in rows["jobs"]},
            stages={stage_of(row): row for row in rows["stages"]},
            tasks={task_of(row): row for row in rows["tasks"]},
            attempts=by_task(rows["attempts"]),
            bundles={row["bundle_id"]: row for row in rows["bundles"]},
            counters={stage_of(row): row for row in rows["counters"]},
            lost=rows["lost"],
            paused_pools={row["name"]: row["paused"] for row in rows["pools"]},
            workers={row["worker_id"]: row for row in rows["workers"]},
        )

    def state_of(self, job_id: object) -> str:
        """Of a job."""
        state: str = self.jobs[str(job_id)]["state"]
        return state

    def is_held(self, worker_id: object, report: AttemptReport) -> bool:
        """Whether the attempt that is reported still holds its task for this worker."""
        task = self.tasks.get((str(report.job_id), report.stage, report.index))
        return task is not None and (report.attempt, str(worker_id)) in running_attempts(task)

    def is_anything_undue(self) -> bool:
        """Whether a backoff or a message's resend lies in the future."""
        return any(row["due"] is False for rows in (self.tasks, self.bundles) for row in rows.values())

    def assert_outputs(self, outputs: dict[Task, Row | None]) -> None:
        """What succeeded has its winner's output."""
        assert {key: task["output"] for key, task in self.tasks.items() if task["state"] == "succeeded"} == outputs

    def assert_leases(self, leases: dict[Attempt, str]) -> None:
        """Running by the very bundle it was claimed with."""
        for key, task in self.tasks.items():
            for attempt, worker_id in running_attempts(task):
                lease = self.bundles.get(leases[key, attempt])
                assert lease is not None, ("running without a lease", task)
                assert key in covered_by(lease) and lease["worker_id"] == worker_id, (lease, task)

    def assert_losses_end(self, losses_max: int) -> None:
        """A task that may be what kills its workers fails at last."""
        for task in self.tasks.values():
            assert task["losses"] <= losses_max - (task["state"] in ("ready", "queued", "running")), task

    def assert_follows(self, before: "Snapshot", retried: str | None, again: Mapping[Task, str]) -> None:
        """Nothing terminal changes unless its job is retried, and a success only if it runs `again`, for the reason
        that is given; what is recorded stays, but for this reason. Tasks go only with a retry."""
        for key, task in before.tasks.items():
            if key not in self.tasks:
                assert key[0] == retried, ("a task is gone", task)
                assert self.stages[key[:2]]["attempt_base"] >= begun(task), "an attempt's number is given once"
                continue
            assert begun(self.tasks[key]) >= begun(task), "an attempt's number is given once"
            if task["state"] in TERMINAL and key not in again and (key[0] != retried or task["state"] == "succeeded"):
                assert self.tasks[key] == task, ("a terminal task has changed", task, self.tasks[key])
        for key, recorded in before.attempts.items():
            for row in recorded:
                if key in again and row["attempt"] == before.tasks[key]["attempt"]:
                    error = {"type": again[key], "message": ANY}
                    assert {**row, "error": error} in self.attempts[key], ("a loss is not on record", row)
                else:
                    assert row in self.attempts[key], ("a record has changed", row)

    def lost_before(self, maker: Task, attempt: int) -> int:
        """How many outputs of a task were lost since its job was last retried, of attempts before this one."""
        return len(
            {
                row["attempt"]
                for row in self.lost
                if task_of(row) == maker and row["counted"] and row["attempt"] < attempt
            }
        )
