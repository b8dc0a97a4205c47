"""What the child is told to do for a task: the JSON object that services.worker.child.program reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from services.contract.task_input import ObjectGroup, Outputs, TaskInput
from services.engine.attempt import ClaimedTask, StageWork
from services.inputs.fetched import FetchedInput
from services.worker.task.environment import task_environment
from services.worker.task.inputs import input_filename
from services.worker.task.paths import Paths, Workspace
from services.worker.task.placeholders import fill_placeholders


@dataclass(frozen=True, slots=True)
class Share:
    """What a slot has of its node."""

    threads: int
    memory_bytes: int


def child_job(
    task: ClaimedTask,
    stage: StageWork,
    *,
    environment: Mapping[str, str],
    workspace: Workspace,
    input: FetchedInput,
    paths: Paths,
    share: Share,
) -> dict[str, Any]:
    """Raises TaskError (processor_load) for a command with a placeholder that stands for nothing."""
    return {
        "directory": str(workspace.work),
        "environment": task_environment(environment, task, stage, paths),
        "log": str(workspace.log),
        "input": str(paths.input),
        "output": str(paths.output),
        "steps": input.steps,
        "checks": input.checks,
        "params": stage.params,
        "paths": {name: str(path) for name, path in [*paths.inputs.items(), *paths.outputs.items()]},
        "items": str(workspace.items) if stage.fan_out and not stage.spec.output_directory else None,
        **_by_kind(task, stage, workspace, input, paths, share),
    }


def _by_kind(
    task: ClaimedTask, stage: StageWork, workspace: Workspace, input: FetchedInput, paths: Paths, share: Share
) -> dict[str, Any]:
    spec = stage.spec
    if spec.command is not None:
        arguments = fill_placeholders(spec.command, paths=paths, index=task.index, params=stage.params)
        return {"kind": "command", "arguments": arguments, "records": str(paths.records)}
    if spec.callable is not None:
        return {"kind": "callable", "function": spec.callable}
    if spec.records is not None:
        return {
            "kind": "records",
            "function": spec.records,
            "output_format": spec.output_format,
            **_reading(task, stage, workspace, input),
        }
    if spec.sql is not None or spec.builtin == "compact":
        return {
            "kind": "sql",
            "query": spec.sql or "SELECT * FROM input",
            "output_format": "compact" if spec.builtin == "compact" else spec.output_format,
            "inputs": {name: str(path) for name, path in paths.inputs.items()},
            "spill": str(workspace.spill),
            "memory_bytes": stage.memory_bytes or share.memory_bytes,
            "threads": 1 if spec.builtin == "compact" else share.threads,
            **_reading(task, stage, workspace, input),
        }
    return {"kind": "copy"}


def _reading(task: ClaimedTask, stage: StageWork, workspace: Workspace, input: FetchedInput) -> dict[str, Any]:
    """How the records of the input are read, and where those go that can't be."""
    return {
        "format": input.format,
        "options": input.options,
        "rejects": str(workspace.rejects),
        "rejects_max": stage.rejects_max,
        "task": {"stage": stage.stage, "index": task.index, "sources": _sources(task.input, input, workspace)},
    }


def _sources(value: TaskInput, input: FetchedInput, workspace: Workspace) -> dict[str, Any]:
    """The object that each of the input's files is (a part of): its URI, and at which byte, if it can be told."""
    match value:
        case ObjectGroup(objects):
            listed = [(number, object_.location.uri) for number, object_ in enumerate(objects)]
        case Outputs():
            with workspace.listing.open("rb") as lines:
                listed = [(line["index"], line["uri"]) for line in map(orjson.loads, lines) if "uri" in line]
        case _:
            return {input.path.name: input.source} if input.source else {}
    return {input_filename(number, uri): {"uri": uri, "byte": 0} for number, uri in listed}
