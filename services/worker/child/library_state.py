"""The state of some modules of the standard library, put back like the process's own (process_state).

Those that few processors import are looked at only where they are loaded. State that other libraries keep is theirs.
"""

import itertools
import os
import random
import sys
from typing import Any


def random_words() -> tuple[int, ...]:
    """The words that the next 624 random numbers are taken from."""
    random.getrandbits(1)  # makes them
    words: tuple[int, ...] = random.getstate()[1]
    return words[:-1]  # without the place of the next


class LibraryState:
    """What the modules hold when the object is made; for those that are imported later, what they hold at first.

    `unseeded` are the random words of the process's own start.
    """

    def __init__(self, unseeded: tuple[int, ...]) -> None:
        state = random.getstate()
        self._seeds = itertools.count(int.from_bytes(os.urandom(16)))  # quicker than the 2,500 bytes of random.seed()
        self._random = None if state[1][:-1] == unseeded else state
        self._tempdir = getattr(sys.modules.get("tempfile"), "tempdir", None)
        self._tracing = (tracemalloc := sys.modules.get("tracemalloc")) and tracemalloc.is_tracing()
        self._start_method = _start_method()
        self._event_loop_policy = _event_loop_policy()
        self._loggers = {name: _settings(logger) for name, logger in _all_loggers().items()}

    def restore(self) -> None:
        if self._random is None:
            random.seed(next(self._seeds))  # tasks must not have the same numbers
        else:
            random.setstate(self._random)
        tempfile: Any = sys.modules.get("tempfile")
        if tempfile:
            tempfile.tempdir = self._tempdir
        if multiprocessing := sys.modules.get("multiprocessing"):
            multiprocessing.process.current_process()._config.pop("tempdir", None)  # it was in the task's TMPDIR
            if _start_method() != self._start_method:
                multiprocessing.set_start_method(self._start_method, force=True)
        if _event_loop_policy() is not self._event_loop_policy:
            sys.modules["asyncio"].set_event_loop_policy(self._event_loop_policy)
        if (tracemalloc := sys.modules.get("tracemalloc")) and not self._tracing:
            tracemalloc.stop()
        _restore_loggers(self._loggers)


def _start_method() -> Any:
    multiprocessing = sys.modules.get("multiprocessing")
    return multiprocessing.get_start_method(allow_none=True) if multiprocessing else None


def _event_loop_policy() -> Any:
    """None as long as nothing has asked for one."""
    return getattr(sys.modules.get("asyncio.events"), "_event_loop_policy", None)


_Logger = tuple[int, list[Any], list[Any], bool, bool]
_FRESH_ROOT: _Logger = (30, [], [], True, False)


def _all_loggers() -> dict[str, Any]:
    """The root, without a name, and the others; none if nothing logs."""
    logging = sys.modules.get("logging")
    if logging is None:
        return {}
    named = logging.Logger.manager.loggerDict
    return {"": logging.root} | {name: each for name, each in named.items() if isinstance(each, logging.Logger)}


def _settings(logger: Any) -> _Logger:
    return logger.level, list(logger.handlers), list(logger.filters), logger.propagate, logger.disabled


def _restore_loggers(before: dict[str, _Logger]) -> None:
    for name, logger in _all_loggers().items():
        found = _settings(logger)
        wanted = before.get(name) or (_without_handlers(found) if name else _FRESH_ROOT)
        if found == wanted:
            continue
        for handler in found[1]:
            if handler not in wanted[1]:
                handler.close()
        level, logger.handlers[:], logger.filters[:], logger.propagate, logger.disabled = wanted
        logger.setLevel(level)
    if logging := sys.modules.get("logging"):
        logging.disable(logging.NOTSET)


def _without_handlers(logger: _Logger) -> _Logger:
    """A logger that is new may belong to a library: it keeps all but what the next task would add once more."""
    level, handlers, filters, propagate, disabled = logger
    silent = [handler for handler in handlers if type(handler).__name__ == "NullHandler"]
    return level, silent, filters, propagate, disabled
