"""Run a service and write down its effects: `python -m bench.counted DIRECTORY MODULE ARGUMENTS…`.

A line an effect ("sqs SendMessageBatch"), appended at once to a file of this process in the directory, so that the
counts are right at any moment and however the service ends. What the process itself asks of AWS is counted here, try
by try: at the client, not at the emulator.
"""

import os
import runpy
import sys
from collections import Counter
from pathlib import Path

from services.platform import effects

AWS_KINDS = ("s3", "sqs", "autoscaling")


def count_effects(directory: Path) -> None:
    file = os.open(directory / f"{os.getpid()}.effects", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(moment: effects.Moment, effect: effects.Effect) -> None:
        if moment == "before":
            os.write(file, f"{effect.kind} {effect.name}\n".encode())

    effects.watch(write)


def read_counts(directory: Path) -> Counter[str]:
    """The effects so far of all processes that write to the directory, by kind and name."""
    counts: Counter[str] = Counter()
    for file in directory.glob("*.effects"):
        counts.update(file.read_text().splitlines())
    return counts


def aws_requests(counts: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in sorted(counts.items()) if name.split()[0] in AWS_KINDS and count}


if __name__ == "__main__":
    count_effects(Path(sys.argv[1]))
    del sys.argv[:2]
    sys.path[0] = str(Path.cwd())
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
