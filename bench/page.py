"""bench/results/README.md: the newest results of each suite in tables, beside what was aimed at."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Suites = Mapping[str, Any]

_HEAD = """# Results

Written by `python -m bench` from the records in this directory; what is measured and how is in
[docs/benchmarks.md](../../docs/benchmarks.md).
"""


def write_page(suites: Suites, plots: Iterable[Path], directory: Path) -> Path:
    path = directory / "README.md"
    sections = ["\n".join(section(suites)) for section in (_runs, _aims, _sizes, _peers)]
    sections += [f"![{plot.stem}]({plot.name})" for plot in plots]
    path.write_text("\n\n".join([_HEAD.rstrip(), *filter(None, sections)]) + "\n")
    return path


def _runs(suites: Suites) -> Iterator[str]:
    yield "| suite | at | commit | machine | load before |"
    yield "|---|---|---|---|---:|"
    for name, results in suites.items():
        facts = results["machine"]
        at, load = results["at"][:16].replace("T", " "), facts["load"]
        commit = facts["commit"] + (" and changes" if facts["changed"] else "")
        where = f"{facts['processor']}, {facts['cores']} cores, Python {facts['python']}"
        yield f"| {name} | {at} UTC | {commit} | {where} | {load} |"


def _aims(suites: Suites) -> Iterator[str]:
    yield "## Aims"
    yield ""
    yield "| aim | measured |"
    yield "|---|---|"
    for suite, aim, measure in _AIMS:
        if results := suites.get(suite):
            yield f"| {aim} | {measure(results)} |"


def _rate(results: Any) -> str:
    last = results["runs"][-1]
    return f"{last['tasks_per_second']:,} tasks/s over {last['tasks']:,}"


def _steadiness(results: Any) -> str:
    first, last = results["runs"][0], results["runs"][-1]
    return (
        f"{last['tasks_per_second'] / first['tasks_per_second']:.2f} of it ({first['tasks_per_second']:,} tasks/s at "
        f"{first['tasks']:,})"
    )


def _requests(results: Any) -> str:
    return "; ".join(
        f"{run['per_1000_tasks']['requests']:.1f} (${run['per_1000_tasks']['dollars'] * 1000:.4f} a million tasks) at "
        f"{run['tasks']:,}"
        for run in results["runs"]
    )


def _milliseconds(figures: Mapping[str, float]) -> str:
    return f"p50 {figures['p50'] * 1000:.1f} ms, p99 {figures['p99'] * 1000:.1f} ms"


def _transform(results: Any) -> str:
    pool, ours = results["pool"], results["piecework"]
    return (
        f"{results['ratio']:.2f} x: {ours['seconds']:.1f} s against {pool['seconds']:.1f} s; CPU: worker "
        f"{ours['cpu_seconds']['worker 0']:.1f} s, S3 emulator {ours['cpu_seconds']['emulator']:.1f} s, "
        f"Pool {pool['cpu_seconds']:.1f} s; {results['ratio_orjson']:.2f} x a Pool that reads and writes by orjson"
    )


def _sql(results: Any) -> str:
    alone, ours = results["duckdb"], results["piecework"]
    return (
        f"{results['ratio']:.2f} x: {ours['seconds']:.1f} s against {alone['seconds']:.1f} s; CPU: worker "
        f"{ours['cpu_seconds']['worker 0']:.1f} s, S3 emulator {ours['cpu_seconds']['emulator']:.1f} s, "
        f"DuckDB {alone['cpu_seconds']:.1f} s"
    )


def _transcode(results: Any) -> str:
    return "; ".join(
        f"{codec}: {made['ratio']:.2f} x, {made['seconds']:.1f} s against {made['ffmpeg']['seconds']:.1f} s"
        for codec, made in results["codecs"].items()
    )


def _merge(results: Any) -> str:
    names = ("copied", "coalesced", "one_by_one", "coalesced_20_ms", "one_by_one_20_ms")
    copied, rates = results["copied"], {name: results[name]["parts_per_second"] for name in names}
    return (
        f"{copied['bytes'] / 1e6:,.0f} MB in {copied['parts']} parts: {copied['cpu_seconds']:.1f} s of CPU; the S3 "
        f"emulator takes {copied['seconds']:.1f} s to join them; parts of 10 KiB: {rates['coalesced']:,.0f}/s "
        f"({rates['one_by_one']:,.0f}/s one by one); with 20 ms to the first byte {rates['coalesced_20_ms']:,.0f}/s "
        f"({rates['one_by_one_20_ms']:,.0f}/s)"
    )


def _splits(results: Any) -> str:
    lines, listing = results["lines"], results["listing"]
    return (
        f"{100 * lines['read_share']:.4f} %, at {lines['tasks_a_second']:,} parts/s; {listing['tasks']:,} objects are "
        f"listed at {listing['tasks_a_second']:,}/s"
    )


def _flatness(results: Any) -> str:
    first = results["samples"][0]["memory_bytes"]
    peaks = results["memory_peak_bytes"]
    return ", ".join(f"{name} {first[name] / 1e6:.0f} to {peak / 1e6:.0f} MB" for name, peak in peaks.items())


def _idle(results: Any) -> str:
    asked = ", ".join(f"{count} {name}" for name, count in results["requests_an_hour"].items())
    cpu, dollars = results["cpu_percent_of_a_core"], results["dollars_a_month"]
    return f"{cpu} % of a core; requests an hour: {asked}; ${dollars:.2f} a month"


_AIMS: list[tuple[str, str, Callable[[Any], str]]] = [
    ("noop", "no-op tasks: at least 20,000/s, sustained over 1,000,000", _rate),
    ("noop", "rate at 1,000,000 within 20 % of the rate at 10,000", _steadiness),
    ("noop", "at most 50 AWS requests for 1,000 no-op tasks", _requests),
    ("function", "empty Python functions, as users write them", _rate),
    (
        "map",
        "`map` of 10,000 items, from the call to the last value: at least 8,000 a second; one call at most 25 ms",
        lambda results: (
            f"{results['items_per_second']:,} a second over {results['items']:,}; "
            f"one call {_milliseconds(results['submit_seconds'])}"
        ),
    ),
    (
        "sleep",
        "tasks of 100 ms: at least 97 % of the slots' ideal throughput",
        lambda results: f"{100 * results['of_ideal']:.1f} %",
    ),
    ("transform", "1 GB of JSONL in pure Python: at most 1.10 x `Pool(2)` on local files", _transform),
    ("sql", "DuckDB over 1 GB of CSV: at most 1.50 x DuckDB alone, with 2 threads, on the local file", _sql),
    ("transcode", "a film in segments on two slots: at most 1.15 x one ffmpeg of two threads", _transcode),
    ("merge", "joining outputs: time grows with the parts, not the bytes; small ones are read many at once", _merge),
    ("splits", "splitting 1 TB into 16,384 parts: at most 0.01 % of it is read", _splits),
    (
        "latency",
        "idle grid, submission to first start: p50 at most 50 ms, p99 at most 250 ms",
        lambda results: (
            f"claimed {_milliseconds(results['claimed_seconds'])}; "
            f"user code runs {_milliseconds(results['code_runs_seconds'])}"
        ),
    ),
    ("tenmillion", "each service's memory flat up to 10,000,000 tasks, at most 150 MB", _flatness),
    (
        "tenmillion",
        "progress read at 10,000,000 task rows: p99 at most 10 ms",
        lambda results: f"{_milliseconds(results['progress_seconds'])} ({results['tasks']:,} rows)",
    ),
    ("idle", "idle grid: at most 1 % CPU for all services, a bounded number of AWS requests", _idle),
]


def _sizes(suites: Suites) -> Iterator[str]:
    runs = suites.get("noop", {}).get("runs", [])
    if runs:
        yield "## No-op tasks by size of the job"
        yield ""
        yield "| tasks | tasks/s | CPU s for 1,000 | with Postgres and emulator | memory peaks |"
        yield "|---:|---:|---:|---:|---|"
    for run in runs:
        each = run["per_1000_tasks"]
        peaks = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in run["memory_peak_bytes"].items())
        yield (
            f"| {run['tasks']:,} | {run['tasks_per_second']:,} | {each['cpu_seconds']:.3f} "
            f"| {each['cpu_seconds_with_brokers']:.3f} | {peaks} |"
        )


def _peers(suites: Suites) -> Iterator[str]:
    rows = suites.get("peers", {}).get("rows", [])
    if rows:
        yield "## Beside its peers"
        yield ""
        yield (
            "| | tasks | tasks/s | built-in no-op is | Python function is | latency p50 | p99 | memory "
            "| CPU s for 1,000 | with broker | AWS requests for 1,000 | a million tasks |"
        )
        yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        yield f"| {row['peer']} | " + (" | ".join(_cells(row, rows[:2])) if row["runs"] else row["failed"]) + " |"


def _cells(row: Any, ours: Any) -> Iterator[str]:
    run, idle = row["runs"][-1], row["latency_seconds"]
    each, rate = run["per_1000_tasks"], run["tasks_per_second"]
    yield f"{run['tasks']:,}"
    yield f"{rate:,}"
    yield from (ratio_text(own["runs"][-1]["tasks_per_second"] / rate) for own in ours)
    yield from (f"{idle[name] * 1000:.1f} ms" for name in ("p50", "p99"))
    yield f"{run['memory_peak_bytes'] / 1e6:.0f} MB"
    yield f"{each['cpu_seconds']:.3f}"
    yield f"{each['cpu_seconds_with_brokers']:.3f}"
    yield f"{each['requests']:.1f}" if each["requests"] else "-"
    yield f"${each['dollars'] * 1000:.4f}" if each["requests"] else "-"


def ratio_text(ratio: float) -> str:
    return f"{ratio:,.0f} x" if ratio >= 10 else f"{ratio:.2g} x"
