"""A scheduler or a worker that writes down its side effects and may kill itself before or after one of them.

It is a fork (tests.forks), so it works within a twentieth of a second.
"""

import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import uvloop

from services.platform import effects, multipart
from services.platform.effects import Effect, Moment
from services.scheduler import __main__ as scheduler
from services.worker import __main__ as worker
from tests.forks import begin, forks

Role = Literal["scheduler", "worker"]

PART_BYTES_MIN = 5 << 14  # a small part of S3's own least size, which the emulator does not ask for


@dataclass(frozen=True, order=True)
class Point:
    """The `occurrence`th time that a process of a role comes to this moment of this effect."""

    role: Role
    kind: str
    name: str
    moment: Moment
    occurrence: int = 1

    def __str__(self) -> str:
        return f"{self.role} {self.moment} {self.kind} {self.name} #{self.occurrence}"


class Mortal:
    """The process, from its start on. Its effects are in `record`; what it printed is in `log`."""

    def __init__(self, role: Role, environment: dict[str, str], files: Path, point: Point | None = None) -> None:
        self.role = role
        self.record, self.log = files.with_suffix(".effects"), files.with_suffix(".log")
        theirs, self._orders = forks.Pipe(duplex=False)
        self._process = forks.Process(
            target=_live, args=(role, environment, self.record, self.log, point, theirs), daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.exitcode

    @property
    def killed_itself(self) -> bool:
        return self.exit_code == -signal.SIGKILL

    def doom(self, point: Point) -> None:
        """From now on, die at the point."""
        self._orders.send(point)

    def terminate(self) -> None:
        """Order it to end in good order."""
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def points(self) -> Counter[Point]:
        """Where it has come past, and how often."""
        lines = (line.split(" ") for line in self.record.read_text().splitlines())
        return Counter(Point(self.role, kind, name, moment) for moment, kind, name in lines)  # type: ignore[arg-type]


class _Fate:
    """The watcher of a mortal's effects."""

    def __init__(self, record: Path, point: Point | None, orders: Connection) -> None:
        self._record = record.open("a", buffering=1)
        self._orders = orders
        self._set(point)

    def _set(self, point: Point | None) -> None:
        self._point, self._left = point, 0 if point is None else point.occurrence

    def __call__(self, moment: Moment, effect: Effect) -> None:
        self._record.write(f"{moment} {effect.kind} {effect.name}\n")
        if self._orders.poll():
            self._set(self._orders.recv())
        point = self._point
        if point is not None and (moment, effect.kind, effect.name) == (point.moment, point.kind, point.name):
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _live(
    role: Role, environment: dict[str, str], record: Path, log: Path, point: Point | None, orders: Connection
) -> None:
    begin([role], os.environ | environment, log)
    multipart.PART_BYTES_MIN = PART_BYTES_MIN
    effects.watch(_Fate(record, point, orders))
    if role == "scheduler":
        uvloop.run(scheduler.main())
    else:
        sys.exit(worker.main())
