"""Watching a job until it ends: waiting for it, live bars on a terminal, plain lines everywhere else."""

import math
import time
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import UUID

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.progress import Task as Bar
from rich.text import Text

from piecework.client import Client, Id
from piecework.display import STYLES, duration, number, parse_time, relative
from piecework.errors import ServerError, TransportError
from piecework.meter import RenderColumn
from piecework.shapes import FINAL_STATES, Job, Stage
from piecework.waits import alarms, why

POLL_SECONDS = 0.5
LINE_SECONDS = 1.0
UNCHANGED_LINE_SECONDS = 10.0
OUTAGE_PAUSE_SECONDS = 1.0
FIRST_ANSWER_SECONDS = 30.0
RATE_WINDOW_SECONDS = 30.0
ALARMS_SHOWN = 3


class View(Protocol):
    """Shows a job as it goes on."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, job: Job) -> None: ...

    def say(self, message: str) -> None: ...


def wait_for_job(client: Client, job: Job | Id, view: View | None = None, *, timeout_seconds: float = math.inf) -> Job:
    """Poll until the job has ended; the job as it ended. Outlives outages of the API, however long.

    Of a job known by its id alone, the first answer must come within FIRST_ANSWER_SECONDS; else raises TransportError
    or ServerError. Raises TimeoutError if the job has not ended after `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    say = view.say if view else _say_nothing
    if isinstance(job, UUID | str):
        job = _get_job(client, job, say, FIRST_ANSWER_SECONDS)
    while True:
        if view:
            view.show(job)
        if job["state"] in FINAL_STATES:
            return job
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"job {job['name']} ({job['job_id']}) is still {job['state']}")
        time.sleep(min(POLL_SECONDS, left))
        job = _get_job(client, job["job_id"], say)


def _say_nothing(message: str) -> None:
    pass


def _get_job(client: Client, job_id: Id, say: Callable[[str], None], seconds_max: float = math.inf) -> Job:
    """The job, after an outage of at most `seconds_max`; then raises TransportError or ServerError."""
    outage = False
    deadline = time.monotonic() + seconds_max
    patience = "trying on" if math.isinf(seconds_max) else f"trying on for {duration(seconds_max)}"
    while True:
        try:
            job = client.get_job(job_id)
        except (TransportError, ServerError) as error:
            if time.monotonic() >= deadline:
                raise
            if not outage:
                say(f"no answer from the API, {patience}: {error}")
            outage = True
            time.sleep(OUTAGE_PAUSE_SECONDS)
        else:
            if outage:
                say("the API answers again")
            return job


def job_view(client: Client, console: Console) -> View:
    """Live bars if `console` is a terminal, otherwise lines."""
    return LiveBars(client, console) if console.is_terminal else Lines(client, console)


class _Stages:
    """The stages of a job as bars; rich measures rate and time left from the polls."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=max(10, min(40, console.width - 80)), pulse_style="dim"),
            RenderColumn(lambda bar: Text(_count(bar), justify="right")),
            RenderColumn(_misses),
            RenderColumn(lambda bar: Text(_pace(bar), "green")),
            RenderColumn(lambda bar: Text(_activity(bar), "dim")),
            console=console,
            speed_estimate_period=RATE_WINDOW_SECONDS,
        )
        self._bars: dict[int, TaskID] = {}

    def update(self, job: Job, now: datetime) -> None:
        for stage in job["stages"]:
            progress = stage["progress"]
            total = stage["task_count"]
            completed = progress["succeeded"]
            fields: dict[str, Any] = {
                "failed": progress["failed"],
                "cancelled": progress["cancelled"],
                "running": progress["running"],
                "queued": progress["queued"] + progress["ready"],
                "waiting": progress["waiting"],
                "state": stage["state"],
                "goes_on": job["state"] == "running",
                "seconds_left": stage.get("seconds_left"),  # an older server does not tell
                "slowed": stage["slowed"],
                "why": why(stage),
                "elapsed": _elapsed(stage, now),
            }
            bar = self._bars.get(stage["stage"])
            if bar is None:
                # Tasks done before the first look say nothing about the rate.
                bar = self.progress.add_task(stage["name"], total=total, completed=completed, **fields)
                self._bars[stage["stage"]] = bar
            else:
                self.progress.update(bar, total=total, completed=completed, **fields)

    def lines(self) -> list[str]:
        return [_line(bar) for bar in self.progress.tasks]


class LiveBars:
    """Bars that redraw themselves."""

    def __init__(self, client: Client, console: Console) -> None:
        self._client = client
        self._stages = _Stages(console)
        self._job: Job | None = None
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.refresh()
        self._live.stop()

    def show(self, job: Job) -> None:
        self._job = job
        self._stages.update(job, self._client.now())

    def say(self, message: str) -> None:
        self._live.console.print(Text(message, "yellow"))

    def _render(self) -> Group:
        if self._job is None:
            return Group()
        headline = Text.assemble(
            (self._job["name"], "bold"), "  ", (self._job["state"], STYLES.get(self._job["state"], "")), "  "
        )
        headline.append(_job_time(self._job, self._client.now()), "dim")
        headline.no_wrap = True
        said = [Text(message, "yellow") for message in alarms(self._job)[:ALARMS_SHOWN]]
        return Group(headline, self._stages.progress.get_renderable(), *said)


class Lines:
    """A line when something changed, at most one a second, and one every ten seconds in any case."""

    def __init__(self, client: Client, console: Console) -> None:
        self._client = client
        self._console = console
        self._stages = _Stages(console)
        self._shown: tuple[object, ...] = ()
        self._shown_at = float("-inf")
        self._alarms: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, job: Job) -> None:
        now = self._client.now()
        self._stages.update(job, now)
        facts = (
            job["state"],
            *((stage["state"], *stage["progress"].values()) for stage in job["stages"]),
            *alarms(job),
        )
        waited = time.monotonic() - self._shown_at
        changed = facts != self._shown and waited >= LINE_SECONDS
        if changed or waited >= UNCHANGED_LINE_SECONDS or job["state"] in FINAL_STATES:
            self._shown, self._shown_at = facts, time.monotonic()
            self.say(" | ".join([f"{job['name']} {job['state']} {_job_time(job, now)}", *self._stages.lines()]))
            for message in alarms(job):
                if message not in self._alarms:
                    self.say(f"waits: {message}")
            self._alarms = alarms(job)

    def say(self, message: str) -> None:
        self._console.file.write(message + "\n")
        self._console.file.flush()


def _count(bar: Bar) -> str:
    return f"{bar.completed:,.0f}/{'?' if bar.total is None else f'{bar.total:,.0f}'}"


def _misses(bar: Bar) -> Text:
    """`2 failed, 22 cancelled`: the tasks that have ended, but that `_count` does not count as done."""
    states = [state for state in ("failed", "cancelled") if bar.fields[state]]
    return Text(", ").join(Text(f"{bar.fields[state]:,} {state}", STYLES[state]) for state in states)


def _pace(bar: Bar) -> str:
    """`12.5/s, 3 s left` while its tasks run, what it took afterwards."""
    if bar.fields["state"] in FINAL_STATES or bar.completed == bar.total:
        return duration(bar.fields["elapsed"])
    if not bar.fields["goes_on"]:
        return ""
    left = bar.fields["seconds_left"]
    paces = [f"{number(bar.speed)}/s" if bar.speed else "", "" if left is None else f"{duration(left)} left"]
    return ", ".join(filter(None, paces))


def _activity(bar: Bar) -> str:
    fields = bar.fields
    reason = f": {fields['why']}" if fields["why"] else ""
    if fields["state"] != "running":
        return f"{fields['state']}{reason if fields['state'] == 'waiting' else ''}"
    counts = [(fields["running"], "running"), (fields["queued"], "queued"), (fields["waiting"], "waiting")]
    activity = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    if fields["slowed"]:
        return ", ".join(filter(None, [activity, "slowed down: most attempts fail"]))
    return f"{activity}{reason}" if fields["queued"] or not fields["running"] else activity


def _line(bar: Bar) -> str:
    parts = (bar.description, _count(bar), _misses(bar).plain, _pace(bar), _activity(bar))
    return " ".join(part for part in parts if part)


def _elapsed(stage: Stage, now: datetime) -> float:
    if stage["started_at"] is None:
        return 0.0
    end = now if stage["finished_at"] is None else parse_time(stage["finished_at"])
    return max(0.0, (end - parse_time(stage["started_at"])).total_seconds())


def _job_time(job: Job, now: datetime) -> str:
    if job["started_at"] is None:
        return f"starts {relative(job['run_at'], now)}" if job["run_at"] else "not started yet"
    end = now if job["finished_at"] is None else parse_time(job["finished_at"])
    return duration(max(0.0, (end - parse_time(job["started_at"])).total_seconds()))
