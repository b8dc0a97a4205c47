"""The child's main program: take a job, run it with its output going to its log, answer, wait for the next.

The answer to a job (services/worker/child/job) holds its results or its `error`, and the resources used. If this
process is killed, that costs one attempt: the worker starts another child.
"""

import faulthandler
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

from services.inputs.text_ends import TextEnds, file_ends
from services.worker.child import forks, frames, linux, loading
from services.worker.child.commands import check_exit, run_command
from services.worker.child.counts import read_counts
from services.worker.child.environment import set_environment
from services.worker.child.functions import call_function, call_with_item
from services.worker.child.item import read_item
from services.worker.child.items import write_items_of_lines
from services.worker.child.job import ChildJob, RecordsJob, SqlJob
from services.worker.child.join_parquet import join_parquet, parquet_files
from services.worker.child.log import logging_to
from services.worker.child.prepare import prepare
from services.worker.child.process_state import ProcessState
from services.worker.child.records import apply_to_records
from services.worker.child.rejects import Rejects
from services.worker.child.session import Line, run_session
from services.worker.child.sql import Room, run_query
from services.worker.child.sql_views import Source
from services.worker.child.user_code import run_user_code


def main(control: int, session: Sequence[int], parent: int) -> None:
    """Serve jobs from the socket `control` until the process `parent` closes it.

    `session` are the pipes of sessions: the tokens' and the answers'.
    """
    linux.die_with_parent()
    if os.getppid() != parent:
        return  # the worker died before the death signal was set up
    loading.own_tmp = os.environ.get("TMPDIR", "")
    linux.adopt_orphans()
    linux.be_killed_first()
    faulthandler.enable(file=2)
    _leave_no_trace()
    linux.keep_open()
    for descriptor in (control, *session):
        os.set_inheritable(descriptor, False)
    with socket.socket(fileno=control) as channel, channel.makefile("rb") as jobs:
        forks.keep_from_copies(channel, *session)
        state = ProcessState()
        while (received := frames.read(jobs)) is not None:
            key, job = received
            if isinstance(job, list):
                continue  # tasks of a session that has ended, which the worker has taken back
            if job["kind"] == "session":
                run_session(job, Line(jobs, key, *session), state)
                continue
            answer = _run(job, state)
            forks.end_copies()
            channel.sendall(frames.encode(key, answer))


def _leave_no_trace() -> None:
    """Hide our modules: user code may have modules of the same names, and must find an ordinary interpreter."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "services"]:
        del sys.modules[name]
    sys.argv[:] = [""]


def _run(job: ChildJob, state: ProcessState) -> dict[str, Any]:
    reply: dict[str, Any] = {}

    def work() -> None:
        set_environment(job["environment"] | state.environment)
        os.chdir(job["directory"])
        _dispatch(job, reply, state)

    with logging_to(job["log"]) as log:
        state.own_descriptors = {str(log.descriptor)}
        private = _private(job) if "function" in job else None
        run_user_code(work, reply, state, private, has_caller=job["kind"] == "function")
    return reply


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
        loading.load(job["function"], job["environment"], _private(job), state)
        with state.exits.collecting():
            reply |= copy_context().run(call_function, job["function"], input, output, arguments, listing)
    elif job["kind"] == "function":
        loading.load(job["function"], job["environment"], _private(job), state)
        read = partial(read_item, input, job["format"], job["options"], job["declared_columns"])
        item = job["value"] if job["by_value"] else read()
        with state.exits.collecting():
            reply |= copy_context().run(call_with_item, job["function"], item, arguments, lambda: output, listing)
    elif job["kind"] == "records":
        loading.load(job["function"], job["environment"], _private(job), state)
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
