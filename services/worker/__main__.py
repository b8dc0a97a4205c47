"""Run a worker node: `python -m services.worker --pool default`."""

import argparse
import asyncio
import os
import signal
import sys

from services.engine.workers import UnknownPool
from services.platform.aws import require_region
from services.platform.garbage import collect_seldom
from services.platform.health import serving
from services.platform.logs import configure_logs
from services.platform.process import forbid_dumps, hide_environment
from services.platform.settings import WorkerSettings, read_settings
from services.platform.tracing import configure_tracing
from services.platform.version import VERSION
from services.worker.isolation.errors import IsolationUnusable
from services.worker.node.instance_end import InstanceNotEnded
from services.worker.node.node import Node, NodeUnfit
from services.worker.node.watchdog import watching
from services.worker.task.processes import Processes
from services.worker.task.scratch import ScratchUnusable

try:
    import uvloop as loops
except ImportError:
    loops = asyncio  # type: ignore[misc]


def main() -> int:
    """Run a node.

    Exit codes: 0 drained, 2 it can't start as configured, 70 it hung, 71 it drained and could not end its instance
    (EX_OSERR, sysexits.h), 75 its machine can't run tasks (EX_TEMPFAIL), 130 interrupted twice.
    """
    parser = argparse.ArgumentParser(prog="python -m services.worker", description=__doc__)
    parser.add_argument("--pool", help="the pool to work for (PIECEWORK_POOL)")
    parser.add_argument("--slots", help="tasks to run at once (PIECEWORK_SLOTS)")
    parser.add_argument("--version", action="version", version=f"piecework {VERSION}")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    forbid_dumps()
    settings = read_settings(WorkerSettings, **given)
    hide_environment()
    require_region()
    configure_logs("worker", settings.log_level)
    configure_tracing("worker")
    try:
        with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
            runner.run(_run(settings))
    except (UnknownPool, ScratchUnusable, IsolationUnusable) as error:
        print(error, file=sys.stderr)
        return 2
    except InstanceNotEnded as error:
        print(error, file=sys.stderr)
        return os.EX_OSERR
    except NodeUnfit as error:
        print(error, file=sys.stderr)
        return os.EX_TEMPFAIL
    return 0


async def _run(settings: WorkerSettings) -> None:
    collect_seldom()
    Processes.adopt_orphans()
    node = Node(settings)
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        node.drain()
        loop.add_signal_handler(signal.SIGINT, os._exit, 130)  # the kernel ends the children with us

    loop.add_signal_handler(signal.SIGTERM, node.drain)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    with watching(settings.lease_seconds):
        async with serving(settings):
            await node.run()


if __name__ == "__main__":
    sys.exit(main())
