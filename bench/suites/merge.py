"""Joining outputs: 1 GB in 128 parts, copied inside S3, and 10,000 parts of 10 KiB, coalesced through memory.

It is what the scheduler does at a job's end (services.scheduler.merges.concatenate), in this process, against the S3
emulator in another. Of the copies only the requests are ours: the seconds are the emulator's, which joins bytes in
Python. Small parts are read as the scheduler does, many at once, and then one at a time; and so is a tenth of them with
20 ms added to each read, since S3 takes tens of milliseconds to a first byte and the emulator one.
"""

import asyncio
import os
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil

from bench.processes import Failed
from deploy.local.emulator import AWS_ENVIRONMENT
from deploy.local.settings import separate_stack
from services.contract.location import Location
from services.platform.aws import connect_aws
from services.platform.settings import Settings
from services.scheduler.merges import concatenate as merging
from services.scheduler.merges.concatenate import Extent, Source, concatenate

_PARTS = 128
_MEGABYTES = 1000
_SMALL_PARTS = 10_000
_SMALL_BYTES = 10_240
_PUTS_AT_ONCE = 16
_S3_SECONDS = 0.02


def run(size: int | None = None) -> dict[str, Any]:
    os.environ |= AWS_ENVIRONMENT
    small = _SMALL_PARTS if size is None else size
    with tempfile.TemporaryDirectory(prefix="piecework-bench-") as name:
        settings = separate_stack(Path(name), workers=0)
        settings.logs.mkdir(parents=True)
        emulator = settings.emulator
        emulator.environment |= {"S3_PERSIST": "0"}  # else it reads a whole file for each range of it
        emulator.start()
        try:
            return asyncio.run(_measure(emulator.url, emulator.process.pid, (size or _MEGABYTES) * 1_000_000, small))
        finally:
            emulator.stop()


async def _measure(url: str, emulator: int, large: int, small: int) -> dict[str, Any]:
    async with connect_aws(Settings(aws_endpoint_url=url, bucket="merge")) as aws:
        await aws.s3.create_bucket(Bucket="merge")
        merge = _Merge(aws.s3, psutil.Process(emulator))
        await merge.put("large", _PARTS, large // _PARTS)
        await merge.put("small", small, _SMALL_BYTES)
        await merge.put("fewer", small // 10, _SMALL_BYTES)
        results = {
            "copied": await merge.run("large"),
            "coalesced": await merge.run("small"),
            "coalesced_20_ms": await merge.run("fewer", _S3_SECONDS),
        }
        merging.READS_AT_ONCE = 1
        results["one_by_one"] = await merge.run("small")
        results["one_by_one_20_ms"] = await merge.run("fewer", _S3_SECONDS)
        return results


class _Merge:
    """Parts by their kind, and the joining of them."""

    def __init__(self, s3: Any, emulator: psutil.Process) -> None:
        self._s3 = s3
        self._emulator = emulator
        self._sources: dict[str, list[Source]] = {}

    async def put(self, kind: str, parts: int, size: int) -> None:
        body = os.urandom(size)
        crc32 = zlib.crc32(body)
        self._sources[kind] = [
            Source(Location("merge", f"{kind}/{number:05}"), 0, size, crc32) for number in range(parts)
        ]
        sources = iter(self._sources[kind])

        async def put_some() -> None:
            for source in sources:
                await self._s3.put_object(Bucket="merge", Key=source.location.key, Body=body)

        await asyncio.gather(*(put_some() for _ in range(_PUTS_AT_ONCE)))

    async def run(self, kind: str, wait_seconds: float = 0.0) -> dict[str, Any]:
        sources = self._sources[kind]
        total = sum(source.bytes for source in sources)
        target = Location("merge", "joined")
        s3 = _Slow(self._s3, wait_seconds) if wait_seconds else self._s3
        started, cpu, emulator_cpu = time.monotonic(), time.process_time(), self._emulator_cpu()
        joined = await concatenate(s3, target, _each(sources), Extent(len(sources), total), Location("merge", "s/"))
        seconds = time.monotonic() - started
        head = await self._s3.head_object(Bucket="merge", Key="joined")
        if (joined.bytes, head["ContentLength"], joined.crc32 is None) != (total, total, False):
            raise Failed(f"{total} bytes to join, {joined}, {head['ContentLength']} in S3")
        return {
            "parts": len(sources),
            "bytes": total,
            "seconds": round(seconds, 3),
            "bytes_per_second": round(total / seconds),
            "parts_per_second": round(len(sources) / seconds, 1),
            "cpu_seconds": round(time.process_time() - cpu, 3),
            "emulator_cpu_seconds": round(self._emulator_cpu() - emulator_cpu, 3),
        }

    def _emulator_cpu(self) -> float:
        times = self._emulator.cpu_times()
        return float(times.user + times.system)


class _Slow:
    """An S3 client that takes longer to read."""

    def __init__(self, s3: Any, seconds: float) -> None:
        self._s3 = s3
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s3, name)

    async def get_object(self, **arguments: Any) -> Any:
        await asyncio.sleep(self._seconds)
        return await self._s3.get_object(**arguments)


async def _each(sources: list[Source]) -> AsyncIterator[Source]:
    for source in sources:
        yield source


def report(results: dict[str, Any]) -> Iterator[str]:
    for name, merge in results.items():
        yield (
            f"{name.replace('_', ' '):<28} {merge['parts']:>6,} parts, {merge['bytes'] / 1e6:,.0f} MB: "
            f"{merge['seconds']:.2f} s, {merge['bytes_per_second'] / 1e6:,.0f} MB/s, "
            f"{merge['parts_per_second']:,.0f} parts/s; CPU s: {merge['cpu_seconds']:.1f}, "
            f"emulator {merge['emulator_cpu_seconds']:.1f}"
        )
