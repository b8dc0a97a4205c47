"""What a processor has beside its task's input and output: objects that it reads, files that it writes, its counts."""

import asyncio
import gzip
import zlib
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from services.contract.layout import Layout
from services.worker.task.pins import Pins
from tests.integration.worker.conftest import InProcessGrid, etag

ITEM = {"type": "item", "value": 1}


async def test_every_kind_of_processor_finds_its_declared_inputs_and_outputs(grid: InProcessGrid, code: Path) -> None:
    (code / "declared.py").write_text(
        "import csv\n"
        "def price(record, fees, audit, factor):\n"
        "    fee = next(csv.DictReader(fees.open()))['fee']\n"
        "    audit.write_text('audited')\n"
        "    return {'n': record * int(fee) * factor}\n"
        "def call(input, output, fees, audit, factor):\n"
        "    audit.write_text(fees.read_text())\n"
        "    return {'name': fees.name, 'records': {'records_in': 3, 'records_out': 2, 'records_filtered': 1}}\n"
    )
    fees = await grid.put("tables/fees.csv", b"code,fee\n1,10\n")
    declared = {"inputs": {"fees": None}, "outputs": {"audit": "audit.csv"}}
    stage: dict[str, Any] = {"inputs": {"fees": fees["uri"]}, "params": {"factor": 2}}
    script = (
        "cat $PIECEWORK_INPUT_FEES {inputs.fees} >$PIECEWORK_OUTPUT_AUDIT; cp {inputs.fees} {output}; "
        'echo \'{"records_in": 4, "records_out": 3, "records_rejected": 1}\' >$PIECEWORK_RECORDS'
    )
    jobs = [
        await grid.submit({"records": "declared:price", **declared}, [ITEM], **stage),
        await grid.submit({"callable": "declared:call", **declared}, [ITEM], **stage),
        await grid.submit({"command": ["sh", "-c", script], **declared}, [ITEM], **stage),
        await grid.submit(
            {
                "sql": "SELECT fee::INT * {params.factor} AS n FROM input JOIN fees ON code::INT = json::INT",
                "inputs": {"fees": None},
            },
            [ITEM],
            **stage,
        ),
    ]
    record, call, command, sql = await grid.run(*jobs)
    assert await grid.lines(record["output"]["uri"]) == await grid.lines(sql["output"]["uri"]) == [{"n": 20}]
    assert call["output"]["value"] == {"name": "fees.csv"}
    assert command["output"]["records"] == 3
    for task, audit, header in ((record, b"audited", b"audited"), (call, b"code,fee\n1,10\n", b"code,fee\n")):
        assert task["output"]["files"] == {
            "audit": {
                "uri": f"s3://{grid.settings.bucket}/jobs/{task['job_id']}/0/0-1/audit.csv",
                "bytes": len(audit),
                "crc32": zlib.crc32(audit),
                "etag": etag(audit),
                "header_bytes": len(header),
                "header_crc32": zlib.crc32(header),
                "missing_end": "" if audit.endswith(b"\n") else "0a",
            }
        }
        assert await grid.get(task["output"]["files"]["audit"]["uri"]) == audit
    assert await grid.get(command["output"]["files"]["audit"]["uri"]) == b"code,fee\n1,10\n" * 2
    counted = [attempt for job_id in jobs for attempt in await grid.attempts(job_id)]
    names = ("records_in", "records_out", "records_rejected", "records_filtered", "records_added")
    assert [tuple(attempt[name] for name in names) for attempt in counted] == [
        (1, 1, 0, 0, 0),
        (3, 2, 0, 1, 0),
        (4, 3, 1, 0, 0),
        (1, 1, 0, 0, 0),
    ]


