"""Dispatch: keep each pool's queue topped up with a few bundles per slot, by priority and fair share.

SQS has no priorities, so the order is decided before it: only a short window of work is queued at a time, and every
step chooses again which job's tasks come next. Of those with equal work in flight, whoever was granted something
longest ago goes first, so that tasks that take no time are shared out evenly, too.

Bundles aim at half a second of work, by the measured task time of the stage, and shrink towards its end (guided
self-scheduling, Polychronopoulos & Kuck 1987, doi:10.1109/TC.1987.5009495). They hold more where slots are few and
stages many.

Tasks that ask for a part of their node have a window of their own for each size: to them, the pool's slots are as many
as its workers can hold of them at once. So what fits nowhere is not queued, and keeps nothing else out.
"""

import heapq
import math
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from asyncpg import Record

from services.contract.message import CROWDED_MAX, Message
from services.contract.resources import Capacity, Needs
from services.engine import transitions
from services.engine.progress import is_slowed
from services.engine.running import fetch_running
from services.platform import tracing
from services.platform.database import Connection
from services.platform.settings import Settings
from services.scheduler.loop import Context
from services.scheduler.paces import Paces
from services.scheduler.queues import send
from services.scheduler.traces import trace_of
from services.scheduler.turns import Turns

# Assumed task time until the stage's first task has ended; it keeps a new stage's share of the pool small.
UNMEASURED_SECONDS = 1.0
FIRST_BUNDLE_TASKS_MAX = 100  # of a stage whose tasks are believed to be as long as those of its processor's last jobs
TASK_SECONDS_MIN = 0.001  # what a task costs the grid at least: one that was measured to take no time does not either
BUNDLES_MAX = 5_000  # queued by one transaction
TOP_UP_SECONDS = 1.0  # of one transaction: pausing the pool waits for its end, and so does every other scheduler
# Stages that are looked at in a second: ten microseconds each, so that this takes a few per cent of a core. While there
# is something to queue, the next look comes sooner: slots must not starve.
STAGES_A_SECOND = 2_500
STAGES_A_SECOND_QUEUEING = 4 * STAGES_A_SECOND
SLOWED_SHARE = 0.1  # of a pool's slots, for a stage that has used up its retry budget, or that workers put off

# Those who take turns. A share's jobs of one priority are a party of their own.
Share = tuple[int, str]
Job = tuple[int, str, UUID]
Place = tuple[Any, ...]  # of one of them in a queue; the party comes last
Row = Record | dict[str, Any]  # of a stage

# Pools that can take work, the slots to keep busy, and the bundles that wait for them.
_POOLS = """
    SELECT p.name, p.queue_url,
        (SELECT count(*) FROM bundles AS b
            WHERE b.pool = p.name AND b.worker_id IS NULL AND b.put_off = 0 AND b.needs IS NULL) AS waiting,
        greatest(p.slots, (SELECT sum(w.slots) FROM workers AS w WHERE w.pool = p.name AND w.state = 'active')) AS slots
    FROM pools AS p WHERE NOT p.paused"""

# The pool's row is the lock: one scheduler tops it up at a time, and a pause comes before or after. What waits is
# counted by the next statement, which is sure to see what the scheduler before has queued.
_LOCK = "SELECT true FROM pools WHERE name = $1 AND NOT paused FOR UPDATE SKIP LOCKED"
_WAITING = """
    SELECT count(*) FROM bundles
    WHERE pool = $1 AND worker_id IS NULL AND put_off = 0 AND needs IS NOT DISTINCT FROM $2::jsonb"""

# How many tasks of stages have been due for so long: at most as many as a window has.
_DUE = """
    SELECT (SELECT count(*) FROM (
        SELECT FROM tasks AS t WHERE t.job_id = asked.job_id AND t.stage = asked.stage
          AND t.ready_at <= now() - asked.seconds * interval '1 second' LIMIT $4) AS due) AS tasks
    FROM unnest($1::uuid[], $2::smallint[], $3::float8[]) WITH ORDINALITY AS asked (job_id, stage, seconds, place)
    ORDER BY asked.place"""

