"""What a child is told when a session begins: all that its tasks share."""

from collections.abc import Mapping

from services.engine.attempt import ClaimedTask, StageWork
from services.platform import tracing
from services.worker.child.job import SessionFiles, SessionJob
from services.worker.child.task_variables import task_variables
from services.worker.session.eligible import has_files
from services.worker.task.array_jobs import job_number
from services.worker.task.environment import source_variables, task_environment
from services.worker.task.packages import Runtime
from services.worker.task.paths import Paths, Workspace
from services.worker.task.share import Share
from services.worker.task.values import value_filename


def session_job(
    task: ClaimedTask,
    stage: StageWork,
    runtime: Runtime,
    secrets: Mapping[str, str],
    workspace: Workspace,
    share: Share,
) -> SessionJob:
    """For tasks of a stage, of which `task` is any."""
    spec, number = stage.spec, job_number(task.job_id, task.stage)
    overridden = {*spec.environment, *secrets}
    first = Workspace(workspace.directory / "1") if has_files(stage) else workspace  # of the task with token 1
    paths = Paths(first.directory / "input", first.output / spec.output, workspace.records, package=runtime.package)
    base = {**runtime.environment, "TMPDIR": str(first.tmp)}
    with tracing.within(stage.traceparent):
        environment = {
            **task_environment(base, task, stage, paths, directory=first.work, share=share),
            **secrets,
        }
    own = task_variables(task.job_id, number, task.index, task.index, task.attempt)
    if has_files(stage) and task.source is not None:
        own |= source_variables(task.source)
    for name in own.keys() - overridden:
        del environment[name]
    files: SessionFiles | None = None
    if has_files(stage):
        places = _places(environment, first)
        for name in places:
            del environment[name]
        files = {"output": spec.output, "requires_output": spec.requires_output, "places": places}
    return {
        "kind": "session",
        "directory": str(workspace.work),
        "environment": environment,
        "log": str(workspace.log),
        "function": spec.function or spec.callable or "",
        "params": stage.params,
        "files": files,
        "values": str(workspace.output),
        "filename": value_filename(stage),
        "tmp": str(workspace.tmp),
        "job_id": str(task.job_id),
        "job_number": number,
        "overridden": sorted(overridden),
        "memory_bytes_max": share.memory_of(stage.memory_bytes) // 2,  # as warm_children demands of a child
    }


def _places(environment: Mapping[str, str], first: Workspace) -> dict[str, str]:
    """The variables that name places in a task's own directory, and the places."""
    own = f"{first.directory}/"
    return {name: value.removeprefix(own) for name, value in environment.items() if value.startswith(own)}
