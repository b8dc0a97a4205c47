"""Tasks that put something else in place of what the worker reads: they fail alone, and give nothing away."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.integration.worker.conftest import InProcessGrid

ITEM = {"type": "item", "value": 1}
SECRET = "/proc/self/environ"


def python(code: str) -> list[str]:
    return ["python3", "-c", f"import os, sys\noutput = sys.argv[1]\n{code}", "{output}"]


async def refusal(grid: InProcessGrid, processor: dict[str, Any], input: Any = ITEM, **stage: Any) -> str:
    """Why the only attempt failed for good; nothing was uploaded but its log and its empty output."""
    job_id = await grid.submit(processor, [input], **stage)
    (task,) = await grid.run(job_id)
    (attempt,) = await grid.attempts(job_id)
    assert (task["state"], task["error"]["type"], attempt["attempt"]) == ("failed", "output_invalid", 1)
    uploaded = [key for key in await grid.keys() if not key.endswith("log.txt")]
    assert [await grid.get(f"s3://{grid.settings.bucket}/{key}") for key in uploaded] == [b""] * len(uploaded)
    return str(task["error"]["message"])


async def test_an_archive_with_a_link_does_not_give_the_workers_environment_away(grid: InProcessGrid) -> None:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        link = tarfile.TarInfo("readme.txt")
        link.type, link.linkname = tarfile.SYMTYPE, SECRET
        archive.addfile(link)
    raw = await grid.put("uploads/data.tar", body.getvalue())
    unpack = {"command": ["tar", "-xf", "{input}", "-C", "{output}"], "output_directory": True}
    message = await refusal(grid, unpack, {"type": "object", **raw}, fan_out=True)
    assert message == "the output 'output/readme.txt' is not a regular file: it is a symbolic link"


@pytest.mark.parametrize(
    ("code", "processor", "what"),
    [
        (f"os.symlink('{SECRET}', output)", {}, "'output' is not a regular file: it is a symbolic link"),
        ("os.link('../input.json', output)", {}, "'output' is a file with 2 names"),
        (
            "os.rmdir(os.path.dirname(output)); os.symlink('/etc', os.path.dirname(output))",
            {"output": "hostname"},
            "'output' is not a directory: it is a symbolic link",
        ),
        (
            f"open(output, 'w').close(); os.symlink('{SECRET}', os.path.dirname(output) + '/more')",
            {"outputs": {"more": "more"}},
            "'more' is not a regular file: it is a symbolic link",
        ),
        (
            "open(output, 'w').close(); os.mkfifo(os.path.dirname(output) + '/more')",
            {"outputs": {"more": "more"}},
            "'more' is not a regular file: it is a named pipe",
        ),
        (
            "os.rmdir(output); os.symlink('/etc/ssl', output)",
            {"output_directory": True},
            "'output' is not a directory: it is a symbolic link",
        ),
        (
            "os.makedirs(output + '/a/b'); os.symlink('/etc', output + '/a/b/c')",
            {"output_directory": True},
            "'output/a/b/c' is not a regular file: it is a symbolic link",
        ),
        (
            "os.mkfifo(output + '/pipe')",
            {"output_directory": True},
            "'output/pipe' is not a regular file: it is a named pipe",
        ),
    ],
)
async def test_nothing_but_the_tasks_own_files_is_uploaded(
    grid: InProcessGrid, code: str, processor: dict[str, Any], what: str
) -> None:
    message = await refusal(
        grid, {"command": python(code), **processor}, fan_out=bool(processor.get("output_directory"))
    )
    assert what in message


async def test_a_log_that_is_not_a_file_is_not_stored_and_the_worker_goes_on(grid: InProcessGrid) -> None:
    code = (
        "print('hello', flush=True)\nopen(output, 'w').close()\nlog = os.path.abspath('../log.txt')\nos.unlink(log)\n"
        f"[os.mkfifo, lambda log: os.symlink('{SECRET}', log), os.mkdir][int(os.environ['PIECEWORK_TASK_INDEX'])](log)"
    )
    job_id = await grid.submit({"command": python(code)}, [ITEM] * 3)
    tasks = await grid.run(job_id)
    assert [(task["state"], task["attempt"]) for task in tasks] == [("succeeded", 1)] * 3
    assert [attempt["log"] for attempt in await grid.attempts(job_id)] == [None] * 3


FORGING = """
import builtins, pathlib

