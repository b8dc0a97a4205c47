"""A film transcoded in segments on two slots of one thread each, beside one ffmpeg with two threads on the local file.

Both make one rendition in the film's own size and encode its two audio tracks, by the same settings, of the same
program; the film is that of examples/media/data.py, and the grid runs the processors of examples/media. Piecework's
seconds, from submission to the end of the job, include the fetching of the film, planning, storing every segment,
joining and storing the whole; the upload, which a local file needs not, is given beside. The package with the code is
pushed, and its requirements are installed, before.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import yaml

from bench.grid import Grid, running_grid
from bench.processes import Failed
from bench.suites.noop import job_seconds
from deploy.local.process import ROOT

_SECONDS = 60  # of the film
_HEIGHT = 720
_SLOTS = 2
_SEGMENT_SECONDS = 6
_EXAMPLE = ROOT / "examples" / "media"
_AUDIO = {"codec": "aac", "kilobits": 128}
_RENDITIONS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "h264": ({"codec": "h264", "crf": 23, "preset": "medium"}, ["-c:v", "libx264", "-threads", _SLOTS]),
    "av1": ({"codec": "av1", "crf": 32, "preset": 8}, ["-c:v", "libsvtav1", "-svtav1-params", f"lp={_SLOTS}"]),
}


def run(size: int | None = None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="piecework-bench-") as name:
        film = _write_film(Path(name), size or _SECONDS)
        alone = {codec: _by_ffmpeg(film, codec, Path(name)) for codec in _RENDITIONS}
        with running_grid(workers=1, slots=_SLOTS) as grid:
            results = _by_grid(grid, film, alone)
    return {"film": {"seconds": size or _SECONDS, "height": _HEIGHT, "bytes": results.pop("bytes_in")}, **results}


def _write_film(directory: Path, seconds: int) -> Path:
    options = ["--seconds", str(seconds), "--height", str(_HEIGHT)]
    subprocess.run([sys.executable, _EXAMPLE / "data.py", directory, *options], check=True, stdout=subprocess.DEVNULL)
    return directory / "film.mp4"


def _by_ffmpeg(film: Path, codec: str, directory: Path) -> dict[str, Any]:
    make, encoder = _RENDITIONS[codec]
    path = directory / f"{codec}.mp4"
    command = [
        *[imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-threads", _SLOTS, "-i", film],
        *["-map", "0:v", "-map", "0:a", "-vf", f"scale=-2:{_HEIGHT},format=yuv420p", "-filter_threads", _SLOTS],
        *["-fps_mode", "passthrough", *encoder, "-crf", make["crf"], "-preset", make["preset"]],
        *["-c:a", "aac", "-b:a", f"{_AUDIO['kilobits']}k", path],
    ]
    started, before = time.monotonic(), os.times()
    subprocess.run([str(argument) for argument in command], check=True, env=os.environ | {"SVT_LOG": "1"})
    seconds, after = time.monotonic() - started, os.times()
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(sum(after[2:4]) - sum(before[2:4]), 3),
        "bytes": path.stat().st_size,
        "frames": _frame_count(path),
    }


def _frame_count(path: Path) -> int:
    with av.open(str(path)) as container:
        return int(container.streams.video[0].frames)


def _by_grid(grid: Grid, film: Path, alone: dict[str, dict[str, Any]]) -> dict[str, Any]:
    _push_processors(grid)
    silent = grid.client.upload(film.with_name("screen.mkv"))["uri"]
    grid.await_job(grid.client.submit_job(_spec("warm-up", silent, _AUDIO))["job_id"])  # installs the requirements
    started = time.monotonic()
    uri = grid.client.upload(film)["uri"]
    upload_seconds = time.monotonic() - started
    runs = {codec: _run_job(grid, uri, codec, alone[codec]) for codec in _RENDITIONS}
    return {
        "bytes_in": film.stat().st_size,
        "grid": grid.shape,
        "upload_seconds": round(upload_seconds, 3),
        "codecs": runs,
    }


def _push_processors(grid: Grid) -> None:
    package = grid.client.push_package(_EXAMPLE)["sha256"]
    for name in ("plan", "transcode", "join"):
        spec = yaml.safe_load((_EXAMPLE / "processors" / f"{name}.yaml").read_text())
        if name == "join":
            spec["outputs"] = {codec: f"{codec}.mp4" for codec in _RENDITIONS}
        del spec["description"]
        grid.client.register_processor(spec.pop("name"), {**spec, "package": package})


def _spec(name: str, uri: str, *items: dict[str, Any]) -> dict[str, Any]:
    plan = {"processor": "media-plan", "params": {"segment_seconds": _SEGMENT_SECONDS}, "fan_out": True}
    return {
        "name": name,
        "input": {"type": "items", "items": list(items)},
        "stages": [stage | {"inputs": {"video": uri}} for stage in (plan, {"processor": "media-transcode"})],
        "merge": {"type": "reduce", "processor": "media-join", "fan_in": 10_000},
    }


def _run_job(grid: Grid, uri: str, codec: str, alone: dict[str, Any]) -> dict[str, Any]:
    make = {"name": codec, "height": _HEIGHT, **_RENDITIONS[codec][0]}
    spec = _spec(f"transcode-{codec}", uri, make, _AUDIO)
    with grid.measured() as usage:
        job = grid.await_job(grid.client.submit_job(spec)["job_id"])
    files = {file["name"]: file for file in grid.client.get_results(job["job_id"])["files"]}
    described = json.loads(grid.client.read_object(files["renditions.json"]["url"]))[codec]
    if described["frames"] != alone["frames"]:
        raise Failed(f"{described['frames']} frames, ffmpeg alone made {alone['frames']}")
    return {
        "ffmpeg": alone,
        "seconds": round(job_seconds(job), 3),
        "ratio": round(job_seconds(job) / alone["seconds"], 4),
        "pieces": job["stages"][1]["task_count"],
        "frames": described["frames"],
        "bytes": described["bytes"],
        "cpu_seconds": usage.cpu_seconds,
        "memory_peak_bytes": usage.memory_peak_bytes,
        "requests": usage.requests,
    }


def report(results: dict[str, Any]) -> Iterator[str]:
    film = results["film"]
    yield (
        f"{film['seconds']} s of {film['height']}p, {film['bytes'] / 1e6:.1f} MB; "
        f"upload before it {results['upload_seconds']:.1f} s"
    )
    for codec, run in results["codecs"].items():
        alone, cpu = run["ffmpeg"], run["cpu_seconds"]
        yield (
            f"{codec}: Piecework {run['seconds']:.1f} s in {run['pieces']} pieces, "
            f"ffmpeg alone {alone['seconds']:.1f} s, ratio {run['ratio']:.3f}; CPU seconds: ffmpeg alone "
            f"{alone['cpu_seconds']:.1f}, worker {cpu['worker 0']:.1f}, all of Piecework {sum(cpu.values()):.1f}"
        )
