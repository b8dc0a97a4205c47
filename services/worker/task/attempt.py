"""One attempt of a task, from its input to the worker's report."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from services.contract.layout import Layout
from services.contract.location import Location
from services.contract.output_name import FOLDER, NoName, differs_by_index, fill_template, folder_of, is_template
from services.contract.output_name import has_suffix as template_has_suffix
from services.contract.states import RECORD_COUNTS
from services.contract.task_error import TaskError, describe
from services.contract.task_output import TaskOutput
from services.engine.attempt import AttemptReport, ClaimedTask, LostOutput, StageWork
from services.inputs.fetched import FetchedInput
from services.inputs.reach import Reach
from services.inputs.registry import suffix_of
from services.platform import tracing
from services.platform.database import storable
from services.platform.threads import beside_loop, in_own_thread
from services.platform.tracing import traced
from services.platform.transfer import find_outage
from services.worker.child.job import ChildJob
from services.worker.isolation.cells import Cells
from services.worker.isolation.errors import IsolationUnusable
from services.worker.isolation.view import View
from services.worker.split.meter import Meter
from services.worker.split.run import run_grid_split
from services.worker.task.child_job import child_job, collect_job
from services.worker.task.child_process import NotStarted
from services.worker.task.containers import Containers, Work
from services.worker.task.declared_inputs import DeclaredInputs
from services.worker.task.hardware import Hardware
from services.worker.task.inputs import fetch_input
from services.worker.task.levels import do_a_job
from services.worker.task.masking import NOTHING, Mask
from services.worker.task.memory_watch import MemoryExceeded
from services.worker.task.node_health import FULL, NodeHealth, is_of_node
from services.worker.task.outputs import Outputs, missing_output
from services.worker.task.packages import PackageChanged, Packages, Runtime
from services.worker.task.paths import Paths, Workspace
from services.worker.task.pins import Pins
from services.worker.task.secrets import Secrets
from services.worker.task.share import Share
from services.worker.task.task_log import hold_log_down, log_size, put_live_log, put_log
from services.worker.task.turn import Turn
from services.worker.task.values import is_by_value, value_filename
from services.worker.task.warm_children import Served, WarmChildren

log = structlog.get_logger()

_REMOVE_SECONDS = 30.0
_SHOW_SECONDS = 2.0  # between looks at a log that is followed
EXCUSED_MAX = 100  # attempts of a task, some hours; after that, what is nobody's fault counts as a failure, too
# Fields that the child's answer and AttemptReport share.
_MEASURES = ("exit_code", *RECORD_COUNTS, "cpu_seconds", "memory_bytes_peak")


@dataclass(frozen=True, slots=True)
class Equipment:
    """What all attempts of a node share; `directory` is the node's own scratch directory."""

    s3: Any
    layout: Layout
    reach: Reach
    directory: Path
    cells: Cells
    packages: Packages
    inputs: DeclaredInputs
    secrets: Secrets
    log_bytes_max: int
    share: Share
    health: NodeHealth
    losses_max: int
    hardware: Hardware
    containers: Containers | None = None

    def lacks(self, stage: StageWork) -> str | None:
        """What this node has not, but the stage's tasks need; None if it can run them."""
        if stage.spec.image is not None and self.containers is None:
            return "the processor runs in a container, and the worker found no engine for it (Docker or Podman)"
        return None


async def run_attempt(equipment: Equipment, task: ClaimedTask, stage: StageWork, turn: Turn) -> AttemptReport:
    """Run a task once, within its stage's timeout. Raises only CancelledError; the running child is then killed."""
    attempt = _Attempt(equipment, task, stage, turn)
    try:
        with tracing.span(
            "attempt",
            stage.traceparent,
            kind="consumer",
            recorded=tracing.has_spans(task.index),
            job=task.job_id,
            stage=task.stage,
            task=task.index,
            attempt=task.attempt,
        ) as span:
            await attempt.run()
            if not attempt.excused:  # otherwise S3 would not take it either
                await attempt.put_log()
            span.set(outcome=attempt.finished.outcome, processor=stage.processor)
            if attempt.finished.error is not None:
                span.fail(attempt.finished.error["message"])
    finally:
        await remove(attempt.workspace)
    await attempt.acquit()
    attempt.finished.run_seconds = turn.working_seconds
    attempt.finished.fetch_seconds, attempt.finished.put_seconds = turn.fetch_seconds, turn.put_seconds
    return attempt.finished


