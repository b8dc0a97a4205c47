"""TMPDIR is the task's own: it goes with the task, whatever becomes of it."""

import sys
from pathlib import Path

import pytest

from tests.integration.worker.conftest import InProcessGrid

ITEM = {"type": "item", "value": 1}


def everything_in(directory: str) -> set[str]:
    return {path.name for path in Path(directory).rglob("*")}


@pytest.mark.parametrize("kind", ["command", "callable"])
async def test_what_a_killed_task_left_is_removed_with_it(grid: InProcessGrid, code: Path, kind: str) -> None:
    (code / "leaks.py").write_text(
        "import pathlib, subprocess, tempfile, time\n"
        "def leak(input=None, output=None):\n"
        "    folder = tempfile.mkdtemp(prefix='leak-')\n"
        "    print(folder, flush=True)\n"
        "    subprocess.run(['mktemp', '-t', 'leak-XXXXXX'], check=True)\n"
        "    time.sleep(1000)\n"
    )
    command = {
        "command": [sys.executable, "-c", f"import sys; sys.path.append({str(code)!r}); import leaks; leaks.leak()"]
    }
    processor = command if kind == "command" else {"callable": "leaks:leak"}
    job_id = await grid.submit(processor, [ITEM], timeout_seconds=1.5)
    async with grid.node():
        await grid.dispatch(job_id)
        await grid.ended(job_id)
        assert not any(name.startswith("leak-") for name in everything_in(grid.settings.scratch))
    (attempt,) = await grid.attempts(job_id)
    assert attempt["outcome"] == "timeout"
    places = (await grid.get(attempt["log"])).decode().split()
    assert len(places) == 2
    assert all(place.startswith(grid.settings.scratch) for place in places)


async def test_temporary_files_do_not_count_as_output(grid: InProcessGrid) -> None:
    command = ["sh", "-c", "cd {output}; echo 1 >1; mktemp; mktemp; ls $TMPDIR | wc -l"]
    job_id = await grid.submit({"command": command, "output_directory": True}, [ITEM] * 2, fan_out=True)
    tasks = await grid.run(job_id)
    assert [task["output"]["items"] for task in tasks] == [1, 1]
    logs = [(await grid.get(attempt["log"])).decode().split() for attempt in await grid.attempts(job_id)]
    assert [log[-1] for log in logs] == ["2", "2"], "tasks do not see each other's"


async def test_a_processor_may_have_another_tmpdir(grid: InProcessGrid) -> None:
    job_id = await grid.submit({"command": ["sh", "-c", "echo $TMPDIR"], "environment": {"TMPDIR": "/fast"}}, [ITEM])
    await grid.run(job_id)
    (attempt,) = await grid.attempts(job_id)
    assert (await grid.get(attempt["log"])) == b"/fast\n"


async def test_sockets_fit_into_it(grid: InProcessGrid, code: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Managers of multiprocessing listen on a socket in TMPDIR, whose path may have 108 bytes; also in a warm child."""
    (code / "shares.py").write_text(
        "import multiprocessing\n"
        "def share(input, output):\n"
        "    context = multiprocessing.get_context('fork')\n"
        "    with context.Manager() as manager:\n"
        "        return {'shared': list(manager.list([1, 2])), 'address': manager.address}\n"
    )
    scratch = tmp_path_factory.mktemp("s")
    grid.settings = grid.settings.model_copy(update={"scratch": str(scratch)})
    tasks = await grid.run(await grid.submit({"callable": "shares:share"}, [ITEM] * 3))
    assert [task["error"] for task in tasks] == [None] * 3
    assert {tuple(task["output"]["value"]["shared"]) for task in tasks} == {(1, 2)}
    addresses = {task["output"]["value"]["address"] for task in tasks}
    assert len(addresses) == 3
    assert all(address.startswith(str(scratch)) and len(address) < len(str(scratch)) + 70 for address in addresses)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="shared memory has no files here")
async def test_shared_memory_of_a_killed_task_is_removed(grid: InProcessGrid, code: Path) -> None:
    (code / "shared.py").write_text(
        "import time\n"
        "from multiprocessing.shared_memory import SharedMemory\n"
        "def leak(input, output):\n"
        "    memory = SharedMemory(create=True, size=1 << 20)\n"
        "    print(memory.name, flush=True)\n"
        "    time.sleep(1000)\n"
    )
    job_id = await grid.submit({"callable": "shared:leak"}, [ITEM], timeout_seconds=1.5)
    await grid.run(job_id)
    (attempt,) = await grid.attempts(job_id)
    name = (await grid.get(attempt["log"])).decode().splitlines()[0]
    assert name.startswith("psm_")
    assert name not in everything_in("/dev/shm")
