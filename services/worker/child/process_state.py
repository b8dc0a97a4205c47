"""What user code may change about its process, put back after each task, so that every task finds the same.

The state to go back to is the one after the import of the processor's module: what a module sets up when it is imported
holds for all tasks, as it would if each had a process of its own. What can't be put back costs the process.
"""

import _signal  # type: ignore[import-not-found]  # the public functions make enums, which takes long
import builtins
import contextlib
import decimal
import faulthandler
import gc
import locale
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from services.worker.child import linux
from services.worker.child.exits import Exits
from services.worker.child.library_state import LibraryState, random_words

_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})
_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_OPEN_SHARE_MAX = 0.5  # of the descriptors that the process may have

_ATTRIBUTES = [
    *((sys, name) for name in ("excepthook", "unraisablehook", "displayhook", "breakpointhook", "modules")),
    *((sys, name) for name in ("path", "meta_path", "path_hooks", "argv", "dont_write_bytecode")),
    (threading, "excepthook"),
    (warnings, "showwarning"),
    (warnings, "filters"),
    (os, "environ"),
]
_LISTS = [(sys, "path"), (sys, "argv"), (gc, "callbacks")]
_IMPORTERS = [(sys, "meta_path"), (sys, "path_hooks")]  # libraries add theirs when they are imported, and need them
_PAUSES_SECONDS = (0.001, 0.01, 0.0)  # in which threads end, and libraries' threads close files
_BUILTINS = vars(builtins)


def _set_limits(limits: list[tuple[int, int]]) -> None:
    for number, limit in zip(_LIMITS, limits, strict=True):
        if resource.getrlimit(number) != limit:
            resource.setrlimit(number, limit)


def _set_handlers(handlers: list[Any]) -> None:
    faulthandler.disable()  # its handlers lie over these
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        if handler is not None and _signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _set_lists(lists: list[list[Any]]) -> None:
    for (place, name), values in zip(_LISTS, lists, strict=True):
        getattr(place, name)[:] = values


def _set_warnings(filters: list[Any]) -> None:
    warnings.resetwarnings()  # so that what the old filters have decided is forgotten
    warnings.filters[:] = filters  # type: ignore[index]


def _ids() -> tuple[Any, ...]:
    return os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getgroups()


def _refuse(_: object) -> None:
    raise PermissionError


# How to read a setting, and how to put it back if it differs. Limits come first: the rest may need them.
_SETTINGS: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (lambda: list(map(resource.getrlimit, _LIMITS)), _set_limits),
    (lambda: list(map(_signal.getsignal, _SIGNALS)), _set_handlers),
    (lambda: _signal.pthread_sigmask(signal.SIG_BLOCK, ()), partial(signal.pthread_sigmask, signal.SIG_SETMASK)),
    (faulthandler.is_enabled, lambda _: faulthandler.enable(file=2)),
    (lambda: [list(getattr(place, name)) for place, name in _LISTS], _set_lists),
    (lambda: list(warnings.filters), _set_warnings),
    (sys.gettrace, sys.settrace),
    (sys.getprofile, sys.setprofile),
    (threading.gettrace, threading.settrace),
    (threading.getprofile, threading.setprofile),
    (threading.stack_size, threading.stack_size),
    (sys.getswitchinterval, sys.setswitchinterval),
    (sys.getdlopenflags, sys.setdlopenflags),
    (sys.get_asyncgen_hooks, lambda hooks: sys.set_asyncgen_hooks(*hooks)),
    (sys.get_int_max_str_digits, sys.set_int_max_str_digits),
    (gc.isenabled, lambda enabled: gc.enable() if enabled else gc.disable()),
    (gc.get_threshold, lambda thresholds: gc.set_threshold(*thresholds)),
    (gc.get_debug, gc.set_debug),
    (socket.getdefaulttimeout, socket.setdefaulttimeout),
    (partial(locale.setlocale, locale.LC_ALL), lambda name: locale.setlocale(locale.LC_ALL, name)),
    (partial(os.getpriority, os.PRIO_PROCESS, 0), partial(os.setpriority, os.PRIO_PROCESS, 0)),
    (lambda: os.fstat(0)[:3], lambda _: _open_null(0)),
    (_ids, _refuse),
]
if sys.platform == "linux":
    _SETTINGS.append((partial(os.sched_getaffinity, 0), partial(os.sched_setaffinity, 0)))


