"""The ground truth: what must be so after the storm, whatever happened in it, the invariants among it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from asyncpg import Record

from services.engine.progress import reduce_levels
from services.engine.spec import ReduceMerge
from tests.invariants import LAWS
from tests.storm.evidence import Evidence
from tests.storm.work import Work

_RUNNING_NUMBER = re.compile(r"/(?:jobs|interim)/(?P<job>[^/]+)/(?P<stage>\d+)/(?P<index>\d+)-(?P<attempt>\d+)/[^/]+$")


@dataclass(slots=True)
class Check:
    """One statement about all that was looked at; `wrong` tells of what it is not true of."""

    name: str
    looked_at: int = 0
    wrong: list[str] = field(default_factory=list)

    def expect(self, right: bool, what: object) -> None:
        self.looked_at += 1
        if not right:
            self.wrong.append(str(what))


def check_all(evidence: Evidence) -> list[Check]:
    """Every statement and every invariant, checked."""
    checks = []
    for name, statement in _STATEMENTS.items():
        check = Check(name)
        statement(evidence, check)
        checks.append(check)
    for name, law in LAWS.items():
        looked_at = list(law(evidence))
        checks.append(Check(name, len(looked_at), [wrong for wrong in looked_at if wrong]))
    return checks


def _tasks_of(evidence: Evidence) -> Iterator[tuple[UUID, Work, int, int]]:
    """Every task that must be there: job_id, work, stage, index."""
    for job_id, work in evidence.works.items():
        for stage, count in enumerate(work.tasks):
            for index in range(count):
                yield job_id, work, stage, index


def _no_task_is_lost(evidence: Evidence, check: Check) -> None:
    """Every task is there and has come to its right end, and there are no others."""
    for job_id, work, stage, index in _tasks_of(evidence):
        task = evidence.tasks.get((job_id, stage, index))
        right = {"failed"} if work.is_doomed(index) else {"succeeded"}
        if work.end == "cancelled":
            right |= {"cancelled"}
        state = "missing" if task is None else task["state"]
        check.expect(state in right, f"{evidence.name((job_id, stage, index))} is {state}")
    expected = sum(sum(work.tasks) for work in evidence.works.values())
    if len(evidence.tasks) != expected:
        check.wrong.append(f"{len(evidence.tasks)} tasks instead of {expected}")


def _values_are_right(evidence: Evidence, check: Check) -> None:
    """Computed from the index, and by the attempt that counts."""
    for job_id, work, stage, index in _tasks_of(evidence):
        task = evidence.tasks.get((job_id, stage, index))
        if work.value is None or task is None or task["state"] != "succeeded":
            continue
        right = {"value": {"value": work.value(index), "attempt": task["attempt"]}}
        check.expect(task["output"] == right, f"{evidence.name((job_id, stage, index))}: {task['output']}")
        early = task["attempt"] < work.first_good_attempt(index)
        check.expect(not early, f"{evidence.name((job_id, stage, index))} has succeeded too early")


def _no_bundle_is_left(evidence: Evidence, check: Check) -> None:
    for bundle in evidence.bundles.values():
        check.expect(False, dict(bundle))


def _jobs_end_as_they_must(evidence: Evidence, check: Check) -> None:
    for job_id, work in evidence.works.items():
        job = evidence.jobs[job_id]
        check.expect((job["state"], job["error"]) == (work.end, None), f"{work.name}: {job['state']} {job['error']}")
        for stage, count in enumerate(work.tasks):
            row = evidence.stages[job_id, stage]
            planned = (row["state"], row["planned"], row["task_count"])
            check.expect(planned == (work.end, True, count), f"{work.name}/{stage}: {planned} instead of {count}")


def _references_are_to_winners(evidence: Evidence, check: Check) -> None:
    """Whatever names an object names one that exists, of the right size, and made by the attempt that counts."""

    def expect(uri: str, key: tuple[UUID, int, int], attempt: int, size: int | None) -> None:
        match = _RUNNING_NUMBER.search(uri)
        made = match and (match["job"], *(int(match[name]) for name in ("stage", "index", "attempt")))
        there = uri in evidence.sizes and size in (None, evidence.sizes[uri])
        check.expect(made == (str(key[0]), *key[1:], attempt) and there, f"{evidence.name(key)} {attempt}: {uri}")

    for key, task in evidence.tasks.items():
        output = task["output"] or {}
        for name, size in (("uri", "bytes"), ("rejects", "rejects_bytes")):
            if name in output:
                expect(output[name], key, task["attempt"], output[size])
        for attempt in evidence.attempts[key]:
            if attempt["log"]:
                expect(attempt["log"], key, attempt["attempt"], None)


def _results_are_right(evidence: Evidence, check: Check) -> None:
    """The files equal the direct computation byte for byte; manifest and listing name all winners and nobody else."""
    for job_id, work in evidence.works.items():
        if work.end != "succeeded":
            continue
        last = len(work.tasks) - 1
        result = evidence.stages[job_id, last]["result"] or {"files": [], "manifest": None}
        found = {file["name"]: file for file in result["files"] if work.files}
        check.expect(found.keys() == work.files.keys(), f"{work.name}: files {sorted(found)}")
        for name, file in found.items():
            body = evidence.contents.get(file["uri"], b"")
            right = len(body) == file["bytes"] and name in work.files and work.files[name](body)
            check.expect(right, f"{work.name}: {name} ({len(body)} bytes)")
        manifest = evidence.contents.get(result["manifest"]["uri"], b"{}") if result["manifest"] else b"{}"
        reduced = work.spec.get("merge", {}).get("type") == "reduce"
        listed = [
            {name: part[name] for name in ("index", "attempt", "uri", "bytes", "value") if name in part}
            for part in orjson.loads(manifest).get("parts", [])
        ]
        check.expect(listed == _parts(evidence, job_id, last - reduced), f"{work.name}: manifest.json")
        if reduced:
            _expect_listing(evidence, check, job_id, last - 1)


def _parts(evidence: Evidence, job_id: UUID, stage: int) -> list[dict[str, Any]]:
    """The stage's winners, as a manifest names them."""
    winners = sorted(
        (index, task["attempt"], task["output"] or {})
        for (task_job_id, task_stage, index), task in evidence.tasks.items()
        if (task_job_id, task_stage, task["state"]) == (job_id, stage, "succeeded")
    )
    return [
        {"index": index, "attempt": attempt}
        | {name: output[name] for name in ("uri", "bytes", "value") if name in output}
        for index, attempt, output in winners
    ]


