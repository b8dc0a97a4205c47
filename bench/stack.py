"""The grid under measurement: the local stack in a directory and on ports of its own."""

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy.local import cli
from deploy.local.settings import StackSettings
from piecework import Client

WORKERS = 2
SLOTS = 2


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]


@contextmanager
def running_stack() -> Iterator[tuple[StackSettings, Client]]:
    """Start the stack with WORKERS nodes of SLOTS slots; stop it and remove its data at the end."""
    with tempfile.TemporaryDirectory(prefix="piecework-bench-", ignore_cleanup_errors=True) as directory:
        api_port, stats_port, emulator_port = _free_ports(3)
        os.environ |= {
            "PIECEWORK_STATE_DIRECTORY": directory,
            "PIECEWORK_API_PORT": str(api_port),
            "PIECEWORK_STATS_PORT": str(stats_port),
            "PIECEWORK_EMULATOR_PORT": str(emulator_port),
            "PIECEWORK_WORKERS": str(WORKERS),
            "PIECEWORK_WORKERS_MIN": str(WORKERS),
            "PIECEWORK_WORKERS_MAX": str(WORKERS),
            "PIECEWORK_SLOTS": str(SLOTS),
        }
        settings = StackSettings()
        try:
            if cli.start(settings, bound=True) != 0:
                raise SystemExit("the stack did not start")
            profile = json.loads(Path(settings.client_profile).read_text())
            with Client(
                api_url=profile["api_url"], stats_url=profile["stats_url"], api_key=profile["api_key"]
            ) as client:
                client.register_processor("noop", {"builtin": "noop"})
                yield settings, client
        finally:
            cli.stop(settings)
