"""The rules: from the facts about a job to its reasons. Nothing here reads the database or the clock."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from services.contract.resources import Needs
from services.contract.states import TERMINAL
from services.engine.progress import is_slowed
from services.engine.reasons.facts import Facts, PoolFacts, Row
from services.engine.reasons.reason import Reason, ReasonCode, in_order

SILENT = timedelta(seconds=30)  # none of the scheduler's loops went well for this long: there is none
HUNG = timedelta(minutes=2)  # nor did this one: its step hangs
FAILING = timedelta(seconds=10)  # it has failed for this long
STARTING = timedelta(minutes=2)  # an instance that has no worker after this long is told as missing
NOT_TAKEN = timedelta(seconds=30)  # a message that nobody takes though slots are free
TRIED = timedelta(minutes=5)  # what is put off is tried again within this time
RUNNING_NAMED = 3  # jobs
PREDECESSORS_NAMED = 3


def explain(facts: Facts, *, named: bool = True) -> dict[UUID, list[Reason]]:
    """The reasons of each job that has not ended. Other jobs are named only to those who may see all (`named`)."""
    return {job_id: in_order(_Explanation(facts, job, named).reasons()) for job_id, job in facts.jobs.items()}


class _Explanation:
    """The reasons of one job."""

    def __init__(self, facts: Facts, job: Row, named: bool) -> None:
        self._facts = facts
        self._job = job
        self._named = named
        self._now: datetime = job["now"]
        self._stages = facts.stages[job["job_id"]]

    def reasons(self) -> Iterator[Reason]:
        """In any order."""
        match self._job["state"]:
            case "scheduled":
                yield from self._scheduled()
            case "paused":
                yield _reason(
                    "job_paused",
                    "the job is paused: resume it (resume_job; `piecework resume JOB`)",
                    since=self._job["paused_at"],
                )
            case "cancelling" | "failing":
                yield from self._look_for_loops({"finish"})
                yield self._ending()
            case _:
                yield from self._look_for_loops({self._loop_of(stage) for stage in self._stages if _is_open(stage)})
                for number, stage in enumerate(self._stages):
                    yield from self._of_stage(stage, self._stages[number - 1] if number else None)

    def _scheduled(self) -> Iterator[Reason]:
        run_at = self._job["run_at"]
        if run_at is None and self._job["predecessors"]:
            yield from self._look_for_loops({"clock"})
            yield self._waits_for_jobs(self._job["predecessors"])
            return
        if run_at is not None and run_at <= self._now:
            yield from self._look_for_loops({"clock"})
        yield _reason(
            "scheduled",
            f"the job starts at {_at(run_at)}: nothing is to be done",
            since=self._job["created_at"],
            details={"run_at": run_at},
        )

    def _waits_for_jobs(self, predecessors: Sequence[Row]) -> Reason:
        left = [one for one in predecessors if one["ended"] is None and not one["by_index"]]
        named = [
            f"{'the end' if one['condition'] == 'any' else 'the success'} of job "
            + (f"{one['name']} ({one['job_id']}), which is {one['state']}" if self._named else one["job_id"])
            for one in left[:PREDECESSORS_NAMED]
        ]
        more = f", and {len(left) - len(named):,} more" if len(left) > len(named) else ""
        what = f"it waits for {'; '.join(named)}{more}" if left else "the jobs that it waited for have ended: it starts"
        return _reason(
            "waits_for_jobs", what, since=self._job["created_at"], details={"jobs": [one["job_id"] for one in left]}
        )

    def _follows(self, stage: Row, predecessors: Sequence[Row]) -> Reason:
        """Of an array whose tasks are made one by one."""
        job_ids = [one["job_id"] for one in predecessors]
        named = " and ".join(job_ids[:PREDECESSORS_NAMED])
        return _of(
            stage,
            "waits_for_jobs",
            f"each of its tasks waits for the task of the same index of job {named}",
            details={"jobs": job_ids},
        )

    def _ending(self) -> Reason:
        left = sum(stage["ready"] + stage["queued"] + stage["running"] for stage in self._stages)
        return _reason(
            "ending",
            f"the job is {self._job['state']}: {_count(left, 'task')} of it must be cancelled first",
            details={"tasks": left},
        )

    # Schedulers.

    def _loop_of(self, stage: Row) -> str:
        if stage["state"] == "merging":
            return "merge"
        if stage["columns_due"] and stage["planned"]:
            return "columns"
        if stage["ready"] + stage["queued"]:
            return "dispatch"
        if not stage["planned"] and stage["open_seconds"] is None:
            return "chain" if stage["stage"] else "plan"
        return "finish"

    def _look_for_loops(self, needed: Iterable[str]) -> Iterator[Reason]:
        """Whether somebody runs these loops of a scheduler."""
        looked = [row["stepped_at"] for row in self._facts.loops.values() if row["stepped_at"] is not None]
        if not looked or max(looked) < self._now - SILENT:
            yield _reason(
                "no_scheduler",
                "no scheduler is at work, so nothing is planned, dispatched or ended: start one "
                "(`python -m services.scheduler`), or see in its log why it does not get on",
                since=max(looked, default=None),
            )
            return
        for name in sorted(set(needed) & self._facts.loops.keys()):
            row = self._facts.loops[name]
            last, error = row["stepped_at"], row["error"]
            if last is None or last < self._now - (FAILING if error else HUNG):
                what = f"fails: {error}" if error else "hangs"
                yield _reason(
                    "loop_failing",
                    f"the scheduler's loop {name!r}, which the job needs, {what}; see the scheduler's log",
                    since=last,
                    details={"loop": name, "error": error},
                )

    # Stages.

    def _of_stage(self, stage: Row, before: Row | None) -> Iterator[Reason]:
        if stage["state"] == "merging":
            yield self._merging(stage)
        elif stage["state"] in TERMINAL:
            return
        elif stage["state"] == "waiting" and stage["planned"]:
            yield self._merging(stage)
        elif stage["stage"] == 0 and self._job["predecessors"] and self._has_no_tasks(stage):
            yield self._follows(stage, self._job["predecessors"])
        elif not stage["planned"] and stage["open_seconds"] is not None:
            if self._has_no_tasks(stage):
                yield self._waits_for_items(stage)
        elif self._is_put_off(stage):
            what = "the look for the types of its columns" if stage["planned"] else "the plan of its tasks"
            yield self._put_off(stage, "planning_put_off", what)
        elif stage["planned"] and stage["columns_due"]:
            yield _of(stage, "columns", "the types of its columns are being found in samples of its input")
        elif not stage["planned"] and self._has_no_tasks(stage):
            yield self._unplanned(stage, before)
        if stage["state"] == "running" and stage["ready"] + stage["queued"]:
            yield from self._waiting(stage)
        elif stage["lost_outputs"]:
            yield self._lost_output(stage)

    def _waits_for_items(self, stage: Row) -> Reason:
        until = stage["appended_at"] + timedelta(seconds=stage["open_seconds"])
        return _of(
            stage,
            "waiting_for_items",
            f"it has {_count(stage['task_count'], 'item')}, and waits for more: append them (append_items), or close "
            f"the job (close_job; `piecework close JOB`), which else fails at {_at(until)}",
            since=stage["appended_at"],
            details={"items": stage["task_count"], "until": until},
        )

    def _has_no_tasks(self, stage: Row) -> bool:
        """Or none that may be sent: behind a barrier, an array's tasks wait until all of them are planned."""
        planning = stage["barrier"] and stage["tasks_from"] not in ("outputs", "successes")
        return bool(planning or not stage["ready"] + stage["queued"] + stage["running"])

    def _is_put_off(self, stage: Row) -> bool:
        """One that has enough tasks is not planned further, and does not find out that the error has passed."""
        return stage["put_off_at"] is not None and bool(stage["put_off_at"] > self._now - TRIED)

    def _put_off(self, stage: Row, code: ReasonCode, what: str) -> Reason:
        error = f": {stage['put_off_error']}" if stage["put_off_error"] else ""
        return _of(
            stage,
            code,
            f"{what} was put off because of an error that should pass, and is tried again every second or so{error}",
            since=stage["put_off_since"] or stage["put_off_at"],
            details={"error": stage["put_off_error"], "tried_at": stage["put_off_at"]},
        )

    def _merging(self, stage: Row) -> Reason:
        again = [e["name"] for e in self._stages if e["stage"] < stage["stage"] and e["state"] != "succeeded"]
        if again:
            return _of(
                stage,
                "merge_waits",
                f"the merge waits for stage {again[0]}, which makes lost outputs again",
                since=stage["finished_at"],
                details={"for": "stage", "stage": again[0]},
            )
        if self._is_put_off(stage):
            return self._put_off(stage, "merge_put_off", "the merge of its outputs")
        if not stage["merge_held"]:
            return _of(
                stage,
                "merge_waits",
                "its outputs wait until a scheduler is free to merge them; if that takes long, start another scheduler",
                since=stage["finished_at"],
                details={"for": "scheduler"},
            )
        return _of(
            stage, "merging", "a scheduler merges its outputs: nothing is to be done", since=stage["finished_at"]
        )

    def _unplanned(self, stage: Row, before: Row | None) -> Reason:
        if before is not None and before["state"] != "succeeded":
            if before["kind"] == "split":
                return _of(
                    stage,
                    "split",
                    f"its tasks come from stage {before['name']}, which reads every byte of the input to split it",
                    details={"stage": before["name"]},
                )
            if stage["barrier"]:
                return _of(
                    stage,
                    "barrier",
                    f"it waits behind a barrier until all tasks of stage {before['name']} have ended",
                    details={"stage": before["name"]},
                )
            return _of(
                stage,
                "previous_stage",
                f"its tasks come from what stage {before['name']} makes, which has made nothing for it yet",
                details={"stage": before["name"]},
            )
        source = "the input is" if before is None else f"the outputs of stage {before['name']} are"
        return _of(
            stage,
            "planning",
            f"{source} being split into its tasks",
            since=stage["started_at"] or (before["finished_at"] if before else None),
            details={"tasks": stage["task_count"]},
        )

    # Tasks that are ready or queued.

    def _waiting(self, stage: Row) -> Iterator[Reason]:
        hard = [_with_next_pool(stage, reason) for reason in self._of_pool(stage)]
        soft = [_with_next_pool(stage, reason) for reason in self._of_tasks(stage)]
        yield from hard + soft
        if not hard and not soft and not stage["running"] and not stage["columns_due"]:
            yield _of(stage, "starting", "its tasks are about to start", since=_waits_since(stage))

    def _of_tasks(self, stage: Row) -> Iterator[Reason]:
        """What holds up this stage alone."""
        if is_slowed(stage):
            failed = stage["attempts"] - stage["succeeded"]
            often = f", mostly with {stage['error']}" if stage["error"] else ""
            yield _of(
                stage,
                "slowed",
                f"{failed:,} of its {stage['attempts']:,} attempts have failed{often}; so it runs in a tenth of the "
                "pool's slots until more of them succeed: find out what its tasks depend on, or cancel the job",
                details={"failed": failed, "error": stage["error"], "budget": stage["retry_budget"]},
            )
        yield from self._of_needs(stage)
        if stage["put_off"]:
            lacks = f": {stage['unfit_error']}" if stage["unfit_error"] else ""
            yield _of(
                stage,
                "no_fitting_worker",
                f"the workers of pool {stage['pool']} that were offered its tasks can't run them{lacks}; "
                "update the workers, or start newer ones",
                since=stage["unfit_since"],
                details={"pool": stage["pool"], "error": stage["unfit_error"], "times": stage["put_off"]},
            )
        if stage["lost_outputs"]:
            yield self._lost_output(stage)
        elif not stage["queued"] and stage["ready_at"] is not None and stage["ready_at"] > self._now:
            yield self._retry_at(stage)
        in_flight = stage["queued"] + stage["running"]
        if stage["running_max"] is not None and stage["ready"] and in_flight >= stage["running_max"]:
            yield _of(
                stage,
                "running_max",
                f"it runs as many tasks at a time as it may, by its running_max of {stage['running_max']:,}",
                details={"running_max": stage["running_max"], "running": in_flight},
            )
        if stage["held_back"]:
            after = self._stages[stage["stage"] + 1]["name"]
            yield _of(
                stage,
                "next_stage_full",
                f"it makes tasks of stage {after}, which has enough of them for now",
                details={"stage": after},
            )

    def _of_needs(self, stage: Row) -> Iterator[Reason]:
        """Whether its tasks ask for more than any worker of the pool has, or has free."""
        needs, pool = Needs.of(stage["needs"]), self._facts.pools.get(stage["pool"])
        if needs is None or pool is None or not pool.active or pool.row["paused"]:
            return
        details = {"pool": stage["pool"], "needs": needs.to_json()}
        if not pool.nodes.per_node(needs):
            have = f"the largest has {pool.nodes}" if pool.nodes.kinds else "none says what its node has"
            yield _of(
                stage,
                "no_fitting_worker",
                f"each of its tasks needs {needs}, and no worker of pool {stage['pool']} has as much: {have}; "
                "start a larger one, or submit the job again and ask for less",
                since=_waits_since(stage),
                details=details,
            )
        elif stage["queued"] and not pool.is_full:
            yield _of(
                stage,
                "workers_busy",
                f"no worker of pool {stage['pool']} has {needs} free",
                since=_waits_since(stage),
                details=details,
            )

    def _lost_output(self, stage: Row) -> Reason:
        count = stage["lost_outputs"]
        return _of(
            stage,
            "lost_output",
            f"it waits for {_count(count, 'output')} of an earlier stage to be made again: {stage['lost_uri']} was "
            "gone or damaged when it was read",
            since=stage["lost_at"],
            details={"outputs": count, "uri": stage["lost_uri"]},
        )

    def _retry_at(self, stage: Row) -> Reason:
        why = f", after {stage['error']}" if stage["error"] else ""
        return _of(
            stage,
            "retry_at",
            f"{_count(stage['ready'], 'task')} of it failed before{why}; the next try is at {_at(stage['ready_at'])}",
            details={"retry_at": stage["ready_at"], "error": stage["error"], "tasks": stage["ready"]},
        )

    def _of_pool(self, stage: Row) -> Iterator[Reason]:
        """What holds up whatever waits in the stage's pool."""
        pool = self._facts.pools.get(stage["pool"])
        if pool is None:
            return
        name, row = stage["pool"], pool.row
        if row["paused"]:
            yield _of(
                stage,
                "pool_paused",
                f"pool {name} is paused: resume it (resume_pool; `piecework pools resume {name}`)",
                since=row.get("paused_at"),
                details={"pool": name},
            )
            return
        if row.get("queue_error"):
            yield _of(
                stage,
                "queue_unreachable",
                f"the queue of pool {name}, {row['queue_url']}, takes no messages: {row['queue_error']}; if it was "
                f"deleted, make it again (put_pool; `piecework pools put {name}`)",
                since=row["queue_error_at"],
                details={"pool": name, "queue_url": row["queue_url"], "error": row["queue_error"]},
            )
        if pool.active == 0 or pool.is_full:
            yield from self._of_capacity(stage, pool)
        elif self._is_not_taken(stage):
            yield _of(
                stage,
                "messages_not_taken",
                f"pool {name} has free slots, but no worker has taken its messages: see in the workers' logs whether "
                f"they can read the queue {row['queue_url']}; the messages are sent again at {_at(stage['send_at'])}",
                since=stage["queued_at"],
                details={"pool": name, "queue_url": row["queue_url"], "send_at": stage["send_at"]},
            )

    def _is_not_taken(self, stage: Row) -> bool:
        waits = not (stage["put_off"] or stage["running"] or stage["needs"])
        return bool(waits and stage["queued_at"] and stage["queued_at"] < self._now - NOT_TAKEN)

    def _of_capacity(self, stage: Row, pool: PoolFacts) -> Iterator[Reason]:
        """There is no worker, or none has a free slot."""
        name, row = stage["pool"], pool.row
        group, most, wanted = row["group_name"], row["capacity_max"], row["capacity_desired"]
        if group is None and pool.active == 0:
            yield self._no_workers(stage, pool)
        if group is not None and row.get("scaling_error"):
            yield _of(
                stage,
                "scaling_failed",
                f"the Auto Scaling group {group} of pool {name} can't be scaled: {row['scaling_error']}",
                since=row.get("scaling_error_since"),
                details={"pool": name, "group": group, "error": row["scaling_error"]},
            )
        starting = [*self._starting(stage, pool)] if group is not None else []
        yield from starting
        if group is not None and wanted >= most and pool.active >= most:
            yield _of(
                stage,
                "group_at_maximum",
                f"pool {name} may have no more than {_count(most, 'instance')}: raise its maximum "
                f"(set_pool_capacity; `piecework pools capacity {name} --max NODES`)",
                since=_waits_since(stage),
                details={"pool": name, "group": group, "capacity_max": most},
            )
        elif group is not None and pool.active == 0 and not starting:
            yield _of(
                stage,
                "workers_starting",
                f"pool {name} has no workers yet: its group {group} is to start {_count(max(wanted, 1), 'instance')}",
                since=_waits_since(stage),
                details={"pool": name, "group": group, "capacity_desired": wanted},
            )
        if pool.active:
            yield from self._behind(stage, pool)

    def _no_workers(self, stage: Row, pool: PoolFacts) -> Reason:
        name = stage["pool"]
        unfit = f": {pool.unfit}" if pool.unfit else ""
        draining = f" that take tasks (those that drain: {pool.draining:,}{unfit})" if pool.draining else ""
        return _of(
            stage,
            "no_workers",
            f"pool {name} has no workers{draining}, and no Auto Scaling group to start some: start a worker "
            f"(`PIECEWORK_POOL={name} python -m services.worker`), or give the pool a group (put_pool; "
            f"`piecework pools put {name} --group GROUP`)",
            since=pool.stopped_at or pool.row["created_at"],
            details={"pool": name, "draining": pool.draining, "unfit": pool.unfit},
        )

    def _starting(self, stage: Row, pool: PoolFacts) -> Iterator[Reason]:
        """Instances that have no worker: they start, or never will."""
        row = pool.row
        count, since = row.get("instances_missing"), _time(row.get("instances_missing_since"))
        if count is None:  # the scheduler has not looked: those that it wanted have had as long as the tasks wait
            count, since = max(row["capacity_desired"] - pool.active, 0), _waits_since(stage)
        if not count or since is None:
            return
        some = f"{_count(count, 'instance')} of the group {row['group_name']} of pool {stage['pool']}"
        which = f" ({', '.join(pool.missing)})" if pool.missing else ""
        details = {"pool": stage["pool"], "group": row["group_name"], "count": count, "instances": [*pool.missing]}
        if since > self._now - STARTING:
            text = f"{some} {'starts' if count == 1 else 'start'}: no worker there has registered yet{which}"
            yield _of(stage, "workers_starting", text, since=since, details=details)
            return
        yield _of(
            stage,
            "instances_missing",
            f"{some} never had a worker that registered, or lost it{which}: look at the system log of one; its image, "
            "its role or its network may be wrong",
            since=since,
            details=details,
        )

    def _behind(self, stage: Row, pool: PoolFacts) -> Iterator[Reason]:
        """All slots are in use."""
        name, own = stage["pool"], self._job["job_id"]
        if pool.urgent is not None and pool.urgent[2] > self._job["priority"]:
            job_id, job_name, priority = pool.urgent
            whose = f"job {job_name} ({job_id}), which has" if self._named else "jobs that have"
            yield _of(
                stage,
                "lower_priority",
                f"it waits behind {whose} a higher priority, {priority} instead of {self._job['priority']}",
                since=_waits_since(stage),
                details={"pool": name, "priority": priority} | ({"job_id": str(job_id)} if self._named else {}),
            )
        jobs = [one for one in pool.running if self._named or one[0] == own][:RUNNING_NAMED]
        named = ", ".join("this job" if job_id == own else f"job {job_name} ({job_id})" for job_id, job_name, _ in jobs)
        by = f", most of them by {named}" if named else ""
        yield _of(
            stage,
            "workers_busy",
            f"all {pool.slots:,} slots of pool {name} are in use{by}",
            since=_waits_since(stage),
            details={
                "pool": name,
                "slots": pool.slots,
                "jobs": [{"job_id": str(job_id), "name": job_name, "tasks": n} for job_id, job_name, n in jobs],
            },
        )


