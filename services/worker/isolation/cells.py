"""The cells that a node's children live in: a private directory, a user, a cgroup, and a task's way in and out.

A sandboxed child sees `node` of its private directory in place of the node's scratch directory. So a task's paths are
the same inside and outside: its files are moved in before it runs, and out before anybody else reads them. Elsewhere
they stay in place, and belong to the child's user meanwhile.

    {scratch}/c-…/node    the scratch directory inside; it holds HOME and the running task's own directory
    {scratch}/c-…/tmp     /tmp inside
    {scratch}/c-…/root    where the launcher builds the root
"""

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from services.contract.states import Isolation
from services.contract.task_error import TaskError
from services.worker.isolation import view as views
from services.worker.isolation.cgroups import Cgroup, Cgroups
from services.worker.isolation.errors import IsolationUnusable
from services.worker.isolation.plan import Plan, SandboxPlan
from services.worker.isolation.uids import Uids
from services.worker.isolation.view import View

_LAUNCH = (
    "import sys; sys.path.insert(0, {root!r}); from services.worker.isolation.launcher import launch; "
    "from services.worker.isolation.sandbox import execute; launch({plan!r}, lambda: execute({arguments!r}))"
)
_ROOT = str(Path(__file__).parents[3])


@dataclass(frozen=True, slots=True)
class Limits:
    """What one child and its programs may use."""

    processes_max: int = 4096
    file_bytes_max: int | None = None
    shared_memory_bytes: int = 1 << 30


class Cells:
    """Makes cells of one level below the node's scratch directory.

    `uids` are for a worker that is root. `readable` are the operator's further directories for all tasks.
    """

    def __init__(
        self,
        isolation: Isolation,
        directory: Path,
        *,
        uids: Uids | None = None,
        limits: Limits | None = None,
        readable: Sequence[str] = (),
        cgroups: Cgroups | None = None,
    ) -> None:
        self.isolation: Isolation = isolation
        self.directory = directory.resolve()
        self.limits = limits or Limits()
        self.readable = tuple(readable)
        self.takes_network = isolation != "process"  # from tasks whose processor says so
        self._uids = uids if isolation != "process" and os.geteuid() == 0 else None
        self._cgroups = cgroups if isolation != "process" else None
        if isolation == "uid":
            if self._uids is None:
                raise IsolationUnusable("only a worker that runs as root can run tasks as other users")
            directory.chmod(0o711)  # tasks may pass, and not look around

    def make(self, view: View, environment: Mapping[str, str]) -> "Cell":
        """A cell for a child that starts with this environment. Raises IsolationUnusable, TaskError and OSError."""
        if not view.network and not self.takes_network:
            raise TaskError(
                "processor_load",
                "the processor says network: false, and this worker can't take the network from its tasks: its "
                f"isolation is {self.isolation}; run it with PIECEWORK_ISOLATION=sandbox",
            )
        return Cell(
            self,
            view,
            environment,
            uid=self._uids.take() if self._uids else None,
            cgroup=self._cgroups.make() if self._cgroups else None,
        )

    def close(self, cell: "Cell") -> None:
        """Give back what only one living child can have."""
        if cell.uid is not None and self._uids is not None:
            self._uids.give_back(cell.uid)
        if cell.cgroup is not None and self._cgroups is not None:
            self._cgroups.end(cell.cgroup)


