"""The child's main program: take a job, run it with its output going to its log, answer, wait for the next.

The answer to a job (services/worker/child/job) holds its results or its `error`, and the resources used. If this
process is killed, that costs one attempt: the worker starts another child.
"""

import contextlib
import errno
import faulthandler
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from services.contract.task_error import TaskError
from services.inputs.text_ends import TextEnds, file_ends
from services.worker.child import forks, frames, linux
from services.worker.child.commands import check_exit, run_command
from services.worker.child.counts import read_counts
from services.worker.child.functions import call_function, call_with_item, is_loaded, load_function
from services.worker.child.item import read_item
from services.worker.child.items import write_items_of_lines
from services.worker.child.job import CallableJob, ChildJob, FunctionJob, RecordsJob, SqlJob
from services.worker.child.join_parquet import join_parquet, parquet_files
from services.worker.child.last_words import describe_shown
from services.worker.child.prepare import prepare
from services.worker.child.process_state import ProcessState
from services.worker.child.raised import describe_raised
from services.worker.child.records import apply_to_records
from services.worker.child.rejects import Rejects
from services.worker.child.sql import Room, run_query
from services.worker.child.sql_views import Source

_own_tmp = ""  # the process's own TMPDIR, removed with it; each task has one of its own


def main(control: int, parent: int) -> None:
    """Serve jobs from the socket `control` until the process `parent` closes it."""
    global _own_tmp
    linux.die_with_parent()
    if os.getppid() != parent:
        return  # the worker died before the death signal was set up
    _own_tmp = os.environ.get("TMPDIR", "")
    linux.adopt_orphans()
    linux.be_killed_first()
    faulthandler.enable(file=2)
    _leave_no_trace()
    os.set_inheritable(control, False)
    with socket.socket(fileno=control) as channel, channel.makefile("rb") as jobs:
        forks.keep_from_copies(channel)
        state = ProcessState()
        while (received := frames.read(jobs)) is not None:
            key, job = received
            answer = _run(job, state)
            if forks.is_copy():
                os._exit(1)  # made without os.fork, such as by a library in C
            channel.sendall(frames.encode(key, answer))


def _leave_no_trace() -> None:
    """Hide our modules: user code may have modules of the same names, and must find an ordinary interpreter."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "services"]:
        del sys.modules[name]
    sys.argv[:] = [""]


def _run(job: ChildJob, state: ProcessState) -> dict[str, Any]:
    reply: dict[str, Any] = {"clean": False}
    with _logging_to(job["log"]):
        linux.reset_memory_peak()
        cpu_seconds = linux.cpu_seconds()
        try:
            set_environment(job["environment"] | state.environment)
            os.chdir(job["directory"])
            try:
                _dispatch(job, reply, state)
            finally:
                reply["clean"] = "function" not in job or state.restore()
                forks.check_returned()
        except TaskError as error:
            reply |= error.as_reply()
        except SystemExit as error:
            reply |= _exited(error)
        except BaseException as error:
            forks.print_traceback(error)
            reply |= _raised(error).as_reply()
            if job["kind"] == "function":
                reply["error"]["raised"] = describe_raised(error)
        reply["memory_bytes"], peak = linux.memory()
        reply.setdefault("memory_bytes_peak", peak)
        reply["cpu_seconds"] = linux.cpu_seconds() - cpu_seconds
        if "function" in job and state.has_leftovers(_private(job)):
            reply["clean"] = False
            if names := ", ".join(state.unfinished_threads()):
                print(f"piecework: the function has ended without waiting for its threads: {names}", file=sys.stderr)
        reply["clean"] = reply["clean"] and not linux.has_children()
    return reply


def set_environment(wanted: dict[str, str]) -> None:
    """Have these variables alone. Change only the variables that differ: most are the same as for the task before."""
    zone = os.environ.get("TZ")
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in wanted.items() if os.environ.get(name) != value})
    if os.environ.get("TZ") != zone:
        time.tzset()


def _dispatch(job: ChildJob, reply: dict[str, Any], state: ProcessState) -> None:
    """Run the job and put its results into `reply`. Raises TaskError and whatever user code raises."""
    log = Path(job["log"])
    if job["kind"] == "program":
        _run_program(job["arguments"], log, reply)
        return
    input, output = Path(job["input"]), Path(job["output"])
    listing = Path(job["items"]) if job["items"] else None
    arguments = job["params"] | {name: Path(path) for name, path in job["paths"].items()}
    prepare(job["steps"], input)
    check_input = partial(prepare, job["checks"], input)
    if job["kind"] != "sql":
        check_input()
    if job["kind"] == "prepare":
        return
    if job["kind"] == "command":
        _run_program(job["arguments"], log, reply)
        reply |= read_counts(Path(job["records"]))
    elif job["kind"] == "collect":
        reply["exit_code"] = job["exit_code"]
        check_exit(job["exit_code"], log)
        reply |= read_counts(Path(job["records"]))
    elif job["kind"] == "callable":
        _load(job, state)
        with state.exits.collecting():
            reply |= copy_context().run(call_function, job["function"], input, output, arguments, listing)
    elif job["kind"] == "function":
        _load(job, state)
        read = partial(read_item, input, job["format"], job["options"], job["declared_columns"])
        item = job["value"] if job["by_value"] else read()
        with state.exits.collecting():
            reply |= copy_context().run(call_with_item, job["function"], item, arguments, output, listing)
    elif job["kind"] == "records":
        _load(job, state)
        with state.exits.collecting(), _rejects(job) as rejected:
            reply |= copy_context().run(
                apply_to_records,
                job["function"],
                input=input,
                format=job["format"],
                options=job["options"],
                columns=job["declared_columns"],
                output=output,
                output_format=job["output_format"],
                rejected=rejected,
                params=arguments,
            )
    elif job["kind"] == "sql" and job["output_format"] == "compact" and (files := parquet_files(input)) is not None:
        with _rejects(job) as rejected, rejected.naming_objects(input):
            reply |= join_parquet(files, output)
    elif job["kind"] == "sql":
        with _rejects(job) as rejected:
            reply |= run_query(
                job["query"],
                input=Source(input, job["format"], job["options"], job["declared_columns"], job["found_columns"]),
                inputs={name: Path(path) for name, path in job["inputs"].items()},
                output=output,
                output_format=job["output_format"],
                params=job["params"],
                room=Room(job["memory_bytes"], job["threads"], Path(job["spill"])),
                rejected=rejected,
                check_input=check_input,
            )
    else:
        _copy(input, output)
    if listing is not None and "items" not in reply:
        reply["items"] = write_items_of_lines(output, listing)


def _load(job: CallableJob | FunctionJob | RecordsJob, state: ProcessState) -> None:
    """Import the processor's module, once. What it sets up is kept; so are its temporary files, with this process."""
    if is_loaded(job["function"]):
        return
    before = dict(os.environ)
    if before.get("TMPDIR", "").startswith(_private(job)):
        before["TMPDIR"] = os.environ["TMPDIR"] = _own_tmp
    try:
        load_function(job["function"])
    except BaseException:
        state.lose()
        raise
    state.environment = {name: value for name, value in os.environ.items() if before.get(name) != value}
    set_environment(job["environment"] | state.environment)
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile and tempfile.tempdir == _own_tmp:
        tempfile.tempdir = None  # to be found again, by each task
    state.remember()


