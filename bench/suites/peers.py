"""Piecework beside its peers on the same machine: no-op tasks a second, latency, memory, CPU and AWS requests.

Each peer is put through bench.peers.program in its own environment, with fresh brokers, alone on the machine. It gets
10,000, 100,000 and 1,000,000 tasks as far as its pace allows that in half a minute; the figures are of the largest run.
Piecework is run twice: by its built-in no-op, and by a Python function that does nothing, which costs what any user's
code costs. A peer that can't be installed or does not end is reported with the reason.
"""

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.brokers import PEERS_BIN, Brokers, running_brokers
from bench.grid import APART, Grid, running_grid
from bench.processes import Failed, spawn, stop_tree
from bench.suites import latency
from bench.suites.noop import job_seconds
from bench.usage import Processes, Usage, measured
from deploy.local.process import last_lines

_SECONDS_MAX = 240.0
_LATENCIES = 100
_PIECEWORK = (
    ("Piecework, built-in no-op", "noop", (10_000, 100_000, 1_000_000)),
    ("Piecework, Python function", "nothing", (10_000,)),
)
_HEAD = f"{'tasks':>42}{'tasks/s':>13}{'p50, p99 idle':>19}{'memory':>10}{'CPU s':>9}{'+ broker':>9}  AWS requests"


@dataclass(frozen=True, slots=True)
class Peer:
    title: str
    module: str  # of bench.peers
    brokers: tuple[str, ...] = ()


PEERS = (
    Peer("Celery + Redis", "celery_redis", ("redis",)),
    Peer("Celery + SQS", "celery_sqs", ("emulator", "redis")),
    Peer("Dramatiq + Redis", "dramatiq_redis", ("redis",)),
    Peer("taskiq + SQS", "taskiq_sqs", ("emulator", "redis")),
    Peer("arq + Redis", "arq_redis", ("redis",)),
    Peer("procrastinate", "procrastinate_postgres", ("postgres",)),
    Peer("Dask", "dask_cluster"),
    Peer("Ray", "ray_cluster"),
    Peer("multiprocessing.Pool", "pool"),
)


def run(size: int | None = None) -> dict[str, Any]:
    print(_HEAD, flush=True)
    rows = _piecework(size)
    for peer in PEERS:
        row = _measure(peer)
        rows.append(row if row["runs"] else _measure(peer))  # a peer that stumbles gets a second try
        print(f"    {line(rows[-1])}", flush=True)
    return {"rows": rows}


def _measure(peer: Peer) -> dict[str, Any]:
    """The peer's row: its figures, or why there are none."""
    row: dict[str, Any] = {"peer": peer.title, "brokers": list(peer.brokers), "runs": []}
    with tempfile.TemporaryDirectory(prefix="piecework-peer-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o711)  # Postgres does not run as root
        try:
            with running_brokers(peer.brokers, directory) as brokers:
                _run_program(peer, row, brokers, directory)
        except FileNotFoundError as error:
            row["failed"] = f"not installed: there is no {Path(error.filename).name} in .venv-peers"
        except Failed as error:
            row["failed"] = str(error)
        if not row["runs"]:
            row.setdefault("failed", last_lines(directory / "program.log", 1))
    return row


def _run_program(peer: Peer, row: dict[str, Any], brokers: Brokers, directory: Path) -> None:
    """Run the peer's program, for a limited time; then end it and all that it started."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | brokers.environment | {"BENCH_COUNTS": str(directory), "TMPDIR": str(directory)}
    command = [str(PEERS_BIN / "python"), "-m", "bench.peers.program", peer.module]
    program = spawn(command, log=directory / "program.log", environment=environment, **pipes)
    clock = threading.Timer(_SECONDS_MAX, stop_tree, [[program]])
    deadline = time.monotonic() + _SECONDS_MAX
    clock.start()
    try:
        _listen(program, row, {"program": program, **brokers.processes}, directory)
    finally:
        if time.monotonic() >= deadline:
            row["failed"] = f"it had not ended after {_SECONDS_MAX:.0f} s"
        clock.cancel()
        stop_tree([program])


def _listen(program: psutil.Popen, row: dict[str, Any], processes: Processes, counts: Path) -> None:
    """Follow what the program says, measuring between its "begin" and "end"."""
    lines = map(json.loads, program.stdout)
    for line in lines:
        if "begin" in line:
            with measured(processes, counts, ["program"]) as usage:
                _go_on(program)
                end = next(lines, None)
            if end is None:
                return
            row["runs"].append(_figures(end["end"], end["seconds"], usage, row["brokers"]))
            _go_on(program)
        elif "latencies" in line:
            row["latency_seconds"] = latency.percentiles(line["latencies"])
        else:
            row |= line


def _go_on(program: psutil.Popen) -> None:
    program.stdin.write("\n")
    program.stdin.flush()


def _figures(tasks: int, seconds: float, usage: Usage, brokers: Any) -> dict[str, Any]:
    return {
        "tasks": tasks,
        "seconds": round(seconds, 3),
        "tasks_per_second": round(tasks / seconds),
        "memory_peak_bytes": sum(usage.memory_peak_bytes.values()),
        "cpu_seconds": usage.cpu_seconds,
        "requests": usage.requests,
        "per_1000_tasks": usage.per_1000(tasks, brokers),
    }


def _piecework(size: int | None) -> list[dict[str, Any]]:
    with running_grid() as grid:
        grid.client.register_processor("noop", {"builtin": "noop"})
        grid.client.register_processor("nothing", {"callable": "bench_tasks:nothing"})
        grid.client.register_processor("started", {"callable": "bench_tasks:started"})
        latency.measure(grid, 5)
        idle = latency.measure(grid, _LATENCIES)["code_runs_seconds"]
        rows = []
        for title, processor, sizes in _PIECEWORK:
            grid.run_job(processor, 500)
            runs = [_run_job(grid, processor, tasks) for tasks in ([size] if size else sizes)]
            rows.append({"peer": title, "brokers": list(APART), "runs": runs, "latency_seconds": idle})
            print(f"    {line(rows[-1])}", flush=True)
        return rows


def _run_job(grid: Grid, processor: str, tasks: int) -> dict[str, Any]:
    with grid.measured() as usage:
        seconds = job_seconds(grid.run_job(processor, tasks))
    return _figures(tasks, seconds, usage, APART)


def line(row: dict[str, Any]) -> str:
    """The row in words: its largest run."""
    if not row["runs"]:
        return f"{row['peer']:<28} not measured: {row['failed']}"
    last, idle = row["runs"][-1], row["latency_seconds"]
    each = last["per_1000_tasks"]
    requests = f"{each['requests']:.1f} (${each['dollars'] * 1000:.4f} a million)" if each["requests"] else "none"
    return (
        f"{row['peer']:<28}{last['tasks']:>10,}{last['tasks_per_second']:>11,}/s"
        f"{idle['p50'] * 1000:>8.1f}{idle['p99'] * 1000:>8.1f} ms{last['memory_peak_bytes'] / 1e6:>7.0f} MB"
        f"{each['cpu_seconds']:>9.3f}{each['cpu_seconds_with_brokers']:>9.3f}  {requests}"
    )


def report(results: dict[str, Any]) -> Iterator[str]:
    """The ratios; the rows were printed as they came."""
    rows = results["rows"]
    for row in rows[2:]:
        if row["runs"]:
            ratios = [own["runs"][-1]["tasks_per_second"] / row["runs"][-1]["tasks_per_second"] for own in rows[:2]]
            yield f"Piecework : {row['peer']} = {ratios[0]:.3g} (built-in no-op), {ratios[1]:.3g} (Python function)"