def _expect_listing(evidence: Evidence, check: Check, job_id: UUID, stage: int) -> None:
    """What the first level of the reduce works on is just what the stage before it has made."""
    names = ("index", "attempt", "uri")
    right = [{name: part[name] for name in names} for part in _parts(evidence, job_id, stage)]
    fan_in = evidence.works[job_id].spec["merge"].get("fan_in", ReduceMerge.model_fields["fan_in"].default)
    prefix = f"/{job_id}/{stage + 1}/inputs/"
    listings = {int(uri.rpartition("/")[2].partition("-")[0]): uri for uri in evidence.contents if prefix in uri}
    first_level = [listings.get(number, "") for number in range(next(reduce_levels(len(right), fan_in)))]
    listed = [orjson.loads(line) for uri in first_level for line in evidence.contents.get(uri, b"").splitlines()]
    lines = [{name: line[name] for name in names} for line in listed]
    check.expect(lines == right, f"{evidence.works[job_id].name}: the reduce's inputs")


def _every_job_end_is_told_once(evidence: Evidence, check: Check) -> None:
    """One delivery is on record, and it has arrived; whoever receives it again knows it by its id."""
    for job_id, work in evidence.works.items():
        rows: list[Record] = [row for row in evidence.deliveries if row["job_id"] == job_id]
        told = [(row["event"], row["state"]) for row in rows]
        check.expect(told == [(f"job.{work.end}", "delivered")], f"{work.name}: {told}")
        ids = evidence.taken[str(job_id), f"job.{work.end}"].keys()
        check.expect(ids == {f"msg_{row['delivery_id'].hex}" for row in rows}, f"{work.name}: received {set(ids)}")


_STATEMENTS: dict[str, Callable[[Evidence, Check], None]] = {
    "tasks lost or in a wrong state": _no_task_is_lost,
    "wrong values": _values_are_right,
    "bundles left": _no_bundle_is_left,
    "jobs and stages with a wrong end": _jobs_end_as_they_must,
    "orphan results referenced": _references_are_to_winners,
    "results that differ from the computation": _results_are_right,
    "job ends not told exactly once": _every_job_end_is_told_once,
}
