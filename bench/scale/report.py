"""The figures of one or more loads, in lines to read and, if matplotlib is there, in a plot."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.scale.sampler import TABLES

_MIB = 1024**2


def describe(result: dict[str, Any]) -> Iterator[str]:
    """All that is worth reading of one load."""
    load = result["load"]
    yield (
        f"{load['workers']:,} workers of {load['slots']} slots, tasks of {load['task_seconds']:g} s, jobs: "
        f"{load['jobs']}, speed {load['speed']:g}; {result['seconds']:g} s measured"
    )
    yield (
        f"tasks/s: {result['tasks_per_second']:,} of {result['offered_tasks_per_second']:,} offered; "
        f"slots at work {result['slots_busy']:.0%}; leases lost: {result['leases_lost']}"
    )
    yield ""
    yield f"{'statement':<12}{'a second':>10}{'p50 ms':>10}{'p99 ms':>10}{'CPU us':>10}"
    for kind, row in result["statements"].items():
        yield f"{kind:<12}{row['per_second']:>10,.1f}{row['p50_ms']:>10.1f}{row['p99_ms']:>10.1f}{row['cpu_us']:>10.0f}"
    yield ""
    yield "cores used: " + _list(result["cpu_cores"], 0.005, "{:.2f}")
    yield f"sessions of the workers, at most: {result['sessions_of_workers']}"
    yield "sessions at once, by what they wait for: " + _list(result["waits"], 0.02, "{:.2f}")
    server = result["server"]
    per_task = f", {result['wal_bytes_per_task']:,} B a task" if result["wal_bytes_per_task"] else ""
    yield (
        f"WAL: {server['wal_bytes'] / _MIB:.1f} MiB/s{per_task}; {server['wal_fsyncs']:.0f} flushes/s for "
        f"{server['commits']:,.0f} transactions/s; deadlocks/s: {server['deadlocks']:g}"
    )
    yield ""
    yield (
        f"{'table':<16}{'MiB':>8}{'then':>8}{'index':>8}{'then':>8}{'rows':>11}{'dead most':>11}"
        f"{'updates':>11}{'HOT':>6}{'vacuums':>9}"
    )
    yield from _tables(result["rounds"])


def _list(figures: dict[str, float], least: float, form: str) -> str:
    return ", ".join(f"{name} {form.format(value)}" for name, value in figures.items() if value >= least) or "none"


def _tables(rounds: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Sizes at the beginning and the end of the measurement, and what came between."""
    for name in TABLES:
        seen = [r["tables"][name] for r in rounds if name in r["tables"]]
        first, last = seen[0], seen[-1]
        updates = last["updates"] - first["updates"]
        hot = (last["hot_updates"] - first["hot_updates"]) / updates if updates else 0.0
        yield (
            f"{name:<16}{first['bytes'] / _MIB:>8.1f}{last['bytes'] / _MIB:>8.1f}{first['index_bytes'] / _MIB:>8.1f}"
            f"{last['index_bytes'] / _MIB:>8.1f}{last['live']:>11,}{max(row['dead'] for row in seen):>11,}"
            f"{updates:>11,}{hot:>6.0%}{last['vacuums'] - first['vacuums']:>9}"
        )


def compare(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line a load: what it asked for and what it got."""
    columns = {"task s": 8, "workers": 9, "jobs": 6, "offered/s": 11, "tasks/s": 9, "busy": 6, "complete p99": 14}
    yield "".join(f"{name:>{width}}" for name, width in columns.items()) + f"{'cores':>7}"
    for result in results:
        load = result["load"]
        yield (
            f"{load['task_seconds']:>8g}{load['workers']:>9,}{load['jobs']:>6}{result['offered_tasks_per_second']:>11,}"
            f"{result['tasks_per_second']:>9,}{result['slots_busy']:>6.0%}"
            f"{result['statements']['complete']['p99_ms']:>11.0f} ms{result['cpu_cores']['postgres']:>7.2f}"
        )


def draw(results: Sequence[dict[str, Any]], path: Path) -> bool:
    """A plot of sizes and dead rows over time, of the last load; False if there is no matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    rounds = results[-1]["rounds"]
    times = [r["seconds"] * results[-1]["load"]["speed"] / 60 for r in rounds]
    figure = Figure(figsize=(10, 4), layout="constrained")
    sizes, dead = figure.subplots(1, 2)
    for name in TABLES:
        rows = [r["tables"][name] for r in rounds]
        sizes.plot(times, [(row["bytes"] + row["index_bytes"]) / _MIB for row in rows], label=name)
        dead.plot(times, [row["dead"] for row in rows], label=name)
    sizes.set(title="Size with indexes", xlabel="minutes of the protocol", ylabel="MiB", yscale="log")
    dead.set(title="Dead rows", xlabel="minutes of the protocol", yscale="symlog")
    dead.legend()
    figure.savefig(path, dpi=120)
    return True
