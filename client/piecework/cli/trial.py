"""Run one task of the grid, or a processor, here, with the same code and environment."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar
from uuid import UUID

import typer

from piecework.cli import exits, names, refs
from piecework.cli.job_file import mapping_in, parse_values
from piecework.cli.processors import code_of, name_and_version, read_spec
from piecework.cli.session import Session, command, parse_pairs
from piecework.errors import InputError

_MODULE = "services.worker.trial"  # of the server's code, which has the child that runs tasks
_HERE = "s3://this-machine"  # before a path: tasks know files by URIs of S3


@dataclass(frozen=True)
class ProcessorTrialOptions:
    """What a processor is tried on, without a job."""

    panel: ClassVar[str] = "Without a job"

    input: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Its input, of this machine; repeatable, for a directory of files."),
    ] = None
    item: Annotated[str | None, typer.Option(metavar="JSON", help="Its input, a value; for functions.")] = None
    param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Parameter (a YAML value); repeatable.")
    ] = None
    stage_input: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="File in the place of an object that it declares; repeatable."),
    ] = None
    version: Annotated[int | None, typer.Option(min=1, help="Of the processor; default: the newest.")] = None
    file: Annotated[
        Path | None,
        typer.Option(metavar="SPEC.yaml", help="Its specification, if it is not registered yet; with its code."),
    ] = None


def try_task(
    session: Session,
    alone: ProcessorTrialOptions,
    processor: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROCESSOR[@VERSION]]",
            help="With a task, in the place of its own, such as a fixed one.",
            autocompletion=names.processors,
        ),
    ] = None,
    job_id: Annotated[UUID | None, refs.JOB.option("--job", help="The task's job."), refs.JOB] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="STAGE/INDEX", help="Of the job, such as 0/17 or clean/17.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For what it makes, new; default: try-STAGE-INDEX or try-PROCESSOR."),
    ] = None,
) -> None:
    """Run a task of a job here, or a processor on a file of this machine, and keep what it makes.

    It runs as on a worker. The grid learns nothing of it. Exits with 1 if it fails.
    """
    if job_id is not None and task is not None:
        if option := next((name for name, value in vars(alone).items() if value), None):
            raise InputError(f"--{option.replace('_', '-')} is for a processor without a job: leave out --job, --task")
        _try_task(session, job_id, task, processor, out)
    elif job_id is not None or task is not None:
        raise InputError("a task is named by --job and --task together, such as --job @last --task 0/17")
    else:
        _try_processor(session, processor, alone, out)


def _try_task(session: Session, job_id: UUID, task: str, processor: str | None, out: Path | None) -> None:
    match = re.fullmatch(r"([^/]+)/(\d+)", task)
    if match is None:
        raise InputError(f"--task: {task!r} is not STAGE/INDEX, such as 0/17 or clean/17")
    stage, index = refs.STAGE.resolve(session.client, match[1], job_id), int(match[2])
    root, directory = _server_code(), _new_directory(out or Path(f"try-{stage}-{index}"))
    trial = session.client.get_task_trial(job_id, stage, index, processor=processor)
    _tell(session, _run({**trial}, directory.resolve(), root), directory)


def _try_processor(session: Session, processor: str | None, given: ProcessorTrialOptions, out: Path | None) -> None:
    if (processor is None) == (given.file is None):
        raise InputError("name one thing to try: a processor, --file SPEC.yaml, or a task by --job and --task")
    if bool(given.input) == (given.item is not None):
        raise InputError("give the processor one input: --input FILE or --item JSON")
    root = _server_code()
    params = parse_values("--param", given.param)
    declared = {
        name: _object_here("--stage-input", Path(file))
        for name, file in parse_pairs("--stage-input", given.stage_input).items()
    }
    with _specified(session, processor, given, declared) as trial:
        objects = list(declared.values())
        input = _input_of(given, bool(trial["spec"].get("function")), objects)
        trial["objects"] = [*trial["objects"], *objects]
        trial |= {"params": params, "input": input, "inputs": {name: each["uri"] for name, each in declared.items()}}
        directory = _new_directory(out or Path(f"try-{trial['name']}"))
        _tell(session, _run(trial, directory.resolve(), root), directory)


@contextmanager
def _specified(
    session: Session, processor: str | None, given: ProcessorTrialOptions, declared: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """What the grid says of the processor, or what its file says; there with its package until the context ends."""
    from piecework.packing import packed

    if given.file is None:
        name, named = name_and_version(processor or "")
        yield {**session.client.get_processor_trial(name, version=given.version or named), "package": None}
        return
    if given.version is not None:
        raise InputError("--version: a processor of a file has none yet; leave it out")
    spec = read_spec(given.file)
    at_home = given.file.name == "processor.yaml"
    name = str(spec.pop("name", given.file.absolute().parent.name if at_home else given.file.stem))
    spec.pop("description", None)
    trial = {"name": name, "version": 0, "place": f"{_HERE}/piecework/", "objects": [], "package": None}
    if missing := next((each for each in mapping_in(spec, "inputs") if each not in declared), None):
        raise InputError(f"{given.file}: it declares the input {missing}: add --stage-input {missing}=FILE")
    if (code := code_of(given.file, spec)) is None:
        yield {**trial, "spec": spec}
        return
    with packed(code) as archive:
        yield {**trial, "spec": {**spec, "package": archive.sha256}, "package": str(archive.path)}


def _input_of(given: ProcessorTrialOptions, is_function: bool, objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The task's input; its files are added to the objects. Raises InputError."""
    files: Sequence[Path] = given.input or ()
    if given.item is not None:
        return {"type": "item", "value": _json("--item", given.item)}
    if is_function:
        if len(files) > 1:
            raise InputError("--input: a function works on one item; give one file, which holds it as JSON")
        return {"type": "item", "value": _json(str(files[0]), _read(files[0]))}
    read = [_object_here("--input", path) for path in files]
    objects += read
    if len(read) == 1:
        return {"type": "object", "uri": read[0]["uri"]}
    return {"type": "objects", "objects": [{"uri": each["uri"]} for each in read]}


def _object_here(option: str, path: Path) -> dict[str, Any]:
    """A file of this machine as an object. Raises InputError."""
    absolute = path.expanduser().absolute()
    if not absolute.is_file():
        what = "it is a directory; name its files" if absolute.is_dir() else "there is no such file"
        raise InputError(f"{option}: {path}: {what}")
    return {"uri": f"{_HERE}{absolute.as_posix()}", "version": None, "path": str(absolute)}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise InputError(f"--input: {path}: {reason}") from error


def _json(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error


def _new_directory(directory: Path) -> Path:
    """Raises InputError."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} is not empty: name another directory (--out)")
    return directory


def _tell(session: Session, ended: dict[str, Any], directory: Path) -> None:
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
        "it is tried with the worker's own code, which is not here: run this in a clone of Piecework (make dev), "
        "or in the server's image, in /app"
    )


def _run(trial: Mapping[str, Any], out: Path, root: Path) -> dict[str, Any]:
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
        raise InputError(f"it can't be run here: {last[0].replace(_HERE, '')}") from None
    if error := ended["error"]:
        error["message"] = error["message"].replace(_HERE, "")
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
