"""Checks of ports and disk before anything is started."""

import errno
import shutil
import socket

import psutil

from deploy.local.settings import StackSettings
from deploy.local.supervisor import StackError

_FREE_BYTES_MIN = 256 * 1024 * 1024  # Postgres alone takes about 100 MB at its start


def check_ports(settings: StackSettings) -> None:
    check_port(settings.api_port, "PIECEWORK_API_PORT")
    check_port(settings.stats_port, "PIECEWORK_STATS_PORT")
    check_port(settings.emulator_port, "PIECEWORK_EMULATOR_PORT")


def check_port(port: int, variable: str) -> None:
    """Raises StackError if the port is not free, naming the process that has it if it can be found."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            reason = (
                f"in use{_holder(port)}" if error.errno == errno.EADDRINUSE else f"not available ({error.strerror})"
            )
            fix = f"choose another, for example {variable}={port % 50_000 + 10_010} make up"
            raise StackError(f"port {port} is {reason}: {fix}") from None


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            taken = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if taken and connection.pid:
                process = psutil.Process(connection.pid)
                return f" by {' '.join(process.cmdline())[:80]!r} (process {process.pid})"
    except psutil.Error:  # of another user
        pass
    return ""


def check_disk(settings: StackSettings) -> None:
    free = shutil.disk_usage(settings.state).free
    if free < _FREE_BYTES_MIN:
        raise StackError(f"the disk is full: {free // 2**20} MB are free under {settings.state}, 256 MB are needed")
