"""A processor that takes its time; nothing of Piecework is imported."""

import time
from pathlib import Path


def nap(input: Path, output: Path, seconds: float) -> None:
    time.sleep(seconds)
