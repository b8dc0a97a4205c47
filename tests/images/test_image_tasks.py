"""Tasks of processors of kind `image`: what they find, what they may do, and how their end is recorded."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.worker.task.credentials import FOR_CONTAINERS, TaskCredentials
from tests.images.conftest import SMALL, ContainerGrid
from tests.until import until

ITEM = {"type": "item", "value": {"n": 1}}


def shell(script: str, **further: Any) -> dict[str, Any]:
    return {"image": SMALL, "command": ["sh", "-c", script], "output_required": False, **further}


async def test_a_container_reads_its_part_and_writes_its_output(containers: ContainerGrid) -> None:
    grid = containers.grid
    raw = await grid.put("uploads/flights.csv", b"carrier,delay\nUA,5\nAA,10\n")
    fees = await grid.put("raw/fees.csv", b"AA,3\n")
    part = {"type": "bytes", **raw, "start": 19, "end": 25, "format": "csv", "header": "carrier,delay\n"}
    script = (
        'echo to the log; echo and an error >&2; cat "$1" "$3" > "$2"; pwd; ls; echo $SAYS $MORE $PIECEWORK_TASK_INDEX'
    )
    processor = {
        "image": SMALL,
        "command": ["sh", "-c", script, "sh", "{input}", "{output}", "{inputs.fees}"],
        "inputs": {"fees": fees["uri"]},
        "output": "part.csv",
        "output_format": "csv",
        "environment": {"MORE": "spec"},
    }
    job_id = await grid.submit(processor, [part])
    (task,) = await grid.run(job_id)
    assert task["state"] == "succeeded", task["error"]
    assert await grid.get(task["output"]["uri"]) == b"carrier,delay\nAA,10\nAA,3\n"
    assert task["output"]["header_bytes"] == 14
    (attempt,) = await grid.attempts(job_id)
    assert (attempt["outcome"], attempt["exit_code"], attempt["error"]) == ("succeeded", 0, None)
    log = (await grid.get(attempt["log"])).decode().splitlines()
    log.remove("and an error")  # anywhere: its engine sends the two streams one beside the other
    assert log[0] == "to the log"
    assert log[1].startswith(grid.settings.scratch)
    assert log[2:] == ["image spec 0"], "the working directory is empty"
    assert containers.containers() == []
    assert (await grid.worker())["engine"].startswith(f"{containers.engine.kind} ")


@pytest.fixture
def address_for_containers() -> Iterator[None]:
    """What boot.sh gives a node whose tasks have a role."""
    if os.geteuid() != 0:
        pytest.skip("it takes root")
    address = ("address", "replace", f"{FOR_CONTAINERS}/32", "dev", "lo")
    subprocess.run(["ip", *address], check=True)
    yield
    subprocess.run(["ip", "address", "delete", *address[2:]], check=True)


async def test_a_container_gets_the_credentials_of_its_pools_role(
    containers: ContainerGrid, address_for_containers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At an address of the node, since its own loopback is another one."""
    grid = containers.grid

    async def assume(self: TaskCredentials) -> dict[str, Any]:
        ends = datetime.now(UTC) + timedelta(hours=1)
        return {"AccessKeyId": "ASIA", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": ends}

    monkeypatch.setattr(TaskCredentials, "_assume", assume)
    grid.settings = grid.settings.model_copy(update={"task_role": "arn:aws:iam::123456789012:role/tasks"})
    token = "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN"
    ask = f'wget -q -O - --header "{token}" "$AWS_CONTAINER_CREDENTIALS_FULL_URI"'

    job_id = await grid.submit(shell(ask), [ITEM])
    (task,) = await grid.run(job_id)

    assert task["state"] == "succeeded", task["error"]
    (attempt,) = await grid.attempts(job_id)
    assert json.loads(await grid.get(attempt["log"]))["AccessKeyId"] == "ASIA"


async def test_a_container_has_only_what_its_task_needs(containers: ContainerGrid) -> None:
    grid = containers.grid
    script = """
        id -u; id -g
        touch /etc/x 2>/dev/null && echo root is writable
        touch "$PIECEWORK_INPUT" 2>/dev/null && echo input is writable
        touch /tmp/x "$TMPDIR/x" "$HOME/x" x || echo no room
        grep -E '^(CapEff|NoNewPrivs)' /proc/self/status
        ls /sys/class/net; ls -d /work /root/.ssh /var/run/docker.sock 2>/dev/null
        env | grep -cE '^(PIECEWORK_DATABASE_URL|PYTHONPATH|AWS_SECRET_ACCESS_KEY)'
        true
    """
    job_id = await grid.submit(shell(script, network=False), [ITEM])
    (task,) = await grid.run(job_id)
    assert task["state"] == "succeeded", task["error"]
    (attempt,) = await grid.attempts(job_id)
    uid, gid, *rest = (await grid.get(attempt["log"])).decode().splitlines()
    assert uid == gid
    assert uid == str(os.geteuid()) if os.geteuid() else 52_000 <= int(uid) <= 52_999
    assert rest == ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "lo", "0"]


