"""A batch script and the options in its `#SBATCH` lines.

https://slurm.schedmd.com/sbatch.html; lines are taken apart as `src/sbatch/opt.c` of Slurm does it.
"""

import argparse
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from piecework.errors import InputError

# Options that mean something here: name, and other spellings.
UNDERSTOOD = {
    "array": ["-a"],
    "chdir": ["-D", "--workdir"],
    "cpus-per-task": ["-c"],
    "dependency": ["-d"],
    "error": ["-e"],
    "export": [],
    "job-name": ["-J"],
    "mem": [],
    "mem-per-cpu": [],
    "nodes": ["-N"],
    "ntasks": ["-n"],
    "ntasks-per-node": ["--tasks-per-node"],
    "output": ["-o"],
    "partition": ["-p"],
    "time": ["-t"],
}

# Options without effect here, which do not change what the script does. A `?` marks those that need no value.
WITHOUT_EFFECT = {
    "account": ["-A"],
    "acctg-freq": [],
    "clusters": ["-M"],
    "comment": [],
    "contiguous?": [],
    "core-spec": ["-S"],
    "cores-per-socket": [],
    "cpu-bind": ["--cpu_bind"],
    "cpu-freq": [],
    "delay-boot": [],
    "distribution": ["-m"],
    "exclude": ["-x"],
    "exclusive?": [],
    "extra-node-info": ["-B"],
    "get-user-env?": [],
    "hint": [],
    "ignore-pbs?": [],
    "kill-on-invalid-dep": [],
    "mail-type": [],
    "mail-user": [],
    "mcs-label": [],
    "mem-bind": ["--mem_bind"],
    "mincpus": [],
    "network": [],
    "nice?": [],
    "no-kill?": ["-k"],
    "no-requeue?": [],
    "ntasks-per-core": [],
    "ntasks-per-socket": [],
    "open-mode": [],
    "overcommit?": ["-O"],
    "oversubscribe?": ["-s"],
    "parsable?": [],
    "priority": [],
    "profile": [],
    "propagate?": [],
    "qos": ["-q"],
    "quiet?": ["-Q"],
    "reboot?": [],
    "requeue?": [],
    "reservation": [],
    "sockets-per-node": [],
    "spread-job?": [],
    "switches": [],
    "thread-spec": [],
    "threads-per-core": [],
    "time-min": [],
    "tmp": [],
    "use-min-nodes?": [],
    "verbose?": ["-v"],
    "wait-all-nodes": [],
    "wait?": ["-W"],
    "wckey": [],
}

_NODES = "delete the line and name a pool whose nodes have it: --pool NAME"

# Options that the script may count on, and what to do instead.
REFUSED = {
    "bb": ["have the script fetch its data"],
    "bbf": ["have the script fetch its data"],
    "begin": ["delete the line and give --run-at TIME", "-b"],
    "constraint": [_NODES, "-C"],
    "container": ["run the container in the script"],
    "container-id": ["run the container in the script"],
    "cpus-per-gpu": [_NODES],
    "deadline": ["delete the line and limit an attempt by --time"],
    "export-file": ["set the variables in the script or by --export=NAME=VALUE"],
    "gid": ["tasks run as the worker's user: delete the line"],
    "gpu-bind": [_NODES],
    "gpu-freq": [_NODES],
    "gpus": [_NODES, "-G"],
    "gpus-per-node": [_NODES],
    "gpus-per-socket": [_NODES],
    "gpus-per-task": [_NODES],
    "gres": [_NODES],
    "gres-flags": [_NODES],
    "hold": ["delete the line, and pause the job: piecework jobs pause", "-H"],
    "input": ["read the file in the script", "-i"],
    "licenses": ["delete the line and let fewer tasks run at a time: --array 1-100%%5", "-L"],
    "mem-per-gpu": [_NODES],
    "nodefile": [_NODES, "-F"],
    "nodelist": [_NODES, "-w"],
    "prefer": [_NODES],
    "signal": ["nothing is signalled before a time limit: save what must be kept as you go"],
    "test-only": ["delete the line"],
    "tres-per-task": [_NODES],
    "uid": ["tasks run as the worker's user: delete the line"],
    "wrap": ["write the command into the script"],
}


class Given(NamedTuple):
    """An option's value and where the script gives it."""

    value: str
    line: int


