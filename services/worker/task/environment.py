"""A task's environment: its identity, in our variables and in those that existing array programs read."""

import os
from collections.abc import Mapping
from pathlib import Path

import orjson

from services.engine.attempt import ClaimedTask, StageWork
from services.platform.settings import WorkerSettings
from services.worker.task.array_jobs import array_variables, node_variables
from services.worker.task.paths import Paths
from services.worker.task.share import Share


def base_environment(settings: WorkerSettings) -> dict[str, str]:
    """The worker's own environment, without its settings (they hold secrets) and with the processors' modules.

    AWS variables stay: on AWS, user code has the node's role anyway.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIECEWORK_")}
    own = [str(Path(directory).resolve()) for directory in settings.processor_path.split(":") if directory]
    inherited = [directory for directory in environment.get("PYTHONPATH", "").split(":") if directory]
    if own or inherited:
        environment["PYTHONPATH"] = ":".join(own + inherited)
    return environment | node_variables(settings.pool)


def task_environment(
    base: Mapping[str, str], task: ClaimedTask, stage: StageWork, paths: Paths, *, directory: Path, share: Share
) -> dict[str, str]:
    """The base, the task's identity and paths, and the variables of the processor's spec, which override all.

    The task starts in `directory`.
    """
    identity: dict[str, object] = {
        "PIECEWORK_JOB_ID": task.job_id,
        "PIECEWORK_JOB_NAME": stage.job_name,
        "PIECEWORK_STAGE": task.stage,
        "PIECEWORK_STAGE_NAME": stage.stage_name,
        "PIECEWORK_TASK_INDEX": task.index,
        "PIECEWORK_ATTEMPT": task.attempt,
        "PIECEWORK_INPUT": paths.input,
        "PIECEWORK_OUTPUT": paths.output,
        "PIECEWORK_RECORDS": paths.records,
        "PIECEWORK_PARAMS": orjson.dumps(stage.params).decode(),
    }
    memory_bytes = share.memory_of(stage.memory_bytes)
    identity |= {"SLURM_TMPDIR": base.get("TMPDIR", directory)}
    identity |= array_variables(task, stage, directory=directory, cpus=share.threads, memory_bytes=memory_bytes)
    identity |= {f"PIECEWORK_INPUT_{name.upper()}": path for name, path in paths.inputs.items()}
    identity |= {f"PIECEWORK_OUTPUT_{name.upper()}": path for name, path in paths.outputs.items()}
    if paths.package is not None:
        identity["PIECEWORK_PACKAGE"] = paths.package
    return {**base, **{name: str(value) for name, value in identity.items()}, **stage.spec.environment}
