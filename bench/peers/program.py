"""What every peer is put through: `python -m bench.peers.program MODULE`, speaking JSON lines to bench.suites.peers.

MODULE is one of this package's. It has `run(tasks)`, which returns when every task is known to have succeeded;
`start_one()`, which returns the time at which the code of a single task ran; and `WORKERS`, the commands that start
its workers (none if `run` has them). If it has a `prepare()`, that is called before they are started.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

_SIZES = (1_000_000, 100_000, 10_000)
_SMALL_SIZES = (3_000, 1_000)  # for a peer that can't do 10,000 in time
_SECONDS_MAX = 25.0
_LATENCIES = 100
_TRIAL = 500


def main(module: str) -> None:
    peer: Any = importlib.import_module(f"bench.peers.{module}")
    if prepare := getattr(peer, "prepare", None):
        prepare()
    bin = Path(sys.executable).parent
    workers = [subprocess.Popen(f"{bin}/{command}".split(), stdout=sys.stderr) for command in peer.WORKERS]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers are stopped
    try:
        _say(versions={name: version(name) for name in peer.PACKAGES})
        peer.start_one()  # the workers are there
        _say(latencies=[_latency(peer) for _ in range(_LATENCIES)])
        peer.run(_TRIAL)
        for tasks in choose_sizes(_TRIAL / _seconds(peer, _TRIAL)):
            _ask(begin=tasks)
            _ask(end=tasks, seconds=_seconds(peer, tasks))
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()


def choose_sizes(tasks_per_second: float) -> list[int]:
    """The sizes that this pace allows, the largest last; if none of them, the largest of the small ones."""
    allowed = [size for size in (*_SIZES, *_SMALL_SIZES) if size / tasks_per_second <= _SECONDS_MAX]
    return sorted(set(allowed) & set(_SIZES)) or allowed[:1] or [_SMALL_SIZES[-1]]


def _seconds(peer: Any, tasks: int) -> float:
    started = time.monotonic()
    peer.run(tasks)
    return time.monotonic() - started


def _latency(peer: Any) -> float:
    submitted = time.time()
    return float(peer.start_one() - submitted)


def _say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def _ask(**line: Any) -> None:
    """Say it, and go on when the other side has taken its measure."""
    _say(**line)
    sys.stdin.readline()


if __name__ == "__main__":
    # A library's own words on standard output must not get between the lines.
    output = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(output, "w")
    main(sys.argv[1])
