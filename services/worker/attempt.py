"""One attempt of a task, from its input to what its worker reports of it."""

import asyncio
import errno
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from services.common.layout import Layout
from services.common.lifecycle import ClaimedTask, Finished, StageWork
from services.worker.child.errors import TaskError, describe
from services.worker.child_process import MemoryExceeded
from services.worker.environment import task_environment
from services.worker.inputs import Input, fetch_input, suffix_of
from services.worker.placeholders import fill_placeholders
from services.worker.scratch import remove_tree
from services.worker.task_log import hold_log_down, put_log
from services.worker.transfer import upload
from services.worker.warm_children import WarmChildren

log = structlog.get_logger()

# What the child's answer and Finished call by the same name.
_MEASURES = ("exit_code", "records_in", "records_out", "records_rejected", "cpu_seconds", "memory_bytes_peak")


@dataclass(frozen=True, slots=True)
class Equipment:
    """What all attempts of a node work with; `directory` is the node's own scratch directory."""

    s3: Any
    layout: Layout
    directory: Path
    environment: Mapping[str, str]
    log_bytes_max: int


async def run_attempt(equipment: Equipment, task: ClaimedTask, stage: StageWork, children: WarmChildren) -> Finished:
    """Run a task once, within its stage's timeout. Raises nothing but CancelledError, which kills what runs."""
    attempt = _Attempt(equipment, task, stage, children)
    started = time.monotonic()
    try:
        await attempt.run()
        await attempt.put_log()
    finally:
        await asyncio.to_thread(remove_tree, attempt.directory)
    attempt.finished.run_seconds = time.monotonic() - started
    return attempt.finished