# What the workers of these pools have for tasks that ask for something.
_NODES = """
    SELECT pool, cpus, memory, gpus, disk, slots, count(*) AS nodes FROM workers
    WHERE pool = ANY($1::text[]) AND state = 'active' AND cpus IS NOT NULL
    GROUP BY pool, cpus, memory, gpus, disk, slots"""

# Behind a barrier, a stage that is an array of its own waits for the end of its plan: each task then knows its size.
# A stage that makes the tasks of the next one is held back while that has enough of them.
_STAGES = """
    SELECT s.job_id, s.stage, s.pool, s.max_attempts, s.retry_budget, s.priority, s.share, s.ready, s.running,
        s.queued + s.running AS in_flight, s.attempts, s.succeeded, s.task_seconds, s.processor, s.processor_version,
        (of.options ->> 'running_max')::integer AS running_max, of.needs, of.pools, of.next_pool_after_seconds,
        EXISTS (
            SELECT FROM bundles AS b
            WHERE b.job_id = s.job_id AND b.stage = s.stage AND b.put_off > 0 AND b.worker_id IS NULL
        ) AS put_off,
        of.chains AND is_full(s.job_id, (s.stage + 1)::smallint, $5) AS held_back
    FROM running_stages AS s JOIN stages AS of USING (job_id, stage)
    WHERE of.state = 'running' AND (of.job_id, of.stage) > ($1, $2) AND (of.job_id, of.stage) <= ($3, $4)
      AND (s.ready > 0 OR s.queued > 0 OR s.running > 0)
      AND NOT of.columns_due
      AND (s.planned OR NOT of.barrier OR of.tasks_from = 'outputs')
    ORDER BY s.job_id, s.stage"""  # the order in which counters are locked


@dataclass(slots=True)
class Candidate:
    """A stage with ready tasks, and what it has in flight, in seconds of work."""

    job_id: UUID
    stage: int
    priority: int
    share: str
    ready: int
    in_flight_seconds: float
    task_seconds: float | None  # measured mean; None before the first task has ended
    running_max: int | None = None
    believed: bool = False  # nothing of the stage is measured: task_seconds is that of its processor's last jobs
    due_seconds: float = 0.0  # for which its tasks must have been due in the pools before
    shared: bool = False  # by several pools
    rivals: int = 1  # stages of its priority that have ready tasks, itself among them
    granted: int = 0

    @property
    def of_share(self) -> Share:
        return (self.priority, self.share)

    @property
    def of_job(self) -> Job:
        return (self.priority, self.share, self.job_id)

    @property
    def itself(self) -> tuple[UUID, int]:
        return (self.job_id, self.stage)

    @property
    def expected_seconds(self) -> float:
        """The assumed duration of a task, in seconds; never 0."""
        return UNMEASURED_SECONDS if self.task_seconds is None else max(self.task_seconds, TASK_SECONDS_MIN)

    def bundle_tasks(self, settings: Settings, slots: int) -> int:
        """How many tasks the next bundle gets: its last ones are spread over its part of the slots.

        If more stages than slots take turns, each has a longer one: a slot that turns to another job needs another
        child, and would soon do little else.
        """
        if self.task_seconds is None or self.running_max is not None:
            return 1  # those of a bundle run one after the other
        crowd = min(max(1.0, self.rivals / slots), CROWDED_MAX)
        aimed = int(crowd * settings.bundle_seconds / self.expected_seconds)
        fair_rest = math.ceil(self.ready * self.rivals / (2 * slots))
        most = settings.bundle_tasks_max
        return max(1, min(aimed, fair_rest, most, FIRST_BUNDLE_TASKS_MAX if self.believed else most))

    def take_bundle(self, settings: Settings, slots: int) -> float:
        """Grant one more bundle; returns its seconds of work."""
        tasks = min(self.bundle_tasks(settings, slots), self.ready)
        self.granted += tasks
        self.ready -= tasks
        self.in_flight_seconds += tasks * self.expected_seconds
        return tasks * self.expected_seconds

    def settle(self, queued: int) -> None:
        """This many of the granted tasks are queued; if that is not all, the rest waits for its backoff."""
        if queued < self.granted:
            self.in_flight_seconds -= (self.granted - queued) * self.expected_seconds
            self.ready = 0
        self.granted = 0


