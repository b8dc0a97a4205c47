"""A program's last words: the line of its log that says why it failed, as a terminal would show it.

Control sequences are those of ECMA-48, as far as programs that only print use them: carriage returns, backspaces,
cursor moves and erasures redraw progress bars; colours and titles show nothing.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from services.contract.task_error import describe

_BYTES_MAX = 1 << 16  # read at the log's beginning and at its end
_COLUMNS_MAX = 1 << 16  # a cursor may be sent farther, but nothing is there
_LINE_MAX = 500  # characters shown
_LOOK_MAX = 1000  # characters of a line in which errors and bars are looked for

_TOKEN = re.compile(
    r"\x1b\[([0-?]*)[ -/]*([@-~])"  # control sequences: parameters, and what to do
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|$)"  # strings, such as a window's title
    r"|\x1b[ -/]*[0-~]?"
    r"|([^\x00-\x1f\x7f-\x9f]+)|[\r\n\b\t]|."
)
_ERROR = re.compile(
    r"(?:\b(?i:error|fatal|panic)|\b[\w.$]*(?:Error|Exception))(?:\[\w+\]|\([^)]*\))?:"
    r"(?!\s*[-+\d.e]+\W*$)"  # not a rate
    r"|\b(?:ERROR|FATAL|CRITICAL|PANIC)\b|\[(?:error|fatal)\]|^E: "
    r"|\b(?:command not found|No such file or directory|Permission denied|No space left on device)\b|: not found$"
    r"|\b(?:Segmentation fault|[Oo]ut of memory)\b"
)
_BAR = re.compile(r"\d ?%.*(?:\||[\])]|[#=\-━█▌]{3})|(?:[#=\-━█]{3}|[|\])]).*\d ?%")
_REDRAWN = re.compile(r"[\r\b\x1b]")
_TRACEBACK = "Traceback (most recent call last):"


@dataclass(slots=True)
class _Line:
    text: str = ""
    redrawn: bool = False


def last_words(log: Path) -> str:
    """The last line that is not blank, nor a progress bar, with the first line that tells of an error beside it."""
    try:
        with log.open("rb") as file:
            head = file.read(2 * _BYTES_MAX)
            size = file.seek(0, 2)
            tail = b""
            if size > len(head):
                head = head[:_BYTES_MAX]
                file.seek((size - _BYTES_MAX) // 2 * 2)  # even: it may be UTF-16
                tail = file.read()
    except OSError:
        return ""
    begun = [line for line in _shown(_decode(head)) if line.text]
    ended = [line for line in _shown(_decode(tail)) if line.text] or begun
    told = [line for line in ended if not _is_bar(line)] or ended
    if not told:
        return ""
    last, cut = told[-1].text.strip(), _LINE_MAX
    if tail and len(ended) == 1 and len(last) > cut:  # nobody knows where it begins
        last, cut = f"… {last[-cut:]}", cut + 2
    first = _first_error(begun) or _first_error(ended)
    if not first or first in last or last in first:
        return last[:cut]
    return f"{last[:cut]} (first error: {first[:_LINE_MAX]})"


def shown_lines(printed: bytes) -> list[str]:
    """What a terminal shows of it, without blanks at the ends of lines."""
    return [line.text for line in _shown(_decode(printed))]


def describe_shown(error: BaseException) -> str:
    """`task_error.describe`, with the text as a terminal shows it: it may be what a program printed."""
    name, colon, text = describe(error).partition(": ")
    return name + colon + ("\n".join(line.text for line in _shown(text)) if _REDRAWN.search(text) else text)


def _first_error(lines: list[_Line]) -> str:
    for number, line in enumerate(lines):
        if line.text.endswith(_TRACEBACK):  # the error itself comes after the indented frames
            after = (line.text for line in lines[number + 1 :] if not line.text.startswith(" "))
            return next(after, "")
        if _ERROR.search(line.text[:_LOOK_MAX]):
            return line.text.strip()
    return ""


def _is_bar(line: _Line) -> bool:
    look = line.text[:_LOOK_MAX]
    return line.redrawn and bool(_BAR.search(look)) and not _ERROR.search(look)


def _decode(printed: bytes) -> str:
    """UTF-8, or what looks like UTF-16: every other byte of Western text is then zero."""
    even, odd = printed[::2].count(0), printed[1::2].count(0)
    if max(even, odd) * 6 > len(printed) > min(even, odd) * 60:
        return printed.decode("utf-16-be" if even > odd else "utf-16-le", errors="replace").removeprefix("\ufeff")
    return printed.decode(errors="replace")


def _shown(text: str) -> list[_Line]:
    screen = _Screen()
    for token in _TOKEN.finditer(text):
        parameters, action, plain = token.groups()
        if plain:
            screen.write(plain)
        elif action:
            screen.control(action, [int(number) if number.isdigit() else 0 for number in parameters.split(";")])
        else:
            screen.move(token[0])
    for line in screen.lines:
        line.text = line.text.rstrip()
    return screen.lines


class _Screen:
    """A screen without edges: its lines, and the cursor."""

    def __init__(self) -> None:
        self.lines = [_Line()]
        self._row = self._column = self._top = 0
        self._returned = False  # the next character replaces the line: it is drawn again

    def write(self, text: str) -> None:
        line = self.lines[self._row]
        if self._returned:
            line.text, line.redrawn, self._returned = "", True, False
        end = self._column + len(text)
        line.text = line.text[: self._column].ljust(self._column) + text + line.text[end:]
        self._column = min(end, _COLUMNS_MAX)

    def move(self, control: str) -> None:
        if control == "\n":
            self._go(self._row + 1, 0)
        elif control == "\r":
            self._column, self._returned = 0, True
        elif control == "\b":
            self._go(self._row, self._column - 1)
        elif control == "\t":
            self.write(" " * (8 - self._column % 8))

    def control(self, action: str, numbers: list[int]) -> None:
        count = numbers[0] or 1
        if action in "ABEF":  # up or down, in the same column or in the first
            row = self._row + (count if action in "BE" else -count)
            self._go(min(max(row, self._top), len(self.lines) - 1), self._column if action in "AB" else 0)
        elif action in "CD":
            self._go(self._row, self._column + (count if action == "C" else -count))
        elif action == "G":
            self._go(self._row, count - 1)
        elif action in "Hf":
            column = numbers[1] if len(numbers) > 1 else 1
            self._go(min(self._top + count - 1, len(self.lines) - 1), column - 1)
        elif action == "K":
            self._erase(numbers[0])
        elif action == "J":
            self._clear(numbers[0])

    def _go(self, row: int, column: int) -> None:
        self._row, self._column, self._returned = row, min(max(column, 0), _COLUMNS_MAX), False
        if row == len(self.lines):
            self.lines.append(_Line())

    def _erase(self, part: int) -> None:
        line = self.lines[self._row]
        before, after = line.text[: self._column], line.text[self._column :]
        line.text = before if part == 0 else " " * len(before) + after if part == 1 else ""
        line.redrawn = True

    def _clear(self, part: int) -> None:
        """Erase what is below; a whole screen is left above, like the lines that have scrolled away."""
        if part == 0:
            self._erase(0)
            del self.lines[self._row + 1 :]
        else:
            self._top = len(self.lines)
            self._go(self._top, self._column)
