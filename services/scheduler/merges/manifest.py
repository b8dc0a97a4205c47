"""`manifest.json`: what a job made, every part of it with the attempt that made it."""

from typing import Any
from uuid import UUID

import orjson

from services.common.aws import Aws
from services.common.database import Pool
from services.common.layout import Layout
from services.scheduler.merges.multipart import MultipartWriter
from services.scheduler.merges.outputs import succeeded_tasks


async def write_manifest(
    pool: Pool, aws: Aws, layout: Layout, job: dict[str, Any], stage: int, files: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write the manifest of a job whose last stage is `stage`; returns its `{"name", "uri", "bytes"}`."""
    target = layout.result(job["job_id"], "manifest.json")
    head = {"job_id": str(job["job_id"]), "name": job["name"], "created_at": job["created_at"], "files": files}
    async with MultipartWriter(aws.s3, target, "application/json") as writer:
        await writer.write(orjson.dumps(head)[:-1] + b',"parts":[')
        separator = b"\n"
        totals = {"parts": 0, "bytes": 0, "records": 0}
        async for task in succeeded_tasks(pool, job["job_id"], stage, stage):
            output = task["output"] or {}
            await writer.write(separator + orjson.dumps({"index": task["index"], "attempt": task["attempt"], **output}))
            separator = b",\n"
            totals["parts"] += 1
            totals["bytes"] += output.get("bytes", 0)
            totals["records"] += output.get("records", 0)
        await writer.write(b'\n],"totals":' + orjson.dumps(totals) + b"}\n")
    return {"name": "manifest.json", "uri": target.uri, "bytes": writer.bytes}


async def write_outputs_listing(pool: Pool, aws: Aws, layout: Layout, job_id: UUID, stage: int) -> str:
    """List a stage's outputs for its reduce, a JSON line each; returns the listing's URI."""
    target = layout.outputs(job_id, stage)
    async with MultipartWriter(aws.s3, target, "application/jsonl") as writer:
        async for task in succeeded_tasks(pool, job_id, stage, stage):
            output = task["output"] or {}
            line = {"index": task["index"], "attempt": task["attempt"]}
            line |= {name: output[name] for name in ("uri", "value") if name in output}
            await writer.write(orjson.dumps(line) + b"\n")
    return target.uri
