"""What a job has come to, and what must be true of every job that has ended, whatever died meanwhile."""

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from services.contract.location import Location
from services.platform.aws import Aws
from services.platform.database import Database

TaskKey = tuple[int, int]  # stage, index

_STATES = ("ready", "queued", "running", "succeeded", "failed", "cancelled")
_CUT_OFF = ("lost", "released")  # an attempt that ended so is no failure of the task


@dataclass(frozen=True)
class Outcome:
    """The same for the same job, but for attempts that were cut off."""

    tasks: dict[TaskKey, tuple[str, int]]  # the state, and how many bytes came of it
    ends: dict[TaskKey, list[str]]  # of the attempts, in order
    results: dict[str, bytes]

    @property
    def undisturbed(self) -> bool:
        return not any(end in _CUT_OFF for ends in self.ends.values() for end in ends)

    def assert_like(self, undisturbed: "Outcome") -> None:
        assert self.tasks == undisturbed.tasks
        assert self.results == undisturbed.results
        for task, ends in self.ends.items():
            counted = [end for end in ends if end not in _CUT_OFF]
            expected = undisturbed.ends[task]
            # Where the attempt that was to fail was cut off before it could, the next one succeeds.
            spared = expected[-1:] if ends[0] in _CUT_OFF else expected
            assert counted in (expected, spared), f"task {task}: {ends}, undisturbed: {expected}"


async def read_outcome(pool: Database, aws: Aws, job_id: UUID) -> Outcome:
    """The outcome of a job that should have succeeded; asserts what must be true of it by itself."""
    job = await pool.fetchrow("SELECT state, error FROM jobs WHERE job_id = $1", job_id)
    assert (job["state"], job["error"]) == ("succeeded", None)
    tasks = await pool.fetch("SELECT * FROM tasks WHERE job_id = $1 ORDER BY stage, index", job_id)
    attempts = await pool.fetch("SELECT * FROM attempts WHERE job_id = $1 ORDER BY attempt", job_id)
    ends: defaultdict[TaskKey, list[str]] = defaultdict(list)
    for attempt in attempts:
        ends[attempt["stage"], attempt["index"]].append(attempt["outcome"])
    for task in tasks:
        _assert_sound(task, ends[task["stage"], task["index"]])
    await _assert_counters(pool, job_id, tasks, ends)
    assert await pool.fetchval("SELECT count(*) FROM bundles WHERE job_id = $1", job_id) == 0
    made = {(task["stage"], task["index"]): (task["state"], task["output"]["bytes"]) for task in tasks}
    return Outcome(made, dict(ends), await _read_results(pool, aws, job_id))


def _assert_sound(task: Any, ends: list[str]) -> None:
    """Every attempt is on record, the last one alone has won, and the task's own fields agree."""
    assert len(ends) == task["attempt"], ends
    assert [end == "succeeded" for end in ends] == [False] * (len(ends) - 1) + [True], ends
    assert ends.count("lost") == task["losses"], ends
    assert sum(end not in (*_CUT_OFF, "succeeded") for end in ends) == task["failures"], ends
    assert f"/{task['stage']}/{task['index']}-{task['attempt']}/" in task["output"]["uri"]


async def _assert_counters(pool: Database, job_id: UUID, tasks: list[Any], ends: dict[TaskKey, list[str]]) -> None:
    sums = ", ".join(f"sum({name})::int AS {name}" for name in (*_STATES, "attempts"))
    counters = await pool.fetch(
        f"SELECT stage, {sums} FROM stage_counters WHERE job_id = $1 GROUP BY stage ORDER BY stage", job_id
    )
    counted = [
        {"stage": stage}
        | {state: sum((t["stage"], t["state"]) == (stage, state) for t in tasks) for state in _STATES}
        | {"attempts": sum(end not in _CUT_OFF for task in ends if task[0] == stage for end in ends[task])}
        for stage in sorted({task["stage"] for task in tasks})
    ]
    assert [dict(row) for row in counters] == counted


async def _read_results(pool: Database, aws: Aws, job_id: UUID) -> dict[str, bytes]:
    """The result files' bytes by name, the manifest's without what differs from job to job."""
    result = await pool.fetchval("SELECT result FROM stages WHERE job_id = $1 ORDER BY stage DESC LIMIT 1", job_id)
    results = {}
    for file in [*result["files"], result["manifest"]]:
        place = Location.parse(file["uri"])
        answer = await aws.s3.get_object(Bucket=place.bucket, Key=place.key)
        results[file["name"]] = body = await answer["Body"].read()
        assert len(body) == file["bytes"]
    uploads = await aws.s3.list_multipart_uploads(Bucket=place.bucket, Prefix=place.key.rpartition("/")[0])
    assert not uploads.get("Uploads"), "the merge has left an unfinished upload"
    manifest = json.loads(results["manifest.json"])
    parts = [(part["index"], part["bytes"], part.get("records")) for part in manifest["parts"]]
    if "rejects.jsonl" in results:  # it names objects
        plain = results["rejects.jsonl"].replace(place.bucket.encode(), b"BUCKET")
        results["rejects.jsonl"] = plain.replace(str(job_id).encode(), b"JOB")
    names = [file["name"] for file in manifest["files"]]
    results["manifest.json"] = json.dumps([names, parts, manifest["totals"]]).encode()
    return results
