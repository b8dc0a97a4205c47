"""1 GB of CSV through SQL: on the grid, in parts on two slots, beside DuckDB alone on the local file with two threads.

The query is that of examples/transform: it computes two columns, drops the cancelled and the unreadable, and writes
Parquet. Piecework's seconds, from submission to the end of the job, include all its reads from and writes to S3; the
upload, which a local file needs not, is given beside. The emulator is Python, and takes the CPU it needs from the same
two cores: how much is given as well. Both have loaded DuckDB before: here a small job does it.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import yaml

from bench.grid import Grid, running_grid
from bench.processes import Failed
from bench.suites.noop import job_seconds
from deploy.local.process import ROOT
from examples.transform.data import write_csv

_MEGABYTES = 1000
_SLOTS = 2
_TURNS = 5
_PROCESSOR = ROOT / "examples/transform/processors/settle-sql.yaml"
_SUMS = "SELECT count(*), sum(order_id)::BIGINT, sum(net_cents)::BIGINT FROM read_parquet({files})"


def run(size: int | None = None) -> dict[str, Any]:
    """Turn by turn, several times; what is given is the turn with the median ratio."""
    spec = yaml.safe_load(_PROCESSOR.read_text())
    with tempfile.TemporaryDirectory(prefix="piecework-bench-") as name, running_grid(workers=1, slots=_SLOTS) as grid:
        path = Path(name) / "orders.csv"
        write_csv(path, (size or _MEGABYTES) / 1000)
        sql = spec["sql"]
        grid.client.register_processor(spec.pop("name"), spec, description=spec.pop("description"))
        job, upload_seconds = _prepare(grid, path)
        turns = sorted(
            (_turn(grid, job, path, sql, Path(name) / str(turn)) for turn in range(_TURNS)),
            key=lambda turn: turn["ratio"],
        )
    return {
        **turns[_TURNS // 2],
        "ratios": [turn["ratio"] for turn in turns],
        "upload_seconds": upload_seconds,
        "bytes_in": turns[0]["duckdb"]["bytes_in"],
    }


def _turn(grid: Grid, job: dict[str, Any], path: Path, sql: str, directory: Path) -> dict[str, Any]:
    directory.mkdir()
    alone, by_grid = _alone(path, sql, directory), _by_grid(grid, job, directory)
    if alone["sums"] != by_grid["sums"]:
        raise Failed(f"the results differ: {alone}, {by_grid}")
    return {"duckdb": alone, "piecework": by_grid, "ratio": round(by_grid["seconds"] / alone["seconds"], 4)}


def _alone(path: Path, sql: str, directory: Path) -> dict[str, Any]:
    """The faster of two ways to read CSV: by types that DuckDB finds out, or as text, which is how Piecework has it."""
    ways = [_query(path, sql, directory / f"{all_varchar}.parquet", all_varchar) for all_varchar in ("false", "true")]
    return min(ways, key=lambda way: float(way["seconds"]))


def _query(path: Path, sql: str, result: Path, all_varchar: str) -> dict[str, Any]:
    with duckdb.connect(config={"threads": _SLOTS}) as connection:
        connection.execute("SET enable_progress_bar = false")
        started, before = time.monotonic(), os.times()
        connection.sql(f"CREATE VIEW input AS FROM read_csv('{path}', all_varchar = {all_varchar})")
        connection.sql(f"COPY ({sql}) TO '{result}' (FORMAT parquet)")
        seconds, after = time.monotonic() - started, os.times()
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(sum(after[:4]) - sum(before[:4]), 3),
        "all_varchar": all_varchar,
        "bytes_in": path.stat().st_size,
        "bytes_out": result.stat().st_size,
        "sums": _sum([result]),
    }


def _prepare(grid: Grid, path: Path) -> tuple[dict[str, Any], float]:
    """Upload the file and have a small job load DuckDB; returns the job to be measured, and the upload's seconds."""
    started = time.monotonic()
    uri = grid.client.upload(path)["uri"]
    upload_seconds = round(time.monotonic() - started, 3)
    job = {
        "input": {"type": "lines", "uri": uri, "format": "csv"},
        "stages": [{"processor": "transform-settle-sql"}],
    }
    few = grid.client.upload(_head(path, path.with_name("few.csv")))["uri"]
    warm_up = job | {"input": {"type": "lines", "uri": few, "format": "csv", "parts": 4 * _SLOTS}}
    grid.await_job(grid.client.submit_job(warm_up)["job_id"])
    return job, upload_seconds


def _by_grid(grid: Grid, spec: dict[str, Any], directory: Path) -> dict[str, Any]:
    with grid.measured(sampled=()) as usage:  # adding up the pages of two DuckDBs takes CPU from them
        job = grid.await_job(grid.client.submit_job(spec)["job_id"])
    files = [file for file in grid.client.get_results(job["job_id"])["files"] if file["name"].endswith(".parquet")]
    return {
        "grid": grid.shape,
        "seconds": round(job_seconds(job), 3),
        "parts": job["stages"][0]["task_count"],
        "bytes_out": sum(file["bytes"] for file in files),
        "sums": _sum(grid.client.download(files, directory / "grid")),
        "cpu_seconds": usage.cpu_seconds,
        "requests": usage.requests,
    }


def _head(path: Path, target: Path) -> Path:
    with path.open("rb") as file, target.open("wb") as head:
        head.writelines(islice(file, 1000))
    return target


def _sum(files: list[Path]) -> list[int]:
    with duckdb.connect() as connection:
        [row] = connection.sql(_SUMS.format(files=[str(file) for file in files])).fetchall()
    return list(row)


def report(results: dict[str, Any]) -> Iterator[str]:
    alone, grid = results["duckdb"], results["piecework"]
    yield (
        f"{results['bytes_in'] / 1e6:,.0f} MB of CSV, {alone['sums'][0]:,} rows out: Piecework {grid['seconds']:.1f} s "
        f"in {grid['parts']} parts, DuckDB alone {alone['seconds']:.1f} s, ratio {results['ratio']:.3f}, the median of "
        f"{', '.join(f'{ratio:.2f}' for ratio in results['ratios'])}"
    )
    cpu = grid["cpu_seconds"]
    yield (
        f"CPU seconds: alone {alone['cpu_seconds']:.1f}; worker {cpu['worker 0']:.1f}, emulator {cpu['emulator']:.1f}, "
        f"all of Piecework {sum(cpu.values()):.1f}; upload before it {results['upload_seconds']:.1f} s"
    )
