"""A child's sandbox: namespaces of its own for users, processes, mounts, ipc and host name; network if it has none.

Three processes take part. The launcher stays outside and ends as the program ended. The first process inside builds the
root, gives up all rights, starts the program and reaps orphans; when it ends, the kernel kills all that is left inside.
The program is its child, and not the first process itself: that one can't be ended by a signal of its own.
"""

import _signal  # type: ignore[import-not-found]  # the public module makes enums, which takes long
import os
import sys

from services.worker.isolation import kernel, limits, mounts, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from services.worker.isolation.plan import Plan, SandboxPlan

_FAILED = 125
_NAMESPACES = kernel.USERS | kernel.PIDS | kernel.MOUNTS | kernel.IPC | kernel.HOST_NAME
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


def run(plan: "Plan", view: "SandboxPlan", start: "Callable[[], NoReturn]") -> "NoReturn":
    """Have `start` run the program in a sandbox, and end as it ended. Raises OSError if a sandbox can't be made."""
    go, let_go = os.pipe()
    told, tell = os.pipe()
    first = kernel.clone(_NAMESPACES | (0 if plan["network"] else kernel.NETWORK))
    if first == 0:
        os.close(let_go)
        os.close(told)
        _be_first(plan, view, go, tell, start)
    os.close(go)
    os.close(tell)
    close_all_but(let_go, told)
    _map_users(first, plan["uid"])
    os.write(let_go, b"g")  # it stays open: its end tells the first process of ours
    status = os.read(told, 16)
    os.waitpid(first, 0)  # by then, the kernel has ended all processes inside
    _end_as(int(status) if status else _signal.SIGKILL)


def _be_first(plan: "Plan", view: "SandboxPlan", go: int, tell: int, start: "Callable[[], NoReturn]") -> "NoReturn":
    try:
        kernel.die_with_parent()
        if os.read(go, 1) != b"g":
            os._exit(_FAILED)
        mounts.build_root(view)
        if not plan["network"]:
            bring_loopback_up()
        limits.limit_processes(plan["processes_max"])
        if plan["uid"] is not None:
            become_user(plan["uid"])
        kernel.give_up_capabilities()
        kernel.gain_nothing()
        kernel.hide_memory()
        kernel.die_with_parent()  # forgotten when the user changed
        os.set_blocking(go, False)
        if _has_ended(go):
            os._exit(_FAILED)
        seccomp.filter_calls()
        program = _fork(start)
        close_all_but(tell)
        os.write(tell, str(_reap(program)).encode())
    except OSError as error:
        print(f"no sandbox: {error}", file=sys.stderr, flush=True)
        os.write(tell, str(_FAILED << 8).encode())
    finally:
        os._exit(0)


def close_all_but(*kept: int) -> None:
    """Close all descriptors above the standard ones but these: the worker sees when the program closes the others."""
    for descriptor in sorted(map(int, os.listdir("/proc/self/fd"))):
        if descriptor > 2 and descriptor not in kept:
            try:  # noqa: SIM105  # contextlib takes long to import
                os.close(descriptor)
            except OSError:  # the listing's own
                pass


def _has_ended(pipe: int) -> bool:
    try:
        return os.read(pipe, 1) == b""
    except BlockingIOError:
        return False


def _fork(start: "Callable[[], NoReturn]") -> int:
    program = os.fork()
    if program == 0:
        os.setsid()
        start()
    return program


def execute(arguments: list[str]) -> "NoReturn":
    """Become the program, or end if that fails."""
    try:
        os.execv(arguments[0], arguments)
    except OSError as error:
        print(f"can't run {arguments[0]} as user {os.getuid()}: {error.strerror}", file=sys.stderr, flush=True)
    finally:
        os._exit(_FAILED)


def _reap(program: int) -> int:
    """Wait for the program, and meanwhile for all orphans; returns the program's status."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == program:
            return status


def _map_users(first: int, uid: int | None) -> None:
    """Root as a worker maps root, which builds the sandbox, and the child's user; another worker maps its own user."""
    if uid is None:
        with open(f"/proc/{first}/setgroups", "w") as file:
            file.write("deny")
    for kind, own in (("uid", os.geteuid()), ("gid", os.getegid())):
        with open(f"/proc/{first}/{kind}_map", "w") as file:
            file.write(f"{own} {own} 1\n" if uid is None else f"0 0 1\n{uid} {uid} 1\n")


def become_user(uid: int) -> None:
    """Change to the user and the group of this number, for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def bring_loopback_up() -> None:
    """Let processes of this network namespace reach each other, if nothing else."""
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def _end_as(status: int) -> "NoReturn":
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(number, _signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))
