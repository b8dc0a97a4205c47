"""A job whose inputs need a reader of every byte: its split stage runs on the grid, the next works on what it lists."""

import gzip
import json
from typing import Any

import zstandard

from services.engine.processors import register_processor
from services.engine.spec import JobSpec, ProcessorSpec
from services.engine.submission import submit_job
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from tests.grid import ProcessGrid
from tests.integration.worker.split.test_grid_split import bgzip, seekable_zstd

RECORDS = 3000
_COSTS = """
    SELECT bytes_in, bytes_out, cpu_seconds, (output ->> 'bytes')::integer AS listed
    FROM attempts JOIN tasks USING (job_id, stage, index) WHERE job_id = $1 AND stage = 0 ORDER BY index"""


async def test_compressed_multiline_and_plain_inputs_of_one_job(
    settings: Settings, database: Database, aws: Aws, tmp_path: Any
) -> None:
    header = b"n,note\n"
    rows = [b'%d,"two\nlines"\n' % number for number in range(RECORDS)]
    bodies = {
        "a.csv.gz": gzip.compress(header + b"".join(rows[:1000])),
        "b.csv": header + b"".join(rows[1000:2000]),
        "c.csv": header + b"".join(row.replace(b"\n", b" ", 1) for row in rows[2000:]),
    }
    for key, body in bodies.items():
        await aws.s3.put_object(Bucket=settings.bucket, Key=key, Body=body)
    lines = {"type": "lines", "format": "csv", "part_bytes": 4000}
    sources = [{**lines, "uri": f"s3://{settings.bucket}/{key}", "multiline": key == "b.csv"} for key in bodies]
    grid = ProcessGrid(settings, database, aws, tmp_path)
    await grid.prepare()
    spec = {"input": sources, "stages": [{"processor": "same"}], "merge": {"type": "concat", "filename": "all.csv"}}
    async with database.acquire() as connection, connection.transaction():
        same = ProcessorSpec(command=["cp", "{input}", "{output}"], output="part.csv", output_format="csv")
        await register_processor(connection, "same", same)
        job_id = await submit_job(connection, JobSpec.model_validate(spec), settings=settings)
    grid.start_scheduler()
    grid.start_worker()
    try:
        job = await grid.ended(job_id)
        assert (job["state"], job["error"]) == ("succeeded", None)
        kinds = await database.fetch("SELECT kind, task_count FROM stages WHERE job_id = $1 ORDER BY stage", job_id)
        assert [row["kind"] for row in kinds] == ["split", "map"]
        assert kinds[0]["task_count"] == 3
        assert kinds[1]["task_count"] > 10
        stream, plain, _ = await database.fetch(_COSTS, job_id)
        assert stream["bytes_in"] >= len(bodies["a.csv.gz"]) and stream["cpu_seconds"] > 0
        assert stream["bytes_out"] == stream["listed"] + len(b"".join(rows[:1000]))
        assert (plain["bytes_in"], plain["bytes_out"]) == (len(bodies["b.csv"]), plain["listed"])
        merged = (await grid.result_files(job_id))["all.csv"]
        assert merged.replace(b"\n", b" ") == (header + b"".join(rows)).replace(b"\n", b" ")
    finally:
        grid.stop()


async def test_a_reject_names_the_users_object_whatever_it_was_cut_from(
    settings: Settings, database: Database, aws: Aws, tmp_path: Any
) -> None:
    text = b"".join(b"a %d\n" % number for number in range(5000)).replace(b"a 2500\n", b"broken\n")
    bodies = {
        "stream.txt.gz": gzip.compress(text),
        "blocks.txt.bgz": bgzip(text),
        "frames.txt.zst": seekable_zstd(text, 8000),
        "plain.txt.gz": text,
    }
    for key, body in bodies.items():
        await aws.s3.put_object(Bucket=settings.bucket, Key=key, Body=body)
    uris = [f"s3://{settings.bucket}/{key}" for key in bodies]
    sources = [{"type": "lines", "part_bytes": 5000, "uri": uri} for uri in uris]
    sources[-1]["compression"] = "none"
    grid = ProcessGrid(settings, database, aws, tmp_path)
    await grid.prepare()
    spec = {"input": sources, "stages": [{"processor": "clean"}], "merge": {"type": "concat", "filename": "all.jsonl"}}
    async with database.acquire() as connection, connection.transaction():
        job_id = await submit_job(connection, JobSpec.model_validate(spec), settings=settings)
    grid.start_scheduler()
    grid.start_worker()
    try:
        job = await grid.ended(job_id)
        assert (job["state"], job["error"]) == ("succeeded", None)
        files = await grid.result_files(job_id)
        assert files["all.jsonl"].count(b"\n") == 4 * 4999
        places = [json.loads(line)["source"] for line in files["rejects.jsonl"].splitlines()]
        assert [place["uri"] for place in places] == uris
        byte = text.index(b"broken")
        assert [place.get("byte") for place in places] == [byte, None, None, byte]
        in_bgzip, in_zstd = places[1:3]
        members = gzip.decompress(bodies["blocks.txt.bgz"][in_bgzip["block"] :])
        assert members[in_bgzip["block_byte"] :].startswith(b"broken\n")
        frame = zstandard.ZstdDecompressor().decompressobj().decompress(bodies["frames.txt.zst"][in_zstd["block"] :])
        assert frame[in_zstd["block_byte"] :].startswith(b"broken\n")
    finally:
        grid.stop()
