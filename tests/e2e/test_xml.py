"""A job on XML documents of several kinds, from its submission to its merged result."""

import gzip
import json
from typing import Any

import pytest

from services.engine.processors import register_processor
from services.engine.spec import JobSpec, ProcessorSpec
from services.engine.submission import submit_job
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from tests.grid import ProcessGrid

CLAIMS = 600
QUERY = """
    SELECT "@id"::INT AS id, line ->> '#text' AS amount
    FROM (SELECT "@id", unnest(line::JSON[]) AS line FROM input)"""


def document(first: int, inside: str = "") -> bytes:
    claims = "".join(
        f"<claim id='{n}'>{inside}<line n='1'>{n}.5</line></claim>\n" for n in range(first, first + CLAIMS)
    )
    return f"<?xml version='1.0'?>\n<claims>\n{claims}</claims>\n".encode()


@pytest.mark.parametrize("scan", [False, True])
async def test_a_query_of_xml(settings: Settings, database: Database, aws: Aws, tmp_path: Any, scan: bool) -> None:
    """Plain; and, for which a task reads every byte, compressed and with records within records."""
    bodies = {"a.xml": document(0)}
    if scan:
        bodies |= {"b.xml.gz": gzip.compress(document(CLAIMS)), "c.xml": document(2 * CLAIMS, "<claim/>")}
    for key, body in bodies.items():
        await aws.s3.put_object(Bucket=settings.bucket, Key=key, Body=body)
    xml = {"type": "xml", "record_tag": "claim", "lists": ["line"], "part_bytes": 6000}
    sources = [{**xml, "uri": f"s3://{settings.bucket}/{key}", "scan": key == "c.xml"} for key in bodies]
    grid = ProcessGrid(settings, database, aws, tmp_path)
    await grid.prepare()
    spec = {"input": sources, "stages": [{"processor": "lines"}], "merge": {"type": "concat", "filename": "all.jsonl"}}
    async with database.acquire() as connection, connection.transaction():
        await register_processor(connection, "lines", ProcessorSpec(sql=QUERY, output="lines.jsonl"))
        job_id = await submit_job(connection, JobSpec.model_validate(spec), settings=settings)
    grid.start_scheduler()
    grid.start_worker()
    try:
        job = await grid.ended(job_id)
        assert (job["state"], job["error"]) == ("succeeded", None)
        kinds = await database.fetch("SELECT kind, task_count FROM stages WHERE job_id = $1 ORDER BY stage", job_id)
        assert [row["kind"] for row in kinds] == (["split", "map"] if scan else ["map"])
        assert kinds[-1]["task_count"] >= 4 * len(bodies)
        merged = (await grid.result_files(job_id))["all.jsonl"]
        rows = [json.loads(line) for line in merged.splitlines()]
        assert rows == [{"id": n, "amount": f"{n}.5"} for n in range(CLAIMS * len(bodies))]
    finally:
        grid.stop()
