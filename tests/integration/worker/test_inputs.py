"""Inputs of each type, as tasks find them; and a torn record, which fails its task whatever would read it."""

import io
import json
import random
from pathlib import Path
from typing import Any

import fastavro
import pyarrow
import pyarrow.ipc
import pyarrow.orc

from services.inputs.split import split
from tests.integration.inputs.conftest import INPUT
from tests.integration.worker.conftest import InProcessGrid

SAME = "def same(record):\n    return record\n"
FIRST_AND_LAST = """
import pyarrow.orc

def first_and_last(input, output):
    found = pyarrow.orc.ORCFile(str(input)).read()["n"].to_pylist()
    return {"first": found[0], "last": found[-1]}
"""
AVRO = {"type": "record", "name": "r", "fields": [{"name": "n", "type": "int"}]}


async def parts_of(grid: InProcessGrid, data: bytes, **source: Any) -> list[dict[str, Any]]:
    place = await grid.put(f"in.{source.get('format', source['type'])}", data)
    chunk = await split(grid.aws.s3, INPUT.validate_python({"uri": place["uri"], **source}), None, 2)
    return chunk.inputs


async def test_records_of_every_type_of_part(grid: InProcessGrid, code: Path) -> None:
    (code / "rows.py").write_text(SAME)
    arrow, avro, orc, rows = io.BytesIO(), io.BytesIO(), io.BytesIO(), [{"n": n} for n in range(1000)]
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_file(arrow, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    fastavro.writer(avro, AVRO, rows, sync_interval=100)
    pyarrow.orc.write_table(table, orc, stripe_size=1024, batch_size=100)
    csv = "n|x\n" + "".join(f"{n}|'a|\n'\n" for n in range(1000))
    inputs = [
        *await parts_of(grid, arrow.getvalue(), type="arrow", parts=2),
        *await parts_of(grid, avro.getvalue(), type="avro", parts=2),
        *await parts_of(grid, orc.getvalue(), type="orc", parts=2),
        {"type": "objects", "objects": [await grid.put(f"{n}.jsonl", json.dumps(rows[n]).encode()) for n in range(3)]},
        *await parts_of(grid, csv.encode(), type="lines", format="csv", part_bytes=10**6, delimiter="|", quote="'"),
    ]

    tasks = await grid.run(await grid.submit({"records": "rows:same"}, inputs))

    assert [task["error"] for task in tasks] == [None] * 8
    read = [[json.loads(line)["n"] for line in (await grid.get(t["output"]["uri"])).splitlines()] for t in tasks]
    assert read[0] + read[1] == read[2] + read[3] == read[4] + read[5] == list(range(1000))
    assert all(read[:6])
    assert read[6] == [0, 1, 2]
    assert read[7] == [str(n) for n in range(1000)]


async def test_stripes_of_orc_reach_every_kind_of_processor(grid: InProcessGrid, code: Path) -> None:
    """A program finds an ORC file, SQL its columns; whole objects are read by their suffix; others are refused."""
    (code / "rows.py").write_text(SAME + FIRST_AND_LAST)
    noise, data = [random.Random(n).randbytes(20).hex() for n in range(30_000)], io.BytesIO()
    table = pyarrow.table({"n": range(30_000), "day": ["2013-01-01", None] * 15_000, "noise": noise})
    pyarrow.orc.write_table(table, data, stripe_size=65_536, compression="zstd")
    parts = await parts_of(grid, data.getvalue(), type="orc", parts=3)
    assert len(parts) == 3
    replaced = {**parts[0], "etag": '"another"'}
    beyond = {**parts[-1], "count": 1000}
    whole = {"type": "object", "uri": parts[0]["uri"]}
    group = {"type": "objects", "objects": [{"uri": parts[0]["uri"]}] * 2}

    jobs = [
        await grid.submit({"callable": "rows:first_and_last"}, parts),
        await grid.submit({"sql": "SELECT count(*) AS c, max(n) AS n, count(day) AS days FROM input"}, [*parts, group]),
        await grid.submit({"records": "rows:same"}, [whole, replaced, beyond]),
    ]
    tasks = await grid.run(*jobs)

    assert [task["error"] for task in tasks[:8]] == [None] * 8
    ends = [task["output"]["value"] for task in tasks[:3]]
    assert ends[0]["first"] == 0 and ends[2]["last"] == 29_999
    assert [end["last"] + 1 for end in ends[:2]] == [end["first"] for end in ends[1:]]
    summed = [(await grid.lines(task["output"]["uri"]))[0] for task in tasks[3:7]]
    assert [each["n"] for each in summed[:3]] == [end["last"] for end in ends]
    assert sum(each["c"] for each in summed[:3]) == 30_000 and sum(each["days"] for each in summed[:3]) == 15_000
    assert summed[3] == {"c": 60_000, "n": 29_999, "days": 30_000}
    assert len(await grid.lines(tasks[7]["output"]["uri"])) == 30_000
    assert [task["error"]["type"] for task in tasks[8:]] == ["input_changed", "input_invalid"]
    assert f"has {sum(part['count'] for part in parts)} blocks" in tasks[9]["error"]["message"]


async def test_a_torn_record_fails_its_task_and_names_the_option(grid: InProcessGrid, code: Path) -> None:
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
