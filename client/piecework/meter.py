"""How far a transfer is: a live bar on a terminal, a line now and then everywhere else."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from piecework import transfer
from piecework.display import duration, size

LINE_SECONDS = 5.0


class RenderColumn(ProgressColumn):
    """A column of a bar, from a function of it."""

    def __init__(self, render: Callable[[Task], Text]) -> None:
        super().__init__()
        self._render_bar = render

    def render(self, task: Task) -> Text:
        text = self._render_bar(task)
        text.no_wrap = True
        return text


@contextmanager
def transfer_meter(console: Console, verb: str, what: str, total: int) -> Iterator[transfer.ReportBytes]:
    """Show `verb what` (such as `uploading flights.csv`) until the block ends; yields what to tell of moved bytes."""
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            DownloadColumn(binary_units=True),
            RenderColumn(_pace),
        )
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task(f"{verb} {what}", total=total)
            yield lambda moved: progress.advance(bar, moved)
        return
    lines = _Lines(console, f"{verb} {what}", total)
    yield lines.advance
    lines.end()


def _pace(bar: Task) -> Text:
    if bar.finished:
        return Text(f"in {duration(bar.finished_time)}")
    left = "" if bar.time_remaining is None else f", {duration(bar.time_remaining)} left"
    return Text(f"{size(bar.speed)}/s{left}" if bar.speed else "", "green")


class _Lines:
    """Lines at the start, at the end, and every few seconds between. Told by several threads."""

    def __init__(self, console: Console, what: str, total: int) -> None:
        self._file = console.file
        self._what = what
        self._total = total
        self._moved = 0
        self._lock = threading.Lock()
        self._started = self._said = time.monotonic()
        self._say(size(total))

    def advance(self, moved: int) -> None:
        with self._lock:
            self._moved += moved
            if time.monotonic() - self._said >= LINE_SECONDS:
                self._said = time.monotonic()
                self._say(f"{size(self._moved)} of {size(self._total)}")

    def end(self) -> None:
        self._say(f"{size(self._moved)}, done in {duration(time.monotonic() - self._started)}")

    def _say(self, text: str) -> None:
        self._file.write(f"{self._what}: {text}\n")
        self._file.flush()
