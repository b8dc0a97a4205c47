"""Run one task of the grid here, with the same code, input and environment."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from piecework.cli import exits, refs
from piecework.cli.session import Session, command
from piecework.errors import InputError

_MODULE = "services.worker.trial"  # of the server's code, which has the child that runs tasks


def try_task(
    session: Session,
    job_id: Annotated[UUID, refs.JOB.option("--job", help="The task's job."), refs.JOB],
    task: Annotated[str, typer.Option("--task", metavar="STAGE/INDEX", help="Such as 0/17 or clean/17.")],
    processor: Annotated[
        str | None,
        typer.Argument(metavar="[PROCESSOR[@VERSION]]", help="In the place of the task's own, such as a fixed one."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For what it makes; default: try-STAGE-INDEX, which is new.")
    ] = None,
) -> None:
    """Run a task here: fetch its input by links, run its code as a worker does, and keep what it makes.

    The grid learns nothing of it. Exits with 1 if the task fails.
    """
    match = re.fullmatch(r"([^/]+)/(\d+)", task)
    if match is None:
        raise InputError(f"--task: {task!r} is not STAGE/INDEX, such as 0/17 or clean/17")
    stage, index = refs.STAGE.resolve(session.client, match[1], job_id), int(match[2])
    root = _server_code()
    directory = out or Path(f"try-{stage}-{index}")
    if directory.exists() and any(directory.iterdir()):
        raise InputError(f"{directory} is not empty: name another directory (--out)")
    trial = session.client.get_task_trial(job_id, stage, index, processor=processor)
    ended = _run({**trial}, directory.resolve(), root)
    session.show(ended | {"directory": str(directory)}, lambda ended: _show(session, ended, directory))
    if ended["outcome"] != "succeeded":
        raise typer.Exit(exits.JOB_FAILED)


def _server_code() -> Path:
    """The directory that has the server's code: this one, or that of the clone from which the client is installed."""
    import piecework

    for root in (Path.cwd(), Path(piecework.__file__).resolve().parents[2]):
        if (root / "services" / "worker" / "trial.py").is_file():
            return root
    raise InputError(
        "a task is tried with the worker's own code, which is not here: run this in a clone of Piecework (make dev), "
        "or in the server's image, in /app"
    )


def _run(trial: dict[str, Any], out: Path, root: Path) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="piecework-") as directory:
        file = Path(directory) / "trial.json"  # its links open what the task reads: nobody else may see them
        file.write_text(json.dumps(trial))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *_listed("PYTHONPATH")])}
        ran = subprocess.run(
            [sys.executable, "-m", _MODULE, str(file), str(out)],
            env=environment,
            capture_output=True,
            check=False,
            text=True,
        )
    try:
        ended: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        last = ran.stderr.strip().splitlines()[-1:] or [f"exit code {ran.returncode}"]
        raise InputError(f"the task can't be run here: {last[0]}") from None
    return ended


def _listed(name: str) -> list[str]:
    return [entry for entry in os.environ.get(name, "").split(os.pathsep) if entry]


def _show(session: Session, ended: dict[str, Any], directory: Path) -> None:
    from piecework.display import duration

    log = directory / "log.txt"
    if log.exists():
        sys.stdout.buffer.write(log.read_bytes())
        sys.stdout.flush()
    for path in sorted(path for path in directory.rglob("*") if path.is_file() and path != log):
        print(path)
    error = ended["error"]
    why = f": {error['type']}: {error['message']}" if error else ""
    session.note(f"{ended['outcome']} after {duration(ended['run_seconds'])}{why}")


def register(app: typer.Typer) -> None:
    command(app, "try")(try_task)
