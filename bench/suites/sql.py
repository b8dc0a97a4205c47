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

from bench.grid import running_grid
from bench.processes import Failed
from bench.suites.noop import job_seconds
from deploy.local.process import ROOT
from examples.transform.data import write_csv

_MEGABYTES = 1000
_SLOTS = 2
_PROCESSOR = ROOT / "examples/transform/processors/settle-sql.yaml"
_SUMS = "SELECT count(*), sum(order_id)::BIGINT, sum(net_cents)::BIGINT FROM read_parquet({files})"


def run(size: int | None = None) -> dict[str, Any]:
    spec = yaml.safe_load(_PROCESSOR.read_text())
    with tempfile.TemporaryDirectory(prefix="piecework-bench-") as name:
        path = Path(name) / "orders.csv"
        write_csv(path, (size or _MEGABYTES) / 1000)
        alone = _alone(path, spec["sql"], Path(name))
        grid = _by_grid(path, spec, Path(name))
    if alone["sums"] != grid["sums"]:
        raise Failed(f"the results differ: {alone}, {grid}")
    return {
        "bytes_in": alone["bytes_in"],
        "duckdb": alone,
        "piecework": grid,
        "ratio": round(grid["seconds"] / alone["seconds"], 4),
    }


def _alone(path: Path, sql: str, directory: Path) -> dict[str, Any]:
    """The faster of two ways to read CSV: by types that DuckDB finds out, or as text, which is how Piecework has it."""
    ways = [_query(path, sql, directory / f"{all_varchar}.parquet", all_varchar) for all_varchar in ("false", "true")]
    return min(ways, key=lambda way: float(way["seconds"]))


def _query(path: Path, sql: str, result: Path, all_varchar: str) -> dict[str, Any]:
    with duckdb.connect(config={"threads": _SLOTS}) as connection:
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


def _by_grid(path: Path, processor: dict[str, Any], directory: Path) -> dict[str, Any]:
    with running_grid(workers=1, slots=_SLOTS) as grid:
        grid.client.register_processor(processor.pop("name"), processor, description=processor.pop("description"))
        started = time.monotonic()
        uri = grid.client.upload(path)["uri"]
        upload_seconds = time.monotonic() - started
        spec = {
            "input": {"type": "lines", "uri": uri, "format": "csv"},
            "stages": [{"processor": "transform-settle-sql"}],
        }
        few = grid.client.upload(_head(path, directory / "few.csv"))["uri"]
        warm_up = spec | {"input": {"type": "lines", "uri": few, "format": "csv", "parts": 4 * _SLOTS}}
        grid.await_job(grid.client.submit_job(warm_up)["job_id"])
        with grid.measured(sampled=()) as usage:  # adding up the pages of two DuckDBs takes CPU from them
            job = grid.await_job(grid.client.submit_job(spec)["job_id"])
        files = [file for file in grid.client.get_results(job["job_id"])["files"] if file["name"].endswith(".parquet")]
        results = grid.client.download(files, directory / "grid")
        sums = _sum(results)
    return {
        "grid": grid.shape,
        "seconds": round(job_seconds(job), 3),
        "upload_seconds": round(upload_seconds, 3),
        "parts": job["stages"][0]["task_count"],
        "bytes_out": sum(file["bytes"] for file in files),
        "sums": sums,
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
        f"in {grid['parts']} parts, DuckDB alone {alone['seconds']:.1f} s, ratio {results['ratio']:.3f}"
    )
    cpu = grid["cpu_seconds"]
    yield (
        f"CPU seconds: alone {alone['cpu_seconds']:.1f}; worker {cpu['worker 0']:.1f}, emulator {cpu['emulator']:.1f}, "
        f"all of Piecework {sum(cpu.values()):.1f}; upload before it {grid['upload_seconds']:.1f} s"
    )