real = pathlib.Path.open

def forged(path, *args, **options):
    if path.name != "piecework-items.jsonl":
        return real(path, *args, **options)
    with builtins.open(path, "w") as listing:
        listing.write(TEXT)
    return builtins.open("/dev/null", "wb")

def run(input, output):
    pathlib.Path.open = forged
    return [1]
"""


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"type":"object","uri":"s3://others/secret"}\n', "has something else than an item in line 1"),
        ('{"type":"item","value":1,"type":"object","uri":"s3://o/x"}\n', "has something else than an item in line 1"),
        ('{"type":"item","value":1}\n[\n', "is not JSON in line 2"),
        ('{"type":"item","value":1}\n' * 2, "has 2 items, the task said 1"),
        ("", "has 0 items, the task said 1"),
    ],
)
async def test_a_task_lists_items_and_nothing_else(grid: InProcessGrid, code: Path, text: str, what: str) -> None:
    (code / "forging.py").write_text(FORGING.replace("TEXT", repr(text)))
    assert what in await refusal(grid, {"callable": "forging:run"}, fan_out=True)


async def test_the_workers_files_are_not_written_through_a_link(grid: InProcessGrid, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    code = f"open(output + '/a', 'w').close(); os.symlink({str(victim)!r}, '../piecework-items.jsonl')"
    job_id = await grid.submit({"command": python(code), "output_directory": True}, [ITEM], fan_out=True)
    (task,) = await grid.run(job_id)
    assert (task["state"], task["output"]["items"]) == ("succeeded", 1)
    assert victim.read_text() == "kept"


LYING = """
import os, struct, sys, time

def run(input, output, **further):
    frame = sys._getframe()
    while frame.f_code.co_name != "main":
        frame = frame.f_back
    key, channel, (_, answers) = (frame.f_locals[name] for name in ("key", "channel", "session"))
    said = struct.pack(">16sI", key, LENGTH) + BODY
    os.write(answers, said) if IN_SESSION else channel.sendall(said)
    time.sleep(100)
"""


@pytest.mark.parametrize("in_session", [True, False])
async def test_a_child_that_lies_fails_its_own_attempt_and_no_other(
    grid: InProcessGrid, code: Path, in_session: bool
) -> None:
    true = {"clean": True, "memory_bytes": 1, "cpu_seconds": 0.0}
    lies = [json.dumps(true | {"records_in": lie}).encode() for lie in (-1, 2**63, "5", float("nan"))]
    lies += [json.dumps(true | {"value": {"a": "x" * 10_000}}).encode(), b"[" * 100_000, b"nonsense"]
    lengths = {number: len(lie) for number, lie in enumerate(lies)} | {len(lies): 2**32 - 1}
    jobs = [await grid.submit({"builtin": "copy", "output": "out"}, [ITEM])]
    for number, length in lengths.items():
        body = lies[number] if number < len(lies) else b""
        text = LYING.replace("BODY", repr(body)).replace("LENGTH", str(length)).replace("IN_SESSION", str(in_session))
        (code / f"lying{number}.py").write_text(text)
        alone = {} if in_session else {"outputs": {"more": "more.txt"}}
        jobs.append(await grid.submit({"callable": f"lying{number}:run", **alone}, [ITEM]))
    honest, *lying = await grid.run(*jobs)
    assert honest["state"] == "succeeded"
    assert [(task["state"], task["error"]["type"]) for task in lying] == [("failed", "crash")] * len(lengths)
    assert all("gave an answer" in task["error"]["message"] for task in lying)
