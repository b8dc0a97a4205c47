"""A task's environment: its identity, in our variables and in those that existing array programs read."""

import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import orjson

from services.contract.source import TaskSource
from services.contract.task_input import ObjectGroup
from services.engine.attempt import ClaimedTask, StageWork
from services.platform.settings import WorkerSettings
from services.platform.tracing import current_traceparent
from services.worker.task.array_jobs import array_variables, node_variables
from services.worker.task.inputs import SOURCES
from services.worker.task.paths import Paths
from services.worker.task.share import Share
from services.worker.task.values import is_by_value

# What tasks inherit of the worker's environment: how programs speak, the way out, and the hardware. Those in containers
# find the programs and files of their image, not those of the node.
_INHERITED_ANYWHERE = (
    *("TZ", "LANG", "LC_*", "CUDA_VISIBLE_DEVICES", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
)
_INHERITED = (
    *_INHERITED_ANYWHERE,
    *("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR"),
    *("PYTHONHASHSEED", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
    *("*_NUM_THREADS", "NVIDIA_*", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
    *("MODULEPATH", "MODULESHOME", "LMOD_*"),
)
_FOR_INSTALLING = ("PIP_*", "UV_*")  # where packages come from


def base_environment(settings: WorkerSettings) -> dict[str, str]:
    """What all tasks get: an allow-list of the worker's own environment, and the processors' modules.

    `PIECEWORK_TASK_ENVIRONMENT` names more, such as AWS credentials. The worker's settings are never among it.
    """
    environment = _inherit((*_INHERITED, *_listed(settings)))
    own = [str(Path(directory).resolve()) for directory in settings.processor_path.split(":") if directory]
    inherited = [directory for directory in environment.get("PYTHONPATH", "").split(":") if directory]
    if own or inherited:
        environment["PYTHONPATH"] = ":".join(own + inherited)
    return environment | node_variables(settings.pool)


def container_environment(settings: WorkerSettings) -> dict[str, str]:
    """What all tasks in containers get, likewise."""
    return _inherit((*_INHERITED_ANYWHERE, *_listed(settings))) | node_variables(settings.pool)


def _listed(settings: WorkerSettings) -> list[str]:
    return [name.strip() for name in settings.task_environment.split(",")]


def installing_environment(base: Mapping[str, str]) -> dict[str, str]:
    """What the installation of a package's requirements gets: also the settings of pip and uv."""
    return {**base, **_inherit(_FOR_INSTALLING)}


def _inherit(patterns: Iterable[str]) -> dict[str, str]:
    """The worker's variables of these names, in which a * stands for anything."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PIECEWORK_") and any(fnmatchcase(name, pattern) for pattern in patterns)
    }


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
        "PIECEWORK_PARAMS": orjson.dumps(stage.params).decode(),
    }
    if stage.spec.function is None:
        identity |= {
            "PIECEWORK_INPUT": paths.input,
            "PIECEWORK_OUTPUT": paths.output,
            "PIECEWORK_RECORDS": paths.records,
        }
    if task.source is not None and not is_by_value(task, stage):
        identity |= source_variables(task.source)
    if isinstance(task.input, ObjectGroup):
        identity["PIECEWORK_INPUT_SOURCES"] = paths.records.with_name(SOURCES)
    memory_bytes = share.memory_of(stage.memory_bytes)
    identity |= {"SLURM_TMPDIR": base.get("TMPDIR", directory)}
    identity |= array_variables(task, stage, directory=directory, cpus=share.threads, memory_bytes=memory_bytes)
    identity |= {f"PIECEWORK_INPUT_{name.upper()}": path for name, path in paths.inputs.items()}
    identity |= {f"PIECEWORK_OUTPUT_{name.upper()}": path for name, path in paths.outputs.items()}
    if share.gpus is not None:
        identity["CUDA_VISIBLE_DEVICES"] = ",".join(share.gpus)
    if traceparent := current_traceparent():
        identity["TRACEPARENT"] = traceparent
    if paths.package is not None:
        identity["PIECEWORK_PACKAGE"] = paths.package
    return {**base, **{name: str(value) for name, value in identity.items()}, **stage.spec.environment}


def source_variables(source: TaskSource) -> dict[str, object]:
    """What of the job's input the task works on. A declared input of such a name has its path in this variable."""
    variables: dict[str, object] = {
        "PIECEWORK_INPUT_URI": source.uri,
        "PIECEWORK_INPUT_KEY": source.key,
        "PIECEWORK_INPUT_FILENAME": source.name,
        "PIECEWORK_INPUT_STEM": source.stem,
    }
    if source.part is not None:
        variables["PIECEWORK_INPUT_PART"] = source.part
    if source.objects is not None:
        variables["PIECEWORK_INPUT_OBJECTS"] = source.objects
    return variables