class _Attempt:
    """An attempt's private directory holds its input, its log, `work` (where user code starts) and `output`."""

    def __init__(self, equipment: Equipment, task: ClaimedTask, stage: StageWork, children: WarmChildren) -> None:
        self._equipment = equipment
        self._task = task
        self._stage = stage
        self._children = children
        self._key = (task.job_id, task.stage, task.index, task.attempt)
        self.directory = equipment.directory / "-".join(map(str, self._key))
        self._log = self.directory / "log.txt"
        self._rejects = self.directory / "rejects.jsonl"
        self.finished = Finished(*self._key, outcome="failed", run_seconds=0.0)

    async def run(self) -> None:
        """Do the work; `finished` tells how it went."""
        finished = self.finished
        try:
            async with asyncio.timeout(self._stage.timeout_seconds) as timeout:
                await self._work()
            finished.outcome = "succeeded"
        except TaskError as error:
            finished.retryable, finished.exit_code = error.retryable, error.exit_code
            self._explain(error.type, error.message)
        except MemoryExceeded as error:
            finished.outcome, finished.memory_bytes_peak = "memory", error.memory_bytes
            self._explain("memory", str(error))
        except Exception as error:
            if timeout.expired():
                finished.outcome = "timeout"
                self._explain("timeout", f"did not end within timeout_seconds = {self._stage.timeout_seconds:g}")
            elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
                self._explain("disk_full", f"the worker's disk is full: {error}")
            else:
                job_id, stage, index, number = self._key
                log.exception("attempt broke", job=str(job_id), stage=stage, index=index, attempt=number)
                self._explain("exception", f"the worker broke: {describe(error)}")

    def _explain(self, type: str, message: str) -> None:
        """Postgres stores neither NUL characters nor lone surrogates."""
        text = message.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
        self.finished.error = {"type": type, "message": text}

    async def _work(self) -> None:
        work, outputs = self._make_directories()
        input = await fetch_input(self._equipment.s3, self._task, self.directory)
        self.finished.bytes_in = input.bytes
        output = outputs / self._output_name(input)
        answer = await self._ask_child(self._job(input, output, work))
        self._measure(answer)
        if error := answer.get("error"):
            raise TaskError(
                error["type"], error["message"], retryable=answer["retryable"], exit_code=answer["exit_code"]
            )
        self.finished.output = await self._put_outputs(input, output, answer)

    async def _ask_child(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Raises TaskError (crash) and MemoryExceeded."""
        processor = (self._stage.processor, self._stage.processor_version)
        holding = asyncio.create_task(hold_log_down(self._log, self._equipment.log_bytes_max))
        killed: dict[str, Any] = {}
        try:
            return await self._children.run(processor, job, self._stage.memory_bytes, killed)
        finally:
            holding.cancel()
            self._measure(killed)

    def _measure(self, measures: Mapping[str, Any]) -> None:
        for measure in _MEASURES:
            setattr(self.finished, measure, measures.get(measure, getattr(self.finished, measure)))

    def _make_directories(self) -> tuple[Path, Path]:
        self.directory.mkdir(mode=0o700)
        work, outputs = self.directory / "work", self.directory / "output"
        work.mkdir()
        outputs.mkdir()
        return work, outputs

    def _output_name(self, input: Input) -> str:
        """The spec's name; where we know the format and the name does not tell it, with a suffix that does."""
        spec = self._stage.spec
        if Path(spec.output).suffix:
            return spec.output
        if spec.records is not None:
            return f"{spec.output}.{spec.output_format}"
        if spec.builtin == "copy":
            return spec.output + suffix_of(input.path.name)
        return spec.output

    def _job(self, input: Input, output: Path, work: Path) -> dict[str, Any]:
        """What the child is to do; services.worker.child.program reads it."""
        spec, params = self._stage.spec, self._stage.params
        job: dict[str, Any] = {
            "directory": str(work),
            "environment": task_environment(self._equipment.environment, self._task, self._stage, input.path, output),
            "log": str(self._log),
            "input": str(input.path),
            "output": str(output),
            "extract": input.extract,
        }
        if spec.command is not None:
            arguments = fill_placeholders(
                spec.command, input=input.path, output=output, index=self._task.index, params=params
            )
            return job | {"kind": "command", "arguments": arguments}
        if spec.callable is not None:
            return job | {"kind": "callable", "function": spec.callable, "params": params}
        if spec.records is not None:
            return job | {
                "kind": "records",
                "function": spec.records,
                "params": params,
                "format": input.format,
                "output_format": spec.output_format,
                "rejects": str(self._rejects),
                "rejects_max": self._stage.rejects_max,
            }
        return job | {"kind": "copy"}

    async def _put_outputs(self, input: Input, output: Path, answer: Mapping[str, Any]) -> dict[str, Any] | None:
        """What tasks.output will say; None if the processor neither wrote nor returned anything."""
        result: dict[str, Any] = {}
        if _is_file(output):
            result |= await self._put(output)
            if self._stage.spec.records is not None:
                result["records"] = answer["records_out"]
            if self._stage.spec.output_format == "csv":
                header_bytes = answer.get("header_bytes")
                result["header_bytes"] = _first_line_bytes(output) if header_bytes is None else header_bytes
            elif self._stage.spec.builtin == "copy" and input.header_bytes:
                result["header_bytes"] = input.header_bytes
        if answer.get("records_rejected"):
            rejects = await self._put(self._rejects)
            result |= {"rejects": rejects["uri"], "rejects_bytes": rejects["bytes"]}
        if answer.get("value") is not None:
            result["value"] = answer["value"]
        return result or None

    async def _put(self, path: Path) -> dict[str, Any]:
        location = self._equipment.layout.attempt(*self._key, path.name)
        size = await upload(self._equipment.s3, path, location)
        self.finished.bytes_out += size
        return {"uri": location.uri, "bytes": size}

    async def put_log(self) -> None:
        location = self._equipment.layout.log(*self._key)
        if await put_log(self._equipment.s3, self._log, location, self._equipment.log_bytes_max):
            self.finished.log = location.uri


def _is_file(output: Path) -> bool:
    """False if there is nothing; raises TaskError (output_invalid) if it is something else."""
    if output.exists() and not output.is_file():
        raise TaskError("output_invalid", f"the output {output.name!r} is no regular file", retryable=False)
    return output.exists()


def _first_line_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return len(file.readline())
