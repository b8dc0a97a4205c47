"""Starts a child at its level of isolation: `launch` becomes the program, or stays outside of its sandbox.

It runs before any user code, as the worker's user, and dies with the worker.
"""

import os
import sys

from services.worker.isolation import kernel, limits, sandbox, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module `typing` takes longer to import than all the rest
    from collections.abc import Callable
    from typing import NoReturn

    from services.worker.isolation.plan import Plan

_FAILED = 125  # exit code


def launch(plan: "Plan", start: "Callable[[], NoReturn]") -> "NoReturn":
    """Have `start` run the program as planned. If that fails, say why on standard error."""
    try:
        _die_with(plan["worker"])
        if plan["cgroup"] is not None:
            with open(f"{plan['cgroup']}/cgroup.procs", "w") as file:
                file.write("0")
        limits.limit_resources(plan["file_bytes_max"])
        if plan["sandbox"] is not None:
            sandbox.run(plan, plan["sandbox"], start)
        _confine(plan)
        start()
    except OSError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(_FAILED)


def _confine(plan: "Plan") -> None:
    if not plan["network"]:
        kernel.unshare(kernel.NETWORK)
        sandbox.bring_loopback_up()
    if plan["uid"] is not None:
        limits.limit_processes(plan["processes_max"])
        sandbox.become_user(plan["uid"])
        kernel.give_up_capabilities()
        kernel.gain_nothing()
        seccomp.filter_calls()
        _die_with(plan["worker"])


def _die_with(worker: int) -> None:
    kernel.die_with_parent()
    if os.getppid() != worker:
        os._exit(_FAILED)  # it died before the kernel was told
