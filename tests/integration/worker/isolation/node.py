"""A worker's slot at one level of isolation, in a process of its own: runs the jobs it is told, one line of JSON each.

`python -m tests.integration.worker.isolation.node LEVEL USER`: as that user, who need not be able to read the
interpreter where it is: it is then shown to all in a mount namespace of this process.
"""

import asyncio
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

from services.contract.task_error import TaskError
from services.platform.settings import WorkerSettings
from services.worker.child import frames
from services.worker.child.job import SessionJob
from services.worker.isolation import kernel, sandbox
from services.worker.isolation.cells import Cells
from services.worker.isolation.errors import IsolationUnusable
from services.worker.isolation.view import View
from services.worker.task.answer import read_session_answer
from services.worker.task.levels import strongest_cells
from services.worker.task.packages import Runtime
from services.worker.task.paths import Workspace
from services.worker.task.processes import Processes
from services.worker.task.task_log import shorten_log
from services.worker.task.warm_children import Served, WarmChildren

_numbers = itertools.count()


def show_interpreter() -> None:
    """Let every user of this mount namespace read the interpreter, below a home that may be closed to others."""
    kernel.unshare(kernel.MOUNTS)
    kernel.keep_mounts_private()
    closed = [place for place in Path(sys.base_prefix).parents if not place.stat().st_mode & 0o001]
    if closed:
        copy = kernel.copy_of_mount(sys.base_prefix, 0)
        kernel.mount("tmpfs", str(closed[-1]), 0, "mode=755")
        Path(sys.base_prefix).mkdir(parents=True)
        kernel.attach_mount(copy, sys.base_prefix)


async def serve(level: str, directory: Path) -> None:
    Processes.adopt_orphans()
    try:
        cells = await strongest_cells(WorkerSettings(isolation=level, processes_max=256), directory / "node")
    except IsolationUnusable as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    print(json.dumps({"pid": os.getpid(), "directory": str(cells.directory), "level": cells.isolation}), flush=True)
    slot, code = WarmChildren(cells), directory / "code"
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await answer(cells, slot, code, json.loads(line))), flush=True)
    await slot.close()


async def answer(cells: Cells, slot: WarmChildren, code: Path, asked: dict[str, Any]) -> Any:
    number = next(_numbers)
    (code / f"{asked['module']}.py").write_text(asked["code"])
    view = View(tuple(map(Path, asked["readable"])), network=asked["network"])
    served = Served(UUID(int=asked["job"]) if asked["job"] else None, asked["module"], 1, view)
    runtime = Runtime(sys.executable, {"PATH": os.environ["PATH"], "PYTHONPATH": str(code), "HOME": "/root"})
    workspace = Workspace(cells.directory / f"task-{number}")
    workspace.make(empty=asked["files"])
    if asked["session"]:
        return await answer_session(slot, served, runtime, workspace, asked)
    (workspace.directory / "input").write_text("some input")
    paths = {name: str(workspace.directory / name) for name in ("log", "input", "records")}
    kind = {"kind": "command", "arguments": asked["arguments"]}
    if not asked["arguments"]:
        kind = {"kind": "callable", "function": f"{asked['module']}:main"}
    job = {
        **kind,
        "directory": str(workspace.work),
        "environment": {**runtime.environment, "TMPDIR": str(workspace.tmp)},
        "output": str(workspace.output / "output"),
        "params": asked["params"],
        **{"paths": {}, "steps": [], "checks": [], "items": None},
        **paths,
    }
    running = asyncio.ensure_future(slot.run(served, runtime, job, None, {}, workspace.directory))  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(asked["seconds"]):
            done = await running
    except TaskError as error:
        done = {"error": {"type": error.type, "message": error.message}, "exit_code": error.exit_code}
    except TimeoutError:
        done = {"error": {"type": "timeout", "message": ""}}
    return {**done, "owner": workspace.directory.stat().st_uid if workspace.directory.is_dir() else None}


async def answer_session(
    slot: WarmChildren, served: Served, runtime: Runtime, workspace: Workspace, asked: dict[str, Any]
) -> Any:
    """The answers to each of the items, in one session, and what that has printed."""
    with_files, places = asked["files"], {"TMPDIR": "tmp", "PIECEWORK_OUTPUT": "output/output"}
    job: SessionJob = {
        "kind": "session",
        "directory": str(workspace.work),
        "environment": {**runtime.environment, "TMPDIR": str(workspace.tmp)},
        "log": str(workspace.log),
        "function": f"{asked['module']}:main",
        "params": asked["params"],
        "files": {"output": "output", "requires_output": False, "places": places} if with_files else None,
        "values": str(workspace.output),
        "filename": "output.json",
        "tmp": str(workspace.tmp),
        "job_id": "j",
        "job_number": 1,
        "overridden": [],
        "memory_bytes_max": 1 << 40,
    }
    items = asked["session"]
    answers: list[dict[str, Any]] = []
    ended = asyncio.Event()

    def hear(bodies: list[bytes]) -> None:
        answers.extend(map(read_session_answer, bodies))
        if len(answers) > len(items):
            ended.set()

    async with slot.lease(served, runtime, None) as child:
        key = await child.begin(job, workspace.directory, hear)
        bodies = [item.encode() for item in items] if with_files else []
        sent = [{"name": "input.txt", "bytes": len(body), "checks": [], "variables": {}} for body in bodies] or items
        tasks = [(token, token, 1, token, value) for token, value in enumerate(sent, 1)]
        child.send(key, frames.with_bytes(frames.encode_body(tasks), *bodies))
        child.tokens.put([*range(1, len(items) + 1), frames.END])
        async with asyncio.timeout(asked["seconds"]):
            await ended.wait()
        printed = shorten_log(workspace.files, workspace.log, 1 << 20).decode()  # while the child has the directory
        child.end_session(0, clean=answers[-1]["clean"])
    for answer in answers:
        answer["file"] = None if answer["file"] is None else answer["file"].decode()
    return {"answers": answers[:-1], "printed": printed}


if __name__ == "__main__":
    _, level, user, *as_user = sys.argv
    if not as_user and user != "0":
        show_interpreter()
        sandbox.become_user(int(user))
        os.execv(sys.executable, [sys.executable, "-m", "tests.integration.worker.isolation.node", level, user, "yes"])
    if level == "uid" and user == "0":
        show_interpreter()
    with tempfile.TemporaryDirectory(prefix="iso-") as scratch:
        Path(scratch).chmod(0o711)
        Path(scratch, "node").mkdir()
        Path(scratch, "code").mkdir(mode=0o755)
        asyncio.run(serve(level, Path(scratch)))