class ProcessState:
    """The state that tasks begin with, and the way back to it."""

    def __init__(self) -> None:
        self.exits = Exits()
        self.environment: dict[str, str] = {}  # what the import of the processor's module has set
        self.own_descriptors: set[str] = set()  # not the task's
        self._lost = False
        self._unseeded = random_words()
        self.remember()

    def lose(self) -> None:
        """Nobody knows what state to go back to: an import has failed, halfway."""
        self._lost = True

    def remember(self) -> None:
        """Take the present state for the one that tasks begin with."""
        self._builtins = _BUILTINS.copy()
        self._stdin = sys.stdin
        self._importers = [list(getattr(place, name)) for place, name in _IMPORTERS]
        self._attributes = [getattr(place, name) for place, name in _ATTRIBUTES]
        self._settings = [read() for read, _ in _SETTINGS]
        self._umask = os.umask(0o77)
        os.umask(self._umask)
        self._decimal = decimal.getcontext().copy()
        self._threads = set(sys._current_frames())
        self._descriptors = _descriptors() - self.own_descriptors
        self._descriptors_mark: tuple[int, int] | None = None
        self._libraries = LibraryState(self._unseeded)

    def restore(self) -> bool:
        """Put everything back. False if that can't be done, or if the process has done what it would do at its exit."""
        if self._builtins != _BUILTINS:  # first: all code needs them
            _BUILTINS.update(self._builtins)
            for name in _BUILTINS.keys() - self._builtins.keys():
                del _BUILTINS[name]
        if self._lost or self.exits.called:
            return False
        try:
            return self._put_back()
        except Exception:  # user code has changed what is needed for this
            return False

    def has_leftovers(self, private: str) -> bool:
        """Whether threads of the task still run, or files below its private directory are open."""
        for seconds in _PAUSES_SECONDS:
            if not self._has_left_threads() and not self._has_left_files(private):
                return False
            gc.collect()  # closes files that only a cycle holds, such as a failure's
            time.sleep(seconds)
        return True

    def _put_back(self) -> bool:
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        signal.set_wakeup_fd(-1)
        faulthandler.cancel_dump_traceback_later()
        os.umask(self._umask)
        for (place, name), value in zip(_ATTRIBUTES, self._attributes, strict=True):
            if getattr(place, name, None) is not value:
                setattr(place, name, value)
        for (place, name), importers in zip(_IMPORTERS, self._importers, strict=True):
            if lost := [importer for importer in importers if importer not in getattr(place, name)]:
                getattr(place, name)[:0] = lost
        failures = 0 if self._has_settings() else sum(map(_failed, _SETTINGS, self._settings))
        if sys.stdin is not self._stdin or self._stdin.closed:
            self._stdin = sys.stdin = os.fdopen(0, closefd=False)
        decimal.setcontext(self._decimal.copy())
        self._libraries.restore()
        return not failures

    def _has_settings(self) -> bool:
        """Mostly: so they are all read in one go."""
        with contextlib.suppress(Exception):  # such as of a closed descriptor
            return [read() for read, _ in _SETTINGS] == self._settings
        return False

    def unfinished_threads(self) -> list[str]:
        """Names of the threads that Python would wait for at the end of a program."""
        return [t.name for t in threading.enumerate() if t.ident not in self._threads and not t.daemon]

    def _has_left_threads(self) -> bool:
        return not self._threads.issuperset(sys._current_frames())

    def _has_left_files(self, private: str) -> bool:
        mark = linux.descriptors_mark()
        if mark is not None and mark == self._descriptors_mark:
            return False
        descriptors = _descriptors() - self.own_descriptors
        if any(_target(descriptor).startswith(private) for descriptor in descriptors - self._descriptors):
            return True
        self._descriptors = descriptors
        if len(descriptors) > _OPEN_SHARE_MAX * resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
            return True
        self._descriptors_mark = mark
        return False


def _failed(setting: tuple[Callable[[], Any], Callable[[Any], object]], value: Any) -> bool:
    """Whether it can't be put back."""
    read, write = setting
    with contextlib.suppress(Exception):
        if read() == value:
            return False
    try:
        write(value)
    except Exception:
        return True
    return False


def _descriptors() -> set[str]:
    """Those above the standard ones."""
    if sys.platform != "linux":
        return set()
    for_listing = os.dup(0)  # the next free one, which the listing gets as well
    os.close(for_listing)
    return set(os.listdir("/proc/self/fd")) - {"0", "1", "2", str(for_listing)}  # noqa: PTH208  # quicker


def _target(descriptor: str) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115  # quicker
    return ""


def _open_null(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, descriptor)
    if null != descriptor:
        os.close(null)