async def step(context: Context) -> bool | float:
    """Top up every pool, again while one of them empties fast.

    Returns how long to rest while any job has tasks that are not terminal, else False.
    """
    while True:
        rows = await fetch_running(context.database, _STAGES, context.settings.ready_tasks_max)
        stages = [_paced(row, context.paces) for row in rows]
        taken = await _top_up_all(context, stages)
        if taken < 0.5:  # else bundles are so short that slots would starve during a pause
            return len(stages) / (STAGES_A_SECOND_QUEUEING if taken else STAGES_A_SECOND) if stages else False


def _paced(row: Record, paces: Paces) -> Row:
    """The first tasks of a stage are as long as those of its processor's last jobs; it begins with many small bundles.

    Only its first tasks: if they are longer, nobody knows for how long.
    """
    version = (row["processor"], row["processor_version"])
    if row["task_seconds"] is not None:
        paces.note(version, row["task_seconds"])
    elif not row["in_flight"] and not row["attempts"] and (seconds := paces.seconds_of(version)) is not None:
        return {**row, "task_seconds": seconds, "believed": True}
    return row


async def _top_up_all(context: Context, stages: Sequence[Row]) -> float:
    """The largest share of a pool's window that it took; as many as one step may take count as the window's half."""
    by_pool: dict[str, list[Row]] = defaultdict(list)
    for row in (*stages, *await _read_overdue(context, stages)):
        by_pool[row["pool"]].append(row)
    nodes = await _read_nodes(context, {pool for pool, rows in by_pool.items() if any(row["needs"] for row in rows)})
    taken = 0.0
    for pool in await context.database.fetch(_POOLS) if by_pool else ():
        if pool["name"] in context.slots["dispatch"].keys:
            continue  # its queue does not answer: other pools go on
        rows = by_pool[pool["name"]]
        windows = list(_windows(pool, rows, nodes[pool["name"]], context.settings))
        if windows:
            context.turns[pool["name"]].keep({party for row in rows for party in _parties(row)})
            taken = max(taken, await _top_up(context, pool, windows))
    return taken


async def _read_overdue(context: Context, stages: Sequence[Row]) -> list[Row]:
    """Stages once more, for their next pools: with those of their tasks that the pools before did not begin in time."""
    asked = [
        {**row, "pool": pool, "due_seconds": place * row["next_pool_after_seconds"]}
        for row in stages
        if row["pools"] and row["ready"] and not row["held_back"]
        for place, pool in enumerate(row["pools"])
        if place
    ]
    if not asked:
        return []
    columns = [[row[name] for row in asked] for name in ("job_id", "stage", "due_seconds")]
    due = await context.database.fetch(_DUE, *columns, BUNDLES_MAX)
    return [{**row, "ready": found["tasks"]} for row, found in zip(asked, due, strict=True) if found["tasks"]]


Node = tuple[Capacity, int]  # what it has, and its slots


async def _read_nodes(context: Context, pools: set[str]) -> Mapping[str, Mapping[Node, int]]:
    """How many nodes of each kind live in these pools."""
    nodes: dict[str, dict[Node, int]] = defaultdict(dict)
    for row in await context.database.fetch(_NODES, list(pools)) if pools else ():
        nodes[row["pool"]][Capacity.of(row), row["slots"]] = row["nodes"]
    return nodes


