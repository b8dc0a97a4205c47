"""`python -m bench.scale`: the load of a fleet on one Postgres, measured, printed and written to bench/results/.

With TMPDIR=/dev/shm the disk is left out; then --commit-ms says how long a flush of the WAL takes.
"""

import argparse
import json
import signal
import sys
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.machine import machine_facts
from bench.scale.load import Load
from bench.scale.report import compare, describe, draw
from bench.scale.run import simulate

RESULTS = Path(__file__).parents[1] / "results"
SUSTAINED = 0.97  # of what is offered
SWEEP_FIRST = 100.0  # tasks/s
SWEEP_STEP = 2**0.5

_HELP = {
    "task_seconds": "mean; uniform between half of it and one and a half",
    "jobs": "the number of jobs that share the tasks; 0: the workers only beat",
    "speed": "shortens every pause of the protocol: 10 does an hour's work in six minutes, 0.1 shows a fleet ten times "
    "too large for the machine in slow motion",
    "connections": "of one load process, for claims, completes and heartbeats each",
    "own_connections": "at most, of each worker's own pool; 0: all workers of a load process share their connections",
    "commit_ms": "added to every flush of the WAL",
}


def main() -> None:
    load, sweep = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    results: list[dict[str, Any]] = []
    if sweep:
        for task_seconds in sweep:
            results += _find_limit(replace(load, task_seconds=task_seconds))
    else:
        results.append(_measure(load))
    print("\n".join(["", *compare(results)]))
    path = RESULTS / f"scale-{datetime.now(UTC):%Y-%m-%d-%H%M}.json"
    path.write_text(json.dumps({"machine": machine_facts(), "results": results}, indent=1) + "\n")
    print(f"\nwritten: {path.relative_to(RESULTS.parents[1])}")
    if draw(results, path.with_suffix(".png")):
        print(f"drawn: {path.with_suffix('.png').relative_to(RESULTS.parents[1])}")


def _arguments() -> tuple[Load, list[float]]:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for field in fields(Load):
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(name, type=type(field.default), default=field.default, help=_HELP.get(field.name, " "))
    parser.add_argument(
        "--sweep", metavar="SECONDS,…", help="find the highest task rate for each of these mean task times"
    )
    given = vars(parser.parse_args())
    sweep = [float(seconds) for seconds in (given.pop("sweep") or "").split(",") if seconds]
    return Load(**given), sweep


def _find_limit(load: Load) -> list[dict[str, Any]]:
    """Ever larger fleets, until one no longer gets through what it offers."""
    results: list[dict[str, Any]] = []
    rate = SWEEP_FIRST
    while not results or results[-1]["tasks_per_second"] >= SUSTAINED * results[-1]["offered_tasks_per_second"]:
        workers = max(round(rate * load.task_seconds / load.slots / load.speed), 1)
        results.append(_measure(replace(load, workers=workers)))
        rate *= SWEEP_STEP
    return results


def _measure(load: Load) -> dict[str, Any]:
    result = simulate(load)
    print("\n".join(["", *describe(result)]), flush=True)
    return result


if __name__ == "__main__":
    main()
