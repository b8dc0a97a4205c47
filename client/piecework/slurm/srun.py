"""`srun` of a batch script that runs as a task of Piecework: its steps run on the task's node.

It goes along in the script's package, and needs Python 3.9 alone. https://slurm.schedmd.com/srun.html
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NoReturn

# Without a value. All other options have one, in the same word or the next.
FLAGS = {
    *("-E", "-K", "-k", "-l", "-O", "-Q", "-q", "-s", "-u", "-v", "-X", "--contiguous", "--disable-status", "--exact"),
    *("--exclusive", "--interactive", "--kill-on-bad-exit", "--label", "--no-kill", "--overcommit", "--overlap"),
    *("--oversubscribe", "--preserve-env", "--pty", "--quiet", "--quit-on-interrupt", "--spread-job", "--unbuffered"),
    *("--use-min-nodes", "--verbose"),
}

# They would change what runs, where it runs, or where its output goes.
REFUSED = {
    *("-d", "--dependency", "-e", "--error", "-G", "--gpus", "-i", "--input", "-o", "--output", "-r", "--relative"),
    *("-w", "--nodelist", "--bcast", "--container", "--gpus-per-task", "--gres", "--het-group", "--multi-prog"),
}


def main(arguments: list[str]) -> int:
    """Run the command as often as there are tasks, at the same time; the greatest exit code."""
    given, command = read(arguments)
    nodes = given.get("--nodes", "1")
    if nodes not in ("1", "1-1"):
        refuse(f"--nodes={nodes}: a task of Piecework has one node")
    tasks = given.get("--ntasks", os.environ.get("SLURM_NTASKS", "1"))
    if not tasks.isdigit() or tasks == "0":
        refuse(f"--ntasks={tasks}: write a whole number from 1")
    if not command:
        refuse("there is no command to run")
    try:
        steps = [_start(command, number, tasks) for number in range(int(tasks))]
    except OSError as error:
        print(f"srun: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    codes = [step.wait() for step in steps]
    return max(code if code >= 0 else 128 - code for code in codes)


def read(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """The options that count, by their long names, and the command."""
    given, at = {}, 0
    while at < len(arguments) and arguments[at].startswith("-"):
        word = arguments[at]
        at += 1
        if word == "--":
            break
        name, separator, value = word.partition("=") if word.startswith("--") else (word[:2], word[2:], word[2:])
        if name in REFUSED:
            refuse(f"{name} can't be followed here; leave it out")
        if name not in FLAGS:
            if not separator:
                value = arguments[at] if at < len(arguments) else ""
                at += 1
            given[{"-n": "--ntasks", "-N": "--nodes"}.get(name, name)] = value
    return given, arguments[at:]


def _start(command: list[str], number: int, tasks: str) -> subprocess.Popen[bytes]:
    place = {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number), "SLURM_NTASKS": tasks, "SLURM_STEP_ID": "0"}
    return subprocess.Popen(command, env={**os.environ, **place})


def refuse(why: str) -> NoReturn:
    print(f"srun: {why}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