@dataclass(slots=True)
class Window:
    """The stages whose tasks ask for the same, and how many bundles of them may wait in the queue."""

    needs: Needs | None
    slots: int  # as many as run at once
    candidates: list[Candidate]
    bundles: int


def _windows(pool: Record, stages: Sequence[Row], nodes: Mapping[Node, int], settings: Settings) -> Iterator[Window]:
    """Those in which something is ready, and room."""
    by_needs: dict[Needs | None, list[Row]] = defaultdict(list)
    for row in stages:
        by_needs[Needs.of(row["needs"])].append(row)
    for needs, rows in by_needs.items():
        slots = int(pool["slots"]) if needs is None else slots_for(needs, nodes)
        if not slots or (
            needs is None and pool["waiting"] >= math.ceil(max(1, settings.window_bundles) * slots)
        ):  # as many as any window has
            continue
        candidates = [_candidate(row, slots) for row in rows]
        rivals = Counter(candidate.priority for candidate in candidates if candidate.ready)
        for candidate in candidates:
            candidate.rivals = rivals[candidate.priority]
        if any(candidate.ready for candidate in candidates):
            bundles = window_bundles(candidates, sum(row["running"] for row in rows), slots, settings)
            yield Window(needs, slots, candidates, bundles)


def _parties(row: Row) -> tuple[Hashable, ...]:
    """Those who take turns, of a stage; as a Candidate names them."""
    share = (row["priority"], row["share"])
    return share, (*share, row["job_id"]), (row["job_id"], row["stage"])


def slots_for(needs: Needs, nodes: Mapping[Node, int]) -> int:
    """How many such tasks these nodes can hold at once."""
    return sum(count * has.count(has.part(needs, slots)) for (has, slots), count in nodes.items())


def window_bundles(candidates: list[Candidate], running: int, slots: int, settings: Settings) -> int:
    """How many unclaimed bundles the pool's queue may hold: one for each idle slot, and a stock of a few seconds.

    More long tasks would only wait there, be offered again and again, and come before urgent work.
    """
    seconds = min(c.bundle_tasks(settings, slots) * c.expected_seconds for c in candidates if c.ready)
    stock = min(settings.window_bundles, settings.window_seconds / seconds)
    return max(slots - running, math.ceil(stock * slots))


def _candidate(row: Row, slots: int) -> Candidate:
    ready = 0 if row["held_back"] else row["ready"]
    if row["put_off"] or is_slowed(dict(row)):
        ready = min(ready, max(0, math.ceil(SLOWED_SHARE * slots) - row["in_flight"]))
    if row["running_max"] is not None:
        ready = min(ready, max(0, row["running_max"] - row["in_flight"]))
    candidate = Candidate(
        row["job_id"],
        row["stage"],
        row["priority"],
        row["share"],
        ready=ready,
        in_flight_seconds=0.0,
        task_seconds=row["task_seconds"],
        running_max=row["running_max"],
        believed=row.get("believed", False),
        due_seconds=row.get("due_seconds", 0.0),
        shared=bool(row["pools"]),
    )
    candidate.in_flight_seconds = row["in_flight"] * candidate.expected_seconds
    return candidate


