"""A session: this process runs tasks of one stage one after another, and answers each as soon as it has ended.

The worker sends tasks ahead, and for each a token through a pipe that it reads itself, too. Who reads a token has the
task: this process begins it, or the worker takes it back. So, whenever this process dies, at most one task has neither
a token left nor an answer: the one that ran. The token END ends the session.
"""

import contextlib
import errno
import os
import time
from collections import deque
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from services.contract.task_error import TaskError
from services.worker.child import forks, frames, linux
from services.worker.child.emptiness import Emptiness
from services.worker.child.environment import SessionEnvironment
from services.worker.child.frames import END, TOKEN
from services.worker.child.functions import call_function, call_with_item
from services.worker.child.job import SessionJob
from services.worker.child.loading import load
from services.worker.child.log import Log, logging_to
from services.worker.child.prepare import prepare
from services.worker.child.process_state import ProcessState
from services.worker.child.session_files import TaskFiles
from services.worker.child.task_variables import task_variables
from services.worker.child.user_code import run_user_code

_FULL = (errno.ENOSPC, errno.EDQUOT)


class _NotBegun(Exception):
    """A task's files can't be made, for which it is not to blame."""


@dataclass(slots=True)
class SentTask:
    """A task as the worker sends it: `token` counts a session's tasks from 1, `number` is that in the array.

    Of a callable's, `value` is the SessionInput, and `body` the file's bytes.
    """

    token: int
    index: int
    attempt: int
    number: int
    value: Any
    body: memoryview


class Line(NamedTuple):
    """The connection to the worker."""

    frames: BinaryIO
    key: bytes
    tokens: int
    answers: int

    def next_token(self) -> int:
        """That of the next task, as soon as there is one; END at the end, or when the worker has gone."""
        read = os.read(self.tokens, TOKEN.size)
        return TOKEN.unpack(read)[0] if len(read) == TOKEN.size else END

    def read_tasks(self, *, with_files: bool) -> list[SentTask]:
        """The next tasks. Raises EOFError when the worker has gone."""
        read = frames.read_with_bytes(self.frames)
        if read is None:
            raise EOFError
        tasks, rest, at = [], memoryview(read[2]), 0
        for token, index, attempt, number, value in read[1]:
            end = at + (value["bytes"] if with_files else 0)
            tasks.append(SentTask(token, index, attempt, number, value, rest[at:end]))
            at = end
        return tasks

    def answer(self, reply: dict[str, Any], output: bytes | None = None) -> None:
        body = _encode(reply)
        left = memoryview(frames.pack(self.key, body if output is None else frames.with_bytes(body, output)))
        while left:
            left = left[os.write(self.answers, left) :]


def _encode(reply: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(reply)
    except TypeError:  # text that is half a surrogate pair, or an integer of more than 64 bits
        return frames.encode_body(reply)


def run_session(job: SessionJob, line: Line, state: ProcessState) -> None:
    """Run tasks until there are no more, or until one has left something behind that the next could meet."""
    with_files, is_sound = job["files"] is not None, True
    with logging_to(job["log"]) as log:
        state.own_descriptors = {str(log.descriptor)}
        session = _Session(job, log, state)
        sent: deque[SentTask] = deque()
        while (token := line.next_token()) != END:
            while not sent or sent[0].token != token:  # those before it were taken back
                if sent:
                    sent.popleft()
                else:
                    sent.extend(line.read_tasks(with_files=with_files))
            try:
                reply, output = session.run(sent.popleft())
            except _NotBegun:
                is_sound = False
                break
            forks.end_copies()
            line.answer(reply, output)
            if reply["over"]:
                return
    with contextlib.suppress(OSError):  # the worker has gone
        line.answer({"token": END, "clean": is_sound, "memory_bytes": linux.memory()[0]})


class _Session:
    def __init__(self, job: SessionJob, log: Log, state: ProcessState) -> None:
        self._job = job
        self._log = log
        self._state = state
        self._private, _, log_name = job["log"].rpartition("/")
        self._files = None if job["files"] is None else TaskFiles(self._private, job["files"], {log_name})
        self._params, self._has_params = frames.encode_body(job["params"]), bool(job["params"])
        self._overridden = frozenset(job["overridden"])
        self._environment = SessionEnvironment()
        self._directory, self._tmp = Emptiness(job["directory"]), Emptiness(job["tmp"])
        self._base = job["environment"] | state.environment
        self._is_loaded = False

    def run(self, task: SentTask) -> tuple[dict[str, Any], bytes | None]:
        """The answer, and the bytes of the task's output, if it is a small file.

        The answer says, besides what every job's does, when the task began and how long it took, where its log ends,
        whether programs have run, and whether the session is over: it has left something that no other may find.
        Raises _NotBegun.
        """
        began, programs = time.monotonic(), linux.usage_of_programs()
        reply: dict[str, Any] = {"token": task.token}
        full = self._make_files(task)

        def work() -> None:
            if full is not None:
                raise TaskError("disk_full", f"the worker's disk is full: {full}")
            self._call(task, reply)

        run_user_code(work, reply, self._state, self._private, has_caller=self._files is None)
        reply["log_end"] = self._log.end_of_task()
        reply["over"], output = not reply["clean"] or reply["memory_bytes"] > self._job["memory_bytes_max"], None
        if not reply["over"] and self._files is not None:
            is_as_new, output = self._files.end(succeeded="error" not in reply)
            reply["over"] = not is_as_new
        elif not reply["over"]:
            reply["over"] = self._directory.holds_anything() or self._tmp.holds_anything()
        reply["programs"] = linux.usage_of_programs() != programs
        reply["began"] = round(began, 6)
        reply["seconds"] = round(time.monotonic() - began, 6)
        reply["cpu_seconds"] = round(reply["cpu_seconds"], 6)
        return reply, output

    def _make_files(self, task: SentTask) -> OSError | None:
        """Returns why there is no room for them. Raises _NotBegun."""
        if self._files is not None:
            try:
                self._files.begin(task.token, task.value["name"], task.body)
            except OSError as error:
                if error.errno not in _FULL:
                    raise _NotBegun from error
                return error
        return None

    def _call(self, task: SentTask, reply: dict[str, Any]) -> None:
        job, state, files = self._job, self._state, self._files
        variables = task_variables(job["job_id"], job["job_number"], task.index, task.number, task.attempt)
        if files is not None:
            variables |= files.variables() | task.value["variables"]
        for name in self._overridden & variables.keys():
            del variables[name]
        self._environment.set(self._base, variables)
        os.chdir(job["directory"] if files is None else files.work)
        if files is not None:
            prepare(task.value["checks"], Path(files.input))
        if not self._is_loaded:
            whole = {**self._base, **{name: str(value) for name, value in variables.items()}}
            load(job["function"], whole, self._private, state)
            self._base, self._is_loaded = self._base | state.environment, True
        params = frames.decode(self._params) if self._has_params else {}
        call = partial(call_with_item, job["function"], task.value, params, lambda: self._output(task), None)
        if files is not None:
            call = partial(call_function, job["function"], Path(files.input), Path(files.output), params, None)
        with state.exits.collecting():
            reply |= copy_context().run(call)

    def _output(self, task: SentTask) -> Path:
        """The file of a value that is too large for an answer."""
        return Path(self._job["values"], str(task.token), self._job["filename"])
