"""Inputs of each type, as tasks find them; and a torn record, which fails its task whatever would read it."""

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pyarrow
import pyarrow.ipc

from services.inputs.split import split
from tests.integration.inputs.conftest import INPUT
from tests.integration.worker.conftest import Grid

SAME = "def same(record):\n    return record\n"
AVRO = {"type": "record", "name": "r", "fields": [{"name": "n", "type": "int"}]}


async def parts_of(grid: Grid, data: bytes, **source: Any) -> list[dict[str, Any]]:
    place = await grid.put(f"in.{source.get('format', source['type'])}", data)
    chunk = await split(grid.aws.s3, INPUT.validate_python({"uri": place["uri"], **source}), None, 2)
    return chunk.inputs


async def test_records_of_every_type_of_part(grid: Grid, code: Path) -> None:
    (code / "rows.py").write_text(SAME)
    arrow, avro, rows = io.BytesIO(), io.BytesIO(), [{"n": n} for n in range(1000)]
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_file(arrow, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    fastavro.writer(avro, AVRO, rows, sync_interval=100)
    csv = "n|x\n" + "".join(f"{n}|'a|\n'\n" for n in range(1000))
    inputs = [
        *await parts_of(grid, arrow.getvalue(), type="arrow", parts=2),
        *await parts_of(grid, avro.getvalue(), type="avro", parts=2),
        {"type": "objects", "objects": [await grid.put(f"{n}.jsonl", json.dumps(rows[n]).encode()) for n in range(3)]},
        *await parts_of(grid, csv.encode(), type="lines", format="csv", part_bytes=10**6, delimiter="|", quote="'"),
    ]

    tasks = await grid.run(await grid.submit({"records": "rows:same"}, inputs))

    assert [task["error"] for task in tasks] == [None] * 6
    read = [[json.loads(line)["n"] for line in (await grid.get(t["output"]["uri"])).splitlines()] for t in tasks]
    assert read[0] + read[1] == read[2] + read[3] == list(range(1000))
    assert all(read[:4])
    assert read[4] == [0, 1, 2]
    assert read[5] == [str(n) for n in range(1000)]


async def test_a_torn_record_fails_its_task_and_names_the_option(grid: Grid, code: Path) -> None:
    (code / "rows.py").write_text(SAME)
    data = b"id,note\n" + b"".join(b'%d,"two\nlines"\n' % n for n in range(100))
    parts = await parts_of(grid, data, type="lines", format="csv", part_bytes=50)
    torn = next(part for part in parts if data[: part["end"]].count(b'"') % 2)
    replaced = {**torn, "etag": '"another"'}

    jobs = [
        await grid.submit({"command": ["cp", "{input}", "{output}"]}, [torn, replaced]),
        await grid.submit({"records": "rows:same"}, [torn]),
        await grid.submit({"sql": "SELECT id::BIGINT AS id FROM input", "output_format": "jsonl"}, [torn]),
    ]
    by_command, changed, by_function, by_query = await grid.run(*jobs)

    for task in (by_command, by_function, by_query):
        assert (task["state"], task["error"]["type"]) == ("failed", "records_torn")
        assert f"{torn['uri']}: the record at byte " in task["error"]["message"]
        assert "multiline: true" in task["error"]["message"]
    assert changed["error"]["type"] == "input_changed"
