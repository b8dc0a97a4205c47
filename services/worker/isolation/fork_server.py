"""The fork server: a process that has loaded the child's program, and forks children that are ready at once.

It reads nothing: a child gets its order over its own connection to the worker. So the server holds no data of any task,
and all children begin alike. A child is the server's sibling: the worker waits for it, and it outlives the server.
"""

import ctypes
import gc
import os
import site
import socket
import sys
import traceback
from functools import partial
from importlib.machinery import PathFinder
from typing import NoReturn

from services.worker.child import frames, program
from services.worker.child.environment import set_environment
from services.worker.isolation import kernel, sandbox
from services.worker.isolation.launcher import launch
from services.worker.isolation.plan import FORK, MARK, Order

_libc = ctypes.CDLL(None)
_libc.getenv.restype = ctypes.c_void_p


def serve(channel_descriptor: int, worker: int) -> None:
    """Fork a child for each request, until the process `worker` closes the channel; answers with the process id.

    A request, FORK, comes with four descriptors: the child's connection, the file that gets what it says at first, and
    the two pipes of its sessions.
    """
    kernel.die_with_parent()
    if os.getppid() != worker:
        return  # the worker died before the kernel was told
    mark = _libc.getenv(MARK.encode())  # where the kernel looks for the process's environment
    del os.environ[MARK]
    gc.collect()
    gc.freeze()  # so that no child's collector touches, and copies, the memory that all share
    with socket.socket(fileno=channel_descriptor) as channel:
        while True:
            request, descriptors, _, _ = socket.recv_fds(channel, len(FORK), 4)
            if not request:
                return
            pid = kernel.fork_sibling()
            if pid == 0:
                channel.close()
                _begin(descriptors, mark)
            for descriptor in descriptors:
                os.close(descriptor)
            channel.send(str(pid).encode())


def _begin(descriptors: list[int], mark: int) -> NoReturn:
    control, said, *session = descriptors
    try:
        os.setsid()
        os.dup2(said, 2)
        order = _read_order(control)
        ctypes.memmove(mark, order["mark"].encode(), len(order["mark"]))
        start = partial(_run_program, control, session, order)
        if order["plan"]:
            launch(order["plan"], start)
        start()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _read_order(control: int) -> Order:
    with socket.socket(fileno=os.dup(control)) as channel, channel.makefile("rb", buffering=1) as stream:
        read = frames.read(stream)  # and nothing after it: what follows is for the program
    if read is None:
        os._exit(0)  # the worker has gone
    order: Order = read[1]
    return order


def _run_program(control: int, session: list[int], order: Order) -> NoReturn:
    """Become as the interpreter would be if it had started with this environment, and run the child's program."""
    try:
        kernel.show_memory()
        sandbox.close_all_but(control, *session)
        set_environment(order["environment"])
        sys.dont_write_bytecode = bool(order["environment"].get("PYTHONDONTWRITEBYTECODE"))
        path = order["environment"].get("PYTHONPATH")
        if path:
            sys.path[:0] = dict.fromkeys(map(os.path.abspath, path.split(":")))
        if order["python"] != sys.executable:
            _enter_virtual_environment(order["python"])
        if path or order["python"] != sys.executable:
            site.execsitecustomize()
        program.main(control, session, order["parent"])
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _enter_virtual_environment(python: str) -> None:
    """Do what `site` does when this interpreter starts; the packages of the worker's own come last."""
    own = [place for place in site.getsitepackages() if place in sys.path]
    sys.path[:] = [place for place in sys.path if place not in own]
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder.__module__.startswith("_frozen_importlib")]
    sys.executable = python
    site.venv(site.removeduppaths())
    sys.path += own
    theirs = site.getsitepackages()
    for name, module in list(sys.modules.items()):
        is_own = (getattr(module, "__file__", None) or "").startswith(tuple(own))
        if is_own and PathFinder.find_spec(name.partition(".")[0], theirs):
            del sys.modules[name]  # user code gets the version that its package asks for
