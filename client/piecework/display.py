"""How things look to people: tables, sizes, times, states."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

STYLES = {
    "succeeded": "green",
    "delivered": "green",
    "active": "green",
    "running": "cyan",
    "merging": "cyan",
    "failing": "red",
    "failed": "red",
    "lost": "red",
    "cancelling": "yellow",
    "cancelled": "yellow",
    "paused": "yellow",
    "draining": "yellow",
}


PADDING = 2
CUT_WIDTH = 20  # a column that may be cut is cut to this before others are left out


def console(stream: IO[str] | None = None, *, wide: bool = False) -> Console:
    """A console on `stream`, standard output if None. Nothing is cut for a pipe or file, nor if it shall be `wide`."""
    stream = stream or sys.stdout
    return Console(file=stream, highlight=False, markup=False, width=None if stream.isatty() and not wide else 10_000)


def size(count: float | None) -> str:
    """`1.5 MiB`."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def number(value: float | None) -> str:
    """`12,345`; fractions only where they say something."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """`0.25 s`, `12 s`, `3 m 05 s`, `2 h 10 m`, `4 d 02 h`."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds else "0 s"
    whole = round(seconds)
    for unit, smaller, length, small in (("d", "h", 86_400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // small:02} {smaller}"
    return f"{whole} s"


def parse_time(time: str) -> datetime:
    return datetime.fromisoformat(time)


def relative(time: str | None, now: datetime) -> str:
    """`3 m ago`, `in 2 h`, `now`: the largest unit says enough, and clocks differ by a second."""
    if time is None:
        return "-"
    seconds = round((now - parse_time(time)).total_seconds())
    if abs(seconds) <= 1:
        return "now"
    amount, unit, *_ = duration(abs(seconds)).split()
    return f"{amount} {unit} ago" if seconds >= 0 else f"in {amount} {unit}"


def moment(time: str | None, now: datetime) -> str:
    """Local and relative: `2026-01-31 17:00:05 (3 m ago)`."""
    return "-" if time is None else f"{parse_time(time).astimezone():%Y-%m-%d %H:%M:%S} ({relative(time, now)})"


def state(value: str) -> Text:
    return Text(value, STYLES.get(value, ""))


def table(out: Console, columns: Sequence[str], rows: Iterable[Sequence[str | Text | int | None]]) -> None:
    """Print rows under headings, each row on one line.

    Marks before a column's name: `>` aligns right; where space is short, `~` columns are cut and `?` columns are left
    out: those that say nothing, then the last ones.
    """
    parsed = [_Column.parse(column) for column in columns]
    for row in rows:
        for column, value in zip(parsed, row, strict=True):
            column.cells.append(_cell(value))
    while sum(column.needs() + PADDING for column in parsed) - PADDING > out.width:
        optional = [column for column in parsed if column.optional]
        if not optional:
            break
        parsed.remove(([column for column in optional if column.is_empty] or optional)[-1])
    shown = _grid(show_header=True, header_style="bold")
    for column in parsed:
        shown.add_column(column.name, justify="right" if column.right else "left", no_wrap=not column.may_be_cut)
    for cells in zip(*(column.cells for column in parsed), strict=True):
        shown.add_row(*cells)
    _print(out, shown)


@dataclass(eq=False)
class _Column:
    name: str
    right: bool
    may_be_cut: bool
    optional: bool
    cells: list[Text] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str) -> "_Column":
        name = text.lstrip(">~?")
        marks = text.removesuffix(name)
        return cls(name, ">" in marks, "~" in marks, "?" in marks)

    @property
    def is_empty(self) -> bool:
        return all(cell.plain in ("", "-", "0") for cell in self.cells)

    def needs(self) -> int:
        width = max([len(self.name), *(cell.cell_len for cell in self.cells)])
        return min(width, CUT_WIDTH) if self.may_be_cut else width


def facts(out: Console, pairs: Iterable[tuple[str, str | Text | int | None]]) -> None:
    """Print `name  value` lines; those without a value are left out."""
    shown = _grid(show_header=False)
    shown.add_column(style="dim", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in pairs:
        if value not in (None, "", "-"):
            shown.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    _print(out, shown)


def _grid(**settings: Any) -> Table:
    return Table(box=None, pad_edge=False, padding=(0, PADDING, 0, 0), **settings)


def _cell(value: str | Text | int | None) -> Text:
    text = value if isinstance(value, Text) else Text("-" if value is None else str(value).replace("\n", " "))
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def _print(out: Console, shown: Table) -> None:
    if out.is_terminal:
        out.print(shown)
        return
    with out.capture() as captured:
        out.print(shown)
    for line in captured.get().splitlines():
        out.file.write(line.rstrip() + "\n")
