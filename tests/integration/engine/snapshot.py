"""All rows of the task protocol at one moment, and what the design promises of them at every moment."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from services.contract.states import TASK_STATES
from services.engine.attempt import AttemptReport
from services.platform.database import Connection
from tests.integration.engine.play import TERMINAL

Row = dict[str, Any]
Key = tuple[str, int, int]  # of a task: job, stage, index
AttemptKey = tuple[Key, int]

_TABLES = {
    "jobs": "SELECT job_id, state FROM jobs ORDER BY created_at, job_id",
    "stages": "SELECT job_id, stage, pool, state, chains, max_attempts FROM stages ORDER BY stage",
    "tasks": "SELECT *, ready_at <= now() AS due FROM tasks ORDER BY job_id, stage, index",
    "bundles": """SELECT *, CASE WHEN worker_id IS NULL THEN send_at <= now() END AS due
        FROM bundles ORDER BY job_id, stage, first, send_at, backup_of IS NULL, count""",
    "attempts": "SELECT * FROM attempts",
    "counters": "SELECT * FROM stage_counters",
    "pools": "SELECT name, paused FROM pools ORDER BY name",
    "workers": """SELECT worker_id, state, CASE WHEN state = 'active' THEN heartbeat_at < now() - interval '1 day'
        ELSE EXISTS (SELECT FROM bundles AS b WHERE b.worker_id = w.worker_id) END AS reapable FROM workers AS w""",
}
# One statement, so that it is one moment; ids come as text.
_READ = "SELECT " + ", ".join(
    f"(SELECT coalesce(jsonb_agg(r), '[]') FROM ({query}) AS r) AS {name}" for name, query in _TABLES.items()
)


def key_of(row: Row) -> Key:
    return row["job_id"], row["stage"], row["index"]


def begun(task: Row) -> int:
    """How many attempts of the task were claimed."""
    return max(task["attempt"], task["backup_attempt"] or 0)


def running_attempts(task: Row) -> list[tuple[int, str]]:
    """The attempts that race for the task, with their workers."""
    if task["state"] != "running":
        return []
    backup = [(task["backup_attempt"], task["backup_worker_id"])] if task["backup_worker_id"] else []
    return [(task["attempt"], task["worker_id"]), *backup]


def covers(bundle: Row, key: Key) -> bool:
    job_id, stage, index = key
    return (bundle["job_id"], bundle["stage"]) == (job_id, stage) and 0 <= index - bundle["first"] < bundle["count"]


@dataclass(frozen=True)
class Snapshot:
    """Rows by key, as JSON has them."""

    jobs: dict[str, str]
    stages: dict[tuple[str, int], Row]
    tasks: dict[Key, Row]
    bundles: dict[str, Row]
    attempts: dict[AttemptKey, Row]
    counters: list[Row]
    paused_pools: dict[str, bool]
    workers: dict[str, Row]

    @classmethod
    async def read(cls, connection: Connection) -> "Snapshot":
        """Raises AssertionError if one attempt is recorded twice."""
        rows = await connection.fetchrow(_READ)
        assert rows is not None
        attempts = {(key_of(row), row["attempt"]): row for row in rows["attempts"]}
        assert len(attempts) == len(rows["attempts"]), "an attempt is recorded twice"
        return cls(
            jobs={row["job_id"]: row["state"] for row in rows["jobs"]},
            stages={(row["job_id"], row["stage"]): row for row in rows["stages"]},
            tasks={key_of(row): row for row in rows["tasks"]},
            bundles={row["bundle_id"]: row for row in rows["bundles"]},
            attempts=attempts,
            counters=rows["counters"],
            paused_pools={row["name"]: row["paused"] for row in rows["pools"]},
            workers={row["worker_id"]: row for row in rows["workers"]},
        )

    def is_held(self, worker_id: object, report: AttemptReport) -> bool:
        """Whether the attempt that is reported still holds its task for this worker."""
        task = self.tasks[str(report.job_id), report.stage, report.index]
        return (report.attempt, str(worker_id)) in running_attempts(task)

    def is_anything_undue(self) -> bool:
        """Whether a backoff or a message's resend lies in the future."""
        return any(row["due"] is False for rows in (self.tasks, self.bundles) for row in rows.values())

    def assert_one_attempt_wins(self) -> None:
        """Every claim's attempt ends in one record, and a task has succeeded if its attempt has, and no other."""
        for key, task in self.tasks.items():
            ended = set(range(1, begun(task) + 1)) - {attempt for attempt, _ in running_attempts(task)}
            recorded = {attempt for (of, attempt) in self.attempts if of == key}
            assert recorded == ended, ("attempts recorded", recorded, task)
            won = [attempt for attempt in recorded if self.attempts[key, attempt]["outcome"] == "succeeded"]
            assert won == [task["attempt"]] * (task["state"] == "succeeded"), ("attempts that won", won, task)

    def assert_counters_equal_rows(self) -> None:
        for job_id, stage in self.stages:
            slots = [c for c in self.counters if (c["job_id"], c["stage"]) == (job_id, stage)]
            states = Counter(t["state"] for (*of, _), t in self.tasks.items() if of == [job_id, stage])
            counted = {name: sum(slot[name] for slot in slots) for name in TASK_STATES}
            assert counted == {name: states[name] for name in TASK_STATES}, ("counters", job_id, stage, counted, states)

            ran = [a for a in self.attempts.values() if (a["job_id"], a["stage"]) == (job_id, stage)]
            reported = [a for a in ran if a["outcome"] in ("succeeded", "failed", "timeout", "memory")]
            assert sum(slot["attempts"] for slot in slots) == len(reported)

    def assert_reachable(self, leases: dict[AttemptKey, str]) -> None:
        """Ready by its time, queued by the one bundle that offers it, running by the bundle it was claimed with."""
        unclaimed = [bundle for bundle in self.bundles.values() if bundle["worker_id"] is None]
        offers = [bundle for bundle in unclaimed if bundle["backup_of"] is None]
        for key, task in self.tasks.items():
            state = task["state"]
            assert (task["ready_at"] is not None) == (state == "ready"), task
            assert (task["finished_at"] is not None) == (state in TERMINAL), task
            assert sum(covers(offer, key) for offer in offers) == (state == "queued"), ("offers", task, offers)
            assert len({worker_id for _, worker_id in running_attempts(task)}) == len(running_attempts(task)), task
            for attempt, worker_id in running_attempts(task):
                lease = self.bundles.get(leases[key, attempt])
                assert lease is not None, ("running without a lease", task)
                assert covers(lease, key) and lease["worker_id"] == worker_id, (lease, task)
        assert sum(offer["count"] for offer in offers) == sum(t["state"] == "queued" for t in self.tasks.values())

    def assert_outputs(self, outputs: dict[Key, Row | None]) -> None:
        """What succeeded has its winner's output, and its successor works on that."""
        assert {key: t["output"] for key, t in self.tasks.items() if t["state"] == "succeeded"} == outputs
        successors = {
            (job_id, stage + 1, index): successor_input(output)
            for (job_id, stage, index), output in outputs.items()
            if self.stages[job_id, stage]["chains"]
        }
        assert {key: task["input"] for key, task in self.tasks.items() if key[1] > 0} == successors

    def assert_losses_end(self, losses_max: int) -> None:
        """A task that may be what kills its workers fails at last."""
        for task in self.tasks.values():
            assert task["losses"] <= losses_max - (task["state"] in ("ready", "queued", "running")), task

    def assert_ended_jobs_are_over(self) -> None:
        for job_id, state in self.jobs.items():
            if state in TERMINAL:
                assert not [b for b in self.bundles.values() if b["job_id"] == job_id]
                assert all(t["state"] in TERMINAL for (of, *_), t in self.tasks.items() if of == job_id)

    def assert_follows(self, before: "Snapshot", retried: str | None) -> None:
        """Nothing terminal changes unless its job is retried, and never a success; what is recorded stays."""
        for key, task in before.tasks.items():
            assert begun(self.tasks[key]) >= begun(task), "an attempt's number is given once"
            if task["state"] in TERMINAL and (key[0] != retried or task["state"] == "succeeded"):
                assert self.tasks[key] == task, ("a terminal task has changed", task, self.tasks[key])
        for attempt, row in before.attempts.items():
            assert self.attempts.get(attempt) == row, ("a record has changed", row)


def successor_input(output: Row | None) -> Row:
    """An object where there is one, else the small value, which may be none."""
    if output is not None and "uri" in output:
        return {"type": "object", "uri": output["uri"]}
    return {"type": "item", "value": (output or {}).get("value")}
