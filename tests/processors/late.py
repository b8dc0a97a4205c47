"""A processor whose first attempt of one task hangs, as on a node that is ill; nothing of Piecework is imported."""

import os
import time
from pathlib import Path


def hang_once(input: Path, output: Path, index: int, gate: str) -> dict[str, str]:
    """Returns the attempt's number; the first attempt of task `index` waits until the gate is open."""
    attempt = os.environ["PIECEWORK_ATTEMPT"]
    if (int(os.environ["PIECEWORK_TASK_INDEX"]), attempt) == (index, "1"):
        Path(gate, f"started-{time.monotonic_ns()}").touch()
        while not Path(gate, "open").exists():
            time.sleep(0.01)
    return {"attempt": attempt}
