"""User ids for the children of root's workers: one child at a time has each, on the whole machine."""

import socket

from services.worker.isolation.errors import IsolationUnusable


class Uids:
    """The ids from `first` to `last`. One in use is held by an abstract socket, which does not outlive the worker."""

    def __init__(self, first: int, last: int) -> None:
        self._range = range(first, last + 1)
        self._held: dict[int, socket.socket] = {}

    @classmethod
    def parse(cls, text: str) -> "Uids":
        first, _, last = text.partition("-")
        return cls(int(first), int(last))

    def take(self) -> int:
        """Raises IsolationUnusable if all are in use."""
        for uid in self._range:
            holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                holder.bind(f"\0piecework-uid-{uid}")
            except OSError:
                holder.close()
            else:
                self._held[uid] = holder
                return uid
        first, last = self._range.start, self._range.stop - 1
        raise IsolationUnusable(f"all user ids from {first} to {last} (PIECEWORK_TASK_UIDS) are in use")

    def give_back(self, uid: int) -> None:
        self._held.pop(uid).close()
