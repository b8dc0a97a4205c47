"""`srun` of a batch script that runs as a task of Piecework: it runs its command on the task's node, once.

It goes along in the script's package, and needs Python 3.9 alone. https://slurm.schedmd.com/srun.html
"""

from __future__ import annotations

import os
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
    """Become the command. Several tasks are refused: without Slurm, those of MPI programs would not find each other."""
    given, command = read(arguments)
    nodes, tasks = given.get("--nodes", "1"), given.get("--ntasks", os.environ.get("SLURM_NTASKS", "1"))
    if nodes not in ("1", "1-1"):
        refuse(f"--nodes={nodes}: a task of Piecework has one node")
    if tasks != "1":
        refuse(f"{tasks} tasks: start the processes by mpirun -n {tasks}, or make them tasks of an array")
    if not command:
        refuse("there is no command to run")
    try:
        os.execvpe(command[0], command, {**os.environ, "SLURM_STEP_ID": "0"})
    except OSError as error:
        print(f"srun: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127


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


def refuse(why: str) -> NoReturn:
    print(f"srun: {why}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
