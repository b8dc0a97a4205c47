"""1 GB of JSONL through a pure-Python record function, beside multiprocessing.Pool(2) on local files.

Both apply bench_tasks.settle to each record, in parts of 8 MiB, two at a time, each part's result in a file or object
of its own. The Pool's program reads and writes JSON by the standard library, as is usual, and then once more by orjson,
which Piecework uses for its record functions. Piecework's seconds, from submission to the end of the job, include all
its reads from and writes to S3; the upload, which a local file needs not, is given beside. The emulator is Python, too,
and takes the CPU it needs from the same two cores: how much is given as well.
"""

import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import orjson

from bench.grid import running_grid
from bench.processes import Failed
from bench.processors.bench_tasks import settle
from bench.suites.noop import job_seconds

_MEGABYTES = 1000
_SLOTS = 2
_PART_BYTES = 8 * 1024 * 1024
_SAMPLE_RECORDS = 20_000  # drawn from a fixed seed, and repeated until the file is full

Span = tuple[Path, int, int, Path]


def run(size: int | None = None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="piecework-bench-") as name:
        directory = Path(name)
        path = _write_claims(directory / "claims.jsonl", (size or _MEGABYTES) * 1_000_000)
        pool = _by_pool(path, directory / "json", "json")
        pool_orjson = _by_pool(path, directory / "orjson", "orjson")
        grid = _by_grid(path)
    if (pool["records"], pool["bytes_out"]) != (grid["records"], grid["bytes_out"]):
        raise Failed(f"the results differ: {pool}, {grid}")
    return {
        "bytes_in": pool["bytes_in"],
        "pool": pool,
        "pool_orjson": pool_orjson,
        "piecework": grid,
        "ratio": round(grid["seconds"] / pool["seconds"], 4),
        "ratio_orjson": round(grid["seconds"] / pool_orjson["seconds"], 4),
    }


def _write_claims(path: Path, size: int) -> Path:
    draw = random.Random(20_26)
    sample = "".join(f"{json.dumps(_claim(draw, number))}\n" for number in range(_SAMPLE_RECORDS)).encode()
    with path.open("wb") as file:
        while file.tell() + len(sample) <= size:
            file.write(sample)
        rest = sample[: size - file.tell()]
        file.write(rest[: rest.rfind(b"\n") + 1])
    return path


def _claim(draw: random.Random, number: int) -> dict[str, Any]:
    lines = [
        {"code": f"{draw.randrange(10**5):05}", "quantity": draw.randint(1, 9), "price": draw.randint(100, 99999) / 100}
        for _ in range(draw.randint(2, 8))
    ]
    return {
        "claim": f"C{number:09}",
        "member": f" m{draw.randrange(10**8):08} ",
        "date": f"2026-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}",
        "status": draw.choice(["open", "paid", "denied", "void"]),
        "note": " ".join(draw.choice(["fracture", "follow-up", "x-ray", "referred", "Zürich"]) for _ in range(6)),
        "lines": lines,
    }


def _by_pool(path: Path, out: Path, library: str) -> dict[str, Any]:
    out.mkdir()
    started, before = time.monotonic(), os.times()
    size = path.stat().st_size
    spans = [
        (path, start, min(start + _PART_BYTES, size), out / f"{start:012}.jsonl")
        for start in range(0, size, _PART_BYTES)
    ]
    with get_context("fork").Pool(2) as pool:
        records = sum(pool.imap_unordered(partial(transform_span, library=library), spans))
        seconds = time.monotonic() - started
        pool.close()
        pool.join()
    after = os.times()
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(sum(after[:4]) - sum(before[:4]), 3),
        "bytes_in": size,
        "bytes_out": sum(file.stat().st_size for file in out.iterdir()),
        "records": records,
    }


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _encode(value: Any) -> bytes:
    return _encoder.encode(value).encode()


_LIBRARIES: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    "json": (json.loads, _encode),
    "orjson": (orjson.loads, orjson.dumps),
}


def transform_span(span: Span, library: str = "json") -> int:
    """Transform the lines that begin within the span; returns how many."""
    path, start, end, target = span
    decode, encode = _LIBRARIES[library]
    records = 0
    with path.open("rb") as source, target.open("wb", buffering=1 << 20) as results:
        if start:
            source.seek(start - 1)
            source.readline()
        position = source.tell()
        for line in source:
            if position >= end:
                break
            position += len(line)
            results.write(encode(settle(decode(line))) + b"\n")
            records += 1
    return records


def _by_grid(path: Path) -> dict[str, Any]:
    with running_grid(workers=1, slots=_SLOTS) as grid:
        grid.client.register_processor("settle", {"records": "bench_tasks:settle"})
        started = time.monotonic()
        uri = grid.client.upload(path)["uri"]
        upload_seconds = time.monotonic() - started
        spec = {
            "input": {"type": "lines", "uri": uri, "format": "jsonl", "part_bytes": _PART_BYTES},
            "stages": [{"processor": "settle"}],
        }
        with grid.measured() as usage:
            job = grid.await_job(grid.client.submit_job(spec)["job_id"])
        files = [file for file in grid.client.get_results(job["job_id"])["files"] if file["name"].endswith(".jsonl")]
        stats = grid.client.get_job_stats(job["job_id"])["stages"][0]
    return {
        "grid": grid.shape,
        "seconds": round(job_seconds(job), 3),
        "upload_seconds": round(upload_seconds, 3),
        "parts": job["stages"][0]["task_count"],
        "bytes_out": sum(file["bytes"] for file in files),
        "records": stats["records_out"],
        "cpu_seconds": usage.cpu_seconds,
        "memory_peak_bytes": usage.memory_peak_bytes,
        "requests": usage.requests,
    }


def report(results: dict[str, Any]) -> Iterator[str]:
    pool, grid = results["pool"], results["piecework"]
    yield (
        f"{results['bytes_in'] / 1e6:,.0f} MB, {pool['records']:,} records: Piecework {grid['seconds']:.1f} s, "
        f"Pool(2) on local files {pool['seconds']:.1f} s, ratio {results['ratio']:.3f}; "
        f"Pool(2) with orjson {results['pool_orjson']['seconds']:.1f} s, ratio {results['ratio_orjson']:.3f}"
    )
    cpu = grid["cpu_seconds"]
    yield (
        f"CPU seconds: Pool {pool['cpu_seconds']:.1f}; worker {cpu['worker 0']:.1f}, emulator {cpu['emulator']:.1f}, "
        f"all of Piecework {sum(cpu.values()):.1f}; "
        f"upload before it {grid['upload_seconds']:.1f} s"
    )