def grant(candidates: list[Candidate], bundles: int, slots: int, settings: Settings, turns: Turns) -> None:
    """Hand out `bundles` one by one, by priority; then to the share, its job and that job's stage with least in flight.

    Shares with equal work in flight take turns; so do the jobs of a share, and the stages of a job, the latest first.
    """
    load: dict[Hashable, float] = defaultdict(float)
    stages: dict[Job, list[Candidate]] = defaultdict(list)
    jobs: dict[Share, dict[Job, None]] = defaultdict(dict)
    for candidate in candidates:
        load[candidate.of_share] += candidate.in_flight_seconds
        load[candidate.of_job] += candidate.in_flight_seconds
        if candidate.ready:
            stages[candidate.of_job].append(candidate)
            jobs[candidate.of_share][candidate.of_job] = None
    queues: dict[Share, list[Place]] = {
        share: [(load[job], turns.last(job), job) for job in waiting] for share, waiting in jobs.items()
    }
    queue: list[Place] = [(-share[0], load[share], turns.last(share), share) for share in queues]
    for places in (queue, *queues.values()):
        heapq.heapify(places)
    while queue and bundles > 0:
        bundles -= 1
        share = queue[0][-1]
        job = queues[share][0][-1]
        best = min(stages[job], key=lambda stage: (stage.in_flight_seconds, turns.last(stage.itself), -stage.stage))
        seconds = best.take_bundle(settings, slots)
        load[share] += seconds
        load[job] += seconds
        turns.take(share, job, best.itself)
        if not best.ready:
            stages[job].remove(best)
        _next(queues[share], (load[job], turns.last(job), job) if stages[job] else None)
        _next(queue, (-share[0], load[share], turns.last(share), share) if queues[share] else None)


def _next(queue: list[Place], served: Place | None) -> None:
    """The first of the heap was served: it goes to its new place, or away."""
    if served is None:
        heapq.heappop(queue)
    else:
        heapq.heapreplace(queue, served)


async def _top_up(context: Context, pool: Record, windows: Sequence[Window]) -> float:
    """The share of the windows that it took."""
    began_ns = time.time_ns()
    messages: list[Message] = []
    until = time.monotonic() + TOP_UP_SECONDS
    async with context.database.acquire() as connection, connection.transaction():
        if not await connection.fetchval(_LOCK, pool["name"]):
            return 0.0
        for window in windows:
            messages += await _fill(context, connection, pool["name"], window, BUNDLES_MAX - len(messages), until)
    await context.slots["dispatch"].advance({pool["name"]: send(context, pool["queue_url"], messages)})
    await _trace(context, pool["name"], messages, began_ns)
    if messages and time.monotonic() >= until:
        return 1.0
    return len(messages) / (2 * min(BUNDLES_MAX, sum(window.bundles for window in windows) / 2))


async def _fill(
    context: Context, connection: Connection, pool: str, window: Window, bundles_max: int, until: float
) -> list[Message]:
    """Queue what the window has room for, unless that takes longer."""
    settings, candidates = context.settings, window.candidates
    messages: list[Message] = []
    waiting = await connection.fetchval(_WAITING, pool, window.needs and window.needs.to_json())
    free = min(bundles_max, window.bundles - waiting)
    while free > len(messages) and time.monotonic() < until and any(candidate.ready for candidate in candidates):
        sizes = {id(candidate): candidate.bundle_tasks(settings, window.slots) for candidate in candidates}
        grant(candidates, free - len(messages), window.slots, settings, context.turns[pool])
        for candidate in candidates:
            if candidate.granted and time.monotonic() >= until:
                candidate.settle(0)
            elif candidate.granted:
                queued = await transitions.dispatch(
                    connection,
                    candidate.job_id,
                    candidate.stage,
                    pool=pool,
                    tasks_max=candidate.granted,
                    bundle_tasks_max=sizes[id(candidate)],
                    resend_seconds=settings.resend_seconds,
                    running_max=candidate.running_max,
                    due_seconds=candidate.due_seconds,
                    shared=candidate.shared,
                )
                candidate.settle(sum(message.count for message in queued))
                messages += queued
    return messages


async def _trace(context: Context, pool: str, messages: list[Message], began_ns: int) -> None:
    """A span for each job that was dispatched."""
    if tracing.recording():
        for job_id in {message.job_id for message in messages if tracing.has_spans(message.first)}:
            of_job = [message for message in messages if message.job_id == job_id]
            with tracing.span(
                "dispatch",
                await trace_of(context.database, job_id),
                kind="producer",
                started_ns=began_ns,
                job=job_id,
                pool=pool,
                bundles=len(of_job),
                tasks=sum(message.count for message in of_job),
            ):
                pass
