"""From what was sampled to figures: a second, a task, a heartbeat, an hour."""

import statistics
from array import array
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.scale.load import Load
from bench.scale.sampler import Sampler
from bench.scale.stopwatch import Latencies


def summarize(load: Load, sampler: Sampler, played: Sequence[tuple[Latencies, int]]) -> dict[str, Any]:
    rounds = sampler.rounds
    first, last = rounds[0], rounds[-1]
    seconds = last["at"] - first["at"]
    server = {name: last["server"][name] - first["server"][name] for name in first["server"]}
    cpu = {name: last["cpu"][name] - first["cpu"].get(name, 0.0) for name in last["cpu"]}
    tasks = last["progress"]["succeeded"] - first["progress"]["succeeded"]
    return {
        "load": asdict(load),
        "seconds": round(seconds, 1),
        "offered_tasks_per_second": round(load.tasks_per_second, 1) if load.jobs else 0.0,
        "tasks_per_second": round(tasks / seconds, 1),
        "slots_busy": round(statistics.mean(r["progress"]["running"] for r in rounds) / (load.workers * load.slots), 3),
        "leases_lost": sum(lost for _, lost in played),
        "statements": {
            kind: _statement(kind, [part[kind] for part, _ in played if kind in part], seconds, cpu)
            for kind in ("claim", "complete", "heartbeat")
        },
        "cpu_cores": {name: round(used / seconds, 3) for name, used in sorted(cpu.items(), key=lambda item: -item[1])},
        "sessions_of_workers": max(r["sessions"] for r in rounds),
        "waits": {
            f"{name}: {wait}": round(count / sampler.looks, 3) for (name, wait), count in sampler.waits.most_common(40)
        },
        "server": {name: value / seconds for name, value in server.items()},
        "wal_bytes_per_task": round(server["wal_bytes"] / tasks) if tasks else None,
        "rounds": [
            {"seconds": round(r["at"] - first["at"], 1), "progress": r["progress"], "tables": r["tables"]}
            for r in rounds
        ],
    }


def _statement(kind: str, parts: Sequence["array[float]"], seconds: float, cpu: dict[str, float]) -> dict[str, float]:
    """Its rate, its latency as the worker sees it, and the CPU seconds of its backends for each."""
    values = sorted(value for part in parts for value in part)
    if not values:
        return {"per_second": 0.0, "p50_ms": 0.0, "p99_ms": 0.0, "cpu_us": 0.0}
    return {
        "per_second": round(len(values) / seconds, 1),
        "p50_ms": round(1000 * values[len(values) // 2], 2),
        "p99_ms": round(1000 * values[len(values) * 99 // 100], 2),
        "cpu_us": round(1e6 * cpu.get(kind, 0.0) / len(values)),
    }