async def remove(workspace: Workspace) -> None:
    """Remove the workspace; if that takes long, the attempt's report does not wait for its end."""
    removing = asyncio.ensure_future(in_own_thread(workspace.remove))
    await asyncio.wait({removing}, timeout=_REMOVE_SECONDS)
    if not removing.done():
        log.warning("the removal of a task's files goes on", directory=str(workspace.directory))


class _Attempt:
    """An attempt and its private directory."""

    def __init__(self, equipment: Equipment, task: ClaimedTask, stage: StageWork, turn: Turn) -> None:
        self._equipment = equipment
        self._task = task
        self._stage = stage
        self._turn = turn
        self._began = time.monotonic()
        self._node_fault: str | None = None  # why the worker could not do its own part
        self._doubtful = False  # the node may be why the task's program did not start
        self._mask = Mask()
        self._timeout = asyncio.timeout(stage.timeout_seconds)
        self.key = (task.job_id, task.stage, task.index, task.attempt)
        # Short: the path of a socket in its TMPDIR has 108 bytes.
        name = f"{task.job_id.hex[-8:]}-{task.stage}-{task.index}-{task.attempt}"
        self.workspace = Workspace(equipment.directory / name)
        self.excused = False
        self.finished = AttemptReport(*self.key, outcome="failed", run_seconds=0.0)

    async def run(self) -> None:
        """Do the work; `finished` holds the outcome."""
        finished = self.finished
        try:
            async with self._timeout:
                await self._work()
            finished.outcome = "succeeded"
        except TaskError as error:
            finished.retryable, finished.exit_code = error.retryable, error.exit_code
            self._explain(error.type, error.message, error.raised)
            self._doubtful = isinstance(error, NotStarted) or error.type == "processor_load"
            if error.type == "node_unfit":
                self._node_fault = error.message
            if error.excused and self._task.attempt <= EXCUSED_MAX:
                finished.outcome, self.excused = "released", True
            if lost := self._find_lost(error):
                finished.outcome, finished.lost = "released", lost
                self._explain("input_lost", f"{error.message}: it is made again")
        except PackageChanged as error:
            finished.outcome = "released"  # nothing of it has run: the next attempt has the package made again
            self._explain("processor_load", str(error))
        except MemoryExceeded as error:
            finished.outcome, finished.memory_bytes_peak = "memory", error.memory_bytes
            limit = self._equipment.share.explain_memory(self._stage.memory_bytes)
            self._explain("memory", f"{error}: {limit}")
        except Exception as error:
            if self._timeout.expired() and await self._waited_for_s3():
                finished.outcome, self.excused = "released", True
                type = "input_unavailable" if self._turn.phase == "before" else "output_unavailable"
                self._explain(type, f"S3 did not answer within timeout_seconds = {self._stage.timeout_seconds:g}")
            elif self._timeout.expired():
                finished.outcome = "timeout"
                self._explain("timeout", f"did not end within timeout_seconds = {self._stage.timeout_seconds:g}")
            elif isinstance(error, OSError) and error.errno in FULL:
                self._explain("disk_full", f"the worker's disk is full: {error}")
            elif is_of_node(error):
                self._node_fault = describe(error)
            else:
                job_id, stage, index, number = self.key
                log.exception("attempt broke", job=str(job_id), stage=stage, index=index, attempt=number)
                self._explain("exception", f"the worker broke: {describe(error)}")

    async def _waited_for_s3(self) -> bool:
        """Whether it took too long for S3's sake: its program does not run, and S3 is away."""
        if self._turn.phase not in ("before", "after") or self._task.attempt > EXCUSED_MAX:
            return False
        s3 = self._equipment.s3
        return await find_outage(s3, self._equipment.layout.bucket, s3.meta.config.read_timeout) is not None

    async def acquit(self) -> None:
        """Its files are removed by now."""
        await acquit(
            self._equipment,
            self.finished,
            self._began,
            node_fault=self._node_fault,
            doubtful=self._doubtful,
            mask=self._mask,
        )

    def _find_lost(self, error: TaskError) -> list[LostOutput]:
        """What earlier tasks must make again; nothing if something is gone that no task has made."""
        lost = []
        for location in error.gone:
            maker = self._equipment.layout.maker(self._task.job_id, location)
            if maker is None or (maker.stage, maker.index) >= (self._task.stage, self._task.index):
                return []
            lost.append(LostOutput(maker.stage, maker.index, maker.attempt, location.uri))
        return lost

    def _explain(self, type: str, message: str, raised: dict[str, Any] | None = None) -> None:
        self.finished.error = masked_error(self._mask, type, message, raised)

    async def _work(self) -> None:
        self.workspace.make()
        if self._stage.spec.builtin == "split":
            async with self._in_slot():
                self.finished.output = (await self._split()).to_json()
            return
        packages, inputs = self._equipment.packages, self._equipment.inputs
        async with (
            packages.holding(self._stage.spec.package) as runtime,
            inputs.holding(self._task.job_id, self._stage.inputs) as paths,
        ):
            await self._run(runtime, paths)

    async def _run(self, runtime: Runtime, inputs: Mapping[str, Path]) -> None:
        input = await self._fetch()
        self.finished.bytes_in = input.bytes
        secrets = await self._equipment.secrets.resolve(self._stage.spec.secrets or {})
        self._mask = Mask(secrets.values())
        paths = self._paths(input, inputs, runtime.package)
        await self._keep_name(paths.output)
        image, containers = self._stage.spec.image, self._equipment.containers
        if image is not None and containers is None:
            raise TaskError("node_unfit", "the worker has no container engine any more")
        image_id = await self._pull(containers, image) if image is not None and containers is not None else None
        job = child_job(
            self._task,
            self._stage,
            environment=containers.environment if image_id and containers else runtime.environment,
            secrets=secrets,
            workspace=self.workspace,
            input=input,
            paths=paths,
            share=self._equipment.share,
        )
        served = Served.of(self._stage, runtime.home, inputs.values())
        async with self._in_slot() as children:
            ask = partial(self._ask_child, children, served, runtime)
            if image_id is not None and containers is not None:
                answer = await self._run_image(containers, image_id, ask, job, paths)
            else:
                answer = await ask(job)
        self._measure(answer)
        if error := answer.get("error"):
            message = naming_objects(error, input, {inputs[name]: uri for name, uri in self._stage.inputs.items()})
            type = "exception" if error["type"] == "node_unfit" else error["type"]  # not for user code to say
            facts = {"retryable": answer["retryable"], "exit_code": answer["exit_code"]}
            raise TaskError(type, message, raised=error.get("raised"), **facts)
        self.finished.output = (await self._put_outputs(input, paths, answer)).to_json()

    @asynccontextmanager
    async def _in_slot(self) -> AsyncIterator[WarmChildren]:
        """The wait for a slot does not count towards the timeout."""
        go_on = self._stop_the_clock()
        async with self._turn as children:
            go_on()
            yield children

    def _stop_the_clock(self) -> Callable[[], None]:
        """Let nothing count towards the timeout until the returned function is called."""
        loop, ends_at = asyncio.get_running_loop(), self._timeout.when()
        assert ends_at is not None
        left_seconds = ends_at - loop.time()
        self._timeout.reschedule(None)
        return lambda: self._timeout.reschedule(loop.time() + left_seconds)

    @traced("pull")
    async def _pull(self, containers: Containers, image: str) -> str:
        """The image's id, once it is here. How long its pull takes is not the task's fault."""
        go_on = self._stop_the_clock()
        image_id = await containers.images.get(self._task.job_id, image)
        go_on()
        return image_id

    async def _run_image(
        self, containers: Containers, image_id: str, ask: Callable[[ChildJob], Any], job: ChildJob, paths: Paths
    ) -> dict[str, Any]:
        """Have the child prepare the input, run the container, have the child look at what that has left."""
        assert job["kind"] == "prepare"
        environment = dict(job["environment"])
        if job["steps"] or job["checks"]:
            prepared: dict[str, Any] = await ask(job)
            if "error" in prepared:
                return prepared
        killed: dict[str, Any] = {}
        with self._log_held_down():
            try:
                ended = await containers.run(
                    Work(self._task, self._stage, image_id, environment, self.workspace, paths, self._equipment.share),
                    killed,
                )
            finally:
                self._measure(killed)
        answer: dict[str, Any] = await ask(collect_job(job, self.workspace, paths, ended.exit_code))
        used = {"cpu_seconds": ended.cpu_seconds, "memory_bytes_peak": ended.memory_bytes_peak}
        return {**answer, **used, "exit_code": ended.exit_code}

    async def _split(self) -> TaskOutput:
        """Run a split task: read every byte of the input."""
        meter = Meter(self._equipment.s3)
        try:
            listing, count = await run_grid_split(
                meter, self._place, self._equipment.reach, self._task, self.workspace.directory
            )
            outputs = Outputs(meter.s3, self.workspace.files, self._place)
            return await outputs.put_items(listing, count, by_worker=True)
        finally:
            self.finished.bytes_in, self.finished.bytes_out = meter.bytes_in, meter.bytes_out
            self.finished.cpu_seconds = meter.cpu_seconds

    def _place(self, filename: str) -> Location:
        """Where an output goes."""
        return self._equipment.layout.attempt(*self.key, filename, interim=self._stage.interim)

    async def _fetch(self) -> FetchedInput:
        if is_by_value(self._task, self._stage):
            return FetchedInput(self.workspace.directory / "input.json", 0)  # which there is not
        return await fetch_input(self._equipment.s3, self._task, self.workspace.directory)

    def _paths(self, input: FetchedInput, inputs: Mapping[str, Path], package: Path | None) -> Paths:
        spec, workspace = self._stage.spec, self.workspace
        output = workspace.output / self._output_name(input)
        if is_template(spec.output):
            output.parent.mkdir()
        if spec.output_directory:
            output.mkdir()
        outputs = {name: workspace.output / filename for name, filename in spec.outputs.items()}
        return Paths(input.path, output, workspace.records, inputs, outputs, package)

    def _output_name(self, input: FetchedInput) -> str:
        """The output's name in the spec; if it has no suffix and we know the format, with that format's suffix."""
        spec = self._stage.spec
        if spec.function is not None:
            return value_filename(self._stage)
        if is_template(spec.output):
            suffix = "" if template_has_suffix(spec.output) else self._suffix(input)
            return f"{FOLDER}/{self._filled_name(suffix)}"
        if Path(spec.output).suffix or spec.output_directory:
            return spec.output
        return spec.output + self._suffix(input)

    def _suffix(self, input: FetchedInput) -> str:
        """That of the output's format; empty if we do not know it."""
        spec = self._stage.spec
        if spec.records is not None or spec.sql is not None:
            return f".{spec.output_format}"
        if spec.builtin == "compact":
            return ".parquet"
        return suffix_of(input.path.name) if spec.builtin == "copy" else ""

    def _filled_name(self, suffix: str) -> str:
        """Raises TaskError (output_invalid)."""
        try:
            return fill_template(self._stage.spec.output, self._task.source, self._task.index, suffix)
        except NoName as error:
            raise TaskError("output_invalid", str(error), retryable=False) from None

    async def _keep_name(self, output: Path) -> None:
        """Have the name for this task alone, before it begins. Raises TaskError (output_collision) if it has not."""
        source, (job_id, _, index, _) = self._task.source, self.key
        template = self._stage.spec.output
        if not self._stage.named_results or source is None or differs_by_index(template):
            return
        name = f"{folder_of(source.uri)}{output.name}"
        pins, pin = Pins(self._equipment.s3, self._equipment.layout), f"output {self._stage.names_since} {name}"
        owner, _, of = (await pins.agree(job_id, pin, partial(_own, f"{index} {source}"))).partition(" ")
        if owner != str(index):
            raise TaskError(
                "output_collision",
                f"task {owner} ({of}) and task {index} ({source}) both name their output {output.name}, by "
                f"{template}: add {{input.filename}}, {{input.part}} or {{index}} to it",
                retryable=False,
            )

    @traced("run")
    async def _ask_child(
        self, children: WarmChildren, served: Served, runtime: Runtime, job: ChildJob
    ) -> dict[str, Any]:
        """Raises TaskError (crash) and MemoryExceeded."""
        memory_bytes_max = self._equipment.share.memory_of(self._stage.memory_bytes)
        killed: dict[str, Any] = {}
        with self._log_held_down():
            try:
                return await children.run(served, runtime, job, memory_bytes_max, killed, self.workspace.directory)
            finally:
                self._measure(killed)

    @contextmanager
    def _log_held_down(self) -> Iterator[None]:
        holding = asyncio.create_task(hold_log_down(self.workspace, self._equipment.log_bytes_max))
        showing = asyncio.create_task(self._show_log())
        try:
            yield
        finally:
            holding.cancel()
            showing.cancel()

    async def _show_log(self) -> None:
        """Until cancelled, put the log as it is while somebody follows it."""
        target, bytes_max, put = self._equipment.layout.live_log(*self.key), self._equipment.log_bytes_max, -1
        while True:
            await asyncio.sleep(_SHOW_SECONDS)
            if not self._turn.is_followed:
                continue
            with suppress(TaskError, OSError):  # not a file: nothing of it is stored at its end either
                size = await beside_loop(log_size, self.workspace.files, self.workspace.log)
                if size != put:
                    await put_live_log(self._equipment.s3, self.workspace, target, bytes_max, self._mask)
                    put = size

    def _measure(self, measures: Mapping[str, Any]) -> None:
        for measure in _MEASURES:
            setattr(self.finished, measure, measures.get(measure, getattr(self.finished, measure)))

    @traced("put")
    async def _put_outputs(self, input: FetchedInput, paths: Paths, answer: Mapping[str, Any]) -> TaskOutput:
        """Upload what the processor has made."""
        spec, files = self._stage.spec, self.workspace.files
        outputs = Outputs(self._equipment.s3, files, self._place)
        try:
            made = await self._put_output(outputs, input, paths.output, answer)
            if spec.requires_output and not (made.items or await self._has_output(paths)):
                missing = partial(missing_output, files, paths.output, self.workspace.work)
                raise await beside_loop(missing, in_directory=spec.output_directory)
            further = await outputs.put_further(paths.outputs)
            rejects = await outputs.put(self.workspace.rejects) if answer.get("records_rejected") else None
        finally:
            self.finished.bytes_out = outputs.bytes
        return replace(made, files=further, rejects=rejects, value=self._mask.value(answer.get("value")))

    async def _has_output(self, paths: Paths) -> bool:
        is_directory = self._stage.spec.output_directory
        return not is_directory and await beside_loop(self.workspace.files.has_file, paths.output)

    async def _put_output(
        self, outputs: Outputs, input: FetchedInput, output: Path, answer: Mapping[str, Any]
    ) -> TaskOutput:
        """Upload the output itself, or its items."""
        if self._stage.spec.output_directory:
            return await outputs.put_directory(output, self.workspace.items.name, self._equipment.directory)
        if self._stage.fan_out:
            return await outputs.put_items(self.workspace.items, answer["items"], by_worker=False)
        has_lines = not (self._stage.spec.builtin == "copy" and input.format == "fixed")
        name = output.relative_to(self.workspace.output).as_posix()
        stored = await outputs.put_output(output, self._header_bytes(input, answer), lines=has_lines, name=name)
        return TaskOutput(stored, records=answer.get("records_out") if stored else None)

    def _header_bytes(self, input: FetchedInput, answer: Mapping[str, Any]) -> int | None:
        """The length of the output's header in bytes; None: its first line."""
        if self._stage.spec.output_format == "csv":
            return answer.get("header_bytes")
        return input.header_bytes if self._stage.spec.builtin == "copy" else 0

    async def put_log(self) -> None:
        location = self._equipment.layout.log(*self.key)
        bytes_max = self._equipment.log_bytes_max
        if await put_log(self._equipment.s3, self.workspace, location, bytes_max, self._mask):
            self.finished.log = location.uri


