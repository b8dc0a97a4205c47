"""The task protocol as a state machine: Hypothesis plays scheduler, queue, workers and users, in any order it finds.

Messages come late, twice or never; replies get lost; workers die, hang, fall silent and report as zombies. After every
step the rows must keep the design's promises (docs/design.md, section 5), and at the end of every example a healthy
worker must bring all tasks to their end within two rounds. The same examples run every time; to look at others, and at
more of them: MODEL_EXAMPLES=5000 pytest tests/integration/engine/test_transitions_model.py
"""

import asyncio
import functools
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, note
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from services.contract.message import Message
from services.contract.task_input import parse_input
from services.engine import jobs, lost_outputs, pools, processors, retries, submission, transitions, workers
from services.engine.attempt import AttemptReport, ClaimedTask, LostOutput
from services.engine.places import Reader
from services.engine.retries import RetryOrder
from services.engine.spec import JobSpec, ProcessorSpec
from services.platform.database import Connection, connect_database, new_id
from services.platform.settings import Settings
from services.scheduler.loop import Context
from services.scheduler.loops import renew
from tests.integration.engine.play import HOLD
from tests.integration.engine.snapshot import Snapshot
from tests.invariants import TERMINAL, Task, assert_kept, begun, running_attempts, successor_input

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "0"))
EXPLORING = EXAMPLES > 0

POOLS = ("front", "back")  # of the first and the second stage
TASKS_MAX = 5  # of a job: few, so that things meet
LOSSES_MAX = 2
RESEND_SECONDS = 60.0
LONG_AGO = "interval '30 days'"
LONG_AGO_SECONDS = 30 * 86_400
RETRIES = ({"max_attempts": 2, "backoff_seconds": 3600}, {"max_attempts": 2, "backoff_seconds": 0})

T = TypeVar("T")
Order = Callable[[Connection, UUID], Awaitable[None]]

picks = st.integers(0, 5)  # one of what there is, modulo how much there is
outcomes = st.sampled_from(["uri", "value", "nothing", "failed", "fatal", "timeout", "released", "input lost"])
arrivals = st.sampled_from(["arrives", "is late", "arrives, reply lost"])


@dataclass(frozen=True)
class ModelDatabase:
    """A database, by one connection on an event loop of its own: a state machine is not async."""

    loop: asyncio.AbstractEventLoop
    connection: Connection
    settings: Settings

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    async def prepare(self) -> None:
        """What all examples share."""
        noop = ProcessorSpec.model_validate({"builtin": "noop"})
        async with self.connection.transaction():
            await processors.register_processor(self.connection, "noop", noop)
        for name in POOLS:
            await pools.register_pool(
                self.connection, name, queue_url=name, dead_letter_url="dead", group_name=None, slots=2
            )

    async def empty(self) -> None:
        await self.connection.execute(
            "DELETE FROM jobs; DELETE FROM tasks; DELETE FROM bundles; DELETE FROM stage_counters; "
            "DELETE FROM attempts; DELETE FROM workers; UPDATE pools SET paused = false"
        )

    async def submit(self) -> UUID:
        """A job of two chained stages."""
        stages = [
            {"processor": "noop", "pool": pool, "retry": retry} for pool, retry in zip(POOLS, RETRIES, strict=True)
        ]
        spec = JobSpec.model_validate({"input": {"type": "range", "count": 1}, "stages": stages})
        async with self.connection.transaction():
            return await submission.submit_job(self.connection, spec, settings=self.settings)


