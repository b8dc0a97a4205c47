"""A batch script as a job: one stage, whose processor runs the script on each number of its array."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from piecework.arrays import parse_array
from piecework.slurm.script import BatchScript, parse_dependency, parse_export, parse_memory, parse_minutes

T = TypeVar("T")

TIMEOUT_SECONDS_MAX = 604_800  # of a stage

_HERE = Path(__file__).parent
_WRITES_ONE_FILE = re.compile(r"%\d*[ajJ]")  # what tells the tasks of an array apart


@dataclass(frozen=True)
class BatchJob:
    """What a script becomes: its job but for the processor, the processor, the files of its package, and remarks."""

    name: str
    spec: dict[str, Any]
    processor: dict[str, Any]
    files: dict[str, Path | bytes]
    remarks: list[str] = field(default_factory=list)


def batch_job(
    script: BatchScript,
    arguments: Sequence[str],
    *,
    pools: Collection[str],
    environment: Mapping[str, str],
    exported: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> BatchJob:
    """Raises InputError, which names the line, for an option that can't be followed.

    `pools` are the grid's; `environment` is where the script's --export finds the variables that it only names;
    `exported` are further variables; `directory` holds files that the script finds in its working directory.
    """
    return _Reading(script, pools, environment).job(arguments, exported or {}, directory)


class _Reading:
    """A script whose options are turned into a job, one by one."""

    def __init__(self, script: BatchScript, pools: Collection[str], environment: Mapping[str, str]) -> None:
        self._script = script
        self._pools = pools
        self._environment = environment
        self._remarks: list[str] = []

    def job(self, arguments: Sequence[str], exported: Mapping[str, str], directory: Path | None) -> BatchJob:
        title = self._value("job-name") or PurePosixPath(self._script.name).name
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip("-._")[:90] or "batch"
        array, running_max = self._parsed("array", parse_array) or ({"type": "range", "count": 1}, None)
        limits = {"running_max": running_max, "timeout_seconds": self._seconds(), "memory_bytes": self._bytes()}
        stage = {**limits, "pool": self._pool()}
        stage = {option: value for option, value in stage.items() if value is not None}
        task = self._task(title, arguments, exported)
        after = self._parsed("dependency", parse_dependency)
        self._remark_on_the_rest(directory)
        return BatchJob(
            name,
            {
                "name": name,
                "input": array,
                "stages": [{**stage, "retry": {"max_attempts": 1}}],
                "merge": {"type": "concat", "filename": f"{name}.tar"},
                **({"after": after} if after else {}),
            },
            {"command": ["python3", "{package}/task.py", "{output}"], "output": "files.tar"},
            self._files(task, directory),
            self._remarks,
        )

    def _value(self, option: str) -> str | None:
        given = self._script.options.get(option)
        return given and given.value

    def _parsed(self, option: str, parse: Callable[[str], T]) -> T | None:
        value = self._value(option)
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            self._script.refuse(option, str(error))

    def _number(self, option: str) -> int:
        return self._parsed(option, _whole) or 1

    def _remark(self, option: str, remark: str) -> None:
        value, line = self._script.options[option]
        self._remarks.append(f"{self._script.name}:{line}: --{option}={value}: {remark}")

    def _seconds(self) -> float | None:
        seconds = self._parsed("time", lambda text: parse_minutes(text) or TIMEOUT_SECONDS_MAX)
        if seconds is not None and seconds > TIMEOUT_SECONDS_MAX:
            self._script.refuse("time", "a task may take 7 days at most; write 7-00:00:00 or less")
        return seconds

    def _bytes(self) -> int | None:
        """The limit of the whole script; 0 stands for all that there is."""
        per_cpu = self._parsed("mem-per-cpu", parse_memory)
        if "mem" in self._script.options or per_cpu is None:
            return self._parsed("mem", parse_memory) or None
        return per_cpu * self._number("cpus-per-task") * self._tasks() or None

    def _tasks(self) -> int:
        """How many processes `srun` starts."""
        nodes = self._value("nodes")
        if nodes is not None and nodes not in ("1", "1-1"):
            self._script.refuse("nodes", "a task has one node; write --nodes=1, or make its parts tasks of an array")
        return self._number("ntasks") if "ntasks" in self._script.options else self._number("ntasks-per-node")

    def _pool(self) -> str | None:
        """The partition that is a pool of this grid, if there is one."""
        partitions = (self._value("partition") or "").split(",")
        found = next((name for name in partitions if name in self._pools), None)
        if found is None and self._value("partition"):
            pools = ", ".join(sorted(self._pools))
            self._remark("partition", f"not a pool of this grid (pools: {pools}); --pool chooses one, default is taken")
        return found

    def _task(self, title: str, arguments: Sequence[str], exported: Mapping[str, str]) -> dict[str, Any]:
        """What task.py reads."""
        tasks, cpus = self._tasks(), self._value("cpus-per-task")
        named = self._parsed("export", lambda text: parse_export(text, self._environment)) or {}
        environment = {**named, **exported}
        environment |= {"SLURM_JOB_NAME": title, "SLURM_NTASKS": str(tasks), "SLURM_NPROCS": str(tasks)}
        environment["SLURM_TASKS_PER_NODE"] = str(tasks)
        if cpus is not None:
            environment["SLURM_CPUS_PER_TASK"] = str(self._number("cpus-per-task"))
        if tasks * self._number("cpus-per-task") > 1:
            option = "cpus-per-task" if self._number("cpus-per-task") > 1 else "ntasks"
            option = option if option in self._script.options else "ntasks-per-node"
            self._remark(option, "cores are not reserved; take a --pool whose slots have as many")
        default = "slurm-%A_%a.out" if "array" in self._script.options else "slurm-%j.out"
        output = self._pattern("output", default)
        return {
            "environment": environment,
            "array": "array" in self._script.options,
            "arguments": list(arguments),
            "output": output,
            "error": self._pattern("error", output),
        }

    def _pattern(self, option: str, default: str | None) -> str | None:
        """A file name in the task's working directory; None: the log alone."""
        value = self._value(option)
        if value is None:
            return default
        if value in ("/dev/null", "none"):
            return None
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or value.startswith("~"):
            self._remark(option, f"becomes {path.name} among the task's files")
            value = path.name
        if "array" in self._script.options and not _WRITES_ONE_FILE.search(value):
            self._remark(option, "is one name for all tasks: unpacked, the last one's file stays; write %a into it")
        return value

    def _remark_on_the_rest(self, directory: Path | None) -> None:
        if self._value("chdir") not in (None, "."):
            self._remark("chdir", "a task has a working directory of its own; --directory DIR puts files into it")
        if "export" in self._script.options and "ALL" in (self._value("export") or "").split(","):
            self._remark("export", "a task has its node's environment, not this shell's; NAME or NAME=VALUE adds to it")
        if directory is None and (named := self._files_named()):
            left = f"{', '.join(named[:3])}{', …' if named[3:] else ''}"
            remark = f"names {left}, which stays here; --directory DIR takes the files of a directory along"
            self._remarks.append(f"{self._script.name}: {remark}")
        if "time" not in self._script.options:
            self._remarks.append(f"{self._script.name}: without --time a task may take an hour")
        if self._script.without_effect:
            listed = ", ".join(f"--{option} (line {line})" for option, line in self._script.without_effect.items())
            self._remarks.append(f"{self._script.name}: without effect here: {listed}")

    def _files_named(self) -> list[str]:
        """Relative paths in the script of files that are there now, as `sbatch` would find them from here."""
        words = sorted(set(re.findall(r"[\w.][\w./-]*", self._script.text)))
        return [word for word in words if Path(word).is_file() and Path(word) != Path(self._script.name)]

    def _files(self, task: dict[str, Any], directory: Path | None) -> dict[str, Path | bytes]:
        from piecework.packing import files_of

        files: dict[str, Path | bytes] = {
            "job.json": json.dumps(task, indent=2).encode(),
            "script": self._script.text.encode(errors="surrogateescape"),
            "srun.py": _HERE / "srun.py",
            "task.py": _HERE / "task.py",
        }
        beside = files_of(directory) if directory is not None else {}
        return files | {f"files/{name}": path for name, path in beside.items()}


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("write a whole number from 1")
    return int(text)
