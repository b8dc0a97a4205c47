"""What a job has come to, and what must be true of every job that has ended, whatever died meanwhile."""

import json
from dataclasses import dataclass
from uuid import UUID

from services.contract.location import Location
from services.platform.aws import Aws
from services.platform.database import Database
from tests.invariants import COUNTED, Row, assert_kept, rows_of

TaskKey = tuple[int, int]  # stage, index

_CUT_OFF = ("lost", "released")  # an attempt that ended like this is not a failure of the task


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


async def read_outcome(database: Database, aws: Aws, job_id: UUID) -> Outcome:
    """The outcome of a job that should have succeeded; asserts what must be true of it by itself."""
    rows = await rows_of(database, job_id)
    assert_kept(rows)
    assert (rows.jobs[job_id]["state"], rows.jobs[job_id]["error"]) == ("succeeded", None)
    made, ends = {}, {}
    for (_, stage, index), task in sorted(rows.tasks.items()):
        made[stage, index] = (task["state"], task["output"]["bytes"])
        ends[stage, index] = [attempt["outcome"] for attempt in rows.attempts[job_id, stage, index]]
        _assert_sound(task, ends[stage, index])
    return Outcome(made, ends, await _read_results(database, aws, job_id))


def _assert_sound(task: Row, ends: list[str]) -> None:
    """The last attempt has won, each of the others is counted as what it was, and the output is the winner's."""
    assert ends[-1] == "succeeded", ends
    assert ends.count("lost") == task["losses"], ends
    assert sum(ends.count(outcome) for outcome in COUNTED if outcome != "succeeded") == task["failures"], ends
    assert f"/{task['stage']}/{task['index']}-{task['attempt']}/" in task["output"]["uri"]


async def _read_results(database: Database, aws: Aws, job_id: UUID) -> dict[str, bytes]:
    """The result files' bytes by name, the manifest's without what differs from job to job."""
    result = await database.fetchval("SELECT result FROM stages WHERE job_id = $1 ORDER BY stage DESC LIMIT 1", job_id)
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
