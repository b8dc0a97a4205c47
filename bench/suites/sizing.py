"""What a worker costs its database: milliseconds of CPU a second, idle and at work, and connections.

A fleet's protocol load on a real Postgres (bench.scale): with one idle worker, with many idle ones, and with many that
run tasks of ten seconds. What the server takes more than with one is the fleet's: of the server's processes, so other
work of the machine does not count. Then fewer workers have pools of connections of their own, as real ones do.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.scale.load import Load
from bench.scale.run import simulate

_WORKERS = 200
_SLOTS = 2  # of a worker, as of a pool by default
_WITH_POOLS = 100
_MINUTES = 1.0
_ALONE = Load(workers=1, slots=_SLOTS, jobs=0, processes=1)
_TASK_SECONDS = 10.0
_TABLE_SECONDS = (60, 10)
_OWN_CONNECTIONS = 3  # at most, as boot.sh sets it
_BUSY_AT_MOST = 0.5  # of the CPU that the class always has
_OTHERS_CONNECTIONS = 30  # of the control node


@dataclass(frozen=True)
class DatabaseClass:
    """`cores` it always has: of a burstable class the baseline of its 2 vCPU. `connections` as docs/aws.md sets them.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-credits-baseline-concepts.html
    """

    name: str
    cores: float
    connections: int


CLASSES = (
    DatabaseClass("db.t4g.micro", 0.2, 100),
    DatabaseClass("db.t4g.small", 0.4, 200),
    DatabaseClass("db.m7g.large", 2.0, 850),
    DatabaseClass("db.m7g.2xlarge", 8.0, 3400),
)


def run(size: int | None = None) -> dict[str, Any]:
    """`size`: workers."""
    workers, minutes = (size, 0.5) if size else (_WORKERS, _MINUTES)
    alone = simulate(replace(_ALONE, minutes=minutes))["cpu_cores"]["postgres"]
    idle = _beyond(alone, Load(workers, _SLOTS, jobs=0, minutes=minutes))
    busy = _beyond(alone, Load(workers, _SLOTS, _TASK_SECONDS, minutes=minutes))
    # By the tasks that it got through: on a busy machine they are fewer than slots and time allow.
    task_ms = round((busy["ms"] - idle["ms"]) * workers / busy["tasks_per_second"], 2)
    at_work = {"idle": idle["ms"]} | {
        f"tasks of {seconds} s": round(idle["ms"] + task_ms * _SLOTS / seconds, 4) for seconds in _TABLE_SECONDS
    }
    pools = Load(min(workers, _WITH_POOLS), _SLOTS, minutes=minutes, own_connections=_OWN_CONNECTIONS)
    sessions = simulate(pools)["sessions_of_workers"] / pools.workers
    return {
        "workers": workers,
        "slots": _SLOTS,
        "minutes": minutes,
        "alone_ms": round(1000 * alone, 2),
        "idle": idle,
        "busy": busy,
        "task_ms": task_ms,
        "worker_ms": at_work,
        "workers_with_pools": pools.workers,
        "sessions_a_worker": sessions,
        "classes": [asdict(each) | _workers(each, at_work, sessions) for each in CLASSES],
    }


def _beyond(alone: float, load: Load) -> dict[str, float]:
    """Milliseconds of CPU that the server takes for a worker and second, and for each statement."""
    seen = simulate(load)
    statements = {f"{kind}_ms": round(row["cpu_us"] / 1000, 3) for kind, row in seen["statements"].items()}
    spent = 1000 * (seen["cpu_cores"]["postgres"] - alone) / (load.workers - 1)
    return {"ms": round(spent, 4), "tasks_per_second": seen["tasks_per_second"], **statements}


def _workers(of: DatabaseClass, worker_ms: dict[str, float], sessions: float) -> dict[str, Any]:
    """How many the class carries: by its CPU, at each kind of work, and by its connections."""
    by_cpu = {name: int(1000 * of.cores * _BUSY_AT_MOST / ms) for name, ms in worker_ms.items()}
    return {"by_cpu": by_cpu, "by_connections": int((of.connections - _OTHERS_CONNECTIONS) / sessions)}


def report(results: dict[str, Any]) -> Iterator[str]:
    yield f"{results['workers']} workers of {results['slots']} slots; CPU of the database in ms"
    yield f"without them: {results['alone_ms']} a second"
    yield "a worker and second: " + ", ".join(f"{name} {ms:.3f}" for name, ms in results["worker_ms"].items())
    statements = ", ".join(f"{kind} {results['busy'][f'{kind}_ms']:.2f}" for kind in ("heartbeat", "claim", "complete"))
    yield f"a task: {results['task_ms']} ({results['busy']['tasks_per_second']} tasks/s; {statements})"
    sessions = results["sessions_a_worker"]
    yield f"{results['workers_with_pools']} workers with pools of their own: {sessions:.2f} sessions each"
    for row in results["classes"]:
        by_cpu = ", ".join(f"{count:,} {name}" for name, count in row["by_cpu"].items())
        yield f"{row['name']:<16} by CPU {by_cpu}; by connections {row['by_connections']:,}"