def unmounted_hierarchies() -> list[str]:
    """The controllers of cgroup v1 that are in use and nowhere to be seen."""
    mounted = {
        option for line in Path("/proc/mounts").read_text().splitlines() for option in line.split()[3].split(",")
    }
    used = [line.split(":")[1] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return [each for each in used if each and not mounted.issuperset(each.split(","))]


BY_MEMORY, NO_PROGRAM = "by memory_bytes of the stage", "exit code 127: a program was not found: "
UNTOLD_BY_PODMAN = (BY_MEMORY, NO_PROGRAM)


@pytest.mark.parametrize(
    ("processor", "stage", "outcome", "type", "message"),
    [
        (shell("echo before; echo it broke; exit 3"), {}, "failed", "exit_code", "exit code 3: it broke"),
        (shell("kill -SEGV $$"), {}, "failed", "exit_code", "exit code 139: killed by signal 11 (SIGSEGV)"),
        (shell("sleep 60"), {"timeout_seconds": 3}, "timeout", "timeout", "did not end within timeout_seconds = 3"),
        (shell("tail /dev/zero"), {"memory_bytes": 33_554_432}, "memory", "memory", BY_MEMORY),
        (
            {"image": SMALL, "command": ["no-such-program"]},
            {},
            "failed",
            "exit_code",
            NO_PROGRAM,
        ),
        (
            {"image": SMALL, "command": ["cat", "{output}"]},
            {},
            "failed",
            "exit_code",
            "No such file or directory",
        ),
        ({"image": SMALL, "command": ["true", "{output}"]}, {}, "failed", "output_missing", "output"),
    ],
    ids=["exit", "signal", "timeout", "memory", "no program", "its own words", "no output"],
)
async def test_how_a_container_fails(
    containers: ContainerGrid, processor: dict[str, Any], stage: dict[str, Any], outcome: str, type: str, message: str
) -> None:
    if containers.engine.kind == "podman" and message in UNTOLD_BY_PODMAN:
        pytest.skip("Podman tells no more of this than an exit code")
    if message == BY_MEMORY and (unseen := unmounted_hierarchies()):
        pytest.skip(f"containerd is not told of it where control groups are not mounted: {unseen}")
    grid = containers.grid
    job_id = await grid.submit(processor, [ITEM], **stage)
    (task,) = await grid.run(job_id)
    assert (task["state"], task["error"]["type"]) == ("failed", type), task["error"]
    assert message in task["error"]["message"]
    (attempt,) = await grid.attempts(job_id)
    assert attempt["outcome"] == outcome
    assert containers.containers() == []


async def test_items_records_and_prepared_input(containers: ContainerGrid) -> None:
    grid = containers.grid
    raw = await grid.put("uploads/lines.txt", b"one\ntwo\n")
    script = """
        cat "$PIECEWORK_INPUT" > /dev/null
        echo '{"a": 1}' > "$PIECEWORK_OUTPUT"; echo 2 >> "$PIECEWORK_OUTPUT"
        echo '{"records_in": 2, "records_out": 2}' > "$PIECEWORK_RECORDS"
    """
    job_id = await grid.submit(shell(script), [{"type": "object", **raw}], fan_out=True)
    (task,) = await grid.run(job_id)
    assert task["state"] == "succeeded", task["error"]
    assert task["output"]["items"] == 2
    (attempt,) = await grid.attempts(job_id)
    assert (attempt["records_in"], attempt["records_out"]) == (2, 2)


async def test_hostile_files_of_a_container_are_not_followed(containers: ContainerGrid) -> None:
    grid = containers.grid
    fifo = "rm -f ../log.txt; mkfifo ../log.txt; echo fine > {output}"
    link = "ln -s /etc/passwd {output}"
    jobs = [
        await grid.submit({"image": SMALL, "command": ["sh", "-c", script]}, [ITEM], timeout_seconds=30)
        for script in (fifo, link)
    ]
    tasks = await grid.run(*jobs)
    assert [task["state"] for task in tasks] == ["succeeded", "failed"], tasks[0]["error"]
    assert tasks[1]["error"]["type"] == "output_invalid"


async def test_what_runs_is_killed_if_its_job_is_cancelled(containers: ContainerGrid) -> None:
    grid = containers.grid
    job_id = await grid.submit(shell("echo started; sleep 600"), [ITEM])
    await grid.dispatch(job_id)
    async with grid.node():
        await until(lambda: _true(len(containers.containers()) == 1))
        await grid.database.execute("DELETE FROM bundles WHERE job_id = $1", job_id)
        await until(lambda: _true(containers.containers() == []))


async def _true(value: bool) -> bool:
    return value


async def test_a_worker_without_an_engine_leaves_the_task_to_others(containers: ContainerGrid) -> None:
    grid = containers.grid
    job_id = await grid.submit(shell("true"), [ITEM])
    await grid.dispatch(job_id)
    async with grid.node(container_engine="none"):
        await grid.until("SELECT put_off > 0 FROM bundles WHERE job_id = $1", job_id)
    why = await grid.database.fetchval("SELECT put_off_error FROM bundles WHERE job_id = $1", job_id)
    assert why == "the processor runs in a container, and the worker found no engine for it (Docker or Podman)"
    assert (await grid.worker())["engine"] is None
    (task,) = await grid.tasks(job_id)
    assert (task["state"], task["attempt"]) == ("queued", 0)


async def test_a_container_ends_with_its_worker(containers: ContainerGrid) -> None:
    """The worker is killed outright; its guard removes the container."""
    grid = containers.grid
    job_id = await grid.submit(shell("sleep 600"), [ITEM])
    await grid.dispatch(job_id)
    code = (
        "import asyncio, sys; from services.platform.settings import WorkerSettings; "
        "from services.worker.node.node import Node; "
        "asyncio.run(Node(WorkerSettings.model_validate_json(sys.stdin.read())).run())"
    )
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE)
    assert worker.stdin is not None
    worker.stdin.write(json.dumps(grid.settings.model_dump(mode="json")).encode())
    worker.stdin.close()
    try:
        await until(lambda: _true(len(containers.containers()) == 1))
    finally:
        worker.send_signal(signal.SIGKILL)
        await worker.wait()
    await until(lambda: _true(containers.containers() == []))
