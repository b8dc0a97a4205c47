"""Wakes requests that wait for the ends of a job's tasks, all by one connection that listens."""

from asyncio import Event
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID


class Ends:
    """The requests that wait, by job. While nothing is heard (`is_heard`) they look often by themselves."""

    def __init__(self) -> None:
        self.is_heard = False
        self._waiting: defaultdict[str, set[Event]] = defaultdict(set)

    @contextmanager
    def of(self, job_id: UUID) -> Iterator[Event]:
        """An event that is set when tasks of the job have ended, or the job has."""
        woken = Event()
        self._waiting[str(job_id)].add(woken)
        try:
            yield woken
        finally:
            waiting = self._waiting[str(job_id)]
            waiting.discard(woken)
            if not waiting:
                del self._waiting[str(job_id)]

    def notified(self, _: str, job_id: str) -> None:
        """By the channel of ends."""
        for woken in self._waiting.get(job_id, ()):
            woken.set()

    def heard(self, is_heard: bool) -> None:
        """From now on, or no longer: what was told in between is lost, so all look."""
        self.is_heard = is_heard
        for waiting in self._waiting.values():
            for woken in waiting:
                woken.set()