async def _own(text: str) -> str:
    return text


def masked_error(mask: Mask, type: str, message: str, raised: dict[str, Any] | None = None) -> dict[str, Any]:
    """An attempt's error, as it is reported."""
    error: dict[str, Any] = {"type": type, "message": storable(mask.text(message))}
    if raised is not None:
        error["raised"] = mask.value(raised | {"traceback": storable(raised["traceback"])})
    return error


async def acquit(
    equipment: Equipment,
    finished: AttemptReport,
    began: float,
    *,
    node_fault: str | None = None,
    doubtful: bool = False,
    mask: Mask = NOTHING,
) -> None:
    """Release an attempt that has failed because of its node. `doubtful`: that may be why its program did not start."""
    if finished.outcome != "failed":
        return
    found = await equipment.health.find_fault(began)
    if fault := node_fault or found or (doubtful and await _child_fault(equipment)):
        release(finished, mask.text(fault), equipment.losses_max)


async def _child_fault(equipment: Equipment) -> str | None:
    """Why a child that belongs to no task can't do a job here either."""
    try:
        await do_a_job(equipment.cells, equipment.packages.own.environment, View())
    except (IsolationUnusable, TaskError, OSError) as error:
        return f"no child can work here: {error}"
    return None


def release(finished: AttemptReport, fault: str, losses_max: int) -> None:
    """Make this the report of an attempt that the node could not run."""
    finished.outcome, finished.retryable, finished.losses_max = "released", True, losses_max
    before = f"; the attempt failed: {finished.error['message']}" if finished.error else ""
    finished.error = {"type": "node_unfit", "message": storable(f"the worker's node is unfit: {fault}{before}")}


def naming_objects(error: Mapping[str, str], input: FetchedInput, declared: Mapping[Path, str]) -> str:
    """The error's message with declared objects in place of their files; about the input, with the input's object."""
    message = error["message"]
    for path, uri in declared.items():
        message = message.replace(str(path), uri)
    source = input.source["uri"] if input.source else ""
    names_one = source in message or message != error["message"]
    return message if names_one or error["type"] != "input_invalid" else f"{source}: {message}"
