"""XML in a real worker: record functions, SQL and programs that know nothing of parts, on what the splitters make."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from services.inputs.split import split
from tests.integration.inputs.conftest import INPUT
from tests.integration.worker.conftest import InProcessGrid
from tests.integration.worker.split.test_grid_split import Splits

HEAD = b'\xef\xbb\xbf<?xml version="1.0" encoding="UTF-8"?>\r\n<c:claims xmlns:c="urn:claims" count="100">\r\n'
CLAIM = '<c:claim id="{0}"><amount currency="&#x20AC;">{0}.50</amount><!-- <c:claims> is ü --></c:claim>\r\n'
DOCUMENT = HEAD + "".join(CLAIM.format(number) for number in range(100)).encode() + b"</c:claims>\r\n"
# Records within records, and one in CDATA: cuts that look right and are not.
NESTED = (
    "<claims>"
    + "".join(f"<day n='{n}'><claim id='{n}'><claim/>{'x' * 50}<![CDATA[<claim>]]></claim></day>" for n in range(100))
    + "</claims>"
).encode()

COUNT = """
import sys
from xml.etree import ElementTree

claims = ElementTree.parse(sys.argv[1]).getroot()
found = [claim.get("id") for claim in claims.iter("{urn:claims}claim")]
open(sys.argv[2], "w").write(" ".join(found))
"""


async def parts_of(grid: InProcessGrid, data: bytes, **source: Any) -> list[dict[str, Any]]:
    place = await grid.put("in.xml", data)
    chunk = await split(grid.aws.s3, INPUT.validate_python({"type": "xml", "uri": place["uri"], **source}), None, 2)
    assert chunk.done
    return chunk.inputs


async def outputs(grid: InProcessGrid, tasks: list[Any]) -> list[bytes]:
    assert [task["error"] for task in tasks] == [None] * len(tasks)
    return [await grid.get(task["output"]["uri"]) for task in tasks]


async def rejects(grid: InProcessGrid, tasks: list[Any]) -> list[Any]:
    uris = [task["output"]["rejects"] for task in tasks if "rejects" in task["output"]]
    return [line for uri in uris for line in await grid.lines(uri)]


async def test_functions_queries_and_programs_read_the_same_records(grid: InProcessGrid, code: Path) -> None:
    (code / "rows.py").write_text("def same(record):\n    return record\n")
    (code / "count.py").write_text(COUNT)
    parts = await parts_of(grid, DOCUMENT, record_tag="c:claim", part_bytes=3000)
    assert 3 <= len(parts) <= 5
    query = """SELECT "@id" AS id, amount::JSON ->> '#text' AS amount FROM input"""
    jobs = [
        await grid.submit({"records": "rows:same"}, parts),
        await grid.submit({"sql": query, "output_format": "jsonl"}, parts),
        await grid.submit({"command": [sys.executable, str(code / "count.py"), "{input}", "{output}"]}, parts),
    ]

    made = await outputs(grid, await grid.run(*jobs))

    by_function, by_query, by_program = made[: len(parts)], made[len(parts) : -len(parts)], made[-len(parts) :]
    records = [json.loads(line) for part in by_function for line in part.splitlines()]
    assert records == [{"@id": f"{n}", "amount": {"@currency": "€", "#text": f"{n}.50"}} for n in range(100)]
    rows = [json.loads(line) for part in by_query for line in part.splitlines()]
    assert rows == [{"id": f"{n}", "amount": f"{n}.50"} for n in range(100)]
    assert [number for part in by_program for number in part.decode().split()] == [f"{n}" for n in range(100)]


async def test_a_record_that_is_not_well_formed_is_a_reject_with_its_place(grid: InProcessGrid, code: Path) -> None:
    (code / "rows.py").write_text("def same(record):\n    return record\n")
    data = DOCUMENT.replace(b"&#x20AC;", b"&euro;", 1)
    parts = await parts_of(grid, data, record_tag="c:claim", part_bytes=3000)

    tasks = await grid.run(await grid.submit({"records": "rows:same"}, parts))

    assert sum(len(part.splitlines()) for part in await outputs(grid, tasks)) == 99
    (reject,) = await rejects(grid, tasks)
    assert reject["source"] == {"uri": parts[0]["uri"], "byte": data.index(b"<c:claim "), "record": 1}
    assert reject["reason"] == "not well-formed XML: undefined entity at byte 16 of the record"
    assert reject["record"].startswith('<c:claim id="0">')


async def test_a_torn_record_fails_its_task_whatever_would_read_it(grid: InProcessGrid, code: Path) -> None:
    (code / "rows.py").write_text("def same(record):\n    return record\n")
    parts = await parts_of(grid, NESTED, record_tag="claim", part_bytes=1000)
    assert len(parts) > 5
    processors: list[dict[str, Any]] = [
        {"command": ["cp", "{input}", "{output}"]},
        {"records": "rows:same"},
        {"sql": "SELECT * FROM input", "output_format": "jsonl"},
    ]

    tasks = await grid.run(*[await grid.submit(processor, parts[:1]) for processor in processors])

    for task in tasks:
        assert (task["state"], task["error"]["type"]) == ("failed", "records_torn")
        assert f"{parts[0]['uri']}: the " in task["error"]["message"]
        assert "set `scan: true` in the job's input" in task["error"]["message"]


@pytest.mark.parametrize(("name", "scan"), [("in.xml", True), ("in.xml.gz", False)])
async def test_a_task_that_reads_every_byte_cuts_what_small_reads_can_not(
    grid: InProcessGrid, code: Path, tmp_path: Path, name: str, scan: bool
) -> None:
    (code / "rows.py").write_text("def number(record):\n    return {'n': int(record['@id'])}\n")
    splits = Splits(grid.aws.s3, grid.settings.bucket, tmp_path)
    body = NESTED.replace(b"<claim id='50'>", b"<claim id='?'>")
    stored = gzip.compress(body) if name.endswith(".gz") else body

    files = await splits(name, stored, type="xml", record_tag="claim", part_bytes=2000, scan=scan)
    tasks = await grid.run(await grid.submit({"records": "rows:number"}, splits.items))

    days = [ElementTree.fromstring(file).findall("day[claim]") for file in files]
    assert [day.get("n") for part in days for day in part] == [f"{n}" for n in range(100)]
    assert 4 <= len(files) <= 8
    numbers = [json.loads(line)["n"] for part in await outputs(grid, tasks) for line in part.splitlines()]
    assert numbers == [n for n in range(100) if n != 50]
    (reject,) = await rejects(grid, tasks)
    assert (reject["source"]["uri"], reject["source"]["byte"]) == (
        f"s3://{grid.settings.bucket}/{name}",
        body.index(b"<claim id='?'>"),
    )


async def test_whole_xml_objects_are_for_programs(grid: InProcessGrid, code: Path) -> None:
    (code / "rows.py").write_text("def same(record):\n    return record\n")
    whole = {"type": "object", **await grid.put("in.xml", DOCUMENT)}

    copied, refused = await grid.run(
        await grid.submit({"command": ["cp", "{input}", "{output}"]}, [whole]),
        await grid.submit({"records": "rows:same"}, [whole]),
    )

    assert await grid.get(copied["output"]["uri"]) == DOCUMENT
    assert refused["error"]["type"] == "input_invalid"
    assert "use an input of type xml" in refused["error"]["message"]
