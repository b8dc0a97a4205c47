"""What the tasks of the benchmarks run; nothing of Piecework."""

import time
from pathlib import Path
from typing import Any


def nothing(input: Path, output: Path) -> None:
    """A no-op that is user code all the same: it runs in a child process of the worker, with files."""


def echo(item: Any) -> Any:
    """The same, value in and value out."""
    return item


def started(input: Path, output: Path) -> dict[str, float]:
    return {"started": time.time()}


def sleep(input: Path, output: Path, seconds: float) -> None:
    time.sleep(seconds)


def settle(claim: dict[str, Any]) -> dict[str, Any]:
    """A small change to a record, as such transforms make it."""
    lines = claim.pop("lines")
    claim["total"] = round(sum(line["quantity"] * line["price"] for line in lines), 2)
    claim["codes"] = sorted({line["code"] for line in lines})
    claim["member"] = claim["member"].strip().upper()
    return claim
