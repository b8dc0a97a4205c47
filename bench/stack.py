"""The grid under measurement: the local stack in a directory and on ports of its own."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local import cli
from deploy.local.settings import StackSettings, separate_stack
from piecework import Client

WORKERS = 2
SLOTS = 2


@contextmanager
def running_stack() -> Iterator[tuple[StackSettings, Client]]:
    """Start the stack with WORKERS nodes of SLOTS slots; stop it and remove its data at the end."""
    with tempfile.TemporaryDirectory(prefix="piecework-bench-", ignore_cleanup_errors=True) as directory:
        settings = separate_stack(Path(directory), WORKERS)
        os.environ["PIECEWORK_SLOTS"] = str(SLOTS)
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
