"""What a task's row, its attempt and S3 say after a node has run it."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.integration.worker.conftest import InProcessGrid, etag
from tests.invariants import assert_invariants

ITEM = {"type": "item", "value": 1}


def left_in(directory: str) -> list[str]:
    return [path.name for path in Path(directory).iterdir()]


async def test_noops_in_bundles_succeed_without_a_trace_in_s3(grid: InProcessGrid) -> None:
    job_id = await grid.submit({"builtin": "noop"}, [{"type": "index", "count": 250}] * 250)
    tasks = await grid.run(job_id, bundle_tasks_max=100)
    assert {(task["state"], task["attempt"], task["output"]) for task in tasks} == {("succeeded", 1, None)}
    assert [attempt["outcome"] for attempt in await grid.attempts(job_id)] == ["succeeded"] * 250
    assert await grid.keys() == []
    assert await grid.queue_depth() == 0
    assert await grid.database.fetchval("SELECT count(*) FROM bundles") == 0
    await assert_invariants(grid.database, job_id)


@pytest.mark.both_emulators("GetObject", "PutObject")
async def test_a_command_reads_its_part_and_writes_its_output(grid: InProcessGrid) -> None:
    raw = await grid.put("uploads/flights.csv", b"carrier,delay\nUA,5\nAA,10\n")
    part = {"type": "bytes", **raw, "start": 19, "end": 25, "format": "csv", "header": "carrier,delay\n"}
    command = ["sh", "-c", "echo to the log; cat {input} > {output}; pwd; ls"]
    job_id = await grid.submit({"command": command, "output": "part.csv", "output_format": "csv"}, [part])
    (task,) = await grid.run(job_id)
    assert task["state"] == "succeeded"
    uri = f"s3://{grid.settings.bucket}/jobs/{job_id}/0/0-1/part.csv"
    header, body = b"carrier,delay\n", b"AA,10\n"
    assert task["output"] == {
        "uri": uri,
        "bytes": 20,
        "crc32": zlib.crc32(header + body),
        "etag": etag(header + body),
        "header_bytes": 14,
        "header_crc32": zlib.crc32(header),
        "missing_end": "",
    }
    assert await grid.get(uri) == header + body
    (attempt,) = await grid.attempts(job_id)
    assert (attempt["outcome"], attempt["exit_code"], attempt["error"]) == ("succeeded", 0, None)
    assert (attempt["bytes_in"], attempt["bytes_out"]) == (6, 20)
    assert attempt["memory_bytes_peak"] > 0
    assert 0 < attempt["cpu_seconds"] < attempt["run_seconds"] < 10
    log = (await grid.get(attempt["log"])).decode().splitlines()
    assert log[0] == "to the log"
    assert log[1].startswith(grid.settings.scratch)
    assert len(log) == 2, "the working directory is empty"
    assert left_in(grid.settings.scratch) == ["lock"], "private directories are removed"


async def test_a_records_function_splits_good_from_bad(grid: InProcessGrid, code: Path) -> None:
    (code / "claims.py").write_text(
        "def clean(record, *, limit):\n"
        "    amount = float(record['amount'])\n"
        "    return {'id': int(record['id']), 'amount': amount} if amount <= limit else None\n"
    )
    raw = await grid.put("claims.csv", b"id,amount\n1,5.5\n2,NA\n3,900\n4,7\n5\n")
    processor = {"records": "claims:clean", "output": "clean"}
    job_id = await grid.submit(processor, [{"type": "object", **raw}], params={"limit": 100})
    (task,) = await grid.run(job_id)
    output = task["output"]
    assert (output["uri"].rpartition("/")[2], output["records"]) == ("clean.jsonl", 2)
    assert await grid.get(output["uri"]) == b'{"id":1,"amount":5.5}\n{"id":4,"amount":7.0}\n'
    rejects = await grid.get(output["rejects"])
    assert len(rejects) == output["rejects_bytes"]
    assert [json.loads(line) for line in rejects.splitlines()] == [
        {
            "stage": 0,
            "index": 0,
            "source": {"uri": raw["uri"], "byte": 16, "record": 2},
            "reason": "ValueError: could not convert string to float: 'NA'",
            "record": {"id": "2", "amount": "NA"},
        },
        {
            "stage": 0,
            "index": 0,
            "source": {"uri": raw["uri"], "byte": 31, "record": 5},
            "reason": "the row has 1 fields, the header has 2",
            "record": ["5"],
        },
    ]
    assert output["rejects_crc32"] == zlib.crc32(rejects)
    (attempt,) = await grid.attempts(job_id)
    assert (attempt["records_in"], attempt["records_out"], attempt["records_rejected"]) == (5, 2, 2)
    assert (attempt["records_filtered"], attempt["records_added"]) == (1, 0)
    assert (attempt["bytes_in"], attempt["bytes_out"]) == (33, output["bytes"] + output["rejects_bytes"])
    assert attempt["log"] is None


async def test_csv_output_tells_its_header(grid: InProcessGrid, code: Path) -> None:
    (code / "same.py").write_text("def same(record):\n    return record\n")
    processor = {"records": "same:same", "output_format": "csv"}
    job_id = await grid.submit(processor, [{"type": "item", "value": {"a": 1, "b": "x"}}])
    (task,) = await grid.run(job_id)
    assert task["output"]["header_bytes"] == 4
    assert await grid.get(task["output"]["uri"]) == b"a,b\n1,x\n"


async def test_a_small_result_lives_in_the_task(grid: InProcessGrid, code: Path) -> None:
    (code / "sums.py").write_text(
        "import json\n"
        "def total(input, output):\n"
        "    return {'total': sum(json.loads(input.read_text())), 'name': input.name}\n"
    )
    job_id = await grid.submit({"callable": "sums:total"}, [{"type": "item", "value": [1, 2, 3]}])
    (task,) = await grid.run(job_id)
    assert task["output"] == {"value": {"total": 6, "name": "input.json"}}
    assert await grid.keys() == []


async def test_array_tasks_differ_by_their_index(grid: InProcessGrid) -> None:
    command = [
        "sh",
        "-c",
        'echo "{index} $AWS_BATCH_JOB_ARRAY_INDEX/$AWS_BATCH_JOB_ARRAY_SIZE $(cat {input})" >{output}',
    ]
    job_id = await grid.submit({"command": command}, [{"type": "index", "count": 3}] * 3)
    tasks = await grid.run(job_id, bundle_tasks_max=2)
    assert [await grid.get(task["output"]["uri"]) for task in tasks] == [
        b'%d %d/3 {"index":%d,"count":3}\n' % (index, index, index) for index in range(3)
    ]


@pytest.mark.both_emulators("GetObject", "PutObject")
async def test_copy_keeps_name_header_and_bytes(grid: InProcessGrid) -> None:
    raw = await grid.put("big.csv.gz", gzip.compress(b"x" * 100_000))
    text = await grid.put("lines.csv", b"h\n1\n2\n")
    part = {"type": "bytes", **text, "start": 4, "end": 6, "format": "csv", "header": "h\n"}
    job_id = await grid.submit({"builtin": "copy"}, [{"type": "object", "uri": raw["uri"]}, part])
    whole, lines = await grid.run(job_id)
    assert whole["output"]["uri"].endswith("/output.csv.gz")
    assert gzip.decompress(await grid.get(whole["output"]["uri"])) == b"x" * 100_000
    assert lines["output"]["header_bytes"] == 2
    assert await grid.get(lines["output"]["uri"]) == b"h\n2\n"


@pytest.mark.both_emulators("GetObject", "PutObject")
async def test_a_version_is_read_whatever_has_replaced_it(grid: InProcessGrid) -> None:
    """Alone and in a group, with an ETag and without; a wrong ETag or a missing version fails the task at once."""
    bucket, s3 = grid.settings.bucket, grid.aws.s3
    await s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    put = await s3.put_object(Bucket=bucket, Key="a.txt", Body=b"old\n")
    newer = await s3.put_object(Bucket=bucket, Key="a.txt", Body=b"new\n")
    old = {"uri": f"s3://{bucket}/a.txt", "version": put["VersionId"]}
    inputs = [
        {"type": "object_version", **old},
        {"type": "object", **old, "etag": put["ETag"]},
        {"type": "object_versions", "objects": [old, {"uri": old["uri"]}]},
        {"type": "object", **old, "etag": newer["ETag"]},
        {"type": "object_version", **old, "version": "3sL4kqtJlcpXroDTDmJ"},
    ]
    *read, changed, missing = await grid.run(await grid.submit({"builtin": "copy"}, inputs))
    assert [await grid.get(task["output"]["uri"]) for task in read] == [b"old\n", b"old\n", b"old\nnew\n"]
    assert [(task["error"]["type"], task["attempt"]) for task in (changed, missing)] == [
        ("input_changed", 1),
        ("input_missing", 1),
    ]
    assert "a.txt has no version '3sL4kqtJlcpXroDTDmJ'" in missing["error"]["message"]


@pytest.mark.both_emulators("GetObject", "HeadObject")
async def test_row_groups_become_a_file_of_their_own(grid: InProcessGrid, tmp_path: Path, code: Path) -> None:
    table = pyarrow.table({"n": list(range(1000)), "text": [f"row {n}" * 50 for n in range(1000)]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=100, compression="none")
    content = (tmp_path / "t.parquet").read_bytes()
    raw = await grid.put("t.parquet", content)
    (code / "rows.py").write_text("def same(record):\n    return record\n")
    inputs = [{"type": "row_groups", **raw, "first": first, "count": 2} for first in (0, 8)]
    copied = await grid.submit({"builtin": "copy"}, inputs[1:])
    first, second, task = await grid.run(await grid.submit({"records": "rows:same"}, inputs), copied)
    lines = [
        json.loads(line) for part in (first, second) for line in (await grid.get(part["output"]["uri"])).splitlines()
    ]
    assert [line["n"] for line in lines] == [*range(200), *range(800, 1000)]
    (tmp_path / "c.parquet").write_bytes(await grid.get(task["output"]["uri"]))
    assert pyarrow.parquet.read_table(tmp_path / "c.parquet").equals(table.slice(800))
    assert pyarrow.parquet.ParquetFile(tmp_path / "c.parquet").num_row_groups == 2
    (attempt,) = await grid.attempts(copied)
    assert attempt["bytes_in"] < len(content) / 2, "the other row groups were not read"


async def test_a_reduce_gets_a_directory_of_outputs(grid: InProcessGrid) -> None:
    one = await grid.put("jobs/x/part.csv", b"a\n1\n")
    lines = [{"index": 11, "attempt": 1, "uri": one["uri"]}, {"index": 2, "attempt": 1, "value": {"n": 2}}]
    listing = await grid.put("listing", b"\n".join(json.dumps(line).encode() for line in lines))
    command = ["sh", "-c", "cd {input}; for f in *; do echo $f: $(cat $f); done > {output}"]
    job_id = await grid.submit({"command": command}, [{"type": "outputs", "uri": listing["uri"]}])
    (task,) = await grid.run(job_id)
    assert await grid.get(task["output"]["uri"]) == b'00000002.json: {"n":2}\n00000011.csv: a 1\n'


@pytest.mark.both_emulators("CompleteMultipartUpload", "CreateMultipartUpload", "UploadPart")
async def test_large_files_pass_in_parts(grid: InProcessGrid) -> None:
    body = bytes(range(256)) * 4096 * 40  # 40 MiB: five parts
    raw = await grid.put("large.bin", body)
    job_id = await grid.submit({"command": ["cp", "{input}", "{output}"]}, [{"type": "object", **raw}])
    (task,) = await grid.run(job_id)
    assert (task["output"]["bytes"], task["output"]["crc32"]) == (len(body), zlib.crc32(body))
    assert await grid.get(task["output"]["uri"]) == body
    assert (await grid.aws.s3.list_multipart_uploads(Bucket=grid.settings.bucket)).get("Uploads", []) == []


async def test_what_a_fan_out_stage_yields(grid: InProcessGrid, code: Path) -> None:
    """The files of an output directory, the lines of an output, the elements of a returned list; or nothing."""
    (code / "yields.py").write_text(
        "def listed(input, output):\n"
        "    return [{'n': n, 'text': 'x' * 5000} for n in range(3)]\n"
        "def written(input, output):\n"
        '    output.write_text(\'1\\n\\n{"a": [1e2, "\u00e9"]}\\n  \\nnull\')\n'
        "def broken(input, output):\n"
        "    output.write_text('1\\n[2\\n')\n"
        "def twice(record):\n"
        "    return [record, record + 1]\n"
    )
    segments = {"command": ["sh", "-c", "cd {output}; echo b >b.ts; mkdir a; echo a >a/1.ts; echo c >c; pwd"]}
    processors: list[dict[str, Any]] = [
        {**segments, "output": "segments", "output_directory": True},
        {"callable": "yields:listed"},
        {"callable": "yields:written"},
        {"command": ["true"]},
        {"command": ["true"], "output_directory": True},
        {"callable": "yields:broken"},
        {"records": "yields:twice"},
        {"command": ["mkdir", "{output}"]},
    ]
    job_ids = [await grid.submit(processor, [ITEM], fan_out=True) for processor in processors]
    directory, listed, written, nothing, empty, broken, twice, undeclared = await grid.run(*job_ids)
    at = f"s3://{grid.settings.bucket}/interim/{job_ids[0]}/0/0-1/"
    listing = await grid.get(at + "piecework-items.jsonl")
    assert directory["output"] == {
        "uri": at + "piecework-items.jsonl",
        "bytes": len(listing),
        "crc32": zlib.crc32(listing),
        "etag": etag(listing),
        "items": 3,
    }
    bodies = {"a/1.ts": b"a\n", "b.ts": b"b\n", "c": b"c\n"}
    files = [
        {"type": "object", "uri": f"{at}segments/{name}", "bytes": 2, "crc32": zlib.crc32(body)}
        for name, body in bodies.items()
    ]
    assert await grid.lines(at + "piecework-items.jsonl") == files
    assert [await grid.get(file["uri"]) for file in files] == list(bodies.values())
    values = [await grid.lines(task["output"]["uri"]) for task in (listed, written)]
    assert values[0] == [{"type": "item", "value": {"n": n, "text": "x" * 5000}} for n in range(3)]
    assert values[1] == [{"type": "item", "value": value} for value in (1, {"a": [100.0, "\u00e9"]}, None)]
    assert [item["value"] for item in await grid.lines(twice["output"]["uri"])] == [1, 2]
    assert [task["output"]["items"] for task in (listed, written, nothing, empty)] == [3, 3, 0, 0]
    assert await grid.get(nothing["output"]["uri"]) == await grid.get(empty["output"]["uri"]) == b""
    assert "does the processor need `output_directory: true`?" in undeclared["error"]["message"]
    assert broken["error"]["type"] == "output_invalid"
    assert broken["error"]["message"].startswith("item 2 is not a line of JSON: ")


@pytest.mark.parametrize(
    ("processor", "task_input", "stage", "error", "outcome"),
    [
        (
            {"command": ["sh", "-c", "echo broken >&2; exit 3"]},
            ITEM,
            {},
            {"type": "exit_code", "message": "exit code 3: broken"},
            "failed",
        ),
        (
            {"command": ["sleep", "100"]},
            ITEM,
            {"timeout_seconds": 0.3},
            {"type": "timeout", "message": "did not end within timeout_seconds = 0.3"},
            "timeout",
        ),
        (
            {"command": ["sh", "-c", "kill -9 $PPID"]},
            ITEM,
            {},
            {"type": "crash", "message": "killed by signal 9 (SIGKILL); the node may be short of memory"},
            "failed",
        ),
        (
            {"command": ["mkdir", "{output}"]},
            ITEM,
            {},
            {"type": "output_invalid", "message": "the output 'output' is not a regular file: it is a directory"},
            "failed",
        ),
        (
            {"command": ["true", "{package}"]},
            ITEM,
            {},
            {"type": "processor_load", "message": "the command has {package}, but the processor has no package"},
            "failed",
        ),
        (
            {"builtin": "copy"},
            {"type": "object", "uri": "s3://no-such-bucket/x"},
            {},
            {"type": "input_missing", "message": "s3://no-such-bucket/x does not exist"},
            "failed",
        ),
        (
            {"builtin": "copy"},
            {"type": "tape"},
            {},
            {"type": "input_invalid", "message": "this worker knows no input of type 'tape'"},
            "failed",
        ),
    ],
)
async def test_a_failure_says_what_happened(
    grid: InProcessGrid,
    processor: dict[str, Any],
    task_input: dict[str, Any],
    stage: dict[str, Any],
    error: dict[str, str],
    outcome: str,
) -> None:
    job_id = await grid.submit(processor, [task_input], **stage)
    (task,) = await grid.run(job_id)
    assert (task["state"], task["error"]) == ("failed", error)
    (attempt,) = await grid.attempts(job_id)
    assert (attempt["outcome"], attempt["error"]) == (outcome, error)
    await assert_invariants(grid.database, job_id)


async def test_a_required_output_that_is_not_written(grid: InProcessGrid, code: Path) -> None:
    """Required by the command that names it, or by the processor's author; an empty file is an output."""
    (code / "maybe.py").write_text("def nothing(input, output):\n    return {'seen': 1}\n")
    typo = ["sh", "-c", "echo 1 >{output}.txt; mkdir a; echo 2 >a/b; echo 3 >outptu"]
    processors: dict[str, dict[str, Any]] = {
        "typo": {"command": typo},
        "nothing": {"command": ["true", "{output}"], "output": "part.csv"},
        "no file": {"command": ["true", "{output}"], "output_directory": True, "output_required": True},
        "no item": {"command": ["true", "{output}"]},
        "callable": {"callable": "maybe:nothing", "output_required": True},
        "many": {"command": ["sh", "-c", "for n in $(seq 30); do echo >$n; done; : {output}"]},
        "optional": {"command": ["true", "{output}"], "output_required": False},
        "unnamed": {"command": ["true"]},
        "empty": {"command": ["touch", "{output}"]},
        "empty directory": {"command": ["true", "{output}"], "output_directory": True},
        "free": {"callable": "maybe:nothing"},
    }
    fan_out = ("no file", "no item", "empty directory")
    job_ids = [await grid.submit(spec, [ITEM], fan_out=name in fan_out) for name, spec in processors.items()]
    tasks = dict(zip(processors, await grid.run(*job_ids), strict=True))
    failed = {name: task["error"] for name, task in tasks.items() if task["state"] == "failed"}
    assert list(failed) == ["typo", "nothing", "no file", "no item", "callable", "many"]
    assert {error["type"] for error in failed.values()} == {"output_missing"}
    message = "the processor wrote nothing to its output 'output', the path in {output}; it left these files: "
    assert failed["typo"]["message"] == f"{message}../output/output.txt, a/b, outptu"
    assert "'part.csv'" in failed["nothing"]["message"]
    assert failed["nothing"]["message"].endswith("it left no files in its working directory")
    assert failed["no file"]["message"].startswith("the processor wrote no file to its output directory 'output'")
    assert failed["many"]["message"].endswith(", …")
    assert len(failed["many"]["message"]) < 200


