"""A session: this process runs tasks of one stage one after another, and answers each as soon as it has ended.

The worker sends tasks ahead, and for each a token through a pipe that it reads itself, too. Who reads a token has the
task: this process begins it, or the worker takes it back. So, whenever this process dies, at most one task has neither
a token left nor an answer: the one that ran. The token END ends the session.
"""

import contextlib
import os
import time
from collections import deque
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from services.worker.child import forks, frames, linux
from services.worker.child.emptiness import Emptiness
from services.worker.child.environment import SessionEnvironment
from services.worker.child.frames import END, TOKEN
from services.worker.child.functions import call_with_item
from services.worker.child.job import SessionJob
from services.worker.child.loading import load
from services.worker.child.log import Log, logging_to
from services.worker.child.process_state import ProcessState
from services.worker.child.task_variables import task_variables
from services.worker.child.user_code import run_user_code


@dataclass(slots=True)
class SentTask:
    """A task as the worker sends it: `token` counts a session's tasks from 1, `number` is that in the array."""

    token: int
    index: int
    attempt: int
    number: int
    value: Any


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

    def read_tasks(self) -> list[Any]:
        """The next tasks. Raises EOFError when the worker has gone."""
        read = frames.read(self.frames)
        if read is None:
            raise EOFError
        return list(read[1])

    def answer(self, reply: dict[str, Any]) -> None:
        left = memoryview(frames.pack(self.key, _encode(reply)))
        while left:
            left = left[os.write(self.answers, left) :]


def _encode(reply: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(reply)
    except TypeError:  # text that is half a surrogate pair, or an integer of more than 64 bits
        return frames.encode_body(reply)


def run_session(job: SessionJob, line: Line, state: ProcessState) -> None:
    """Run tasks until there are no more, or until one has left something behind that the next could meet."""
    with logging_to(job["log"]) as log:
        state.own_descriptors = {str(log.descriptor)}
        session = _Session(job, log, state)
        sent: deque[SentTask] = deque()
        while (token := line.next_token()) != END:
            while not sent or sent[0].token != token:  # those before it were taken back
                if sent:
                    sent.popleft()
                else:
                    sent.extend(SentTask(*each) for each in line.read_tasks())
            reply = session.run(sent.popleft())
            forks.end_copies()
            line.answer(reply)
            if reply["over"]:
                return
    with contextlib.suppress(OSError):  # the worker has gone
        line.answer({"token": END, "clean": True, "memory_bytes": linux.memory()[0]})


class _Session:
    def __init__(self, job: SessionJob, log: Log, state: ProcessState) -> None:
        self._job = job
        self._log = log
        self._state = state
        self._private = job["log"].rpartition("/")[0]
        self._params, self._has_params = frames.encode_body(job["params"]), bool(job["params"])
        self._overridden = frozenset(job["overridden"])
        self._environment = SessionEnvironment()
        self._directory, self._tmp = Emptiness(job["directory"]), Emptiness(job["tmp"])
        self._base = job["environment"] | state.environment
        self._is_loaded = False

    def run(self, task: SentTask) -> dict[str, Any]:
        """The answer: besides what every job's has, when the task began and how long it took, where its log ends,
        whether programs have run, and whether the session is over: it has left something that no other may find."""
        began, programs = time.monotonic(), linux.usage_of_programs()
        reply: dict[str, Any] = {"token": task.token}
        run_user_code(lambda: self._call(task, reply), reply, self._state, self._private, has_caller=True)
        reply["log_end"] = self._log.end_of_task()
        reply["over"] = (
            not reply["clean"]
            or reply["memory_bytes"] > self._job["memory_bytes_max"]
            or self._directory.holds_anything()
            or self._tmp.holds_anything()
        )
        reply["programs"] = linux.usage_of_programs() != programs
        reply["began"] = round(began, 6)
        reply["seconds"] = round(time.monotonic() - began, 6)
        reply["cpu_seconds"] = round(reply["cpu_seconds"], 6)
        return reply

    def _call(self, task: SentTask, reply: dict[str, Any]) -> None:
        job, state = self._job, self._state
        variables = task_variables(job["job_id"], job["job_number"], task.index, task.number, task.attempt)
        for name in self._overridden & variables.keys():
            del variables[name]
        self._environment.set(self._base, variables)
        os.chdir(job["directory"])
        if not self._is_loaded:
            whole = {**self._base, **{name: str(value) for name, value in variables.items()}}
            load(job["function"], whole, self._private, state)
            self._base, self._is_loaded = self._base | state.environment, True
        with state.exits.collecting():
            reply |= copy_context().run(
                call_with_item,
                job["function"],
                task.value,
                frames.decode(self._params) if self._has_params else {},
                lambda: self._output(task),
                None,
            )

    def _output(self, task: SentTask) -> Path:
        """The file of a value that is too large for an answer."""
        return Path(self._job["values"], str(task.token), self._job["filename"])
