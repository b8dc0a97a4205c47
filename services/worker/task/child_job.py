"""The job (child/job) that a child gets for a task."""

from collections.abc import Mapping

import orjson

from services.contract.task_input import ObjectGroup, Outputs, TaskInput
from services.contract.task_output import ListedOutput
from services.engine.attempt import ClaimedTask, StageWork
from services.inputs.fetched import FetchedInput
from services.inputs.places import Source
from services.worker.child.job import ChildJob, ReadingJob, RecordInput, RejectsOrigin, TaskJob
from services.worker.task.environment import task_environment
from services.worker.task.inputs import input_filename
from services.worker.task.paths import Paths, Workspace
from services.worker.task.placeholders import command_arguments
from services.worker.task.share import Share
from services.worker.task.values import is_by_value, value_of


def child_job(
    task: ClaimedTask,
    stage: StageWork,
    *,
    environment: Mapping[str, str],
    secrets: Mapping[str, str],
    workspace: Workspace,
    input: FetchedInput,
    paths: Paths,
    share: Share,
) -> ChildJob:
    """Raises TaskError (processor_load) if a placeholder of the command has no value, or one that it may not have."""
    job: TaskJob = {
        "directory": str(workspace.work),
        "environment": {
            **task_environment(
                {**environment, "TMPDIR": str(workspace.tmp)}, task, stage, paths, directory=workspace.work, share=share
            ),
            **secrets,
        },
        "log": str(workspace.log),
        "input": str(paths.input),
        "output": str(paths.output),
        "steps": input.steps,
        "checks": input.checks,
        "params": stage.params,
        "paths": {name: str(path) for name, path in [*paths.inputs.items(), *paths.outputs.items()]},
        "items": str(workspace.items) if stage.fan_out and not stage.spec.output_directory else None,
    }
    spec = stage.spec
    if spec.image is not None:
        return {**job, "kind": "prepare"}
    if spec.command is not None:
        arguments = command_arguments(spec, paths=paths, index=task.index, params=stage.params)
        return {**job, "kind": "command", "arguments": arguments, "records": str(paths.records)}
    if spec.callable is not None:
        return {**job, "kind": "callable", "function": spec.callable}
    if spec.builtin == "copy":
        return {**job, "kind": "copy"}
    records: RecordInput = {
        **job,
        "format": input.format,
        "options": input.options,
        "declared_columns": stage.columns,
    }
    if spec.function is not None:
        by_value = is_by_value(task, stage)
        value = value_of(task) if by_value else None
        return {**records, "kind": "function", "function": spec.function, "by_value": by_value, "value": value}
    reading: ReadingJob = {
        **records,
        "rejects": str(workspace.rejects),
        "rejects_max": stage.rejects_max,
        "task": _rejects_origin(task, input, workspace),
    }
    if spec.records is not None:
        return {**reading, "kind": "records", "function": spec.records, "output_format": spec.output_format}
    return {
        **reading,
        "kind": "sql",
        "query": spec.sql or "SELECT * FROM input",
        "found_columns": stage.found_columns,
        "output_format": "compact" if spec.builtin == "compact" else spec.output_format,
        "inputs": {name: str(path) for name, path in paths.inputs.items()},
        "spill": str(workspace.spill),
        "memory_bytes": share.memory_of(stage.memory_bytes),
        "threads": 1 if spec.builtin == "compact" else share.threads,
    }


def collect_job(prepared: TaskJob, workspace: Workspace, paths: Paths, exit_code: int) -> ChildJob:
    """What a child does for the task of a `prepare` job after its container has ended with this code."""
    job: TaskJob = {**prepared, "directory": str(workspace.directory), "steps": [], "checks": []}
    return {**job, "kind": "collect", "exit_code": exit_code, "records": str(paths.records)}


def _rejects_origin(task: ClaimedTask, input: FetchedInput, workspace: Workspace) -> RejectsOrigin:
    sources = _sources(task.input, input, workspace)
    origin: RejectsOrigin = {"stage": task.stage, "index": task.index, "sources": sources}
    if task.source is not None and all(source["uri"] != task.source.uri for source in sources.values()):
        origin["input"] = task.source.uri
    return origin


def _sources(value: TaskInput, input: FetchedInput, workspace: Workspace) -> dict[str, Source]:
    """For each of the input's files, the object that it is (a part of): its URI and, if known, the byte in it."""
    match value:
        case ObjectGroup(objects):
            listed = [(number, object_.location.uri) for number, object_ in enumerate(objects)]
        case Outputs():
            with workspace.listing.open("rb") as lines:  # the worker has made it, before any of the task's code runs
                outputs = [ListedOutput.from_json(orjson.loads(line)) for line in lines]
            listed = [(output.index, output.location.uri) for output in outputs if output.location]
        case _:
            return {input.path.name: input.source} if input.source else {}
    return {input_filename(number, uri): {"uri": uri, "byte": 0} for number, uri in listed}