async def test_memory_over_the_limit(grid: InProcessGrid) -> None:
    eat = "held = bytearray(300 << 20); held[::4096] = b'1' * len(held[::4096]); import time; time.sleep(30)"
    job_id = await grid.submit({"command": ["python3", "-c", eat]}, [ITEM], memory_bytes=100 << 20)
    (task,) = await grid.run(job_id)
    assert task["error"]["type"] == "memory"
    (attempt,) = await grid.attempts(job_id)
    assert attempt["outcome"] == "memory"
    assert attempt["memory_bytes_peak"] > 100 << 20


async def test_without_a_limit_a_task_may_use_its_slots_share(
    grid: InProcessGrid, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.worker.task.share.node_memory_bytes", lambda: 256 << 20)
    (code / "greedy.py").write_text(
        "import time\ndef eat(input, output):\n    held = b'1' * (200 << 20)\n    time.sleep(30)\n"
    )
    greedy = {"callable": "greedy:eat"}
    (task,) = await grid.run(await grid.submit(greedy, [ITEM]))
    assert task["error"]["type"] == "memory"
    assert f"{(256 - 32 << 20) // 2} are allowed" in task["error"]["message"]
    assert "set memory_bytes" in task["error"]["message"]


async def test_a_limit_beyond_the_node_is_the_nodes(grid: InProcessGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.worker.task.share.node_memory_bytes", lambda: 4 << 30)
    query = "SELECT current_setting('memory_limit') AS limit_, value FROM input"
    raw = await grid.put("x.jsonl", b'{"value": 1}\n')
    (task,) = await grid.run(await grid.submit({"sql": query}, [{"type": "object", **raw}], memory_bytes=1 << 40))
    assert b'"limit_":"2.0 GiB"' in await grid.get(task["output"]["uri"])


@pytest.mark.both_emulators("GetObject")
async def test_input_that_changed_or_shrank_since_the_split(grid: InProcessGrid) -> None:
    old = await grid.put("x", b"old content")
    new = await grid.put("x", b"new")
    part = {"type": "bytes", "uri": new["uri"], "start": 2, "end": 9}
    inputs = [{"type": "object", **old}, {**part, "etag": new["etag"]}, {**part, "start": 7}]
    tasks = await grid.run(await grid.submit({"builtin": "copy"}, inputs, retry={"max_attempts": 3}))
    assert [(task["error"]["type"], task["attempt"]) for task in tasks] == [("input_changed", 1)] * 3


async def test_too_many_rejects(grid: InProcessGrid, code: Path) -> None:
    (code / "strict.py").write_text("def check(record):\n    raise ValueError('invalid claim')\n")
    raw = await grid.put("claims.jsonl", b"1\n2\n3\n")
    job_id = await grid.submit(
        {"records": "strict:check"}, [{"type": "object", **raw}], rejects_max=1, retry={"max_attempts": 3}
    )
    (task,) = await grid.run(job_id)
    assert task["attempt"] == 1
    assert task["error"] == {
        "type": "rejects_exceeded",
        "message": "more than rejects_max = 1 records were rejected, the last one because: ValueError: invalid claim",
    }


async def test_text_that_postgres_can_not_store_is_told_all_the_same(grid: InProcessGrid, code: Path) -> None:
    (code / "odd.py").write_text("def odd(input, output):\n    raise ValueError('a\\0b \\udcff')\n")
    (task,) = await grid.run(await grid.submit({"callable": "odd:odd"}, [ITEM]))
    assert task["error"] == {"type": "exception", "message": "ValueError: a\N{REPLACEMENT CHARACTER}b ?"}


async def test_a_long_log_is_cut(grid: InProcessGrid) -> None:
    job_id = await grid.submit({"command": ["sh", "-c", "echo first; yes | head -c 3000000; echo last"]}, [ITEM])
    await grid.run(job_id)
    (attempt,) = await grid.attempts(job_id)
    log = await grid.get(attempt["log"])
    assert len(log) < grid.settings.log_bytes_max + 200
    assert log.startswith(b"first\n")
    assert log.endswith(b"last\n")
    assert b"bytes left out here, log_bytes_max is 1048576]" in log


async def test_a_task_sees_no_secrets(grid: InProcessGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIECEWORK_DATABASE_URL", "postgresql://user:hunter2@db/x")
    job_id = await grid.submit({"command": ["env"]}, [ITEM])
    await grid.run(job_id)
    (attempt,) = await grid.attempts(job_id)
    log = (await grid.get(attempt["log"])).decode()
    assert f"PIECEWORK_JOB_ID={job_id}\n" in log
    assert "hunter2" not in log


async def test_one_processors_tasks_after_anothers(grid: InProcessGrid, code: Path) -> None:
    """A module that has changed is loaded again for a new version of the processor."""
    module = code / "versioned.py"
    async with grid.node():
        for number in (1, 22):  # of different lengths, as a file's time may not differ
            module.write_text(f"def which(input, output):\n    return {{'module': {number}}}\n")
            job_id = await grid.submit({"callable": "versioned:which", "environment": {"N": str(number)}}, [ITEM])
            await grid.dispatch(job_id)
            await grid.ended(job_id)
            (task,) = await grid.tasks(job_id)
            assert task["output"] == {"value": {"module": number}}
