"""Processors of the end-to-end and fault tests: plain functions that import nothing of Piecework."""

import json
import os
import time
from collections import Counter
from pathlib import Path


def clean(record: str) -> dict[str, str]:
    """`word number` → a JSON record; raises for a line that is not of that form."""
    word, number = record.split()
    return {"word": word, "number": str(int(number))}


def count(input: Path, output: Path, gate: str | None = None) -> None:
    """Sum the numbers by word; with a gate, say that the task has started and wait until the gate is open."""
    if gate is not None:
        Path(gate, f"started-{time.monotonic_ns()}").touch()
        while not Path(gate, "open").exists():
            time.sleep(0.01)
    sums: Counter[str] = Counter()
    for line in input.read_text().splitlines():
        record = json.loads(line)
        sums[record["word"]] += int(record["number"])
    output.write_text(json.dumps(sums))


def square_of_file(input: Path, output: Path, gate: str, gated: int) -> dict[str, int]:
    """Of the number in a file, like `square`; some also write one."""
    number = int(input.read_text())
    if number % 100 == 0:
        output.write_text(str(number))
    return {"square": square(number, gate, gated)}


def square(number: int, gate: str, gated: int) -> int:
    """Of one number, say that its task has started and wait until the gate is open."""
    if number == gated:
        Path(gate, f"started-{time.monotonic_ns()}").touch()
        while not Path(gate, "open").exists():
            time.sleep(0.01)
    return number * number


def add_up_at_second_try(input: Path, output: Path) -> None:
    """Sum the numbers by word, of a file of records or a directory of such; but the first try of even tasks fails."""
    if os.environ["PIECEWORK_ATTEMPT"] == "1" and int(os.environ["PIECEWORK_TASK_INDEX"]) % 2 == 0:
        raise RuntimeError("the first try never works")
    sums: Counter[str] = Counter()
    for part in sorted(input.iterdir()) if input.is_dir() else [input]:
        for record in map(json.loads, part.read_text().splitlines()):
            sums[record["word"]] += int(record["number"])
    output.write_text("".join(json.dumps({"word": word, "number": number}) + "\n" for word, number in sums.items()))


def cut(input: Path, output: Path) -> None:
    """Two files, the halves of one."""
    data = input.read_bytes()
    (output / "0").write_bytes(data[: len(data) // 2])
    (output / "1").write_bytes(data[len(data) // 2 :])


def total(input: Path, output: Path) -> None:
    """Add up the counts of all parts."""
    sums: Counter[str] = Counter()
    for part in sorted(input.iterdir()):
        sums.update(json.loads(part.read_text()))
    output.write_text(json.dumps(dict(sorted(sums.items()))))
