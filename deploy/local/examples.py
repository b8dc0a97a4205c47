"""`make example-NAME`: a grid of its own, an example's jobs from raw data to checked results, everything stopped again.

What it does between start and stop is what a user would type: each command is shown and run. An example is a directory
of `examples/` with

    data.py            writes the raw data: python data.py DIR [--gigabytes N]
    processors/*.yaml  what its jobs run, shipped with all code beside it
    job*.yaml          jobs, submitted one after the other; their local files are in the data's directory
    check.py           compares the results with a computation of its own: python check.py DATA RESULTS;
                       RESULTS holds a directory for each job, under the job's name
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from deploy.local import cli, state
from deploy.local.process import ROOT
from deploy.local.progress import say
from deploy.local.settings import StackSettings, separate_stack
from deploy.local.supervisor import StackError

EXAMPLES = ROOT / "examples"

_STATES = ROOT / ".piecework" / "examples"
_WORKERS = 3


class ExampleFailed(Exception):
    """The example did not show what it should have; the message says what."""


@dataclass(frozen=True, slots=True)
class Example:
    """Where an example is, and where its run is kept; paths as a user at the repository's root would type them."""

    code: Path
    kept: Path

    @property
    def data(self) -> Path:
        return self.kept / "data"

    @property
    def results(self) -> Path:
        return self.kept / "results"


def names() -> list[str]:
    """The examples that there are."""
    return sorted(path.parent.name for path in EXAMPLES.glob("*/check.py"))


def main(name: str, data_options: Sequence[str] = ()) -> int:
    """Run an example from its data to the check of its results; returns an exit code."""
    if name not in names():
        print(f"There is no example {name!r}; there are: {', '.join(names())}", file=sys.stderr)
        return 2
    started = time.monotonic()
    os.chdir(ROOT)
    example = Example(EXAMPLES.relative_to(ROOT) / name, _STATES.relative_to(ROOT) / name)
    settings = separate_stack(example.kept, _WORKERS)
    if state.is_running(settings):
        say(f"The example {name} is running already: wait for its end.")
        return 1
    shutil.rmtree(example.kept, ignore_errors=True)
    example.kept.mkdir(parents=True)
    try:
        python("The raw data:", example.code / "data.py", example.data, *data_options)
        with running_stack(settings):
            run_jobs(settings, example)
        python("The check:", example.code / "check.py", example.data, example.results)
    except KeyboardInterrupt:
        say("Interrupted: everything is stopped.")
        return cli.INTERRUPTED
    except (ExampleFailed, StackError, OSError) as error:
        print(f"The example failed: {error}", file=sys.stderr)
        return 1
    for directory in ("postgres", "emulator", "scratch"):
        shutil.rmtree(example.kept / directory, ignore_errors=True)
    say(f"\nDone in {time.monotonic() - started:.0f} s. Data, results and logs: {example.kept}")
    return 0


def python(title: str, program: Path, *arguments: Path | str) -> None:
    """Show and run a program of the example. Raises ExampleFailed, KeyboardInterrupt."""
    say(f"\n{title}\n$ python {' '.join(map(str, [program, *arguments]))}")
    # In a process group of its own, so that Ctrl-C comes to us alone: we kill it then, and it prints no traceback.
    done = subprocess.run([sys.executable, program, *arguments], process_group=0)
    if done.returncode != 0:
        raise ExampleFailed(f"{program} ended with exit code {done.returncode}")


@contextmanager
def running_stack(settings: StackSettings) -> Iterator[None]:
    say(f"\nA grid with {_WORKERS} worker nodes:")
    try:
        if code := cli.start(settings, bound=True):
            raise KeyboardInterrupt if code == cli.INTERRUPTED else ExampleFailed("the stack did not start")
        yield
    finally:
        interrupts = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it
        if state.is_running(settings):
            say("")
            cli.stop(settings)
        signal.signal(signal.SIGINT, interrupts)


def run_jobs(settings: StackSettings, example: Example) -> None:
    """Ship the processors; submit, watch and download each job, as a user would."""
    profile = json.loads(settings.client_profile.read_text())
    os.environ |= {f"PIECEWORK_{name.upper()}": value for name, value in profile.items()}
    piecework("workers", "list")
    piecework("processors", "push", example.code)
    for file in sorted(example.code.glob("job*.yaml")):
        job_id = piecework("submit", file, "--directory", example.data, capture=True)
        piecework("watch", job_id)
        piecework("stats", job_id)
        piecework("results", job_id, "--download", example.results / yaml.safe_load(file.read_text())["name"])


def piecework(*arguments: Path | str, capture: bool = False) -> str:
    """Show and run a `piecework` command; returns its output if captured. Raises ExampleFailed, KeyboardInterrupt."""
    say(f"\n$ piecework {' '.join(map(str, arguments))}")
    done = subprocess.run(
        [sys.executable, "-m", "piecework", *arguments], stdout=subprocess.PIPE if capture else None, text=True
    )
    if capture and done.stdout:
        say(done.stdout.strip())
    if done.returncode == cli.INTERRUPTED:
        raise KeyboardInterrupt
    if done.returncode != 0:
        raise ExampleFailed(f"`piecework {arguments[0]}` ended with exit code {done.returncode}")
    return (done.stdout or "").strip()
