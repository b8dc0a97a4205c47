"""How the processes of a run share the tests: a file at a time (pytest-xdist).

Tests of faults mostly wait: for a lease to end, for an outage to pass. They are spread over the run, so that some wait
while others use the processors. If all ran at the same time, first the processes would be idle, then the processors.
"""

import pytest
from xdist.scheduler import LoadFileScheduling

_WAITING = ("tests/faults/", "tests/upgrade/", "tests/e2e/")
# They begin first, so that no process is left alone with one at the end.
_LONGEST = (
    "tests/faults/test_crash_points.py",
    "tests/upgrade/test_release_before.py",
    "tests/faults/test_database_outage.py",
    "tests/faults/test_rolling_restarts.py",
    "tests/faults/test_storm.py",
    "tests/cases/",
    "tests/integration/engine/test_transitions_model.py",
    "tests/integration/local/test_stack.py",
)
_TOGETHER = "tests/cases/"  # its files share a local stack, which takes long to start


def spread(items: list[pytest.Item]) -> None:
    """Put the tests in the order in which they are to begin."""
    files = dict.fromkeys(_file(item.nodeid) for item in items)
    places = {}
    for waiting in (True, False):
        kind = sorted((file for file in files if file.startswith(_WAITING) == waiting), key=_rank)
        places |= {file: number / len(kind) for number, file in enumerate(kind)}
    items.sort(key=lambda item: places[_file(item.nodeid)])


class Scheduler(LoadFileScheduling):
    """Gives each process the next file."""

    def _split_scope(self, nodeid: str) -> str:
        return _TOGETHER if nodeid.startswith(_TOGETHER) else _file(nodeid)


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _rank(file: str) -> int:
    return next((rank for rank, name in enumerate(_LONGEST) if file.startswith(name)), len(_LONGEST))
