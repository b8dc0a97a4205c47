"""Start, stop and show the local stack, for whoever sits at the terminal."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from deploy.local import state
from deploy.local.checks import check_disk, check_ports
from deploy.local.process import ROOT, die_with_parent
from deploy.local.progress import say
from deploy.local.settings import StackSettings
from deploy.local.stack import Stack
from deploy.local.supervisor import StackError

_STOP_SECONDS = 90.0
INTERRUPTED = 130  # the shell's exit code for Ctrl-C


def up(settings: StackSettings) -> int:
    """Start the stack, and leave it running."""
    if state.is_running(settings):
        say("Piecework is up already.")
        say(describe(settings))
        return 0
    code = start(settings)
    if code == 0:
        command = _shorten(ROOT / ".venv/bin/piecework")
        say(f"\n  {command} workers list      {command} --help      make status      make down")
    return code


def start(settings: StackSettings, bound: bool = False) -> int:
    """Start the stack in the background, showing its supervisor's progress until it is ready; returns an exit code.

    A bound one stops when this process ends, however it ends.
    """
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "deploy.local", "supervise"],
        env={**os.environ, "PIECEWORK_STATE_DIRECTORY": str(settings.state)},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=die_with_parent(signal.SIGTERM) if bound else None,
    )
    assert supervisor.stdout is not None
    interrupted = False
    while True:
        try:
            for line in supervisor.stdout:  # its end: the stack is ready, or the supervisor has ended
                say(line.rstrip())
            if interrupted:
                supervisor.wait()
                return INTERRUPTED
            return 0 if state.is_running(settings) else supervisor.wait()
        except KeyboardInterrupt:
            interrupted = True
            supervisor.terminate()


def supervise(settings: StackSettings) -> int:
    """What `up` starts: once everything is ready, output goes to a log instead of to the user."""

    def detach() -> None:
        log = os.open(settings.logs / "stack.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        sys.stdout.flush()
        os.dup2(log, 1)
        os.dup2(log, 2)

    return run(settings, ready=detach)


def run(settings: StackSettings, ready: Callable[[], None] = lambda: None) -> int:
    """Run the stack until Ctrl-C, SIGTERM or SIGHUP."""
    try:
        with state.lock(settings):
            if strays := state.clear_crash(settings):
                say(f"The last run was killed: stopped {strays} processes that it had left.")
            check_disk(settings)
            check_ports(settings)
            say(f"Starting Piecework in {_shorten(settings.state)}")
            return asyncio.run(_run(settings, ready))
    except state.AlreadyRunning:
        say("Piecework is up already.")
        say(describe(settings))
        return 0


async def _run(settings: StackSettings, ready: Callable[[], None]) -> int:
    stack, ordered = Stack(settings), asyncio.Event()
    exit_code = 0

    def order_stop(number: int) -> None:
        nonlocal exit_code
        exit_code = INTERRUPTED if number == signal.SIGINT else 0
        ordered.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, order_stop, number)
    starting, waiting = asyncio.create_task(stack.start()), asyncio.create_task(ordered.wait())
    try:
        await asyncio.wait([starting, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not ordered.is_set():
            starting.result()  # raises StackError
            say(describe(settings))
            ready()
            await waiting
    finally:
        say("Stopping Piecework")
        starting.cancel()
        await asyncio.wait([starting])
        await stack.stop()
    return exit_code


def down(settings: StackSettings) -> int:
    """Stop the stack; jobs, results and queues stay on disk."""
    if state.is_running(settings):
        stop(settings)
        say("`make up` continues from here.")
        return 0
    with state.lock(settings):
        strays = state.clear_crash(settings)
    say(f"Stopped {strays} processes that a killed run had left." if strays else "Piecework is not running.")
    return 0


def stop(settings: StackSettings) -> None:
    """Stop a running stack and wait until all of it is gone."""
    started = time.monotonic()
    record = state.read_record(settings)
    if record is None:
        raise StackError("the stack is just starting or stopping: try again in a moment")
    say("Stopping Piecework: workers end what they run, for a few seconds at most")
    os.kill(record["pid"], signal.SIGTERM)
    while state.is_running(settings):
        if time.monotonic() - started > settings.drain_seconds + _STOP_SECONDS:
            raise StackError(f"not stopped in {time.monotonic() - started:.0f} s: see {settings.logs / 'stack.log'}")
        time.sleep(0.05)
    say(f"Stopped in {time.monotonic() - started:.1f} s.")


def status(settings: StackSettings) -> int:
    """Show the processes of the stack; exit code 3 if it does not run, as for init scripts."""
    record = state.read_record(settings)
    if record is None or not state.is_running(settings):
        say("Piecework is not running: `make up` starts it.")
        return 3
    say(f"{'process':<28}{'pid':>8}{'memory':>10}{'up for':>10}")
    for name, pid in record["processes"].items():
        say(_describe_process(name, pid))
        if name == "fleet" and psutil.pid_exists(pid):
            for worker in psutil.Process(pid).children():
                say(_describe_process(f"  {_instance(worker)}", worker.pid))
    say(describe(settings))
    return 0


def _describe_process(name: str, pid: int) -> str:
    try:
        process = psutil.Process(pid)
        memory, age = process.memory_info().rss / 2**20, time.time() - process.create_time()
    except psutil.NoSuchProcess:
        return f"{name:<28}{'down':>8}"
    return f"{name:<28}{pid:>8}{memory:>7.0f} MB{age:>8.0f} s"


def _instance(worker: psutil.Process) -> str:
    try:
        return f"worker {worker.environ().get('PIECEWORK_INSTANCE_ID', '')}"
    except psutil.Error:
        return "worker"


def describe(settings: StackSettings) -> str:
    """Where the parts of the running stack are."""
    urls = state.read_record(settings) or {}
    api, stats, emulator = (str(urls.get(name)) for name in ("api_url", "stats_url", "emulator_url"))
    return f"""
  API        {api:<24}  Swagger UI: {api}/docs
  Stats      {stats:<24}  Prometheus: {stats}/metrics
  Emulator   {emulator:<24}  S3, SQS and Auto Scaling
  API key    {_shorten(settings.client_profile)}
  Logs       {_shorten(settings.logs)}"""


def _shorten(path: os.PathLike[str]) -> str:
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