async def test_an_error_about_a_declared_object_names_that_one(grid: InProcessGrid) -> None:
    fees = await grid.put("tables/fees.csv", gzip.compress(b"code,fee\n1,10\n")[:-9])
    work = await grid.put("work.jsonl", b"1\n")
    sql = {"sql": "SELECT * FROM fees", "inputs": {"fees": None}}
    job_id = await grid.submit(sql, [{"type": "object", **work}], inputs={"fees": fees["uri"]})
    (task,) = await grid.run(job_id)
    assert (task["state"], task["error"]["type"], task["attempt"]) == ("failed", "input_invalid", 1)
    assert task["error"]["message"].startswith(
        f"{fees['uri']}: the compressed input is damaged: the gzip stream is trunc"
    )


async def test_counts_that_can_not_be_right_fail_the_task(grid: InProcessGrid, code: Path) -> None:
    (code / "wrong.py").write_text("def count(input, output):\n    return {'records': {'records_in': -1}}\n")
    told: dict[str, dict[str, Any]] = {
        "says records_in = -1; it must be an integer, not negative": {"callable": "wrong:count"},
        "has 'rows'; the counts are": {"command": ["sh", "-c", "echo '{\"rows\": 1}' >$PIECEWORK_RECORDS"]},
        "is not JSON": {"command": ["sh", "-c", "echo 7, >$PIECEWORK_RECORDS"]},
        "says records_out = True": {"command": ["sh", "-c", "echo '{\"records_out\": true}' >$PIECEWORK_RECORDS"]},
    }
    tasks = await grid.run(*[await grid.submit(processor, [ITEM]) for processor in told.values()])
    for message, task in zip(told, tasks, strict=True):
        assert task["error"]["type"] == "output_invalid"
        assert message in task["error"]["message"]


def files_in(directory: str, pattern: str) -> list[Path]:
    return list(Path(directory).glob(pattern))


async def test_a_job_sees_one_version_of_a_declared_input(grid: InProcessGrid) -> None:
    """It is kept as it was when the object is replaced while the job runs; the next job sees the new one."""
    old = await grid.put("tables/fees", b"old")
    show = {"command": ["sh", "-c", "cat {inputs.fees} >{output}"], "inputs": {"fees": old["uri"]}}
    first = await grid.submit(show, [ITEM] * 4)
    async with grid.node():
        await grid.dispatch(first)
        await grid.ended(first)
        await grid.put("tables/fees", b"new!")
        second, late, gone = [await grid.submit(show, [ITEM]) for _ in range(3)]
        (pin,) = [key for key in await grid.keys() if f"{first}/pins/" in key]
        await grid.put(pin.replace(str(first), str(late)), old["etag"].encode())  # as other workers have begun
        await grid.put(pin.replace(str(first), str(gone)), b'"d41d8cd98f00b204e9800998ecf8427e"')
        for job_id in (second, late, gone):
            await grid.dispatch(job_id)
            await grid.ended(job_id)
        cached = files_in(grid.settings.scratch, "*/inputs/*/*")
        assert sorted(path.read_bytes() for path in cached) == [b"new!", b"old"]
        assert {(path.name, path.stat().st_mode & 0o777) for path in cached} == {("fees", 0o444)}
    *tasks, last = [task for job_id in (first, second, late, gone) for task in await grid.tasks(job_id)]
    assert [await grid.get(task["output"]["uri"]) for task in tasks] == [b"old"] * 4 + [b"new!", b"old"]
    assert last["error"]["type"] == "input_changed"


async def test_only_one_worker_says_which_version_it_is(grid: InProcessGrid) -> None:
    workers = [Pins(grid.aws.s3, Layout(grid.settings.bucket)) for _ in range(2)]
    job_id, all_look = uuid4(), asyncio.Barrier(2)

    async def find(number: int) -> str:
        await all_look.wait()  # nothing is pinned yet
        return f"said by {number}"

    agreed = await asyncio.gather(
        *(worker.agree(job_id, "name", partial(find, number)) for number, worker in enumerate(workers))
    )
    assert agreed[0] == agreed[1]
    assert await Pins(grid.aws.s3, Layout(grid.settings.bucket)).agree(job_id, "name", partial(find, 2)) == agreed[0]
