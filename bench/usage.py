"""What trees of processes use while something runs: CPU seconds, peak memory, and AWS requests."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.counted import aws_requests, read_counts
from bench.prices import dollars

_SAMPLE_SECONDS = 1.0

Processes = Mapping[str, psutil.Process]


@dataclass(slots=True)
class Usage:
    """Filled when the measuring ends; by name of process, each with its descendants."""

    seconds: float = 0.0
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    memory_peak_bytes: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)

    def per_1000(self, tasks: int, apart: Iterable[str] = ()) -> dict[str, float]:
        """Figures for 1,000 tasks; the CPU of the processes named `apart` (brokers, databases) stands apart."""
        apart = frozenset(apart)
        thousands = tasks / 1000
        own = sum(seconds for name, seconds in self.cpu_seconds.items() if name not in apart)
        return {
            "cpu_seconds": round(own / thousands, 4),
            "cpu_seconds_with_brokers": round(sum(self.cpu_seconds.values()) / thousands, 4),
            "requests": round(sum(self.requests.values()) / thousands, 2),
            "dollars": round(dollars(self.requests) / thousands, 9),
        }


@contextmanager
def measured(processes: Processes, counts: Path, sampled: Iterable[str] | None = None) -> Iterator[Usage]:
    """Measure until the context ends; the memory of those named in `sampled` (default: all) every second.

    Adding up the pages of a database's many backends costs CPU of its own: so not all need be sampled.
    """
    usage = Usage()
    names = list(processes if sampled is None else sampled)
    before_cpu, before_counts = cpu_seconds(processes), read_counts(counts)
    started = time.monotonic()
    with _peaks({name: processes[name] for name in names}, usage.memory_peak_bytes):
        yield usage
        usage.seconds = round(time.monotonic() - started, 3)
        after = cpu_seconds(processes)
    usage.cpu_seconds = {name: round(seconds - before_cpu[name], 3) for name, seconds in after.items()}
    usage.requests = aws_requests(read_counts(counts) - before_counts)


@contextmanager
def _peaks(processes: Processes, peaks: dict[str, int]) -> Iterator[None]:
    ended = threading.Event()

    def sample() -> None:
        while True:
            last = ended.is_set()
            for name, size in memory_bytes(processes).items():
                peaks[name] = max(size, peaks.get(name, 0))
            if last:
                return
            ended.wait(_SAMPLE_SECONDS)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield
    finally:
        ended.set()
        sampler.join()


def memory_bytes(processes: Processes) -> dict[str, int]:
    """Proportional set size by process, descendants included: pages that they share count once."""
    return {name: sum(map(_pss, _tree(process))) for name, process in processes.items()}


def cpu_seconds(processes: Processes) -> dict[str, float]:
    """User and system time by process, descendants included, also those that have ended."""
    return {name: sum(map(_cpu, _tree(process))) for name, process in processes.items()}


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _pss(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0


def _cpu(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0
