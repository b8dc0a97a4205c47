"""Runs a batch script as one task of Piecework: goes along in the script's package, and needs Python 3.9 alone.

The working directory plays the directory of submission. What the script leaves there, with its output under the names
that it asked for, becomes a tar without an end mark: the tars of all tasks, joined, are one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
LEFT_SECONDS = 5.0  # what the script leaves running may hold its output open for as long

# Where Lmod and Environment Modules begin for login shells. A node without them has a stand-in, which only tells.
MODULES_START = ("/etc/profile.d/lmod.sh", "/etc/profile.d/modules.sh", "/usr/share/lmod", "/usr/share/modules")
MODULE = """#!/bin/sh
echo "$(basename "$0") $*: this node has no environment modules; what the script needs must be on its PATH" >&2
"""


def main(target: Path) -> int:
    """The script's exit code; its files are in `target` if it is 0."""
    job, directory = json.loads((HERE / "job.json").read_text()), Path.cwd()
    if (HERE / "files").is_dir():
        shutil.copytree(HERE / "files", directory, dirs_exist_ok=True)
        for path in (directory, *directory.rglob("*")):  # a package is read-only, and its copy must not be
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | stat.S_IWUSR)
    brought = {path: _stamp(path) for path in _files_in(directory)}
    with tempfile.TemporaryDirectory() as private:
        environment = _environment(job, Path(private))
        command = [*_interpreter(HERE / "script"), *job["arguments"]]
        output, error = (_fill(job[stream], environment) for stream in ("output", "error"))
        code = _run(command, environment, output, error)
    if code == 0:
        _pack([path for path in _files_in(directory) if brought.get(path) != _stamp(path)], directory, target)
    return code


def _environment(job: dict[str, Any], private: Path) -> dict[str, str]:
    """The task's, with what the script asked for; with an array's variables only if it is one."""
    tools, temporary = private / "bin", private / "tmp"
    tools.mkdir()
    temporary.mkdir()
    environment = {**os.environ, **job["environment"], "SLURM_TMPDIR": str(temporary)}
    if not job["array"] and environment.get("PIECEWORK_TASK_COUNT") == "1":
        environment = {name: value for name, value in environment.items() if not name.startswith("SLURM_ARRAY_")}
    texts = {"srun": f'#!/bin/sh\nexec "{sys.executable}" "{HERE / "srun.py"}" "$@"\n'}
    if not any(Path(start).exists() for start in MODULES_START):
        texts.update(module=MODULE, ml=MODULE)
    for name, text in texts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o700)
        # A login shell sets PATH itself, but keeps functions.
        environment[f"BASH_FUNC_{name}%%"] = f'() {{ "{tools / name}" "$@"; }}'
    environment["PATH"] = f"{tools}{os.pathsep}{environment.get('PATH', os.defpath)}"
    return environment


def _interpreter(script: Path) -> list[str]:
    """The command that runs the script, as the kernel would read its first line."""
    with script.open(errors="surrogateescape") as file:
        words = file.readline()[2:].split(None, 1)
    return [*(word.strip() for word in words), str(script)]


def _fill(pattern: str | None, environment: dict[str, str]) -> Path | None:
    """Where output goes; None: into the log alone. https://slurm.schedmd.com/sbatch.html#SECTION_FILENAME-PATTERN"""
    if pattern is None:
        return None
    number, job = environment.get("SLURM_ARRAY_TASK_ID", "0"), environment["SLURM_JOB_ID"]
    values = {
        "A": environment.get("SLURM_ARRAY_JOB_ID", job),
        "a": number,
        "b": str(int(number) % 10),
        "j": job,
        "J": job,
        "N": environment["SLURMD_NODENAME"].split(".")[0],
        "n": "0",
        "s": "batch",
        "t": "0",
        "u": environment.get("USER", "piecework"),
        "x": environment["SLURM_JOB_NAME"],
        "%": "%",
    }

    def value_of(match: re.Match[str]) -> str:
        value = values.get(match[2], match[0])
        return value.zfill(min(int(match[1]), 10)) if match[1] and value.isdigit() else value

    return Path(re.sub(r"%(\d*)([A-Za-z%])", value_of, pattern))


def _run(command: list[str], environment: dict[str, str], output: Path | None, error: Path | None) -> int:
    """The script's exit code. All that it prints goes to the task's log, too."""
    pipe, together = subprocess.PIPE, error == output
    try:
        script = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=subprocess.STDOUT if together else pipe,
        )
    except OSError as failure:
        print(f"{command[0]}: {failure.strerror}", file=sys.stderr)
        return 127
    streams = [(script.stdout, output, sys.stdout.buffer)]
    if not together:
        streams.append((script.stderr, error, sys.stderr.buffer))
    copies = [threading.Thread(target=_copy, args=stream, daemon=True) for stream in streams]
    for thread in copies:
        thread.start()
    code = script.wait()
    for thread in copies:
        thread.join(LEFT_SECONDS)
    return code if code >= 0 else 128 - code


def _copy(source: IO[bytes], path: Path | None, log: IO[bytes]) -> None:
    """To the log, and to the file, until the source ends."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    with (path or Path(os.devnull)).open("ab") as file:
        while chunk := os.read(source.fileno(), 65_536):
            for sink in (file, log):
                sink.write(chunk)
                sink.flush()


def _files_in(directory: Path) -> list[Path]:
    """All files and links below, sorted."""
    return sorted(path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _pack(paths: list[Path], directory: Path, target: Path) -> None:
    """The files as a tar that ends with the last of them."""
    with target.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in paths:
            archive.add(path, path.relative_to(directory), recursive=False, filter=_nobodys)
        end = archive.offset
    os.truncate(target, end)


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without the worker's user; None for a socket and the like."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry if entry.isfile() or entry.islnk() or entry.issym() else None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
