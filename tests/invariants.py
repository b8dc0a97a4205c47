"""The invariants of docs/design.md, section 5: what is true of the rows at every moment, whatever dies or is lost.

Each is a generator over the rows that yields, for everything it looks at, what is wrong with it, or None.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from asyncpg import Record

from services.contract.source import TaskSource
from services.contract.states import TASK_STATES, TERMINAL
from services.platform.database import Connection, Database

COUNTED = ("succeeded", "failed", "timeout", "memory")  # the outcomes that stage_counters.attempts counts

Row = Mapping[str, Any] | Record
Stage = tuple[Any, int]  # job_id, stage
Task = tuple[Any, int, int]  # job_id, stage, index

COUNTERS = f"""
    SELECT job_id, stage, {", ".join(f"sum({name})::bigint AS {name}" for name in (*TASK_STATES, "attempts"))}
    FROM stage_counters GROUP BY job_id, stage"""


@dataclass(frozen=True)
class Rows:
    """All that there is of some jobs at one moment."""

    jobs: Mapping[Any, Row]
    stages: Mapping[Stage, Row]
    tasks: Mapping[Task, Row]
    attempts: Mapping[Task, Sequence[Row]]  # that have ended, in the order of their numbers
    bundles: Mapping[Any, Row]
    counters: Mapping[Stage, Row]  # the sums over all shards


def stage_of(row: Row) -> Stage:
    return row["job_id"], row["stage"]


def task_of(row: Row) -> Task:
    return row["job_id"], row["stage"], row["index"]


def by_task(attempts: Sequence[Row]) -> Mapping[Task, Sequence[Row]]:
    found: defaultdict[Task, list[Row]] = defaultdict(list)
    for attempt in sorted(attempts, key=lambda row: row["attempt"]):
        found[task_of(attempt)].append(attempt)
    return found


def begun(task: Row) -> int:
    """How many attempts of the task were claimed."""
    return max(task["attempt"], task["backup_attempt"] or 0)


def running_attempts(task: Row) -> list[tuple[int, Any]]:
    """The attempts that race for the task, with their workers."""
    if task["state"] != "running":
        return []
    backup = [(task["backup_attempt"], task["backup_worker_id"])] if task["backup_worker_id"] else []
    return [(task["attempt"], task["worker_id"]), *backup]


def covered_by(bundle: Row) -> list[Task]:
    return [(*stage_of(bundle), bundle["first"] + number) for number in range(bundle["count"])]


def successor_input(output: Mapping[str, Any] | None, input: Mapping[str, Any]) -> dict[str, Any]:
    """Of the task that a chained stage's success makes: the object if there is one, else the small value or none; and
    the source of the task that has made it of this `input`."""
    source = TaskSource.of(input)
    passed_on = {} if source is None else {"source": source.to_json()}
    if output is not None and "uri" in output:
        made = {name: output[name] for name in ("uri", "bytes", "crc32") if name in output}
        return {"type": "object", **made, **passed_on}
    return {"type": "item", "value": (output or {}).get("value"), **passed_on}


Law = Callable[[Rows], Iterator[str | None]]


def has_won(attempt: Row) -> bool:
    """Whether the attempt has succeeded, and its output counts."""
    again = (attempt["error"] or {}).get("type") == "run_again"
    return attempt["outcome"] == "succeeded" and not is_lost(attempt) and not again


def is_lost(attempt: Row) -> bool:
    """Whether the attempt has succeeded, but its output was lost: the task runs again."""
    return bool(attempt["outcome"] == "succeeded" and (attempt["error"] or {}).get("type") == "output_lost")


def one_attempt_wins(rows: Rows) -> Iterator[str | None]:
    """A task has succeeded if the attempt that it names has, and no other, but for those whose output was lost."""
    for key, task in rows.tasks.items():
        won = [attempt["attempt"] for attempt in rows.attempts.get(key, ()) if has_won(attempt)]
        right = [task["attempt"]] if task["state"] == "succeeded" else []
        yield None if won == right else f"{key} is {task['state']}: attempts {won} have won, not {right}"


def every_attempt_is_on_record_once(rows: Rows) -> Iterator[str | None]:
    """The attempts that were claimed are 1, 2, 3 … and each runs or has ended once; none is without a task.

    Up to its stage's `attempt_base`, it may be that of a task that a retry has deleted.
    """
    for key in rows.tasks.keys() | rows.attempts.keys():
        task, recorded = rows.tasks.get(key), Counter(attempt["attempt"] for attempt in rows.attempts.get(key, ()))
        running = {attempt for attempt, _ in running_attempts(task)} if task else set()
        ended = set(range(1, begun(task) + 1)) - running if task else set()
        base = rows.stages[key[:2]].get("attempt_base", 0) if key[:2] in rows.stages else 0
        for attempt in recorded.keys() | ended:
            times = recorded[attempt]
            right = times <= 1 if attempt <= base else times == (attempt in ended)
            yield None if right else f"attempt {attempt} of {key} is {times} times on record"


def _end(attempt: Row) -> str:
    unfit = attempt["outcome"] == "released" and (attempt["error"] or {}).get("type") == "node_unfit"
    return "lost" if unfit else str(attempt["outcome"])


def failures_and_losses_are_on_record(rows: Rows) -> Iterator[str | None]:
    """A task counts no more than it had: fewer after a retry by the user's order, and of attempts that raced.

    What a node could not run is a loss.
    """
    for key, task in rows.tasks.items():
        ends = Counter(map(_end, rows.attempts.get(key, ())))
        failed = sum(ends[outcome] for outcome in COUNTED if outcome != "succeeded")
        right = task["losses"] <= ends["lost"] and task["failures"] <= failed
        yield None if right else f"{key} counts {task['losses']} losses, {task['failures']} failures of {dict(ends)}"


def counters_equal_the_rows(rows: Rows) -> Iterator[str | None]:
    found = Counter((*stage_of(task), task["state"]) for task in rows.tasks.values())
    for attempts in rows.attempts.values():
        for attempt in attempts:
            found[*stage_of(attempt), "attempts"] += attempt["outcome"] in COUNTED and not attempt.get("reused_from")
    for stage in rows.stages.keys() | rows.counters.keys():
        counters = rows.counters.get(stage, {})
        for name in (*TASK_STATES, "attempts"):
            counted, there = counters.get(name, 0), found[*stage, name]
            yield None if counted == there else f"{stage}: {name} are {there}, counted {counted}"


def what_is_not_over_is_reachable(rows: Rows) -> Iterator[str | None]:
    """Ready by its time, queued by the one bundle that offers it, running by one that its worker holds."""
    offers: Counter[Task] = Counter()
    held: set[tuple[Any, Task]] = set()
    for bundle in rows.bundles.values():
        if bundle["worker_id"] is not None:
            held |= {(bundle["worker_id"], key) for key in covered_by(bundle)}
        elif bundle["backup_of"] is None:
            offers.update(covered_by(bundle))
    for key, task in rows.tasks.items():
        state, workers = task["state"], [worker_id for _, worker_id in running_attempts(task)]
        right = (
            (task["ready_at"] is not None) == (state == "ready")
            and (task["finished_at"] is not None) == (state in TERMINAL)
            and offers[key] == (state == "queued")
            and all((worker_id, key) in held for worker_id in workers)
            and len(set(workers)) == len(workers)
        )
        yield None if right else f"offered {offers[key]} times, held for {held}: {dict(task)}"
    for key in offers.keys() - rows.tasks.keys():
        yield f"{key} is offered, but is not there"


def successors_work_on_outputs(rows: Rows) -> Iterator[str | None]:
    """Each success of a chained stage has made one task of the next stage, and nothing else has.

    Where the output was lost, the task of the next stage is there already; it gets the new output if it waits for it.
    """
    by_stage: defaultdict[Stage, dict[int, Row]] = defaultdict(dict)
    for job_id, stage, index in rows.tasks:
        by_stage[job_id, stage][index] = rows.tasks[job_id, stage, index]
    for (job_id, stage), row in rows.stages.items():
        if not row["chains"]:
            continue
        made, after = by_stage[job_id, stage], by_stage[job_id, stage + 1]
        for index in made.keys() | after.keys():
            task, successor = made.get(index), after.get(index)
            if successor and any(map(is_lost, rows.attempts.get((job_id, stage, index), ()))):
                continue
            right = successor_input(task["output"], task["input"]) if task and task["state"] == "succeeded" else None
            found = successor["input"] if successor else None
            # Workers of the releases before pass on no source, or no checksum either.
            sourceless = right and {name: right[name] for name in right if name != "source"}
            before = right and {name: right[name] for name in right if name not in ("bytes", "crc32", "source")}
            yield (
                None
                if found in (right, sourceless, before)
                else f"{(job_id, stage, index)}: its successor gets {found}, not {right}"
            )


def ended_jobs_are_over(rows: Rows) -> Iterator[str | None]:
    """Nothing of a job that has ended is left to run."""
    over = {job_id for job_id, job in rows.jobs.items() if job["state"] in TERMINAL}
    for bundle in rows.bundles.values():
        yield f"a bundle is left: {dict(bundle)}" if bundle["job_id"] in over else None
    for row in (*rows.stages.values(), *rows.tasks.values()):
        if row["job_id"] in over:
            yield None if row["state"] in TERMINAL else f"its job has ended: {dict(row)}"


LAWS: dict[str, Law] = {
    "tasks counted twice": one_attempt_wins,
    "attempts not on record exactly once": every_attempt_is_on_record_once,
    "tasks that count too many failures": failures_and_losses_are_on_record,
    "counters that differ from the rows": counters_equal_the_rows,
    "tasks out of reach": what_is_not_over_is_reachable,
    "wrong successors": successors_work_on_outputs,
    "ended jobs with something left": ended_jobs_are_over,
}


def assert_kept(rows: Rows, laws: Collection[Law] = tuple(LAWS.values())) -> None:
    """Raises AssertionError with all that is wrong."""
    if wrong := [wrong for law in laws for wrong in law(rows) if wrong]:
        raise AssertionError("\n".join(wrong))


async def read_rows(connection: Connection, job_id: UUID | None = None) -> Rows:
    """The rows of a job, or of all jobs."""
    of = "" if job_id is None else "WHERE job_id = $1"
    arguments = () if job_id is None else (job_id,)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        jobs, stages, tasks, attempts, bundles, counters = [
            await connection.fetch(f"SELECT * FROM {table} {of}", *arguments)
            for table in ("jobs", "stages", "tasks", "attempts", "bundles", f"({COUNTERS}) AS counters")
        ]
    return Rows(
        jobs={row["job_id"]: row for row in jobs},
        stages={stage_of(row): row for row in stages},
        tasks={task_of(row): row for row in tasks},
        attempts=by_task(attempts),
        bundles={row["bundle_id"]: row for row in bundles},
        counters={stage_of(row): row for row in counters},
    )


async def rows_of(database: Database, job_id: UUID) -> Rows:
    async with database.acquire() as connection:
        return await read_rows(connection, job_id)


async def assert_invariants(database: Database, job_id: UUID) -> None:
    """The job is there, and its rows keep all invariants."""
    rows = await rows_of(database, job_id)
    assert job_id in rows.jobs
    assert_kept(rows)
