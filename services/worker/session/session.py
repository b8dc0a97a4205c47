"""One session: a slot's child, tasks on their way to it, and what becomes of each, whatever happens to the child."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Literal, NamedTuple
from uuid import UUID

import orjson
import structlog

from services.contract.location import Location
from services.contract.states import RECORD_COUNTS
from services.contract.task_error import TaskError, describe
from services.contract.task_output import StoredObject, TaskOutput
from services.engine.attempt import AttemptReport, ClaimedTask, StageWork
from services.platform.threads import beside_loop
from services.worker.child.frames import END, with_bytes
from services.worker.session.depth import AHEAD_SECONDS, MOVED_AT_ONCE, slot_seconds, tasks_ahead
from services.worker.session.eligible import has_files
from services.worker.session.inputs import Fetches, Ready, made_here
from services.worker.session.job import session_job
from services.worker.session.logs import FILE_BYTES_MAX, SessionLog, hold_down
from services.worker.session.source import Held, Source
from services.worker.task.answer import read_session_answer
from services.worker.task.array_jobs import task_number
from services.worker.task.attempt import EXCUSED_MAX, Equipment, acquit, masked_error, naming_objects, remove
from services.worker.task.child_process import ChildProcess, NotStarted
from services.worker.task.masking import Mask
from services.worker.task.memory_watch import MemoryExceeded
from services.worker.task.outputs import Outputs, missing_output
from services.worker.task.paths import Workspace
from services.worker.task.values import value_filename, value_of
from services.worker.task.warm_children import Served, WarmChildren

log = structlog.get_logger()

_LINGER_SECONDS = 0.05  # that a session without a task stays open
_SESSION_SECONDS_MAX = 60.0  # then it takes no more tasks: secrets may have changed
_PUTS_MAX = 64  # that wait, before no more tasks are sent
_PUT_BYTES_MAX = 4 << 20  # of what tasks on their way are likely to leave
_LOG_LOOK_SECONDS = 1.0
_LEAVE_SECONDS = 5.0  # for a child without a task to end its session


class NotOpened(Exception):
    """There is no session for the stage now: its next task must find out why by itself."""


class _Over(Exception):
    """The child has left the session by itself."""


class _Sent(NamedTuple):
    token: int
    held: Held
    input: Ready | None  # of a callable's


class _Left(NamedTuple):
    """What a task has left to be put."""

    token: int
    answer: dict[str, Any]
    log_start: int
    log_end: int
    is_doubtful: bool = False  # the node may be why the task's program did not start

    @property
    def has_log(self) -> bool:
        return self.log_end > self.log_start


_Cause = Literal["timeout", "cancelled"]


class Session:
    """Call `run` once. `take_back` and `cancel` may be called meanwhile, and `wake` when there are more tasks."""

    def __init__(
        self,
        equipment: Equipment,
        stage: StageWork,
        first: ClaimedTask,
        children: WarmChildren,
        source: Source,
        name: str,
    ) -> None:
        self.stage = stage
        self._equipment = equipment
        self._first = first
        self._children = children
        self._source = source
        self._workspace = Workspace(equipment.directory / name)
        self._log = SessionLog(self._workspace, equipment.log_bytes_max)
        self._mask = Mask()
        self._child: ChildProcess
        self._key = b""
        self._opened_at: float | None = None
        self._sent: deque[_Sent] = deque()  # not answered; the first one runs
        self._token = 0
        self._since = 0.0  # the first one of them runs
        self._answered = 0
        self._cpu_seconds = 0.0  # of the tasks that have ended
        self._task_seconds: float | None = None  # that its child takes for one, by the last ones
        self._put_seconds = 0.0  # since the source has last learned
        self._last: dict[str, Any] = {}  # answer
        self._feeding = False  # the child gets more tasks
        self._stop: asyncio.Future[_Cause] = asyncio.get_running_loop().create_future()
        self._condemned = 0  # token of the task because of which the session is stopped
        self._timer: asyncio.TimerHandle | None = None
        self._looked_at_log = time.monotonic()
        self._background: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Semaphore(MOVED_AT_ONCE)
        self._fetches = Fetches(equipment.s3, self._workspace.directory, self._send, self._run_alone)
        self._file_bytes_max = 1  # of what the tasks have put so far
        self._handed_back = asyncio.Event()  # the child does not have the directory any more
        self._refusal: TaskError | None = None  # what is wrong with the directory then

    @property
    def idle(self) -> bool:
        return not self._sent and not self._fetches

    @property
    def ahead(self) -> int:
        """The number of tasks that it has and that have not begun."""
        return max(0, len(self._sent) - 1) + len(self._fetches)

    @property
    def not_begun(self) -> list[Held]:
        """Those after the one that runs, or is about to."""
        return [*(each.held for each in list(self._sent)[1:]), *self._fetches.held]

    @property
    def running_seconds(self) -> float:
        return time.monotonic() - self._since if self._sent else 0.0

    async def run(self) -> None:
        """Run tasks of the stage as long as they are next. Raises NotOpened; then none has been taken."""
        try:
            try:
                async with AsyncExitStack() as stack:
                    await self._open(stack)
                    await self._serve()
            except NotOpened:
                raise
            except Exception as error:
                log.exception("session broke", job=str(self.stage.job_id), stage=self.stage.stage)
                self._broke(error)
            self._handed_back.set()
            self._source.closed()
            while self._background:
                await asyncio.wait(self._background)
        finally:
            self._feeding = False
            self._fetches.withdraw()
            if self._timer is not None:
                self._timer.cancel()
            for task in self._background:
                task.cancel()
            self._log.close()
            await remove(self._workspace)

    async def _open(self, stack: AsyncExitStack) -> None:
        self._memory_bytes_max = self._equipment.share.memory_of(self.stage.memory_bytes)
        try:
            async with asyncio.timeout(self.stage.timeout_seconds):  # a package may take long
                await self._begin(stack)
        except Exception as error:
            raise NotOpened from error
        self._opened_at, self._feeding = time.monotonic(), True

    async def _begin(self, stack: AsyncExitStack) -> None:
        stage, equipment = self.stage, self._equipment
        runtime = await stack.enter_async_context(equipment.packages.holding(stage.spec.package))
        secrets = await equipment.secrets.resolve(stage.spec.secrets or {})
        self._mask = Mask(secrets.values())
        self._workspace.make(empty=has_files(stage))
        served = Served.of(stage, runtime.home)
        leasing = self._children.lease(served, runtime, self._memory_bytes_max)
        self._child = await stack.enter_async_context(leasing)
        self._was_killed = self._child.limit_memory(self._memory_bytes_max)
        self._cpu_before = self._child.used()[0]
        job = session_job(self._first, stage, runtime, secrets, self._workspace, equipment.share)
        self._key = await self._child.begin(job, self._workspace.directory, self._heard)

    async def _serve(self) -> None:
        child = self._child
        assert child.talk is not None
        watching = asyncio.ensure_future(child.watch_memory(self._memory_bytes_max))
        try:
            self._feed()
            ends: list[asyncio.Future[Any]] = [child.talk, child.death, watching, self._stop]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if child.talk.done() and isinstance(child.talk.exception(), _Over):
                self._leave()
            else:
                await self._end_by_force(watching)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    def wake(self) -> None:
        """There may be more tasks."""
        self._feed()

    def _feed(self) -> None:
        """Have enough tasks on their way. They are filled up when half of them are left."""
        if not self._feeding or self._stop.done():
            return
        source, has = self._source, len(self._sent) + len(self._fetches)
        if self._sent and time.monotonic() >= self._since + AHEAD_SECONDS:
            return  # it may take long: others would only wait for it
        wanted = tasks_ahead(self._task_seconds or source.task_seconds, source.waiting, source.slots)
        wanted = min(wanted, max(2, _PUT_BYTES_MAX // self._file_bytes_max))
        if self._has_much_to_put:
            self._look_in(_LINGER_SECONDS)
        elif (has == 0 or has <= wanted // 2) and self._may_go_on() and (held := source.take(wanted - has)):
            self._take(held)
        elif not has:
            self._linger()

    def _take(self, held: Sequence[Held]) -> None:
        """Send the tasks, or first fetch what they need."""
        if not has_files(self.stage):
            self._send([(each, None) for each in held])
            return
        inputs = [(each, made_here(each.task)) for each in held]
        if made := [(each, ready) for each, ready in inputs if ready is not None]:
            self._send(made)
        self._fetches.add([each for each, ready in inputs if ready is None])
        if not self._sent:
            self._look_in(_LINGER_SECONDS)

    def _may_go_on(self) -> bool:
        assert self._opened_at is not None
        is_young = time.monotonic() < self._opened_at + _SESSION_SECONDS_MAX
        return is_young and self._log.end < FILE_BYTES_MAX

    @property
    def _has_much_to_put(self) -> bool:
        return len(self._background) >= _PUTS_MAX

    def _send(self, held: Sequence[tuple[Held, Ready | None]]) -> None:
        sent = [_Sent(token, each, input) for token, (each, input) in enumerate(held, self._token + 1)]
        self._token += len(sent)
        tasks = [
            (
                token,
                task.index,
                task.attempt,
                task_number(task, self.stage),
                input.sent(task.source) if input else value_of(task),
            )
            for token, (_, task), input in sent
        ]
        if not self._sent:
            self._since = time.monotonic()
            self._look_in(AHEAD_SECONDS)
        self._sent.extend(sent)
        body, files = orjson.dumps(tasks), [each.input.body for each in sent if each.input]
        self._child.send(self._key, with_bytes(body, *files) if files else body)
        self._child.tokens.put([each.token for each in sent])

    def _run_alone(self, held: Held) -> None:
        """A task whose input could not be fetched ahead."""
        self._source.run_alone(held)
        self._feed()

    def _linger(self) -> None:
        """Wait a little for more tasks, unless the slot is wanted for others."""
        if self._source.waiting or not self._may_go_on():
            self._end()
        else:
            self._look_in(_LINGER_SECONDS)

    def _end(self) -> None:
        self._feeding = False
        self._child.tokens.put([END])
        self._look_in(_LEAVE_SECONDS)

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Is the running task's time up? Does it hold up others for which another slot is free?"""
        if self._stop.done():
            return
        if not self._sent and self._feeding:
            if self._has_much_to_put or self._fetches:
                self._look_in(_LINGER_SECONDS)
            else:
                self._end()
            return
        if not self._sent:  # the child does not end the session, although it has nothing to do
            self._stop_for("cancelled")
            return
        now = time.monotonic()
        left = self._since + self.stage.timeout_seconds - now
        if left <= 0:
            self._stop_for("timeout")
            return
        if self.ahead and now - self._since >= AHEAD_SECONDS and self._source.has_idle_slot:
            self.take_back()
        if now >= self._looked_at_log + _LOG_LOOK_SECONDS:
            self._looked_at_log = now
            self._in_background(hold_down(self._log))
        self._look_in(min(AHEAD_SECONDS, left))

    def _stop_for(self, cause: _Cause) -> None:
        self._condemned = self._sent[0].token if self._sent else 0
        self._stop.set_result(cause)

    def take_back(self) -> None:
        """Give back what has not begun."""
        self._source.give_back(self._withdraw())

    def _withdraw(self) -> list[Held]:
        back: list[_Sent] = []
        if self._sent:
            tokens = self._child.tokens.take_back()
            back = [each for each in self._sent if each.token in tokens]
            self._sent = deque(each for each in self._sent if each.token not in tokens)
        waited = self._fetches.withdraw()
        for each in back:
            self._used(each)
        return [*(each.held for each in back), *waited]

    def _used(self, sent: _Sent) -> None:
        if sent.input is not None:
            self._fetches.used(sent.input)

    def cancel(self, is_cancelled: Callable[[ClaimedTask], bool] | None = None) -> None:
        """Kill the running task if it is one of these (None: whatever it is), and drop those that have not begun."""
        has = [*(each.held.task for each in self._sent), *(held.task for held in self._fetches.held)]
        if is_cancelled is not None and not any(map(is_cancelled, has)):
            return
        withdrawn, kept = self._withdraw(), []
        for held in withdrawn:
            if is_cancelled is None or is_cancelled(held.task):
                self._source.report([(held, _released(held.task))])
            else:
                kept.append(held)
        self._source.give_back(kept)
        runs = bool(self._sent) and (is_cancelled is None or is_cancelled(self._sent[0].held.task))
        if (runs or is_cancelled is None) and not self._stop.done():
            self._stop_for("cancelled")
        self._feed()

    def _heard(self, bodies: list[bytes]) -> None:
        """Answers, in the order in which their tasks were sent. Raises TaskError, and _Over after the last one."""
        ended: list[tuple[Held, AttemptReport]] = []
        began, fetch_seconds, successes, over = self._since, 0.0, 0, False
        try:
            for body in bodies:
                answer = read_session_answer(body)
                if answer["token"] == END:
                    over, self._last = True, answer
                    break
                if not self._sent or self._sent[0].token != answer["token"]:
                    raise TaskError("crash", "the processor's process answered for a task that it does not run")
                sent = self._sent[0]
                finished = self._read(sent, answer)
                self._sent.popleft()
                successes += finished.outcome == "succeeded"
                fetch_seconds += finished.fetch_seconds or 0.0
                self._conclude(ended, sent.held, finished, answer)
                self._used(sent)
                self._last = answer
                if not self._answered:
                    began = self._since = max(began, min(answer["began"], time.monotonic()))  # its child has started
                self._answered += 1
                self._since = finished.ended_at or self._since
                over = answer["over"]
        finally:
            self._source.report(ended)
        if successes:
            self._learn(self._since - began, fetch_seconds, len(bodies))
        if over:
            raise _Over
        self._feed()

    def _learn(self, seconds: float, fetch_seconds: float, tasks: int) -> None:
        before, mean = self._task_seconds, seconds / tasks
        self._task_seconds = mean if before is None else (before + mean) / 2
        self._source.learn(slot_seconds(seconds, fetch_seconds, self._put_seconds), tasks)
        self._put_seconds = 0.0

    def _read(self, sent: _Sent, answer: dict[str, Any]) -> AttemptReport:
        now = time.monotonic()
        finished = _report(sent.held.task, min(answer["seconds"], now - (self._opened_at or 0.0)), sent.input)
        finished.ended_at = min(now, max(self._since, answer["began"] + answer["seconds"]))
        finished.cpu_seconds = answer["cpu_seconds"]
        finished.memory_bytes_peak = answer["memory_bytes_peak"]
        for count in RECORD_COUNTS:
            setattr(finished, count, answer[count])
        self._cpu_seconds += finished.cpu_seconds
        error = answer.get("error")
        if (error or answer["programs"]) and self._was_killed():  # a process that the function had started
            self._explain(finished, MemoryExceeded(self._memory_bytes_max, self._memory_bytes_max), None)
            self._was_killed = self._child.limit_memory(self._memory_bytes_max)
        elif error:
            type = "exception" if error["type"] == "node_unfit" else error["type"]  # not for user code to say
            facts = {"retryable": answer["retryable"], "exit_code": answer["exit_code"]}
            message = error["message"] if sent.input is None else naming_objects(error, sent.input.fetched, {})
            self._fail(finished, TaskError(type, message, raised=error.get("raised"), **facts))
        else:
            finished.output = TaskOutput(value=self._mask.value(answer.get("value"))).to_json()
            self._file_bytes_max = max(self._file_bytes_max, len(answer["file"] or b""))
        return finished

    def _fail(self, finished: AttemptReport, error: TaskError) -> None:
        finished.outcome = "failed"
        finished.retryable, finished.exit_code = error.retryable, error.exit_code
        finished.error = masked_error(self._mask, error.type, error.message, error.raised)
        if error.excused and finished.attempt <= EXCUSED_MAX:
            finished.outcome = "released"

    def _conclude(
        self, ended: list[tuple[Held, AttemptReport]], held: Held, finished: AttemptReport, answer: dict[str, Any]
    ) -> None:
        """Have it reported, at once if there is nothing to put or to find out."""
        doubtful = finished.error is not None and finished.error["type"] == "processor_load"
        left = _Left(answer["token"], answer, *self._log.cut(answer["log_end"]), doubtful)
        if finished.outcome == "succeeded" and not left.has_log and not self._has_left_output(answer):
            ended.append((held, finished))
        else:
            self._in_background(self._finish(held, finished, left))

    def _has_left_output(self, answer: dict[str, Any]) -> bool:
        """Something to put; or nobody knows, as the child has left it to the worker to look for it."""
        if has_files(self.stage):
            return answer["file"] is not None or bool(answer["over"])
        return "value" not in answer

    async def _finish(self, held: Held, finished: AttemptReport, left: _Left) -> None:
        """Put what a task has left, find out whether its failure was its own, and report it."""
        began, node_fault = time.monotonic(), None
        async with self._at_once:
            put_at = time.monotonic()
            try:
                if finished.outcome == "succeeded" and self._has_left_output(left.answer):
                    await self._put_output(finished, left)
            except TaskError as error:
                node_fault = error.message if error.type == "node_unfit" else None
                self._fail(finished, error)
            except Exception as error:
                log.exception("attempt broke", **names(finished))
                self._fail(finished, TaskError("exception", f"the worker broke: {describe(error)}"))
            target = self._equipment.layout.log(*_key(finished))
            span = left.log_start, left.log_end
            if left.has_log and await self._log.put(self._equipment.s3, target, *span, self._mask):
                finished.log = target.uri
            self._put_seconds += time.monotonic() - put_at
        since = began - finished.run_seconds
        await acquit(
            self._equipment,
            finished,
            since,
            node_fault=node_fault,
            doubtful=left.is_doubtful,
            mask=self._mask,
        )
        finished.put_seconds = time.monotonic() - began
        finished.run_seconds += finished.put_seconds
        finished.ended_at = None
        self._source.report([(held, finished)])
        self.wake()

    async def _put_output(self, finished: AttemptReport, left: _Left) -> None:
        """Upload what the task has made. Raises TaskError."""

        def locate(name: str) -> Location:
            return self._equipment.layout.attempt(*_key(finished), name, interim=self.stage.interim)

        outputs = Outputs(self._equipment.s3, self._workspace.files, locate)
        try:
            if has_files(self.stage):
                made = await self._put_file(outputs, left)
            else:
                made = await self._put_value(outputs, left.token)
        except OSError as error:
            raise TaskError("output_unavailable", f"the output can't be read: {error}", excused=True) from error
        finally:
            finished.bytes_out = outputs.bytes
        finished.output = made.to_json()

    async def _put_value(self, outputs: Outputs, token: int) -> TaskOutput:
        """Upload a value that the child has written to a file."""
        files, filename = self._workspace.files, value_filename(self.stage)
        path = self._workspace.output / str(token) / filename
        stored = await outputs.put_output(path, 0)
        if stored is None:
            raise TaskError("output_missing", f"the file of the function's value, {filename}, is gone")
        with suppress(OSError, TaskError):
            files.remove(path)
        return TaskOutput(stored)

    async def _put_file(self, outputs: Outputs, left: _Left) -> TaskOutput:
        """Upload the file that came with the answer, or else whatever the task has left in its directory."""
        spec, answer = self.stage.spec, left.answer
        header_bytes = None if spec.output_format == "csv" else 0
        stored: StoredObject | None
        if answer["file"] is not None:
            stored = await outputs.put_bytes(answer["file"], spec.output, header_bytes)
        else:
            stored = await self._put_left_file(outputs, left.token, header_bytes)
        records = answer["records_out"] if stored else None
        return TaskOutput(stored, records=records, value=self._mask.value(answer.get("value")))

    async def _put_left_file(self, outputs: Outputs, token: int, header_bytes: int | None) -> StoredObject | None:
        await self._handed_back.wait()  # with what the task has left running, which ends first
        if self._refusal is not None:
            raise self._refusal
        place = Workspace(self._workspace.directory / str(token))
        path = place.output / self.stage.spec.output
        stored = await outputs.put_output(path, header_bytes)
        if stored is None and self.stage.spec.requires_output:
            raise await beside_loop(missing_output, self._workspace.files, path, place.work, in_directory=False)
        return stored

    def _in_background(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _leave(self) -> None:
        """The child has ended the session by itself, and may serve others if it is clean."""
        self._feeding = False
        self._source.give_back(self._withdraw())
        self._release_rest()
        try:
            self._child.end_session(self._last["memory_bytes"], clean=self._last["clean"])
        except TaskError as error:
            self._child.clean, self._refusal = False, error

    async def _end_by_force(self, watching: asyncio.Future[None]) -> None:
        """The child has died, or must. That costs the task that ran, and no other."""
        self._feeding = False
        self._source.give_back(self._fetches.withdraw())  # what comes from now on has no child
        child, now = self._child, time.monotonic()
        used = child.used() if child.alive else (0.0, 0)
        failure: TaskError | None = None
        exceeded = watching.exception() if watching.done() else None
        if not isinstance(exceeded, MemoryExceeded):
            exceeded = None
        if exceeded is None and not self._stop.done():
            found = child.talk.exception() if child.talk is not None and child.talk.done() else None
            if found is not None and not isinstance(found, (TaskError, EOFError, ConnectionError)):
                raise found
            failure = found if isinstance(found, TaskError) else await child.crash()
            if self._was_killed():
                exceeded = MemoryExceeded(self._memory_bytes_max, self._memory_bytes_max)
        child.clean = False
        await child.kill()  # which reads what it has said before
        self._source.give_back(self._withdraw())
        if not self._sent:
            if failure is not None and not self._answered:
                raise NotOpened from failure
            return
        sent = self._sent.popleft()
        self._release_rest()
        finished = _report(sent.held.task, now - self._since, sent.input)
        finished.cpu_seconds = max(0.0, used[0] - self._cpu_before - self._cpu_seconds)
        finished.memory_bytes_peak = used[1]
        if self._condemned and sent.token != self._condemned:
            finished.outcome = "released"  # the one for which the child was killed had ended meanwhile
        else:
            self._explain(finished, exceeded, failure)
        printed = self._log.cut(await beside_loop(self._log.size))
        left = _Left(sent.token, {}, *printed, is_doubtful=isinstance(failure, NotStarted))
        self._in_background(self._finish(sent.held, finished, left))

    def _release_rest(self) -> None:
        """Nothing is left, unless user code has read tokens."""
        self._source.report([(each.held, _released(each.held.task)) for each in self._sent])
        self._sent.clear()

    def _broke(self, error: Exception) -> None:
        """The worker's own part has failed: that costs the task that ran, too. The child has been killed."""
        self._source.give_back(self._withdraw())
        if self._sent:
            sent = self._sent.popleft()
            finished = _report(sent.held.task, time.monotonic() - self._since, sent.input)
            self._fail(finished, TaskError("exception", f"the worker broke: {describe(error)}"))
            self._source.report([(sent.held, finished)])
        self._release_rest()

    def _explain(self, finished: AttemptReport, exceeded: BaseException | None, failure: TaskError | None) -> None:
        if isinstance(exceeded, MemoryExceeded):
            finished.outcome, finished.memory_bytes_peak = "memory", exceeded.memory_bytes
            limit = self._equipment.share.explain_memory(self.stage.memory_bytes)
            finished.error = {"type": "memory", "message": f"{exceeded}: {limit}"}
        elif failure is not None:
            self._fail(finished, failure)
        elif self._stop.result() == "timeout":
            finished.outcome = "timeout"
            message = f"did not end within timeout_seconds = {self.stage.timeout_seconds:g}"
            finished.error = {"type": "timeout", "message": message}
        else:
            finished.outcome = "released"


def _key(finished: AttemptReport) -> tuple[UUID, int, int, int]:
    return finished.job_id, finished.stage, finished.index, finished.attempt


def names(finished: AttemptReport) -> dict[str, Any]:
    """The log's fields for an attempt."""
    job_id, stage, index, attempt = _key(finished)
    return {"job": str(job_id), "stage": stage, "index": index, "attempt": attempt}


def _released(task: ClaimedTask) -> AttemptReport:
    finished = _report(task, 0.0)
    finished.outcome = "released"
    return finished


def _report(task: ClaimedTask, seconds: float, input: Ready | None = None) -> AttemptReport:
    finished = AttemptReport(task.job_id, task.stage, task.index, task.attempt, "succeeded", seconds)
    finished.fetch_seconds = finished.put_seconds = 0.0
    if input is not None:
        finished.fetch_seconds, finished.bytes_in = input.seconds, input.fetched.bytes
        finished.run_seconds += input.seconds
    return finished
