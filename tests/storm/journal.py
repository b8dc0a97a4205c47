"""What the storm did and when: a JSON line for each fault dealt, and for each process or request that it struck."""

import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from tests.storm.faults import Fault


class Journal:
    """Counts faults by kind: `dealt` by the schedule, and what they `struck`."""

    def __init__(self, path: Path) -> None:
        self.dealt: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self._file = path.open("wb")
        self._started = time.monotonic()

    def begin(self) -> None:
        """The clock starts."""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the storm began."""
        return time.monotonic() - self._started

    def deal(self, fault: Fault) -> None:
        self.dealt[fault.kind] += 1
        self.note(fault.kind, fault=fault.number)

    def strike(self, kind: str, victims: int = 1, **details: Any) -> None:
        self.struck[kind] += victims
        self.note(kind, struck=victims, **details)

    def note(self, what: str, **details: Any) -> None:
        """A line with the time: by the storm's clock, and by that of the services' logs."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._file.write(
            orjson.dumps({"seconds": round(self.seconds, 3), "at": now, "what": what, **details}, default=str) + b"\n"
        )
        self._file.flush()

    def close(self) -> None:
        self._file.close()
