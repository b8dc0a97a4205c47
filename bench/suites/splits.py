"""Splitting by small reads: 1 TB of CSV into 16,384 parts, and 1,000,000 objects listed, each answer of S3 20 ms away.

The scheduler's own splitters in this process, against objects that another process makes up as they are asked for
(bench/vast_s3.py): so what is measured is our work and its waiting, not an emulator's disk. The last figure is of the
S3 emulator of the local stack, without delay, for those who use that.
"""

import asyncio
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.vast_s3 import Keys, VastS3
from deploy.local.emulator import AWS_ENVIRONMENT
from deploy.local.settings import separate_stack
from services.inputs.spec import Input, LinesInput, ObjectsInput
from services.inputs.split import split
from services.platform.aws import connect_aws
from services.platform.settings import Settings

_BYTES = 10**12
_PARTS = 16_384
_OBJECTS = 1_000_000
_EMULATED_OBJECTS = 5_000
_S3_SECONDS = 0.02
_PUTS_AT_ONCE = 16


def run(size: int | None = None) -> dict[str, Any]:
    """`size`: parts, instead of 16,384; and a fitting share of the objects."""
    os.environ |= AWS_ENVIRONMENT
    parts = size or _PARTS
    objects = _OBJECTS * parts // _PARTS
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, objects), daemon=True)
    server.start()
    try:
        results = asyncio.run(_measure(ours.recv(), parts, ours))
    finally:
        server.kill()
        server.join()
    return results | {"emulator": asyncio.run(_measure_emulator(_EMULATED_OBJECTS * parts // _PARTS))}


def _serve(pipe: Connection, objects: int) -> None:
    asyncio.run(_serve_until_killed(pipe, objects))


async def _serve_until_killed(pipe: Connection, objects: int) -> None:
    server = VastS3(_BYTES, Keys("objects/", objects), _S3_SECONDS)
    await server.start()
    pipe.send(server.url)
    while True:
        await asyncio.to_thread(pipe.recv)
        pipe.send((server.read, dict(server.requests)))
        server.read = 0
        server.requests.clear()


async def _measure(url: str, parts: int, pipe: Connection) -> dict[str, Any]:
    lines = LinesInput(type="lines", uri="s3://vast/in.csv", format="csv", parts=parts)
    objects = ObjectsInput(type="objects", prefix="s3://vast/objects/")
    async with connect_aws(Settings(aws_endpoint_url=url)) as aws:
        found: dict[str, Any] = {"bytes": _BYTES, "s3_seconds": _S3_SECONDS}
        for name, source in (("lines", lines), ("listing", objects)):
            tasks, seconds, cpu_seconds = await _split(aws.s3, source)
            pipe.send(None)
            read, requests = await asyncio.to_thread(pipe.recv)
            found[name] = {
                "tasks": tasks,
                "seconds": round(seconds, 2),
                "cpu_seconds": round(cpu_seconds, 2),
                "tasks_a_second": round(tasks / seconds),
                "read_bytes": read,
                "requests": requests,
            }
        found["lines"]["read_share"] = found["lines"]["read_bytes"] / _BYTES
        found["lines"]["gigabytes_a_second"] = round(_BYTES / 1e9 / found["lines"]["seconds"])
        return found


async def _split(s3: Any, source: Input) -> tuple[int, float, float]:
    """How many tasks there are, and the seconds it took: of the clock, of this process."""
    began, cpu_began, tasks, cursor = time.monotonic(), time.process_time(), 0, None
    while True:
        chunk = await split(s3, source, cursor, 2)
        tasks, cursor = tasks + chunk.tasks, chunk.cursor
        if chunk.done:
            return tasks, time.monotonic() - began, time.process_time() - cpu_began


async def _measure_emulator(objects: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="piecework-bench-") as name:
        settings = separate_stack(Path(name), workers=0)
        settings.logs.mkdir(parents=True)
        settings.emulator.start()
        try:
            async with connect_aws(Settings(aws_endpoint_url=settings.emulator.url)) as aws:
                await aws.s3.create_bucket(Bucket="splits")
                numbers = iter(range(objects))

                async def put_some() -> None:
                    for number in numbers:
                        await aws.s3.put_object(Bucket="splits", Key=f"in/{number:07d}.jsonl", Body=b"{}\n")

                await asyncio.gather(*(put_some() for _ in range(_PUTS_AT_ONCE)))
                tasks, seconds, _ = await _split(aws.s3, ObjectsInput(type="objects", prefix="s3://splits/in/"))
                return {"objects": tasks, "seconds": round(seconds, 2), "objects_a_second": round(tasks / seconds)}
        finally:
            settings.emulator.stop()


def report(results: dict[str, Any]) -> Iterator[str]:
    lines, listing, emulator = results["lines"], results["listing"], results["emulator"]
    yield (
        f"{results['bytes'] / 1e12:g} TB of CSV into {lines['tasks']:,} parts: {lines['seconds']:.1f} s, "
        f"{lines['tasks_a_second']:,} parts/s ({lines['gigabytes_a_second']:,} GB/s covered), "
        f"{100 * lines['read_share']:.4f} % of the object read, {lines['cpu_seconds']:.1f} s of CPU"
    )
    yield (
        f"{listing['tasks']:,} objects listed: {listing['seconds']:.1f} s, {listing['tasks_a_second']:,} objects/s, "
        f"{listing['requests']['LIST']:,} requests of {1000 * results['s3_seconds']:.0f} ms, "
        f"{listing['cpu_seconds']:.1f} s of CPU"
    )
    yield f"on the S3 emulator: {emulator['objects']:,} objects at {emulator['objects_a_second']:,}/s"
