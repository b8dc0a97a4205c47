"""Processors of the chaining test: lists, directories, lines and levels."""

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any


def spread(input: Path, output: Path, width: int) -> list[dict[str, int]]:
    """Task i yields the numbers i * width … (i + 1) * width - 1."""
    index = json.loads(input.read_text())["index"]
    return [{"n": index * width + offset} for offset in range(width)]


def write_files(input: Path, output: Path) -> None:
    """Two files: n and its square, as JSON lines."""
    n = json.loads(input.read_text())["n"]
    (output / "a.jsonl").write_text(json.dumps({"n": n}) + "\n")
    (output / "b.jsonl").write_text(json.dumps({"n": n * n}) + "\n")


def write_notes(input: Path, output: Path, count: int) -> None:
    """Rows of CSV; the notes hold newlines, quotes and commas."""
    index = json.loads(input.read_text())["index"]
    with output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "note"])
        writer.writerows([number, note_of(number)] for number in range(index * count, (index + 1) * count))


def write_packed(input: Path, output: Path, count: int) -> None:
    """The same as JSON lines, compressed."""
    index = json.loads(input.read_text())["index"]
    with gzip.open(output, "wt") as file:
        for number in range(index * count, (index + 1) * count):
            file.write(json.dumps({"id": number, "note": note_of(number)}) + "\n")


def note_of(number: int) -> str:
    return f'note {number}\n\n"{number}", he said,\r\n' + "n" * (number % 50)


def shout(record: dict[str, str]) -> dict[str, str]:
    return {**record, "note": record["note"].upper()}


def twice(record: dict[str, int]) -> list[dict[str, int]]:
    return [record, record]


def total(input: Path, output: Path, seen: Path) -> dict[str, Any]:
    """The sum of a part, or of a directory of sums; and how many it saw at once."""
    if input.is_dir():
        parts = [json.loads(part.read_text()) for part in sorted(input.iterdir())]
    else:
        parts = [{"sum": sum(json.loads(line)["n"] for line in input.open()), "width": 0}]
    made = {"sum": sum(part["sum"] for part in parts), "width": max([len(parts), *(part["width"] for part in parts)])}
    output.write_text(json.dumps(made))
    assert os.environ["PIECEWORK_OUTPUT_SEEN"] == str(seen)
    seen.write_text(f"seen\n{len(parts)}\n")
    return made