class OneConnection:
    """A pool's part played by a connection, of which one statement or transaction at a time has the use."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        async with self._lock:
            yield self._connection

    async def fetch(self, query: str, *arguments: Any) -> Any:
        async with self.acquire() as connection:
            return await connection.fetch(query, *arguments)

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        async with self.acquire() as connection:
            return await connection.fetchval(query, *arguments)

    async def execute(self, query: str, *arguments: Any) -> Any:
        async with self.acquire() as connection:
            return await connection.execute(query, *arguments)


Rule = Callable[..., None]


def when(condition: Callable[["Protocol"], object]) -> Callable[[Rule], Rule]:
    """A rule that does nothing unless the condition holds.

    Not Hypothesis's `precondition`: that decides what is drawn next, which must not hang on rows. Of tasks that are
    equally due, Postgres takes any, and others the next time.
    """

    def conditional(happen: Rule) -> Rule:
        @functools.wraps(happen)
        def happen_if(protocol: "Protocol", *arguments: Any, **named: Any) -> None:
            if condition(protocol):
                happen(protocol, *arguments, **named)

        return happen_if

    return conditional


@dataclass(eq=False)
class Worker:
    """What a worker knows: the bundles it holds, each with the tasks it has not reported yet."""

    worker_id: UUID
    held: dict[UUID, list[ClaimedTask]] = field(default_factory=dict)


@dataclass(eq=False)
class Report:
    """A call of `complete` that may be under way for long, and arrive more than once.

    A worker repeats a report until it is in before it sends the next, so that first arrivals keep their order.
    """

    worker: Worker
    finished: list[AttemptReport]
    done: list[UUID]
    has_arrived: bool = False


class Protocol(RuleBasedStateMachine):
    """`now` are the rows after the last step, with which each step is foretold; steps are atomic statements."""

    def __init__(self, grid: ModelDatabase) -> None:
        super().__init__()
        self.grid = grid
        self.messages: list[Message] = []  # in flight
        self.workers: list[Worker] = []  # alive, though some may have been given up
        self.reports: list[Report] = []  # under way, or sent before and sent again
        self.leases: dict[tuple[Task, int], str] = {}  # attempt → the bundle that it was claimed with
        self.outputs: dict[Task, dict[str, Any] | None] = {}  # of the attempts that won
        self.foretold: dict[Task, str] = {}  # states after this step
        self.retried: str | None = None
        self.again: dict[Task, str] = {}  # successes that count no more after this step, and why
        self.database: Any = OneConnection(grid.connection)
        self.is_sound = False
        self.may_end = False
        self.serial = itertools.count(1)
        self.call(grid.empty())
        self.job_ids = [self.call(grid.submit()) for _ in range(2)]
        self.planned = dict.fromkeys(self.job_ids, 0)
        self.now = self.call(Snapshot.read(grid.connection))

    def call(self, call: Coroutine[Any, Any, T]) -> T:
        self.is_sound = False
        return self.grid.run(call)

    def sql(self, statement: str, *arguments: Any) -> None:
        self.call(self.grid.connection.execute(statement, *arguments))

    def jobs_in(self, *states: str) -> list[UUID]:
        return [job_id for job_id in self.job_ids if self.now.state_of(job_id) in states]

    @invariant()
    def promises_are_kept(self) -> None:
        if self.is_sound:
            return  # nothing has happened
        before, self.now = self.now, self.call(Snapshot.read(self.grid.connection))
        self.now.assert_follows(before, self.retried, self.again)
        for key, state in self.foretold.items():
            assert self.now.tasks[key]["state"] == state, (state, self.now.tasks[key])
        assert_kept(self.now)
        self.now.assert_leases(self.leases)
        self.now.assert_outputs(self.outputs)
        self.now.assert_losses_end(LOSSES_MAX)
        self.foretold, self.retried, self.again, self.is_sound = {}, None, {}, True

    # The scheduler.

    @initialize(
        count=st.integers(1, 4),
        workers=st.integers(2, 3),
        bundle_tasks_max=picks,
        ends=st.lists(outcomes, max_size=3),
        may_end=st.booleans(),
        stage=st.integers(0, 1),
    )
    def begin(
        self, count: int, workers: int, bundle_tasks_max: int, ends: list[str], may_end: bool, stage: int
    ) -> None:
        """In the middle of things: tasks of the stage are claimed, unless `bundle_tasks_max` is 0, and some have ended.

        Unless they `may_end`, jobs are neither cancelled nor do they fail: nothing is hidden by that.
        """
        self.may_end = may_end
        self._plan(self.job_ids[0], count, same=True)
        for _ in range(workers):
            self.start_worker()
        self.promises_are_kept()
        if bundle_tasks_max:
            self.run(pick=0, to=0, bundle_tasks_max=bundle_tasks_max, deleted=False)
            self.promises_are_kept()
            if stage == 1:
                self.finish(pick=0, end="uri")
                self.run(pick=0, to=0, bundle_tasks_max=bundle_tasks_max, deleted=False)
                self.promises_are_kept()
            if ends:
                self.report(pick=0, ends=ends, arrival="arrives")

    def plannable(self) -> list[UUID]:
        return [job_id for job_id in self.jobs_in("running") if self.planned[job_id] < TASKS_MAX]

    @rule(pick=picks, count=st.integers(1, 3), same=st.booleans())
    @when(lambda self: self.plannable())
    def plan(self, pick: int, count: int, same: bool) -> None:
        self._plan(choose(self.plannable(), pick), count, same)

    def _plan(self, job_id: UUID, count: int, same: bool) -> None:
        first = self.planned[job_id]
        count = min(count, TASKS_MAX - first)
        self.planned[job_id] += count
        if same:
            part = {"type": "index", "count": count}
            self.call(transitions.plan_same_tasks(self.grid.connection, job_id, 0, first, part, count))
        else:
            parts = [{"type": "item", "value": first + n} for n in range(count)]
            self.call(transitions.plan_tasks(self.grid.connection, job_id, 0, first, parts))
        self.foretold = {(str(job_id), 0, first + n): "ready" for n in range(count)}

    def dispatchable(self) -> list[tuple[UUID, int]]:
        """Stages in unpaused pools, with tasks that are due; whether the job runs, `dispatch` itself asks."""
        due = sorted({key[:2] for key, task in self.now.tasks.items() if task["due"]})
        return [(UUID(of[0]), of[1]) for of in due if not self.now.paused_pools[self.now.stages[of]["pool"]]]

    @rule(pick=picks, tasks_max=st.integers(1, 5), bundle_tasks_max=st.sampled_from([3, 1]), sent=st.booleans())
    @when(lambda self: self.dispatchable())
    def dispatch(self, pick: int, tasks_max: int, bundle_tasks_max: int, sent: bool) -> None:
        """`sent` is False if the scheduler dies before it sends the messages."""
        job_id, stage = choose(self.dispatchable(), pick)
        messages = self._dispatch(job_id, stage, tasks_max, bundle_tasks_max)
        if sent:
            self.messages += messages

    def _dispatch(self, job_id: UUID, stage: int, tasks_max: int, bundle_tasks_max: int) -> list[Message]:
        messages = self.call(
            transitions.dispatch(
                self.grid.connection,
                job_id,
                stage,
                pool=POOLS[stage],
                tasks_max=tasks_max,
                bundle_tasks_max=bundle_tasks_max,
                resend_seconds=RESEND_SECONDS,
            )
        )
        due = [key for key, task in self.now.tasks.items() if key[:2] == (str(job_id), stage) and task["due"]]
        queued = [key for message in messages for key in keys_of(message)]
        assert len(queued) == min(tasks_max, len(due)) * (self.now.state_of(job_id) == "running")
        assert set(queued) <= set(due)
        for message in messages:
            together = [self.now.tasks[key]["losses"] for key in keys_of(message)]
            assert len(together) <= (1 if any(together) else bundle_tasks_max), "who has lost a worker goes alone"
        self.foretold = dict.fromkeys(queued, "queued")
        return sorted(messages, key=lambda message: message.first)

    @rule()
    @when(lambda self: any(bundle["due"] for bundle in self.now.bundles.values()))
    def resend(self) -> None:
        offered = self.call(transitions.resend(self.grid.connection, RESEND_SECONDS, 100))
        due = {bundle_id for bundle_id, bundle in self.now.bundles.items() if bundle["due"]}
        assert {str(message.bundle_id) for _, message in offered} == due
        self.messages += sorted(
            (m for _, m in offered), key=lambda m: (m.job_id, m.stage, m.first, m.backup_of is None)
        )

    @rule()
    @when(lambda self: self.now.is_anything_undue())
    def time_passes(self) -> None:
        """Backoffs are over, and the unclaimed bundles due to be sent again."""
        self.sql("UPDATE tasks SET ready_at = now() WHERE state = 'ready'")
        self.sql("UPDATE bundles SET send_at = now() WHERE worker_id IS NULL")

    @rule(to=picks, end=st.sampled_from(["uri", "value", "fatal", None]))
    @when(lambda self: self.workers and any(row["waits"] for row in self.now.lost))
    def renew(self, to: int, end: str | None) -> None:
        """Who waits gets the new output as soon as it is there; if its task has failed, so does the reader.

        With an `end`, the tasks that are due in the first stage are run before.
        """
        worker = choose(self.workers, to)
        for job_id in self.jobs_in("running") if end and not self.now.paused_pools[POOLS[0]] else []:
            messages = self._dispatch(job_id, 0, TASKS_MAX, 3)
            self.promises_are_kept()
            self._deliver(worker, messages)
            self.promises_are_kept()
        if end:
            self._finish_all(worker, end)
        inputs = {}
        for row in self.now.lost:
            key = (row["job_id"], row["reader_stage"], row["reader_index"])
            maker = self.now.tasks[row["job_id"], row["stage"], row["index"]]
            waits = row["waits"] and self.now.state_of(row["job_id"]) == "running"
            if waits and self.now.tasks[key]["state"] == "ready" and maker["state"] in ("succeeded", "failed"):
                self.foretold[key] = "ready" if maker["state"] == "succeeded" else "failed"
                inputs[key] = (
                    successor_input(maker["output"], maker["input"]) if maker["state"] == "succeeded" else None
                )
        self.call(renew.step(Context(self.database, None, self.grid.settings)))  # type: ignore[arg-type]
        self.promises_are_kept()
        for key, input in inputs.items():
            assert input in (None, self.now.tasks[key]["input"])
            assert self.now.tasks[key]["due"] or input is None

    @rule()
    @when(lambda self: any(worker["reapable"] for worker in self.now.workers.values()))
    def reap(self) -> None:
        """Takes what the gone hold, and nobody else's."""
        running = [(key, task) for key, task in self.now.tasks.items() if task["state"] == "running"]
        self.foretold = {
            key: "running"
            for key, task in running
            if not all(self.now.workers[worker_id]["reapable"] for _, worker_id in running_attempts(task))
        }
        self.call(workers.mark_lost_workers(self.grid.connection, 30))
        self.call(transitions.reap_dead_workers(self.grid.connection, LOSSES_MAX))

    @rule(pick=picks)
    @when(lambda self: any(bundle["worker_id"] for bundle in self.now.bundles.values()))
    def reap_hung(self, pick: int) -> None:
        """One bundle has been held for too long."""
        held = [bundle for bundle in self.now.bundles.values() if bundle["worker_id"]]
        bundle_id = UUID(choose(held, pick)["bundle_id"])
        self.sql(HOLD, LONG_AGO_SECONDS, bundle_id)
        self.call(transitions.reap_overdue(self.grid.connection, 60, LOSSES_MAX))

    # The queue.

    @rule(to=picks, pick=picks, count=st.integers(1, 2), deleted=st.booleans(), replied=st.booleans())
    @when(lambda self: self.messages and self.workers)
    def deliver(self, to: int, pick: int, count: int, deleted: bool, replied: bool) -> None:
        """Unless `deleted`, the messages come again; unless `replied`, the worker does not know what it has claimed."""
        pick %= len(self.messages)
        self._deliver(choose(self.workers, to), self.messages[pick : pick + count], replied)
        if deleted:
            del self.messages[pick : pick + count]

    def _deliver(self, worker: Worker, messages: Sequence[Message], replied: bool = True) -> None:
        offered = {message.bundle_id for message in messages}
        tasks = self.call(transitions.claim(self.grid.connection, worker.worker_id, list(offered)))
        claimed = {(str(t.bundle_id), key_of(t), t.attempt) for t in tasks}
        free = {
            message
            for message in messages
            if (bundle := self.now.bundles.get(str(message.bundle_id)))
            and bundle["worker_id"] is None
            and bundle["avoid"] != str(worker.worker_id)
        }
        keys = {
            (str(message.bundle_id), key)
            for message in free
            for key in keys_of(message)
            if message.backup_of is None or self._is_backup_wanted(message, key, worker)
        }
        assert claimed == {(bundle_id, key, begun(self.now.tasks[key]) + 1) for bundle_id, key in keys}
        for task in tasks:
            assert task.input == parse_input(self.now.tasks[key_of(task)]["input"])
            self.leases[key_of(task), task.attempt] = str(task.bundle_id)
            self.foretold[key_of(task)] = "running"
            if replied:
                worker.held.setdefault(task.bundle_id, []).append(task)

    def _is_backup_wanted(self, message: Message, key: Task, worker: Worker) -> bool:
        task = self.now.tasks[key]
        is_first = (task["state"], task["worker_id"]) == ("running", str(message.backup_of))
        return is_first and task["backup_attempt"] is None and worker.worker_id != message.backup_of

    def slow(self) -> list[tuple[UUID, int]]:
        """Stages in which a bundle is held that was not backed up yet."""
        held = [b for b in self.now.bundles.values() if b["worker_id"] and not b["backed_up"] and not b["backup_of"]]
        return sorted({(UUID(bundle["job_id"]), bundle["stage"]) for bundle in held})

    @rule(pick=picks, bundles_max=st.sampled_from([1, 9]), sent=st.booleans())
    @when(lambda self: self.slow())
    def back_up(self, pick: int, bundles_max: int, sent: bool) -> None:
        """What runs longer than its peers is offered once more; `sent` as for `dispatch`."""
        job_id, stage = choose(self.slow(), pick)
        messages = self._back_up(job_id, stage, bundles_max)
        if sent:
            self.messages += messages

    def _back_up(self, job_id: UUID, stage: int, bundles_max: int) -> list[Message]:
        limits = {"seconds_min": 0.0, "task_seconds_max": 0.0, "bundles_max": bundles_max}
        limits["resend_seconds"] = RESEND_SECONDS
        messages = self.call(transitions.offer_backups(self.grid.connection, job_id, stage, pool="default", **limits))
        assert not messages or self.now.state_of(job_id) == "running"
        for message in messages:
            task = self.now.tasks[(str(job_id), stage, message.first)]
            assert (task["state"], task["worker_id"]) == ("running", str(message.backup_of))
        return sorted(messages, key=lambda message: message.first)

    @rule(pick=picks, to=picks)
    @when(lambda self: self.slow() and len(self.workers) > 1)
    def race(self, pick: int, to: int) -> None:
        """A backup is offered and claimed at once."""
        job_id, stage = choose(self.slow(), pick)
        messages = self._back_up(job_id, stage, 9)
        self.promises_are_kept()
        self._deliver(choose(self.workers, to), messages)

    @rule()
    @when(lambda self: any(b["backed_up"] or b["backup_of"] for b in self.now.bundles.values()))
    def settle(self) -> None:
        self.foretold = {key: task["state"] for key, task in self.now.tasks.items()}
        self.call(transitions.settle_races(self.grid.connection))

    @rule(pick=picks, to=picks, bundle_tasks_max=st.sampled_from([3, 1]), deleted=st.booleans())
    @when(lambda self: self.dispatchable() and self.workers)
    def run(self, pick: int, to: int, bundle_tasks_max: int, deleted: bool) -> None:
        """All goes well: what is due in a stage is queued and claimed at once; the messages may come again."""
        job_id, stage = choose(self.dispatchable(), pick)
        messages = self._dispatch(job_id, stage, TASKS_MAX, bundle_tasks_max)
        self.promises_are_kept()
        self._deliver(choose(self.workers, to), messages)
        if not deleted:
            self.messages += messages

    @rule(pick=picks)
    @when(lambda self: self.messages)
    def put_off(self, pick: int) -> None:
        """A worker can't read what the message offers: all stays as it is, and the bundle is offered again."""
        message = self.messages.pop(pick % len(self.messages))
        bundle = self.now.bundles.get(str(message.bundle_id))
        how = {"seconds_first": RESEND_SECONDS, "seconds_max": RESEND_SECONDS}
        times = self.call(transitions.put_off(self.grid.connection, message.bundle_id, **how))
        assert (times is None) == (bundle is None or bundle["worker_id"] is not None)
        self.foretold = {key: task["state"] for key, task in self.now.tasks.items()}

    @rule(pick=picks, count=st.integers(1, 9))
    @when(lambda self: self.messages)
    def lose_messages(self, pick: int, count: int) -> None:
        pick %= len(self.messages)
        del self.messages[pick : pick + count]

    # Workers.

    @rule()
    @when(lambda self: len(self.workers) < 2)
    def start_worker(self) -> None:
        worker = Worker(new_id())
        self.call(
            workers.register_worker(
                self.grid.connection,
                worker_id=worker.worker_id,
                pool=POOLS[0],
                hostname="node",
                instance_id=None,
                pid=1,
                slots=2,
            )
        )
        self.workers.append(worker)

    @rule(pick=picks, ends=st.lists(outcomes, min_size=1, max_size=3), arrival=arrivals)
    @when(lambda self: any(any(worker.held.values()) for worker in self.workers))
    def report(self, pick: int, ends: list[str], arrival: str) -> None:
        """A worker has ended one task or several of a bundle."""
        open_bundles = [(w, bundle_id) for w in self.workers for bundle_id, tasks in w.held.items() if tasks]
        worker, bundle_id = choose(open_bundles, pick)
        self._report(worker, bundle_id, ends, arrival)

    def _report(self, worker: Worker, bundle_id: UUID, ends: Sequence[str], arrival: str) -> None:
        report = self._end_tasks(worker, bundle_id, ends)
        if arrival != "arrives":
            self.reports.append(report)
        if arrival != "is late":
            self._send(report)
        if arrival == "arrives":
            self._confirm(report)

    def readers(self) -> list[tuple[Worker, UUID]]:
        """Who holds tasks that work on outputs."""
        return [(w, bundle_id) for w in self.workers for bundle_id, tasks in w.held.items() if tasks and tasks[0].stage]

    @rule(pick=picks, count=st.integers(1, 2), arrival=arrivals)
    @when(lambda self: self.readers())
    def lose_inputs(self, pick: int, count: int, arrival: str) -> None:
        """A worker could not read an output or two."""
        worker, bundle_id = choose(self.readers(), pick)
        self._report(worker, bundle_id, ["input lost"] * count, arrival)

    @rule(pick=picks, end=outcomes)
    @when(lambda self: any(any(worker.held.values()) for worker in self.workers))
    def finish(self, pick: int, end: str) -> None:
        """All goes well: what a worker holds has ended, all in one way, and its reports arrive."""
        worker = choose([worker for worker in self.workers if any(worker.held.values())], pick)
        self._finish_all(worker, end)

    def _end_tasks(self, worker: Worker, bundle_id: UUID, ends: Sequence[str]) -> Report:
        ended, worker.held[bundle_id] = worker.held[bundle_id][: len(ends)], worker.held[bundle_id][len(ends) :]
        finished = [self._finish(task, end) for task, end in zip(ended, ends, strict=False)]
        return Report(worker, finished, [] if worker.held[bundle_id] else [bundle_id])

    def _finish(self, task: ClaimedTask, end: str) -> AttemptReport:
        """No two reports have the same output, be it of the same attempt."""
        serial = next(self.serial)
        outputs: dict[str, dict[str, Any]] = {
            "uri": {"uri": f"s3://bucket/{serial}", "bytes": serial},
            "value": {"value": serial},
        }
        outcome = {
            **{"uri": "succeeded", "value": "succeeded", "nothing": "succeeded", "fatal": "failed"},
            "input lost": "released",
        }.get(end, end)
        error = None if outcome in ("succeeded", "released") else {"type": "exit_code", "message": str(serial)}
        return AttemptReport(
            *(task.job_id, task.stage, task.index, task.attempt, outcome),
            run_seconds=0.5,
            output=outputs.get(end),
            error=error,
            retryable=end != "fatal",
            lost=self._lost_input(task) if end == "input lost" else [],
        )

    def _lost_input(self, task: ClaimedTask) -> list[LostOutput]:
        """The output that the task works on, by the newest attempt: the task that made it may run again already."""
        if task.stage == 0:
            return []
        attempt = self.now.tasks[str(task.job_id), task.stage - 1, task.index]["attempt"]
        return [LostOutput(task.stage - 1, task.index, attempt, f"s3://bucket/{next(self.serial)}")]

    def _lose(self, worker_id: UUID, end: AttemptReport) -> None:
        """What was lost is made again, unless that is done already, or was done too often; the reader waits."""
        key, [lost] = key_of(end), end.lost
        maker = (key[0], lost.stage, lost.index)
        self.foretold = self._unchanged(key, maker)
        is_alone = self.now.is_held(worker_id, end) and len(running_attempts(self.now.tasks[key])) == 1
        if is_alone and self.now.state_of(end.job_id) in ("running", "paused"):
            is_over = self.now.lost_before(maker, lost.attempt) >= lost_outputs.RERUNS_MAX
            self.foretold[key] = "failed" if is_over else "ready"
            made = self.now.tasks[maker]
            if not is_over and (made["state"], made["attempt"]) == ("succeeded", lost.attempt):
                self.foretold[maker] = "ready"
                self.again[maker] = "output_lost"
                del self.outputs[maker]
        self.call(lost_outputs.lose_inputs(self.database, worker_id, end))
        self.promises_are_kept()

    def _complete(self, report: Report) -> None:
        """Only what still holds its task counts."""
        worker_id = report.worker.worker_id
        for end in report.finished:
            if end.lost:
                self._lose(worker_id, end)
        held = [f for f in report.finished if self.now.is_held(worker_id, f)]
        self.foretold = self._unchanged(*map(key_of, report.finished))
        for end in held:
            self.foretold[key_of(end)] = self._state_after(end)
            if end.outcome == "succeeded":
                self.outputs[key_of(end)] = end.output
        accepted = self.call(transitions.complete(self.grid.connection, worker_id, report.finished, report.done))
        assert accepted == len(held), (accepted, held)
        report.has_arrived = True

    def _unchanged(self, *keys: Task) -> dict[Task, str]:
        """The states of these tasks, but of those that a retry has deleted."""
        return {key: self.now.tasks[key]["state"] for key in keys if key in self.now.tasks}

    def _state_after(self, end: AttemptReport) -> str:
        if end.outcome == "succeeded":
            return "succeeded"
        if len(running_attempts(self.now.tasks[key_of(end)])) > 1:
            return "running"
        if end.outcome == "released":
            return "ready"
        failures = self.now.tasks[key_of(end)]["failures"] + 1
        return "ready" if end.retryable and failures < RETRIES[end.stage]["max_attempts"] else "failed"

    def _send(self, report: Report) -> None:
        """After those of the same worker that are still under way."""
        for earlier in self.reports:
            if earlier is report:
                break
            if earlier.worker is report.worker and not earlier.has_arrived:
                self._complete(earlier)
                self.promises_are_kept()
        self._complete(report)

    def _confirm(self, report: Report) -> None:
        """The worker knows that its report is in."""
        for bundle_id in report.done:
            report.worker.held.pop(bundle_id, None)

    @rule(pick=picks, again=st.booleans())
    @when(lambda self: self.reports)
    def report_late(self, pick: int, again: bool) -> None:
        """Perhaps as a zombie: the worker may have been given up, or be dead by now."""
        report = choose(self.reports, pick)
        self._send(report)
        if not again:
            self._confirm(report)
            self.reports.remove(report)

    @rule(pick=st.integers(0, 30), by=picks, shift=st.integers(-1, 1), end=outcomes)
    @when(lambda self: self.leases and self.workers)
    def report_astray(self, pick: int, by: int, shift: int, end: str) -> None:
        """Somebody reports an attempt of some time, of whomever, or one that has never been, and others' bundles."""
        ((job_id, stage, index), attempt), bundle_id = choose(list(self.leases.items()), pick)
        task = ClaimedTask(UUID(bundle_id), UUID(job_id), stage, index, max(0, attempt + shift), {})
        worker, bundle = choose(self.workers, by), self.now.bundles.get(bundle_id)
        is_own = bundle is not None and bundle["worker_id"] == str(worker.worker_id)
        self._complete(Report(worker, [self._finish(task, end)], [] if is_own else [task.bundle_id]))

    def _beat(self, worker: Worker) -> None:
        """As the worker does: kill what is gone, give back what is unknown, end when given up."""
        answer = self.call(workers.heartbeat(self.grid.connection, worker.worker_id, 0))
        if answer.state == "lost":
            self.workers.remove(worker)
            return
        for bundle_id in worker.held.keys() - answer.bundle_ids:
            del worker.held[bundle_id]
        for bundle_id, indexes in answer.cancelled.items():
            held = worker.held.get(bundle_id, [])
            released = [self._finish(task, "released") for task in held if task.index in indexes]
            worker.held[bundle_id] = [task for task in held if task.index not in indexes]
            self._send(Report(worker, released, [] if worker.held[bundle_id] else [bundle_id]))
        if unknown := answer.bundle_ids - worker.held.keys():
            self.call(transitions.abandon(self.grid.connection, worker.worker_id, list(unknown)))

    @rule(pick=picks, fate=st.sampled_from(["beats", "falls silent", "dies", "stops"]))
    @when(lambda self: self.workers)
    def meet_fate(self, pick: int, fate: str) -> None:
        """A silent one goes on; what a dead one has sent may still arrive; one that stops may hold something."""
        worker = choose(self.workers, pick)
        if fate == "beats":
            self._beat(worker)
        elif fate == "stops":
            self.call(workers.stop_worker(self.grid.connection, worker.worker_id))
        else:
            self.sql(f"UPDATE workers SET heartbeat_at = now() - {LONG_AGO} WHERE worker_id = $1", worker.worker_id)
        if fate in ("dies", "stops"):
            self.workers.remove(worker)

    # Users, and the end of jobs.

    def _order(self, order: Order, job_id: UUID) -> None:
        async def give() -> None:
            await order(self.grid.connection, job_id)

        self.call(give())

    @rule(pick=picks, order=st.sampled_from(["pause or resume", "cancel", "fail"]), stage=st.sampled_from([0, 1, None]))
    @when(lambda self: self.jobs_in("running", "paused"))
    def change_job(self, pick: int, order: str, stage: int | None) -> None:
        """A job fails by a stage, or by its split."""
        job_id = choose(self.jobs_in("running", "paused"), pick)
        if not self.may_end:
            order = "pause or resume"
        if order == "cancel":
            self._order(jobs.cancel_job, job_id)
        elif order == "fail":
            error = {"type": "split_failed" if stage is None else "stage_failed", "message": "broken"}
            assert self.call(jobs.fail_job(self.grid.connection, job_id, error, stage))
        else:
            self._order(jobs.pause_job if self.now.state_of(job_id) == "running" else jobs.resume_job, job_id)

    @rule(pick=picks, indexes=st.lists(picks, min_size=1, max_size=3, unique=True))
    @when(lambda self: self.may_end and self.now.tasks)
    def cancel_some(self, pick: int, indexes: list[int]) -> None:
        """Tasks of the first stage, whatever they do; those that have ended stay as they are."""
        job_id = choose(self.job_ids, pick)
        of_stage = {key: task for key, task in self.now.tasks.items() if key[:2] == (str(job_id), 0)}
        self.foretold = {
            key: task["state"] if task["state"] in TERMINAL else "cancelled"
            for key, task in of_stage.items()
            if key[2] in indexes
        }
        assert self.call(transitions.cancel_some(self.grid.connection, job_id, 0, sorted(indexes)))

    def pools_to_turn(self) -> list[str]:
        """Pools that are paused, or have something to take back."""
        offering = {bundle["pool"] for bundle in self.now.bundles.values() if not bundle["worker_id"]}
        return [pool for pool, paused in self.now.paused_pools.items() if paused or pool in offering]

    @rule(pick=picks)
    @when(lambda self: self.pools_to_turn())
    def pause_or_resume_pool(self, pick: int) -> None:
        pool = choose(self.pools_to_turn(), pick)
        order = pools.resume_pool if self.now.paused_pools[pool] else pools.pause_pool
        self.call(order(self.grid.connection, pool))

    @rule(pick=picks, tasks_max=st.sampled_from([100, 1]))
    @when(lambda self: self.jobs_in("cancelling", "failing"))
    def end_job(self, pick: int, tasks_max: int) -> None:
        self._end_job(choose(self.jobs_in("cancelling", "failing"), pick), tasks_max)

    def _end_job(self, job_id: UUID, tasks_max: int) -> None:
        """Cancel a part of what is left; if that is all, the job is over."""
        if self.call(transitions.cancel_tasks(self.grid.connection, job_id, tasks_max)):
            source = self.now.state_of(job_id)
            target = {"cancelling": "cancelled", "failing": "failed"}[source]
            end = jobs.end_job(self.grid.connection, job_id, source=source, target=target, settings=self.grid.settings)
            assert self.call(end)

    @rule(pick=picks)
    @when(lambda self: self.jobs_in("failed", "cancelled"))
    def retry_job(self, pick: int) -> None:
        self._retry(choose(self.jobs_in("failed", "cancelled"), pick))

    def _retry(self, job_id: UUID) -> None:
        self._order(jobs.retry_job, job_id)
        self.retried = str(job_id)
        self.foretold = {
            key: "succeeded" if task["state"] == "succeeded" else "ready"
            for key, task in self.now.tasks.items()
            if key[0] == str(job_id)
        }

    @rule(pick=picks, stage=st.integers(0, 1))
    @when(lambda self: self.jobs_in("failed", "cancelled"))
    def retry_stage(self, pick: int, stage: int) -> None:
        """All tasks of the stage run again, and those of the next one are gone until theirs succeed."""
        job_id, order = choose(self.jobs_in("failed", "cancelled"), pick), RetryOrder(stage=stage)
        of_job = {key: task for key, task in self.now.tasks.items() if key[0] == str(job_id)}
        changed = {key: task for key, task in of_job.items() if key[1] >= stage}
        self.call(retries.retry_job(self.grid.connection, job_id, order, self.grid.settings, Reader()))
        self.retried = str(job_id)
        self.again = {key: "run_again" for key, task in changed.items() if task["state"] == "succeeded"}
        for key in self.again:
            del self.outputs[key]
        kept = {key: task for key, task in of_job.items() if key[1] <= stage}
        self.foretold = {
            key: "succeeded" if task["state"] == "succeeded" and key not in self.again else "ready"
            for key, task in kept.items()
        }

    # The end of an example.

    def teardown(self) -> None:
        """Everything comes to an end, though all messages are lost: unless an assertion has failed already."""
        if not self.is_sound:
            return
        note("teardown: all messages are lost, users resume, or cancel and retry, workers recover")
        self.messages.clear()
        self._resume_all()
        if self.may_end:
            self._cancel_and_retry_all()
        self._recover_workers()
        self.start_worker()
        for _ in range(2):  # one a stage
            self._run_all_ready(self.workers[-1])
        left = [task for task in self.now.tasks.values() if task["state"] not in TERMINAL]
        assert not left, ("not terminal", left)
        for report in self.reports:
            self._complete(report)
            self.promises_are_kept()

    def _resume_all(self) -> None:
        for job_id in self.jobs_in("paused"):
            self._order(jobs.resume_job, job_id)
        for pool in POOLS:
            self.call(pools.resume_pool(self.grid.connection, pool))
        self.promises_are_kept()

    def _cancel_and_retry_all(self) -> None:
        for job_id in self.jobs_in("running"):
            self._order(jobs.cancel_job, job_id)
        self.promises_are_kept()
        for job_id in self.jobs_in("cancelling", "failing"):
            self._end_job(job_id, 100)
            self.promises_are_kept()
            assert self.now.state_of(job_id) in TERMINAL
        for job_id in self.jobs_in(*TERMINAL):
            self._retry(job_id)
            self.promises_are_kept()

    def _recover_workers(self) -> None:
        """The dead are reaped; the living beat, and get their reports through."""
        self.reap()
        self.promises_are_kept()
        for worker in list(self.workers):
            self._beat(worker)
            self.promises_are_kept()
        for report in self.reports:
            if report.worker in self.workers:
                self._send(report)
                self._confirm(report)
                self.promises_are_kept()
        for worker in self.workers:
            self._finish_all(worker, "value")

    def _run_all_ready(self, worker: Worker) -> None:
        self.time_passes()
        self.promises_are_kept()
        self.resend()
        self.promises_are_kept()
        for job_id in self.jobs_in("running"):
            for stage in range(len(POOLS)):
                self.messages += self._dispatch(job_id, stage, 100, 3)
                self.promises_are_kept()
        self._deliver(worker, self.messages)
        self.messages.clear()
        self.promises_are_kept()
        self._finish_all(worker, "value")

    def _finish_all(self, worker: Worker, end: str) -> None:
        for bundle_id in [bundle_id for bundle_id, tasks in worker.held.items() if tasks]:
            report = self._end_tasks(worker, bundle_id, [end] * len(worker.held[bundle_id]))
            self._send(report)
            self._confirm(report)
            self.promises_are_kept()