class Cell:
    """One child's. `tmp` and `home` are its TMPDIR and HOME as it sees them; without a `home`, it has the worker's."""

    def __init__(
        self, cells: Cells, view: View, environment: Mapping[str, str], *, uid: int | None, cgroup: Cgroup | None
    ) -> None:
        self.isolation: Isolation = cells.isolation
        self.uid = uid
        self.cgroup = cgroup
        self._cells = cells
        self._view = view
        self._environment = environment
        self.private = Path(tempfile.mkdtemp(prefix="c-", dir=cells.directory))
        self.tmp, self.home = self.private, self.private if self.isolation == "uid" else None
        if self.isolation == "sandbox":
            self.tmp, self.home = Path("/tmp"), cells.directory / "home"  # its own
            for name, mode in (("node", 0o755), ("node/home", 0o700), ("tmp", 0o1777), ("root", 0o755)):
                (self.private / name).mkdir()
                (self.private / name).chmod(mode)
        if uid is not None:
            in_sandbox = (self.private / "node" / "home", self.private / "tmp")
            for directory in (*((self.private,) if self.isolation == "uid" else in_sandbox), *view.writable):
                _give(directory, uid)

    @property
    def parent(self) -> int:
        """The process id of the child's parent as the child sees it."""
        return 1 if self.isolation == "sandbox" else os.getpid()

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line that starts a program in this cell."""
        plan = self.plan()
        if plan is None:
            return list(arguments)
        launch = _LAUNCH.format(root=_ROOT, plan=plan, arguments=list(arguments))
        return [sys.executable, "-I", "-S", "-c", launch]

    def plan(self) -> Plan | None:
        """How a program starts in this cell; None: as the worker itself would start it."""
        if self.isolation == "process":
            return None
        limits = self._cells.limits
        if self.cgroup is not None:
            self.cgroup.limit_processes(limits.processes_max)
        return {
            "worker": os.getpid(),
            "cgroup": str(self.cgroup.directory) if self.cgroup else None,
            "uid": self.uid,
            "network": self._view.network,
            "processes_max": limits.processes_max,
            "file_bytes_max": limits.file_bytes_max,
            "sandbox": self._sandbox() if self.isolation == "sandbox" else None,
        }

    def _sandbox(self) -> SandboxPlan:
        node = str(self._cells.directory)
        return {
            "base": str(self.private / "root"),
            "readable": views.readable_places(self._view, self._environment, self._cells.readable),
            "writable": [
                (str(self.private / "node"), node),
                (str(self.private / "tmp"), "/tmp"),  # its own
                *((str(path), str(path)) for path in self._view.writable),
            ],
            "links": views.links(),
            "files": _accounts(os.geteuid() if self.uid is None else self.uid, self.home),
            "devices": views.devices(),
            "shared_memory_bytes": self._cells.limits.shared_memory_bytes,
        }

    def give(self, directory: Path) -> "Given":
        """Let the child have this directory of a task, with all that is in it, until `take_back`. Raises OSError."""
        inside = self.private / "node" / directory.name if self.isolation == "sandbox" else directory
        if self.uid is not None:
            _give(directory, self.uid)
        given = Given(directory, inside, _identity(directory))
        if inside != directory:
            directory.rename(inside)
        return given

    def take_back(self, given: "Given") -> None:
        """Raises TaskError if the directory is not the same any more: output_invalid, or node_unfit if it has gone.

        A child of another user could not remove it, as it lies in a directory of the worker's: somebody else has.
        """
        if self.uid is not None and not os.path.lexists(given.inside):
            raise TaskError("node_unfit", "the task's directory was removed while it ran")
        if _identity(given.inside) != given.identity:
            raise TaskError("output_invalid", "the task has replaced its own directory", retryable=False)
        if given.inside != given.directory:
            given.inside.rename(given.directory)
        if self.uid is not None:
            os.chown(given.directory, os.geteuid(), os.getegid(), follow_symlinks=False)
            given.directory.chmod(0o700)

    def close(self) -> None:
        """Remove its files, once its processes have ended."""
        if self.uid is not None:
            for directory in self._view.writable:
                _give(directory, os.geteuid())
        shutil.rmtree(self.private, ignore_errors=True)
        self._cells.close(self)


class Given(NamedTuple):
    """A task's directory that a child has: its place otherwise, where it is now, and which one it is."""

    directory: Path
    inside: Path
    identity: tuple[int, int] | None


def _identity(directory: Path) -> tuple[int, int] | None:
    """None if it is not a directory, or a link to one."""
    with contextlib.suppress(FileNotFoundError):
        found = directory.lstat()
        if stat.S_ISDIR(found.st_mode):
            return found.st_dev, found.st_ino
    return None


def _give(directory: Path, uid: int) -> None:
    """Make the user the owner of a directory and of all that is in it; links are not followed."""
    os.chown(directory, uid, uid, follow_symlinks=False)
    for _, directories, files, descriptor in os.fwalk(directory, follow_symlinks=False):
        for name in (*directories, *files):
            os.chown(name, uid, uid, dir_fd=descriptor, follow_symlinks=False)


def _accounts(uid: int, home: Path | None) -> list[tuple[str, str]]:
    """The files that name users and groups, with the child's own among them."""
    own = {"/etc/passwd": f"piecework:x:{uid}:{uid}::{home}:/bin/sh\n", "/etc/group": f"piecework:x:{uid}:\n"}
    return [(path, line + (Path(path).read_text() if Path(path).exists() else "")) for path, line in own.items()]