@dataclass(frozen=True, slots=True)
class BatchScript:
    """A script's text, its options by name, and those that mean nothing here, with their lines."""

    name: str
    text: str
    options: dict[str, Given]
    without_effect: dict[str, int] = field(default_factory=dict)

    def refuse(self, option: str, why: str) -> NoReturn:
        """Raises InputError, which names the option's line."""
        value, line = self.options[option]
        raise InputError(f"{self.name}:{line}: --{option}={value}: {why}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser() -> _Parser:
    parser = _Parser(add_help=False, usage="")
    for marked, spellings in (UNDERSTOOD | WITHOUT_EFFECT | REFUSED).items():
        name = marked.removesuffix("?")
        options = [f"--{name}", *(one for one in spellings if one.startswith("-"))]
        kwargs = {"nargs": "?", "const": ""} if marked != name or name in ("hold", "test-only") else {}
        parser.add_argument(*options, dest=name, default=argparse.SUPPRESS, **kwargs)  # type: ignore[arg-type]
    return parser


def read_script(name: str, text: str) -> BatchScript:
    """Raises InputError for what is not a batch script, and for an option that can't be followed, with its line."""
    if not text.startswith("#!"):
        raise InputError(f"{name}:1: a batch script begins with its interpreter, such as #!/bin/bash")
    if "\r\n" in text:
        raise InputError(f"{name}: its lines end as in Windows; convert it, for example by dos2unix")
    script = BatchScript(name, text, {})
    without_effect = {marked.removesuffix("?") for marked in WITHOUT_EFFECT}
    parser = _parser()
    for line, words in _option_lines(name, text):
        for option, value in _parsed(parser, words, f"{name}:{line}").items():
            if option in REFUSED:
                raise InputError(f"{name}:{line}: --{option} can't be followed here; {REFUSED[option][0]}")
            if option in without_effect:
                script.without_effect[option] = line
            else:
                script.options[option] = Given(value, line)
    return script


def _option_lines(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """The words of each #SBATCH line before the script's first command, and the line's number."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith("#SBATCH"):
            try:
                words = shlex.split(line.removeprefix("#SBATCH"), comments=True)
            except ValueError as error:
                raise InputError(f"{name}:{number}: {str(error).lower()} in {line!r}") from error
            yield number, words
        elif line.strip() and not line.lstrip().startswith("#"):
            return


def _parsed(parser: _Parser, words: list[str], place: str) -> dict[str, str]:
    try:
        found, others = parser.parse_known_args(words)
    except ValueError as error:
        raise InputError(f"{place}: {error}") from error
    if others:
        raise InputError(f"{place}: {others[0]!r} is not an option of sbatch that is known here; delete it")
    return vars(found)


def parse_minutes(text: str) -> float | None:
    """Seconds of a time limit; None for no limit. Raises ValueError.

    https://slurm.schedmd.com/sbatch.html#OPT_time: `minutes`, `minutes:seconds`, `hours:minutes:seconds`,
    `days-hours`, `days-hours:minutes`, `days-hours:minutes:seconds`.
    """
    if text.lower() in ("0", "-1", "infinite", "unlimited"):
        return None
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a time; write minutes, HH:MM:SS or D-HH:MM:SS")
    days, first, second, third = (None if part is None else int(part) for part in found.groups())
    hours, minutes, seconds = (first, second, third) if days is not None or third is not None else (0, first, second)
    return float((days or 0) * 86_400 + (hours or 0) * 3600 + (minutes or 0) * 60 + (seconds or 0))


def parse_memory(text: str) -> int:
    """Bytes of `4000` (MiB), `16G`, `16GB`, `512k`; all 1024 based. Raises ValueError.

    https://slurm.schedmd.com/sbatch.html#OPT_mem
    """
    found = re.fullmatch(r"(\d+)\s*([KMGTP]?)B?", text.strip(), re.I)
    if found is None:
        raise ValueError(f"{text!r} is not a size; write 4000 (MiB), 16G or 512M")
    return int(found[1]) * int(1024 ** ("KMGTP".index(found[2].upper()) + 1 if found[2] else 2))


_CONDITIONS: dict[str, dict[str, Any]] = {
    "afterok": {"condition": "succeeded"},
    "afterany": {"condition": "any"},
    "aftercorr": {"by_index": True},
}


def parse_dependency(text: str) -> list[dict[str, Any]]:
    """The jobs that `afterok:JOB_ID:JOB_ID,afterany:JOB_ID` waits for, as `after` of a job. Raises ValueError.

    https://slurm.schedmd.com/sbatch.html#OPT_dependency
    """
    after = []
    for part in text.split(","):
        kind, *job_ids = part.strip().split(":")
        if kind not in _CONDITIONS or not all(job_ids) or not job_ids or "?" in part:
            kinds = "afterok:JOB_ID, afterany:JOB_ID or aftercorr:JOB_ID"
            raise ValueError(f"write {kinds}, several with a comma: all of them must hold")
        after += [{"job_id": job_id, **_CONDITIONS[kind]} for job_id in job_ids]
    return after


def parse_export(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that `--export` names, as it sets them or from `environment`.

    ALL and NONE name none: the node has an environment of its own.
    """
    variables = {}
    for word in filter(None, re.split(r",(?=[A-Za-z_]\w*(?:=|,|$))", text)):
        name, separator, value = word.partition("=")
        if separator:
            variables[name] = value
        elif name.upper() not in ("ALL", "NONE", "NIL") and name in environment:
            variables[name] = environment[name]
    return variables