def _is_open(stage: Row) -> bool:
    return stage["state"] not in TERMINAL


def _waits_since(stage: Row) -> datetime | None:
    """Since when the first of its tasks that are due has waited for a worker."""
    return min((time for time in (stage["ready_at"], stage["queued_at"]) if time is not None), default=None)


def _reason(
    code: ReasonCode, message: str, *, since: datetime | str | None = None, details: Mapping[str, Any] | None = None
) -> Reason:
    return Reason(code=code, message=message, since=_time(since), details=_plain(details or {}))


def _of(
    stage: Row,
    code: ReasonCode,
    message: str,
    *,
    since: datetime | str | None = None,
    details: Mapping[str, Any] | None = None,
) -> Reason:
    """A reason of a stage, which the message names."""
    reason = _reason(code, f"stage {stage['name']}: {message}", since=since, details=details)
    reason.stage = stage["stage"]
    return reason


def _with_next_pool(stage: Row, reason: Reason) -> Reason:
    """What is said of a pool does not hold for long if the stage has another one."""
    if stage["next_pool"] is not None and "pool" in reason.details:
        seconds = stage["next_pool_after_seconds"]
        reason.message += f"; what has not begun there in {seconds:g} s is for pool {stage['next_pool']}, too"
        reason.details["next_pool"] = stage["next_pool"]
    return reason


def _plain(details: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _at(value) if isinstance(value, datetime) else value for name, value in details.items()}


def _time(value: datetime | str | None) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _at(time: datetime | None) -> str | None:
    return None if time is None else f"{time:%Y-%m-%dT%H:%M:%SZ}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def stage_reasons(reasons: Sequence[Reason], stage: int) -> list[Reason]:
    """Those of one stage."""
    return [reason for reason in reasons if reason.stage == stage]
