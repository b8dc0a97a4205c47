"""This tree beside an older one: `python -m bench.ab BASE [--rounds N]`, where BASE has a `.venv` of its own.

Each has a grid of its own on this machine, and they take turns, a short job each, so that whatever else the machine
does slows both down alike. What counts is the ratio within each pair of turns; of CPU seconds it is the steadier one.
"""

import argparse
import json
import os
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.local.process import ROOT

TASKS = {"noop": 10_000, "function": 1_000}

Turn = dict[str, float]


@contextmanager
def side(tree: Path) -> Iterator[subprocess.Popen[str]]:
    """A grid of the tree's own code, ready for its turns."""
    command = [str(tree / ".venv/bin/python"), "-P", str(Path(__file__).with_name("turns.py"))]
    path = os.pathsep.join([str(tree), str(tree / "client")])
    with subprocess.Popen(
        command,
        cwd=tree,
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "ready\n":
                break
        yield process
        process.communicate()  # the end of its input


def take_turn(process: subprocess.Popen[str], processor: str) -> Turn:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{processor} {TASKS[processor]}\n")
    process.stdin.flush()
    turn: Turn = json.loads(process.stdout.readline())
    return turn


def compare(base: subprocess.Popen[str], new: subprocess.Popen[str], processor: str, rounds: int) -> list[str]:
    """Take turns, each side first in every other round; returns what came of it."""
    pairs: list[tuple[Turn, Turn]] = []
    for number in range(rounds):
        sides = (base, new) if number % 2 else (new, base)
        turns = {id(process): take_turn(process, processor) for process in sides}
        pairs.append((turns[id(base)], turns[id(new)]))
    rates = [TASKS[processor] / statistics.median(pair[n]["seconds"] for pair in pairs) for n in (0, 1)]
    return [
        f"{processor}: {rates[0]:,.0f} tasks/s before, {rates[1]:,.0f} now (medians of {rounds} turns)",
        f"  rate:        {_spread([before['seconds'] / now['seconds'] for before, now in pairs])} of before",
        f"  CPU seconds: {_spread([now['cpu_seconds'] / before['cpu_seconds'] for before, now in pairs])} of before",
    ]


def _spread(ratios: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} (quartiles {low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ab", description=__doc__)
    parser.add_argument("base", type=Path, help="the older tree")
    parser.add_argument("--rounds", type=int, default=16)
    options = parser.parse_args()
    with side(options.base.resolve()) as base, side(ROOT) as new:
        for processor in TASKS:
            print("\n".join(compare(base, new, processor, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
