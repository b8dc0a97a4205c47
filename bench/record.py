"""What was measured, as JSON in bench/results/: one file a day and commit, each suite's newest results in it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.machine import machine_facts
from bench.page import write_page
from bench.plots import draw

RESULTS = Path(__file__).parent / "results"


class Record:
    """The results of one run; those of a trial run (not `keep`) are printed only."""

    def __init__(self, keep: bool) -> None:
        self._keep = keep
        self._facts = machine_facts()
        self._path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-{self._facts['commit']}.json"
        processor, cores, python = (self._facts[name] for name in ("processor", "cores", "python"))
        print(f"{processor}, {cores} cores, Python {python}, commit {self._facts['commit']}")

    def add(self, suite: str, results: dict[str, Any]) -> None:
        """Written at once: a later suite that fails takes nothing with it."""
        if self._keep:
            suites = json.loads(self._path.read_text())["suites"] if self._path.exists() else {}
            suites[suite] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": self._facts, **results}
            self._path.write_text(json.dumps({"suites": suites}, indent=1) + "\n")
            print(f"  recorded in {self._path.relative_to(RESULTS.parents[1])}", flush=True)

    def present(self) -> None:
        """Draw the plots and write the page, of the newest results of each suite."""
        if self._keep:
            suites = newest(RESULTS)
            plots = draw(suites, RESULTS)
            for path in [*plots, write_page(suites, plots, RESULTS)]:
                print(f"written: {path.relative_to(RESULTS.parents[1])}")


def newest(directory: Path) -> dict[str, Any]:
    """The newest results of each suite in all records of the directory."""
    records = [json.loads(path.read_text()).get("suites", {}) for path in directory.glob("*.json")]
    every = [(results["at"], name, results) for record in records for name, results in record.items()]
    return {name: results for _, name, results in sorted(every, key=lambda found: found[0])}
