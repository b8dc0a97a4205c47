"""Tells systemd, if it has started this process, that it works and lives: sd_notify(3), `Type=notify`."""

import os
import socket

import structlog

log = structlog.get_logger()

EXTEND_SECONDS = 30.0  # beyond systemd's own time-outs, from each beat on


class Systemd:
    """The service manager that started this process, or nobody."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._ready = False
        self._status: str | None = None

    def beat(self, waits_for: str | None, hung: list[str]) -> None:
        """Say that the process lives, unless it hangs. It is ready as soon as it waits for nothing.

        While it waits, or drains, its time to start or to stop is extended: it must not be killed because a database
        restarts, or because a task takes its time.
        """
        if not self._address:
            return
        facts = [] if hung else ["WATCHDOG=1"]
        if waits_for is not None and not hung:
            facts.append(f"EXTEND_TIMEOUT_USEC={int(EXTEND_SECONDS * 1e6)}")
        if waits_for is None and not self._ready:
            self._ready = True
            facts.append("READY=1")
        status = "; ".join(hung) or waits_for or "working"
        if status != self._status:
            self._status = status
            facts.append(f"STATUS={status}".replace("\n", " "))
        self._tell(facts)

    def stop(self) -> None:
        """Say that the process ends now."""
        self._tell(["STOPPING=1"])

    def _tell(self, facts: list[str]) -> None:
        if not self._address or not facts:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
                sending.setblocking(False)
                sending.sendto("\n".join(facts).encode(), address)
        except OSError as error:
            log.debug("systemd not told", error=repr(error))
