"""Parts that hold nothing, or nothing but a header: each merge of what SQL makes of them is a file that can be read."""

import io
from typing import Any

import pyarrow.parquet

from services.engine.processors import register_processor
from services.engine.spec import JobSpec, ProcessorSpec
from services.engine.submission import submit_job
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from tests.grid import ProcessGrid

OBJECTS = {
    "all/0.csv": b"a,b\n",
    "all/1.csv": b"",
    "all/2.csv": b"a,b\n1,x\n2,y\n",
    "all/3.csv": b"\n",
    "all/4.csv": b"a,b\n3,z\n",
    "nothing/0.csv": b"",
    "nothing/1.csv": b"\n",
    "headers/0.csv": b"a,b\n",
    "headers/1.csv": b"",
}
QUERY = "SELECT a::INT AS n, b FROM input"
PROCESSORS = {
    "csv": ProcessorSpec(sql=QUERY, output_format="csv"),
    "parquet": ProcessorSpec(sql=QUERY, output_format="parquet"),
    "again": ProcessorSpec(sql="SELECT n, b FROM input", output_format="parquet"),
    "total": ProcessorSpec(sql="SELECT sum(n)::INT AS n FROM input", output_format="parquet", filters=True),
}
CONCAT, PARQUET, TOTAL = {"type": "concat"}, {"type": "parquet"}, {"type": "reduce", "processor": "total", "fan_in": 2}
ROWS = [{"n": 1, "b": "x"}, {"n": 2, "b": "y"}, {"n": 3, "b": "z"}]


async def test_every_merge_of_empty_parts_can_be_read(
    settings: Settings, database: Database, aws: Aws, tmp_path: Any
) -> None:
    grid = ProcessGrid(settings, database, aws, tmp_path)
    await grid.prepare()
    for key, body in OBJECTS.items():
        await aws.s3.put_object(Bucket=settings.bucket, Key=key, Body=body)
    wanted = [
        ("all", ["csv"], CONCAT),
        ("all", ["parquet"], PARQUET),
        ("all", ["parquet", "again"], PARQUET),
        ("all", ["parquet"], TOTAL),
        ("headers", ["parquet"], PARQUET),
        ("nothing", ["parquet"], PARQUET),
    ]
    async with database.acquire() as connection, connection.transaction():
        for name, spec in PROCESSORS.items():
            await register_processor(connection, name, spec)
        jobs = [
            await submit_job(
                connection,
                JobSpec.model_validate(
                    {
                        "input": {"type": "objects", "prefix": f"s3://{settings.bucket}/{prefix}/"},
                        "stages": [{"processor": name} for name in stages],
                        "merge": merge,
                    }
                ),
                settings=settings,
            )
            for prefix, stages, merge in wanted
        ]
    grid.start_scheduler()
    grid.start_worker()
    try:
        results = []
        for job_id in jobs:
            job = await grid.ended(job_id)
            assert (job["state"], job["error"]) == ("succeeded", None)
            results.append(await grid.result_files(job_id))
    finally:
        grid.stop()

    joined, merged, chained, total, headers, nothing = results
    assert joined["result"] == b"n,b\n1,x\n2,y\n3,z\n"
    assert _rows(merged["result.parquet"]) == _rows(chained["result.parquet"]) == ROWS
    assert _rows(total["output.parquet"]) == [{"n": 6}]
    table = pyarrow.parquet.read_table(io.BytesIO(headers["result.parquet"]))
    assert (table.num_rows, table.schema.names) == (0, ["n", "b"])
    assert nothing == {}, "nothing tells of a column: no file, rather than one that is not Parquet"


def _rows(parquet: bytes) -> Any:
    return pyarrow.parquet.read_table(io.BytesIO(parquet)).to_pylist()
