"""Processors of the storm: what each task must give can be computed directly, from its index or its lines."""

import json
import os
import time
import zlib
from pathlib import Path

LINE_BYTES = 20  # of a line of the raw data, its end included


def mix(number: int) -> int:
    """Spread numbers over 32 bits (Knuth's multiplicative hash): no two tasks of a job give the same."""
    return number * 2_654_435_761 % 2**32


def first_good_attempt(index: int) -> int:
    """Of a flaky job's task: every fifth fails once, every twenty-fifth twice."""
    return 1 + (index % 5 == 0) + (index % 25 == 0)


def is_doomed(index: int) -> bool:
    """Whether a flaky job's task fails whenever it is tried."""
    return index % 100 == 13


def value(input: Path, output: Path, seconds: float = 0.0, flaky: bool = False) -> dict[str, int]:
    """A value of the task's index, and which attempt this is."""
    index, attempt = json.loads(input.read_text())["index"], int(os.environ["PIECEWORK_ATTEMPT"])
    time.sleep(seconds)
    if flaky and (is_doomed(index) or attempt < first_good_attempt(index)):
        raise RuntimeError(f"attempt {attempt} of task {index} is to fail")
    return {"value": mix(index), "attempt": attempt}


def line(number: int) -> str:
    """A line of the raw data; a few are broken."""
    return "this line is broken" if number % 997 == 42 else f"{number:08d} {mix(number):010d}"


def clean(record: str) -> dict[str, int]:
    """`number mixed` → a JSON record; raises for a line that is not of that form."""
    number, mixed = record.split()
    return {"number": int(number), "mixed": int(mixed)}


def count(input: Path, output: Path) -> None:
    """How many records there are, and the sum of their numbers."""
    records = [json.loads(text) for text in input.read_text().splitlines()]
    output.write_text(json.dumps({"records": len(records), "sum": sum(record["mixed"] for record in records)}))


def total(input: Path, output: Path) -> None:
    """Add up the counts of all parts."""
    counts = [json.loads(part.read_text()) for part in sorted(input.iterdir())]
    output.write_text(json.dumps({name: sum(count[name] for count in counts) for name in ("records", "sum")}))


def stamp_line(text: str) -> str:
    return f"{text} {zlib.crc32(text.encode()):08x}\n"


def stamp(input: Path, output: Path) -> None:
    """Every line with its checksum."""
    output.write_text("".join(stamp_line(text) for text in input.read_text().splitlines()))
