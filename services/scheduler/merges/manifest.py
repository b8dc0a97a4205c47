"""`manifest.json`: what a job made, every part of it with the attempt that made it, and whether its records come out
even. Written as it is read, so that millions of parts take no memory."""

import zlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID

import orjson
from asyncpg import Record

from services.contract.location import Location
from services.contract.states import RECORD_COUNTS
from services.contract.task_output import StoredObject, TaskOutput
from services.engine.reasons.reason import warnings_of
from services.engine.records import check_records, counted_stages
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.multipart import MultipartWriter
from services.scheduler.merges.crc32 import encode
from services.scheduler.merges.outputs import ROWS_PER_PAGE, Facts, file_facts, succeeded_pages

_RECORDS = """
    SELECT index, attempt, records_in, records_out, records_rejected, records_filtered, records_added FROM attempts
    WHERE job_id = $1 AND stage = $2 AND index BETWEEN $3 AND $4 AND outcome = 'succeeded'"""

# Those of which an attempt has failed.
_FAILED = """
    WITH tried AS MATERIALIZED (
        SELECT DISTINCT stage, index FROM attempts
        WHERE job_id = $1 AND (stage, index) > ($2, $3) AND outcome <> 'succeeded' ORDER BY stage, index LIMIT $4
    )
    SELECT t.stage, t.index, t.attempt, t.state, source_of(t.input) AS source, t.error
    FROM tried JOIN tasks AS t ON t.job_id = $1 AND t.stage = tried.stage AND t.index = tried.index
    ORDER BY t.stage, t.index"""


async def write_manifest(
    database: Database, aws: Aws, target: Location, job: Mapping[str, Any], stage: int, files: list[Facts]
) -> Facts:
    """Write the manifest of a job whose results are made of the parts of `stage`; returns the facts of the file."""
    crc32 = 0
    async with MultipartWriter(aws.s3, target, "application/json") as writer:
        async for piece in _manifest(database, job, stage, files):
            crc32 = zlib.crc32(piece, crc32)
            await writer.write(piece)
    return file_facts(target, writer.bytes, crc32)


async def _manifest(database: Database, job: Mapping[str, Any], stage: int, files: list[Facts]) -> AsyncIterator[bytes]:
    head = {"job_id": str(job["job_id"]), "name": job["name"], "created_at": job["created_at"], "files": files}
    yield orjson.dumps(head | await _arithmetic(database, job["job_id"]))[:-1] + b',"parts":['
    totals: Counter[str] = Counter(parts=0, bytes=0)
    records: Counter[str] = Counter()
    separator = b"\n"
    async for part in _parts(database, job["job_id"], stage):
        yield separator + orjson.dumps(part)
        separator = b",\n"
        totals.update(parts=1, bytes=part.get("bytes", 0))
        records.update(part.get("records", {}))
    yield b'\n],"failed":['
    separator = b"\n"
    async for task in _failed(database, job["job_id"]):
        yield separator + orjson.dumps(task)
        separator = b",\n"
    yield b'\n],"totals":' + orjson.dumps({**totals, "records": dict(records) or None}) + b"}\n"


async def _arithmetic(database: Database, job_id: UUID) -> Facts:
    stages = await counted_stages(database, job_id)
    records, reasons = check_records(stages)
    said = [
        {name: stage[name] for name in ("stage", "name", "kind", "processor")} | {"records": record.model_dump()}
        for stage, record in zip(stages, records, strict=True)
    ]
    return {"stages": said, "warnings": warnings_of(reasons)}


async def _parts(database: Database, job_id: UUID, stage: int) -> AsyncIterator[Facts]:
    async for page in succeeded_pages(database, job_id, stage, stage):
        rows = await database.fetch(_RECORDS, job_id, stage, page[0]["index"], page[-1]["index"])
        counts = {
            (row["index"], row["attempt"]): {name.removeprefix("records_"): row[name] for name in RECORD_COUNTS}
            for row in rows
        }
        for task in page:
            records = counts.get((task["index"], task["attempt"]), {})
            part = {"index": task["index"], "attempt": task["attempt"]}
            part |= _source(task) | _output(TaskOutput.from_json(task["output"]))
            yield part | ({"records": records} if any(records.values()) else {})


async def _failed(database: Database, job_id: UUID) -> AsyncIterator[Facts]:
    """The failed tasks of all stages, in order."""
    stage, index = 0, -1
    while rows := await database.fetch(_FAILED, job_id, stage, index, ROWS_PER_PAGE):
        for row in rows:
            if row["state"] == "failed":
                task = {"stage": row["stage"], "index": row["index"], "attempt": row["attempt"]}
                yield task | _source(row) | {"error": row["error"]}
        stage, index = rows[-1]["stage"], rows[-1]["index"]


def _source(task: Record) -> Facts:
    return {} if task["source"] is None else {"source": task["source"]}


def _output(output: TaskOutput) -> Facts:
    """A part's results."""
    shown = _object(output.object) if output.object else {}
    if output.value is not None:
        shown["value"] = output.value
    if output.files:
        shown["files"] = {name: _object(file) for name, file in output.files.items()}
    if output.rejects:
        shown["rejects"] = _object(output.rejects)
    return shown


def _object(object_: StoredObject) -> Facts:
    """An object with its checksum as S3 writes it."""
    checksum = {} if object_.crc32 is None else {"checksum_crc32": encode(object_.crc32)}
    return {"uri": object_.location.uri, "bytes": object_.bytes} | checksum
