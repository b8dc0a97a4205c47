"""Memory of each service, sampled while something runs."""

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from deploy.local.settings import StackSettings

SAMPLE_SECONDS = 0.25


def resident_bytes(settings: StackSettings) -> dict[str, int]:
    """Proportional set size by service, its child processes included: pages they share count once."""
    record = json.loads(Path(settings.state, "stack.json").read_text())
    found: dict[str, int] = defaultdict(int)
    for name, pid in record["processes"].items():
        with suppress(psutil.Error):
            root = psutil.Process(pid)
            if name == "fleet":
                for number, worker in enumerate(root.children()):
                    found[f"worker {number}"] = _tree_bytes(worker)
            else:
                found[name] = _tree_bytes(root)
    return dict(found)


def _tree_bytes(root: psutil.Process) -> int:
    total = 0
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


@contextmanager
def peak_memory(settings: StackSettings) -> Iterator[dict[str, int]]:
    """The dict fills with each service's peak until the context ends."""
    peaks: dict[str, int] = {}
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            for name, size in resident_bytes(settings).items():
                peaks[name] = max(size, peaks.get(name, 0))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peaks
    finally:
        ended.set()
        sampler.join()