def choose(things: Sequence[T], pick: int) -> T:
    return things[pick % len(things)]


def key_of(task: ClaimedTask | AttemptReport) -> Task:
    return str(task.job_id), task.stage, task.index


def keys_of(message: Message) -> list[Task]:
    return [(str(message.job_id), message.stage, message.first + n) for n in range(message.count)]


@pytest.fixture
def grid(database_url: str, settings: Settings) -> Iterator[ModelDatabase]:
    loop = asyncio.new_event_loop()
    database = loop.run_until_complete(connect_database(database_url, 1))
    grid = ModelDatabase(loop, loop.run_until_complete(database.acquire()), settings)
    grid.run(grid.prepare())
    yield grid
    database.terminate()
    loop.close()


@pytest.mark.timeout(0 if EXPLORING else 600)  # a failure takes its time to be made small
def test_no_order_of_events_breaks_a_promise(grid: ModelDatabase) -> None:
    class OnThisGrid(Protocol):
        def __init__(self) -> None:
            super().__init__(grid)

    run_state_machine_as_test(
        OnThisGrid,
        settings=hypothesis_settings(
            max_examples=EXAMPLES or 40,
            stateful_step_count=180 if EXPLORING else 120,  # of which most do nothing, at no cost
            derandomize=not EXPLORING,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