def _private(job: ChildJob) -> str:
    """The attempt's private directory."""
    return job["log"].rpartition("/")[0]


def _run_program(arguments: list[str], log: Path, reply: dict[str, Any]) -> None:
    """Raises TaskError."""
    reply["exit_code"], reply["memory_bytes_peak"] = run_command(arguments)
    check_exit(reply["exit_code"], log)


def _rejects(job: RecordsJob | SqlJob) -> Rejects:
    return Rejects(Path(job["rejects"]), job["rejects_max"], job["task"])


def _copy(input: Path, output: Path) -> None:
    """The input file, or the files of the input directory one after the other: if all are text, line by line."""
    files = sorted(input.iterdir()) if input.is_dir() else [input]
    missing_end = b""
    with output.open("wb") as target:
        for path, ends in zip(files, _ends(files), strict=True):
            with path.open("rb") as source:
                if target.tell():
                    source.seek(len(ends.mark))
                if source.tell() < path.stat().st_size:
                    target.write(missing_end)
                    shutil.copyfileobj(source, target, 1 << 20)
                    missing_end = ends.missing_end


def _ends(files: list[Path]) -> list[TextEnds]:
    """How each of the texts begins and ends; of files that are not all text, nothing is known."""
    found = [file_ends(path) for path in files]
    return [ends or TextEnds() for ends in ([None] * len(files) if None in found else found)]


def _raised(error: BaseException) -> TaskError:
    """What user code raised; it says by an attribute of the exception that no other try can succeed."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return TaskError("disk_full", describe_shown(error))
    if getattr(error, "input_invalid", False) is True:
        return TaskError("input_invalid", describe_shown(error), retryable=False)
    return TaskError("exception", describe_shown(error))


def _exited(error: SystemExit) -> dict[str, Any]:
    """User code called sys.exit in the middle of its work."""
    code = forks.exit_code(error)
    message = f"exit code {code}: {error.code:.2000}" if isinstance(error.code, str) else f"exit code {code}"
    return TaskError("exit_code", message, exit_code=code).as_reply()


@contextlib.contextmanager
def _logging_to(path: str) -> Iterator[None]:
    """Redirect standard output and error to the file, also for C code and child processes."""
    _redirect(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    sys.stdout, sys.stderr = _stream(1), _stream(2)  # new ones: the last task may have closed or replaced the old
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        linux.flush_stdio()
        _redirect(os.open(os.devnull, os.O_WRONLY))


def _redirect(target: int) -> None:
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


def _stream(descriptor: int) -> TextIO:
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
